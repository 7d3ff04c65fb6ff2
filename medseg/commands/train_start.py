"""``init_from=``: a training begins with the weights of a trained model, and says how much of it that covers.

A cascade begins with the network before it unless the plan says otherwise: the two do the same at different spacings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.commands.console import say, table
from medseg.commands.train_job import TrainJob
from medseg.errors import CheckpointError, SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.inference.model import Model
    from medseg.networks.transfer import Transferred
    from medseg.planning.plan import ConfigurationPlan
    from medseg.training.recipe import Recipe, Start

_ITSELF = "."
"""The workspace as the model that a cascade begins with."""
_PARTS = (("encoder", "encoder."), ("decoder", "decoder."), ("its heads", "decoder.heads."), ("all", ""))


def settle_start(job: TrainJob, recipe: Recipe, speaking: bool) -> Start | None:
    """The model that the words name as a start, or a cascade's own; None for random weights.

    Raises CheckpointError when nothing of a named model fits.
    """
    from medseg.inference.bundle import open_model
    from medseg.training.recipe import Start
    from medseg.training.start import choose_source, transferred_weights

    settings = job.settings
    if settings.init_from is None:
        return _start_of_cascade(job, recipe, speaking)
    model = open_model(settings.init_from)
    name, fold = choose_source(model, recipe, settings.init_configuration, settings.init_fold)
    found = transferred_weights(recipe, _channels(job), job.table, model, name, fold)
    frozen = found.frozen_encoder() if settings.freeze == "encoder" else ()
    if settings.freeze == "encoder" and not frozen:
        raise CheckpointError(
            f"freeze=encoder has nothing to keep: no part of the encoder could be copied from {model.folder}. Leave it "
            "out."
        )
    if speaking:
        _show(model, name, fold, found, frozen)
        for remark in _remarks(job, recipe, model, name, fold):
            say(remark)
    return Start(
        model=str(model.folder.resolve()),
        identity=model.identity(name, [fold]),
        configuration=name,
        fold=fold,
        parameters=_counted(found),
        frozen=frozen,
    )


def _start_of_cascade(job: TrainJob, recipe: Recipe, speaking: bool) -> Start | None:
    """The network before a cascade, of the same fold, so that held-out cases stay unseen; None where there is none.

    A cascade of every case has held none out and may begin with any fold.
    """
    from medseg.inference.bundle import open_model
    from medseg.training.recipe import Start
    from medseg.training.start import transferred_weights

    before = recipe.configuration.previous
    if before is None or recipe.training.cascade_start == "random":
        return None
    trained = [fold for fold in (recipe.fold, 0) if job.workspace.weights(before, fold).is_file()]
    if not trained or (trained[0] != recipe.fold and recipe.validation_cases):
        return None
    model = open_model(job.workspace.folder)
    try:
        found = transferred_weights(recipe, _channels(job), job.table, model, before, trained[0])
    except CheckpointError as error:
        if speaking:
            say(f"The cascade begins with random weights. {error}")
        return None
    if speaking:
        say(f"The cascade begins with the weights of {before}, fold {trained[0]} (cascade_start=random does not).")
    identity = model.identity(before, [trained[0]])
    return Start(model=_ITSELF, identity=identity, configuration=before, fold=trained[0], parameters=_counted(found))


def _counted(found: Transferred) -> dict[str, int]:
    return {fate: found.parameters(fate) for fate in ("copied", "adapted", "new")}


def _channels(job: TrainJob) -> list[str]:
    return [channel.name for channel in job.plan.channels]


def first_weights(job: TrainJob, recipe: Recipe, folder: Path) -> Mapping[str, Tensor] | None:
    """The weights that a Recipe begins with; None for random ones, or where a checkpoint is there already.

    Raises CheckpointError when the model is no longer the one that the Recipe names.
    """
    from medseg.inference.bundle import open_model
    from medseg.training.checkpoint import checkpoints
    from medseg.training.start import transferred_weights

    start = recipe.start
    if start is None or checkpoints(folder):
        return None
    model = open_model(job.workspace.folder if start.model == _ITSELF else Path(start.model))
    name, fold = model.choose(start.configuration, [start.fold])
    if model.identity(name, fold) != start.identity:
        raise CheckpointError(
            f"{model.folder} is not the model any more from which {folder} was to begin: its weights have changed. Put "
            "the old ones back, or begin anew with restart=true."
        )
    return transferred_weights(recipe, _channels(job), job.table, model, name, fold[0]).state


def require_usable(job: TrainJob, folder: Path) -> None:
    """Raise SettingsError for words about a start that contradict one another."""
    settings = job.settings
    chosen = {"init_configuration": settings.init_configuration, "init_fold": settings.init_fold}
    given = [word for word, value in chosen.items() if value is not None]
    given += ["freeze"] if settings.freeze != "none" else []
    if settings.init_from is None and given:
        raise SettingsError(
            f"{', '.join(given)} says how to use the model that init_from=DIR names, but none is named."
        )
    if settings.init_from is None or not settings.restart or settings.init_fold is not None:
        return
    if folder.exists() and folder.resolve().is_relative_to(settings.init_from.resolve()):
        raise SettingsError(
            f"restart=true deletes {folder}, from which init_from={settings.init_from} would begin. Bundle it first "
            "with 'medseg bundle output=DIR' and begin with init_from=DIR, or choose another fold with init_fold=."
        )


def _show(model: Model, name: str, fold: int | str, found: Transferred, frozen: tuple[str, ...]) -> None:
    rows = []
    for title, prefix in _PARTS:
        total = sum(found.parameters(fate, prefix) for fate in ("copied", "adapted", "new"))
        cells = [
            f"{found.tensors(fate, prefix)} ({found.parameters(fate, prefix) / max(total, 1):.1%})"
            for fate in ("copied", "adapted", "new")
        ]
        rows.append([title, *cells, f"{total:,}"])
    columns = ["part", "copied tensors (share)", "adapted", "new", "parameters"]
    table(f"Start from {model.folder}, {name}, fold {fold}", columns, rows)
    if frozen:
        say(f"{len(frozen)} tensors of the encoder stay as they are (freeze=encoder).")


def _remarks(job: TrainJob, recipe: Recipe, model: Model, name: str, fold: int | str) -> list[str]:
    """What may make the start worth less, or the scores worth more, than they look."""
    from medseg.inference.model import described_weights

    remarks = []
    theirs = model.plan.configurations.get(name)
    if theirs is not None and _apart(theirs, recipe.configuration):
        spacings = [" x ".join(f"{mm:.3g}" for mm in c.spacing) for c in (theirs, recipe.configuration)]
        remarks.append(
            f"The model was trained at {spacings[0]} mm, this plan has {spacings[1]} mm (z, y, x): structures look "
            f"smaller or larger to it than it learned. spacing=... takes the model's."
        )
    seen = model.plan.fingerprint == job.plan.fingerprint and fold != recipe.fold and recipe.validation_cases
    restored = described_weights(model.weights[name][fold])[1].restored_images
    if seen and restored == "dataset":
        remarks.append(
            f"It has learned to restore images that are held out here too (not from their labels): 'medseg pretrain "
            f"fold={recipe.fold}' leaves them out."
        )
    elif seen and restored == "none":
        remarks.append(
            f"Fold {fold} of the model was trained on the same dataset, also on cases that are held out here: the "
            "scores of this fold will be too good. init_fold= chooses another."
        )
    return remarks


def _apart(one: ConfigurationPlan, other: ConfigurationPlan) -> bool:
    pairs = zip(one.spacing[3 - one.dimensions :], other.spacing[3 - one.dimensions :], strict=True)
    return any(max(a, b) > 1.25 * min(a, b) for a, b in pairs)
