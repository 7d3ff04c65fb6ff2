"""One configuration made small enough for a machine's memory and for the time that a training may take.

Knows nothing of how a size is found without them (``medseg.planning.patch``), and measures nothing. One rule for all:

* An iteration may take longer where there is more time than ``reference_seconds``, by the square root: half of it
  (counted in factors) goes into more iterations, half into more work in each. With less time it may take as long, but
  never so long that fewer than ``fewest_iterations`` would fit.
* The widest network is taken whose iterations are short enough, with the smallest batch, that fits the memory, and
  under which the data is seen often enough. Each voxel should lie in 30 patches: nnU-Net's own short schedules lose
  2.6 points of Dice on Liver with 13 passes, and 0.1 with 32. Preferred channels are given up for speed alone, not for
  passes, since narrower networks learn less.
* The patch gives way where even the narrowest network is too slow or too large.
* The batch takes what is left of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from medseg.arrays import Triple
from medseg.errors import PlanError
from medseg.planning.memory import TrainingMemory, forward_flops, training_memory
from medseg.planning.patch import Pace, Sized, Sizing, can_shrink, reduced, to_network
from medseg.planning.plan import NetworkPlan, Plan
from medseg.planning.presets import TimeRules
from medseg.planning.topology import Topology

USABLE = 0.85
"""Share of a training's time in which it goes through patches: checks of held-out Cases take a tenth, and a machine may
be a little slower later."""


@dataclass(frozen=True)
class Means:
    """What the machine has, and how long a training may take."""

    device: str
    rules: TimeRules
    seconds: float
    """For training one fold."""
    flops_per_second: float | None
    """None: not known, so time does not count."""
    speed_is_measured: bool
    memory_bytes: int | None
    """That a training may use, libraries included; None: does not count."""
    memory_share: float = 1.0
    """Share of the device's memory that this is."""
    memory_factor: float = 1.0
    """Measured memory of a step over its estimate, where it is more: what was found for a small network must not make
    a large one larger."""

    def allowed(self, seconds: float) -> float:
        """How long an iteration may take that the preset gives so many seconds."""
        stretched = seconds * max(1.0, math.sqrt(self.seconds / self.rules.reference_seconds))
        return min(stretched, USABLE * self.seconds / self.rules.fewest_iterations)


@dataclass(frozen=True)
class _Try:
    """A width and a patch, with the smallest batch."""

    width: int
    network: NetworkPlan
    patch: Triple
    seconds: float
    """Of an iteration; 0 where time does not count."""
    passes: float
    """How often each voxel lies in a patch within the time; infinite where time does not count."""
    fits: bool
    """Whether there is memory for it."""


@dataclass(frozen=True)
class _Fitter:
    """Tries sizes of one configuration."""

    sizing: Sizing
    means: Means
    spacing: Sequence[float]
    median_shape: Sequence[float]
    dataset_voxels: float

    @property
    def widths(self) -> list[int]:
        """Channels of the first stage to choose from, widest first."""
        widest = self.sizing.base_features
        return [widest, *(width for width in self.means.rules.base_features if width < widest)]

    def tried(self, topology: Topology, width: int) -> _Try:
        network, patch = to_network(topology, self.sizing.architecture, width, self.sizing.budget.widest)
        batch, speed = self.sizing.smallest_batch, self.means.flops_per_second
        seconds, passes = 0.0, math.inf
        if speed:
            flops = forward_flops(network, patch, self.sizing.channels, self.sizing.classes)
            seconds = 3 * batch * flops / speed
            passes = USABLE * self.means.seconds / seconds * batch * math.prod(patch) / self.dataset_voxels
        return _Try(width, network, patch, seconds, passes, self.has_memory(network, patch, batch))

    def has_memory(self, network: NetworkPlan, patch: Triple, batch: int) -> bool:
        limit = self.means.memory_bytes
        return limit is None or self.memory(network, patch, batch).total <= limit

    def memory(self, network: NetworkPlan, patch: Triple, batch: int) -> TrainingMemory:
        sizing, device = self.sizing, self.means.device
        found = training_memory(network, patch, batch, sizing.channels, sizing.classes, device)
        return found.scaled(self.means.memory_factor)

    def shrunk(self, topology: Topology, limit: str) -> tuple[Topology, str]:
        """The patch with which the narrowest network is fast and small enough, and what decided it."""
        rules, allowed = self.means.rules, self.means.allowed
        narrowest = self.tried(topology, self.widths[-1])
        too_slow = narrowest.seconds > allowed(rules.longest_seconds)
        while not narrowest.fits or (too_slow and narrowest.seconds > allowed(rules.accepted_seconds)):
            if not can_shrink(topology):
                if narrowest.fits:
                    break
                self._refuse(narrowest)
            limit = "time" if narrowest.fits else "memory"
            topology = reduced(topology, self.spacing, self.median_shape)
            narrowest = self.tried(topology, self.widths[-1])
        return topology, limit

    def _refuse(self, smallest: _Try) -> None:
        needed = self.memory(smallest.network, smallest.patch, self.sizing.smallest_batch).total
        raise PlanError(
            f"No plan fits in {gigabytes(self.means.memory_bytes or 0)} of memory: the smallest one, "
            f"{list(smallest.patch)} voxels with {smallest.width} channels in batches of {self.sizing.smallest_batch}, "
            f"takes about {gigabytes(needed)}. Plan with memory={_asked_for(needed / self.means.memory_share)} or more."
        )

    def choose(self, topology: Topology) -> tuple[_Try, tuple[int, float, str] | None]:
        """The widest network that may be taken; and the next wider one, with what stands against it."""
        refused = None
        for width in self.widths:
            tried = self.tried(topology, width)
            against = self._against(tried)
            if against is None or width == self.widths[-1]:
                return tried, refused
            refused = (width, tried.seconds, against)
        raise AssertionError("the narrowest width is always taken")

    def _against(self, tried: _Try) -> str | None:
        rules = self.means.rules
        is_preferred = tried.width == rules.preferred_features
        longest = rules.longest_seconds if is_preferred else rules.accepted_seconds
        if not tried.fits:
            return "memory"
        if tried.seconds > self.means.allowed(longest):
            return "time"
        if tried.width > rules.preferred_features and tried.passes < rules.enough_passes:
            return "passes"
        return None

    def batch(self, chosen: _Try, sized: Sized) -> tuple[int, str]:
        """As many patches as time and memory leave room for, and what decided."""
        smallest, largest, limit = self.sizing.smallest_batch, sized.batch, sized.batch_limit
        if chosen.seconds:
            each = self.means.allowed(self.means.rules.iteration_seconds)
            affordable = int(each * smallest / chosen.seconds)
            if affordable <= largest:
                largest, limit = (affordable, "time") if affordable >= smallest else (smallest, "smallest")
        batch = largest
        while batch > smallest and not self.has_memory(chosen.network, chosen.patch, batch):
            batch -= 1
        return batch, limit if batch == largest else "memory"


def fit(
    sized: Sized,
    sizing: Sizing,
    means: Means,
    spacing: Sequence[float],
    median_shape: Sequence[float],
    dataset_voxels: float,
) -> Sized:
    """The size that the machine can train in the time; nothing becomes larger than in ``sized``.

    Raises PlanError, naming the memory that would be enough, where not even the smallest size fits.
    """
    fitter = _Fitter(sizing, means, spacing, median_shape, dataset_voxels)
    topology, patch_limit = fitter.shrunk(sized.topology, sized.patch_limit)
    chosen, wider = fitter.choose(topology)
    batch, batch_limit = fitter.batch(chosen, sized)
    return replace(
        sized,
        network=chosen.network,
        patch=chosen.patch,
        batch=batch,
        topology=topology,
        patch_limit=patch_limit,
        batch_limit=batch_limit,
        pace=_pace(means, chosen, batch / sizing.smallest_batch),
        wider=wider,
        memory=fitter.memory(chosen.network, chosen.patch, batch),
    )


def _pace(means: Means, chosen: _Try, batches: float) -> Pace | None:
    if not chosen.seconds:
        return None
    each = chosen.seconds * batches
    return Pace(means.seconds, each, max(int(USABLE * means.seconds / each), 1), chosen.passes)


def require_memory(plan: Plan, classes: int, device: str, memory_bytes: int) -> list[str]:
    """Sentences about configurations of a Plan of fixed size that will not fit; none where all do.

    Raises PlanError where the default configuration is one of them, with what would fit.
    """
    sentences = []
    for name, found in plan.configurations.items():
        channels = len(plan.channels) + (classes - 1 if found.previous else 0)
        needed = training_memory(found.network, found.patch_size, found.batch_size, channels, classes, device).total
        if needed <= memory_bytes:
            continue
        sentence = (
            f"{name} of preset '{plan.preset}' takes about {gigabytes(needed)} ({list(found.patch_size)} voxels in "
            f"batches of {found.batch_size}), which does not fit in {gigabytes(memory_bytes)}"
        )
        if name == plan.default_configuration:
            raise PlanError(
                f"{sentence}, and this preset keeps to its numbers. Plan with preset=default, which fits a plan to the "
                f"memory, or for memory={_asked_for(needed)}."
            )
        sentences.append(f"{sentence}.")
    return sentences


def _asked_for(amount: float) -> str:
    return f"{math.ceil(amount / 1e8) / 10:g}GB"


def gigabytes(amount: float) -> str:
    """Bytes as people say them."""
    return f"{amount / 1e9:.2g} GB" if amount < 9.95e9 else f"{amount / 1e9:.0f} GB"
