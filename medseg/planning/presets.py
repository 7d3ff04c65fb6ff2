"""Presets: the numbers behind the planning rules, as YAML files in ``plans/`` or wherever the user keeps one.

A preset says how to plan, never what came out: the result is a Plan. Knows nothing of any Dataset.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from medseg.documents import Document, Record
from medseg.errors import MedsegError, SettingsError
from medseg.paths import shipped, shipped_names
from medseg.planning.plan import Machine, TrainingPlan


class Budget(Record):
    """How large a network's feature maps may be, for 2D or 3D."""

    elements: PositiveFloat
    """Feature-map elements of one patch that fill ``reference_gb`` at the reference batch."""
    reference_batch: PositiveInt
    """Batch at which they do."""
    fitted_batch: PositiveInt
    """The patch is made small enough for this batch; a larger batch takes what is left."""
    widest: PositiveFloat
    """The widest stage has at most this many times the channels of the first."""


class TimeRules(Record):
    """How a Plan is made small enough for a machine's speed (``medseg.planning.fitting``)."""

    reference_seconds: PositiveFloat = 7200.0
    """Time for training one fold to which the next three refer; with more of it they grow by its square root."""
    iteration_seconds: PositiveFloat = 1.0
    """A training iteration should take about this long."""
    accepted_seconds: PositiveFloat = 1.5
    """The widest network with which the smallest batch takes at most this long is chosen."""
    longest_seconds: PositiveFloat = 3.0
    """The patch is reduced when even the narrowest network takes longer than this."""
    fewest_iterations: PositiveInt = 300
    """However little time there is, an iteration is short enough for this many."""
    preferred_features: PositiveInt = 16
    """This many channels are kept while an iteration takes at most ``longest_seconds``: narrower ones learn less."""
    base_features: tuple[PositiveInt, ...] = (32, 24, 16, 12, 8)
    """Channels of the first stage to choose from, widest first."""
    enough_passes: PositiveFloat = 30.0
    """More channels than the preferred ones are taken only where each voxel lies in this many patches."""
    assumed_flops_per_second: PositiveFloat = 40e9
    """Training speed of a CPU where none was measured."""


class Preset(Document):
    """How Plans are made; the defaults are nnU-Net's."""

    kind: ClassVar[str] = "preset"
    error: ClassVar[type[MedsegError]] = SettingsError

    name: str
    description: str
    """One sentence: what it is for."""
    orientation: Literal["canonical", "stored"] = "canonical"
    """canonical: every Case is turned to nearest RAS; stored: taken as the file has it."""
    sized_for: Literal["reference", "machine", "cpu"] = "machine"
    """reference: for ``memory_gb``, whatever the machine; machine: for the machine at hand; cpu: for a CPU."""
    memory_gb: PositiveFloat = 8.0
    """GPU memory for which ``sized_for: reference`` plans."""
    largest_memory_gb: PositiveFloat = 24.0
    """More memory than this is left unused: larger patches would only make training slower."""
    memory_share: float = Field(default=0.9, gt=0, le=1)
    """Share of the machine's memory that a Plan counts on."""
    mirroring: Literal["all", "keep_sides"] = "keep_sides"
    """all: every axis; keep_sides: not left-right when structures come in left and right."""
    small_below: float = Field(default=0.0005, ge=0, le=1)
    """A structure is small when it takes less than this share of the volume (median over cases)."""
    small_structures: Literal["off", "say", "apply"] = "say"
    """say: name the sampling that is meant for small and rare structures; apply: plan it; off: neither."""
    network: str = "unet"
    """Which network; ``medseg info`` lists them."""
    base_features: PositiveInt = 32
    """Channels of the first stage; they double from stage to stage."""
    reference_gb: PositiveFloat = 8.0
    """Memory that the budgets refer to."""
    budget_2d: Budget = Budget(elements=85e6, reference_batch=12, fitted_batch=2, widest=16)
    budget_3d: Budget = Budget(elements=560e6, reference_batch=2, fitted_batch=2, widest=10)
    smallest_batch: PositiveInt = 2
    largest_share: float | None = Field(default=0.05, gt=0, le=1)
    """A batch covers at most this share of all voxels of the Dataset."""
    lowres_below: float = Field(default=0.25, ge=0, le=1)
    """A lowres configuration is planned when the patch covers less than this share of the median Case."""
    masked_below: float = Field(default=0.75, ge=0, le=1)
    """Z-scores use the non-zero voxels only when cropping leaves less than this share of the median Case."""
    time: TimeRules = TimeRules()
    training: TrainingPlan = TrainingPlan()
    """The training recipe; what is not named here is medseg's default."""

    @model_validator(mode="after")
    def _sides_are_known(self) -> Self:
        if self.mirroring == "keep_sides" and self.orientation != "canonical":
            raise ValueError(
                "mirroring: keep_sides needs orientation: canonical, since stored axes do not tell left from right"
            )
        return self

    def plans_for_cpu(self, machine: Machine) -> bool:
        """Whether the Plan is for a CPU."""
        return self.sized_for == "cpu" or (self.sized_for == "machine" and machine.device == "cpu")

    def planned_gb(self, machine: Machine) -> float:
        """GB of GPU memory that a Plan counts on; on a CPU nnU-Net's reference, since time is what is short there."""
        if self.sized_for != "machine" or machine.device == "cpu" or machine.memory_bytes is None:
            return self.memory_gb
        return min(self.memory_share * machine.memory_bytes / 1e9, self.largest_memory_gb)


def load_preset(name_or_path: str | Path) -> Preset:
    """A shipped preset by name, or any preset by the path of its YAML file.

    Raises SettingsError naming the nearest preset, or the file and field that are wrong.
    """
    text = str(name_or_path)
    names = shipped_names("plans")
    if text in names:
        return Preset.load(shipped("plans") / f"{text}.yaml")
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return Preset.load(path)
    near = difflib.get_close_matches(text, names, n=1, cutoff=0.4)
    hint = f"Did you mean '{near[0]}'?" if near else f"Known are: {', '.join(names)}; or give the path of a YAML file."
    raise SettingsError(f"There is no preset '{text}'. {hint}")
