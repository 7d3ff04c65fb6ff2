"""The Fingerprint of all sites from sums of their histograms, for the same planner as ``medseg plan``.

Knows nothing of how sites are asked. No value of a single case leaves a site: only how many of its cases lie in each
bin of fixed grids, which add up. FednnU-Net sends every case's size and spacing, and averages medians; here quantiles
are those of all cases, to within a bin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from medseg.cases.labels import LabelTable, Target
from medseg.errors import PlanError, SiteError
from medseg.federation.histograms import Counts, Grid, LinearGrid, LogGrid, count_on, mean_and_std, neighbours, quantile
from medseg.federation.messages import JSON
from medseg.planning.fingerprint import ChannelIntensities, Fingerprint
from medseg.planning.measure import Measured
from medseg.planning.plan import Machine

AXES = ("z", "y", "x")
SPACING = LogGrid(1.01, 0.01, 100.0)
"""mm."""
SIZE = LogGrid(1.01, 1.0, 16384.0)
"""Voxels of the cropped case."""
EXTENT = LogGrid(1.01, 0.1, 10_000.0)
"""mm of the cropped case."""
SHARE = LogGrid(1.05, 1e-8, 1.0)
"""Of the volume, that a structure takes."""
RELATIVE = LinearGrid(0.01, 0.0, 1.0)
"""Of the volume, that cropping leaves."""
HOUNSFIELD = LinearGrid(1.0, -1024.0, 3071.0)
"""Of foreground voxels in CT, every case with a mass of 1."""
_CT = "ct"
DRAWS = 200_000
"""Foreground voxels that are drawn from a case to count its intensities."""


def grids_of(channels: Sequence[str], targets: Sequence[str]) -> dict[str, Grid]:
    """Every histogram by name and its grid, for a dataset of these channels and targets."""
    grids: dict[str, Grid] = {"relative_volume": RELATIVE}
    for axis in AXES:
        grids |= {f"spacing.{axis}": SPACING, f"size.{axis}": SIZE, f"extent.{axis}": EXTENT}
    grids |= {f"share.{number}": SHARE for number in range(len(targets))}
    # Other channels are normalised case by case, so the plan needs nothing of them.
    grids |= {f"intensity.{i}": HOUNSFIELD for i, name in enumerate(channels) if name.casefold() == _CT}
    return grids


def count_cases(
    measured: Sequence[Measured], table: LabelTable, channels: Sequence[str], weights: Sequence[float]
) -> dict[str, Counts]:
    """The histograms of a site's cases; each case counts its weight."""
    found: dict[str, Counts] = {}
    weights = list(weights)
    for number, axis in enumerate(AXES):
        spacings = [one.case.spacing[number] for one in measured]
        sizes = [float(one.case.cropped_shape[number]) for one in measured]
        found[f"spacing.{axis}"] = count_on(SPACING, spacings, weights)
        found[f"size.{axis}"] = count_on(SIZE, sizes, weights)
        extents = [size * spacing for size, spacing in zip(sizes, spacings, strict=True)]
        found[f"extent.{axis}"] = count_on(EXTENT, extents, weights)
    found["relative_volume"] = count_on(RELATIVE, [one.relative_volume for one in measured], weights)
    for number, target in enumerate(table.targets):
        held = [(share, w) for one, w in zip(measured, weights, strict=True) if (share := _share(one, target)) > 0]
        found[f"share.{number}"] = count_on(SHARE, [share for share, _ in held], [w for _, w in held])
    for number, name in enumerate(channels):
        if name.casefold() == _CT:
            masses = [w * _intensities(one, number) for one, w in zip(measured, weights, strict=True)]
            found[f"intensity.{number}"] = np.sum(masses, axis=0)
    return found


class PooledFingerprint(Fingerprint):
    """The Fingerprint of all sites' cases; it answers the planner from histograms instead of cases."""

    kind: ClassVar[str] = "pooled-fingerprint"

    pooled: int
    """Cases that all sites declared."""
    histograms: dict[str, dict[int, float]]
    """By name and bin, the sum over sites; empty bins are left out."""

    @property
    def count(self) -> int:
        """Cases of all sites."""
        return self.pooled

    def spacing_percentile(self, percent: float) -> NDArray[np.float64]:
        """Of the spacings of each axis, mm, (z, y, x), to within a bin."""
        return self._per_axis("spacing", SPACING, percent)

    def size_percentile(self, percent: float) -> NDArray[np.float64]:
        """Of the cropped sizes of each axis, voxels, (z, y, x), to within a bin."""
        return self._per_axis("size", SIZE, percent)

    def median_resampled(self, target: NDArray[np.float64]) -> NDArray[np.float64]:
        """Median size at a target spacing, from that of the extents in mm: the larger one is, the larger the other."""
        found = []
        for axis, spacing in zip(AXES, target, strict=True):
            low, high, share = neighbours(EXTENT, self._counts(f"extent.{axis}", EXTENT), 50)
            below, above = round(low / spacing), round(high / spacing)
            found.append(below + (above - below) * share)
        return np.array(found, dtype=np.float64)

    def share_of(self, target: Target, number: int) -> tuple[float, int]:
        """(median share of the volume over the cases that hold a target, how many do)."""
        del target  # histograms are numbered
        counts = self._counts(f"share.{number}", SHARE)
        holders = round(float(np.maximum(counts, 0).sum()))
        return (quantile(SHARE, counts, 50) if holders else 0.0), holders

    def _per_axis(self, what: str, grid: Grid, percent: float) -> NDArray[np.float64]:
        return np.array([quantile(grid, self._counts(f"{what}.{axis}", grid), percent) for axis in AXES])

    def _counts(self, name: str, grid: Grid) -> Counts:
        found = np.zeros(grid.size)
        for place, count in self.histograms[name].items():
            found[place] = count
        return found


def pool_fingerprints(
    name: str,
    orientation: Literal["canonical", "stored"],
    channels: Sequence[str],
    table: LabelTable,
    cases: int,
    counts: Sequence[Mapping[str, np.ndarray]],
) -> PooledFingerprint:
    """The Fingerprint of all sites from their histograms (or their sum alone).

    Raises SiteError("bad-histograms") for other names, sizes or numbers, PlanError where nothing was counted.
    """
    grids = grids_of(channels, table.target_names)
    summed = {histogram: np.zeros(grid.size) for histogram, grid in grids.items()}
    for one in counts:
        if set(one) != set(grids):
            raise SiteError("bad-histograms")
        for histogram, grid in grids.items():
            if one[histogram].shape != (grid.size,) or not np.isfinite(one[histogram]).all():
                raise SiteError("bad-histograms")
            summed[histogram] += one[histogram]
    empty = [h for h in summed if not h.startswith("share.") and np.maximum(summed[h], 0).sum() < 1]
    if empty or cases < 1:
        raise PlanError(
            f"The sites of '{name}' have counted nothing in {', '.join(empty) or 'any histogram'}, so nothing can be "
            "planned. Check that they have cases with labels."
        )
    return PooledFingerprint(
        dataset=name,
        orientation=orientation,
        labels=("background", *table.names),
        channels=tuple(_channel(channel, summed.get(f"intensity.{i}")) for i, channel in enumerate(channels)),
        cases=(),
        median_relative_volume=quantile(RELATIVE, summed["relative_volume"], 50),
        pooled=cases,
        histograms={
            h: {int(place): float(values[place]) for place in np.flatnonzero(values)} for h, values in summed.items()
        },
    )


def declared_machine(header: Mapping[str, JSON]) -> Machine | None:
    """What a site's reply says it has; None where it says nothing. Raises SiteError("bad-machine")."""
    if "device" not in header:
        return None
    try:
        return Machine.model_validate({key: header.get(key) for key in ("device", "memory_bytes", "flops_per_second")})
    except ValidationError:
        raise SiteError("bad-machine") from None


def smallest_machine(machines: Sequence[Machine]) -> Machine:
    """A machine that no site's falls short of: the least memory and speed, and a CPU where any has no other."""
    devices = [machine.device for machine in machines]
    device = next(kind for kind in ("cpu", "mps", "cuda", "any") if kind in devices)
    # Of the slowest kind of device only: another kind's numbers mean something else.
    alike = [machine for machine in machines if machine.device == device]
    memory = [machine.memory_bytes for machine in alike if machine.memory_bytes is not None]
    speed = [machine.flops_per_second for machine in alike if machine.flops_per_second is not None]
    return alike[0].model_copy(
        update={
            "memory_bytes": min(memory, default=None),
            "flops_per_second": min(speed, default=None),
            "processor": None,
        }
    )


def _share(one: Measured, target: Target) -> float:
    return sum(one.case.label_voxels[index] for index in target.indices) / float(np.prod(one.case.shape))


def _intensities(one: Measured, channel: int) -> Counts:
    """Shares of a case's foreground voxels, by Hounsfield unit; sums to 1, or to 0 where it holds no structure."""
    sample = one.samples[channel]
    if not len(sample.values):
        return np.zeros(HOUNSFIELD.size)
    places = np.clip(np.rint(sample.values - HOUNSFIELD.smallest), 0, HOUNSFIELD.size - 1).astype(np.int64)
    found = np.bincount(places, weights=sample.counts, minlength=HOUNSFIELD.size)
    return found / found.sum()


def _channel(name: str, counts: Counts | None) -> ChannelIntensities:
    if counts is None:  # normalised case by case
        return ChannelIntensities(
            name=name, mean=0, median=0, std=0, minimum=0, maximum=0, percentile_00_5=0, percentile_99_5=0
        )
    # Masses are shares of voxels, so percentiles are of mass and not of a number of cases.
    mass = np.cumsum(np.maximum(counts, 0)) / np.maximum(counts, 0).sum()
    low, median, high = (
        HOUNSFIELD.value_of(int(np.searchsorted(mass, percent / 100))) for percent in (0.5, 50.0, 99.5)
    )
    mean, std = mean_and_std(HOUNSFIELD, counts)
    return ChannelIntensities(
        name=name,
        mean=mean,
        median=median,
        std=std,
        minimum=low,  # the ends themselves would be those of single patients
        maximum=high,
        percentile_00_5=low,
        percentile_99_5=high,
    )
