"""``medseg augment preview=true``: a picture of what each augmentation does to a real patch of the dataset.

A few seconds on a CPU after ``medseg plan``: ``medseg augment preview=true``
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from medseg.commands.console import Bar, say, table
from medseg.commands.train_job import TrainJob, read_job
from medseg.errors import SettingsError
from medseg.planning.plan import AugmentationPlan, ConfigurationName, ConfigurationPlan, TrainingPlan
from medseg.settings import Settings, build

if TYPE_CHECKING:
    from medseg.training.preview import Example

_COLUMNS = 4


class AugmentSettings(Settings):
    """Settings of ``medseg augment``; the plan's own values (augmentation.elastic, patch_size, ...) are taken too."""

    preview: bool = False
    """Write the picture; so far the only thing that this command does."""
    workspace: Path | None = None
    """A folder that 'medseg plan' has written; by default the one last used from here."""
    configuration: ConfigurationName | None = None
    """2d, 3d_fullres, ...; by default the plan's own choice."""
    case: str | None = None
    """From which case the patch is taken; by default the first that holds a structure."""
    output: Path | None = None
    """The picture (PNG); by default augmentations.png in the workspace."""
    examples: int = Field(default=_COLUMNS, ge=1, le=12)
    """Of each augmentation."""


SETTINGS = (AugmentSettings, ConfigurationPlan, TrainingPlan)


def run(words: Mapping[str, str]) -> None:
    """Prepare one or two cases, augment a patch step by step, and draw it."""
    own = {key: text for key, text in words.items() if key in AugmentSettings.model_fields}
    settings = build(AugmentSettings, own)
    if not settings.preview:
        raise SettingsError("medseg augment draws a picture of every augmentation: write preview=true.")
    shared = {key: text for key, text in words.items() if key not in own or key in ("workspace", "configuration")}
    job = read_job(shared)
    names = _cases(job, settings.case)
    from medseg.evaluation.example_pictures import Row, draw_examples
    from medseg.preprocessing.store import prepare_cases
    from medseg.training.augmentation_colour import colour_channels
    from medseg.training.preview import preview_augmentations

    known = {case.name: case for case in job.dataset.cases}
    with Bar() as bar:
        prepare_cases([known[name] for name in names], job.table, job.plan, job.configuration, job.prepared, None, bar)
    started = time.monotonic()
    channels = [channel.name for channel in job.plan.channels]
    shown = preview_augmentations(
        job.prepared, names, job.table, job.configuration, job.plan.training, channels, settings.examples
    )
    picture = settings.output or job.workspace.folder / "augmentations.png"
    rows = [Row(one.step if one.is_on else f"{one.step} (off)", one.images, one.labels) for one in shown if one.images]
    title = f"{names[0]}, {job.name}: each augmentation alone, as strong as in training"
    upright = job.plan.orientation == "canonical" and job.plan.axis_order == (0, 1, 2)
    spacing = job.configuration.spacing
    draw_examples(picture, rows, job.table, spacing, title, colour_channels(channels), upright)
    _show(shown, time.monotonic() - started, picture)


def _cases(job: TrainJob, asked: str | None) -> list[str]:
    """The Case whose patch is shown, and another one for what exchanges parts of patches."""
    names = [case.name for case in job.dataset.cases]
    if asked is not None and asked not in names:
        raise SettingsError(f"There is no case '{asked}' in the dataset. Its first are {', '.join(names[:5])}.")
    first = asked or names[0]
    return [first, *[name for name in names if name != first][:1]]


def _show(shown: list[Example], seconds: float, picture: Path) -> None:
    meanings = {name: field.description or "" for name, field in AugmentationPlan.model_fields.items()}
    rows = [
        (one.step, "on" if one.is_on else "off", f"{one.milliseconds:.1f}", meanings.get(one.step, ""))
        for one in shown
        if one.milliseconds is not None
    ]
    table("Augmentations", ("step", "in the plan", "ms per patch it changes", "what"), rows)
    say(f"Picture: {picture} ({seconds:.1f} s)\nSwitch a step: medseg train augmentation.elastic=true")
