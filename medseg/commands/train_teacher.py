"""``teacher=``: a training learns from a trained model's probabilities as well as from labels.

Knows nothing of the loss; that is ``medseg.training.distillation``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medseg.commands.chosen import chosen_folds
from medseg.commands.console import say
from medseg.commands.train_job import TrainJob
from medseg.errors import CheckpointError, SettingsError

if TYPE_CHECKING:
    import torch

    from medseg.inference.model import Fold, Model, WeightsDescription
    from medseg.training.distillation import Teachers
    from medseg.training.recipe import Recipe, Teacher


def settle_teacher(job: TrainJob, recipe: Recipe, speaking: bool) -> Teacher | None:
    """The teacher that the words name; None where they name none.

    Raises CheckpointError where it can't teach this: it must take the same images and give the same structures.
    """
    from medseg.inference.bundle import open_model
    from medseg.inference.model import described_weights
    from medseg.training.recipe import Teacher

    settings = job.settings
    if settings.teacher is None:
        if settings.teacher_fold is not None:
            raise SettingsError("teacher_fold says which networks of teacher=DIR teach, but no teacher is named.")
        return None
    model = open_model(settings.teacher)
    name, folds = _choose(job, recipe, model)
    for fold in folds:
        path = model.weights[name][fold]
        if path.suffix == ".onnx":
            raise CheckpointError(f"{path} is an exported graph. Give the bundle or workspace it was made from.")
        _require_alike(job, recipe, model, described_weights(path)[1])
    if speaking:
        say(f"Teacher: {model.folder}, {name}, fold(s) {', '.join(map(str, folds))}")
        if model.plan.fingerprint == job.plan.fingerprint and recipe.validation_cases and folds != (recipe.fold,):
            say(
                "The teacher has trained on cases that are held out here: the scores of this fold will be too good. "
                f"teacher_fold={recipe.fold} takes the network that has not seen them."
            )
    return Teacher(
        model=str(model.folder.resolve()), identity=model.identity(name, folds), configuration=name, folds=folds
    )


def load_teachers(recipe: Recipe, device: torch.device) -> Teachers | None:
    """The networks that a Recipe names as teachers, on the device; None where it names none.

    Raises CheckpointError when they are no longer those.
    """
    from medseg.inference.bundle import open_model
    from medseg.training.distillation import Teachers

    teacher = recipe.teacher
    if teacher is None:
        return None
    model = open_model(Path(teacher.model))
    name, folds = model.choose(teacher.configuration, teacher.folds)
    if model.identity(name, folds) != teacher.identity:
        raise CheckpointError(
            f"{teacher.model} is not the teacher any more with which this training was begun: its weights have "
            "changed. Put the old ones back, or begin anew with restart=true."
        )
    loaded = model.load(name, folds, device, engine="torch")
    width = loaded.configuration.network.features[-1]
    return Teachers(loaded.networks, recipe.training.distillation, recipe.labels.activation, width)


def _choose(job: TrainJob, recipe: Recipe, model: Model) -> tuple[str, tuple[Fold, ...]]:
    """The configuration of the same name, else the model's own; the asked folds, else the one of the same number where
    it was trained on the same Dataset (which has not seen the held-out Cases), else all."""
    configuration = recipe.configuration_name if recipe.configuration_name in model.weights else None
    if job.settings.teacher_fold is not None:
        return model.choose(configuration, chosen_folds(job.settings.teacher_fold))
    name, folds = model.choose(configuration)
    same = model.plan.fingerprint == job.plan.fingerprint and recipe.fold in folds
    return name, (recipe.fold,) if same else folds


def _require_alike(job: TrainJob, recipe: Recipe, model: Model, theirs: WeightsDescription) -> None:
    ours, other = recipe.configuration, theirs.configuration
    pairs = list(zip(ours.spacing, other.spacing, strict=True))[3 - ours.dimensions :]
    differences = {
        "is a cascade": ours.previous is not None or other.previous is not None,
        f"has {other.dimensions} dimensions, not {ours.dimensions}": other.dimensions != ours.dimensions,
        f"takes {theirs.channels} channels, not {recipe.channels}": theirs.channels != recipe.channels,
        f"finds {', '.join(model.labels.target_names)}, not {', '.join(job.table.target_names)}": (
            model.labels.target_names != job.table.target_names or theirs.activation != job.table.activation
        ),
        "prepares images in another way": theirs.preparation not in (None, recipe.preparation),
        f"works at {_mm(other.spacing)} mm, not {_mm(ours.spacing)}": any(abs(a - b) > 0.01 * b for a, b in pairs),
        f"takes patches that are multiples of {list(other.network.divisor)}, not {list(ours.patch_size)}": any(
            size % divisor for size, divisor in zip(ours.patch_size, other.network.divisor, strict=True)
        ),
    }
    for what, differs in differences.items():
        if differs:
            raise CheckpointError(
                f"{model.folder} can't teach this training: it {what}. Choose another, or plan as it was planned."
            )


def _mm(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing)
