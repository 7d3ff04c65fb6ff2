"""What a cascade needs before it is trained: for every Case the labels that its previous configuration predicted.

They are those of the fold that held the Case out, so that the cascade meets mistakes as it will meet them later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cases.case import Case
from medseg.commands.train_job import TrainJob
from medseg.errors import CheckpointError
from medseg.progress import Progress

if TYPE_CHECKING:
    from medseg.training.recipe import Recipe


def prepare_before(job: TrainJob, cases: Sequence[Case], progress: Progress) -> None:
    """Bring the previous configuration's labels of the prepared Cases to their grids; nothing outside of cascades.

    Raises CheckpointError naming the folds that have to be trained first.
    """
    if job.configuration.previous is None:
        return
    from medseg.preprocessing.previous import prepare_previous

    files = _out_of_fold(job, job.configuration.previous)
    missing = [case.name for case in cases if case.name not in files]
    if missing:
        raise _missing(job, job.configuration.previous, missing)
    prepare_previous(cases, files, job.table, job.prepared, progress)


def data_hash_of(job: TrainJob, names: Sequence[str]) -> str:
    """A hash of everything that the named Cases were prepared from, the previous configuration's labels included."""
    from medseg.files import hash_content
    from medseg.preprocessing.store import data_hash

    own = data_hash(job.prepared, names)
    if job.configuration.previous is None:
        return own
    from medseg.preprocessing.previous import previous_hash

    return hash_content([own, previous_hash(job.prepared, names)])


def _out_of_fold(job: TrainJob, previous: str) -> dict[str, Path]:
    """The label file of every Case that a trained fold of the previous configuration has held out."""
    files = {}
    for fold in range(len(job.folds.folds)):
        folder = job.workspace.fold(previous, fold)
        if not job.workspace.weights(previous, fold).is_file():
            continue
        for name in _recipe(folder).validation_cases:
            path = folder / "validation" / f"{name}.nii.gz"
            if path.is_file():
                files[name] = path
    return files


def _recipe(folder: Path) -> Recipe:
    from medseg.training.recipe import Recipe

    return Recipe.load(folder / "recipe.json")


def _missing(job: TrainJob, previous: str, names: Sequence[str]) -> CheckpointError:
    folds = [str(n) for n, fold in enumerate(job.folds.folds) if set(fold.validation) & set(names)]
    return CheckpointError(
        f"'{job.name}' learns from the labels that '{previous}' predicts for cases that it has not seen, and "
        f"{len(names)} cases (fold {', '.join(folds) or 'none'}) have none yet. Run 'medseg train "
        f"configuration={previous} fold={folds[0] if len(folds) == 1 else 'all'}' first."
    )
