"""The numbers beside a picture: a line for each structure, intensity and place under the cursor, a distance.

Knows nothing of pages. Structures are measured once for each label map and kept beside the prepared Case.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Affine, Triple
from medseg.documents import Document, Record
from medseg.errors import MedsegError
from medseg.evaluation.measurements import Measurement, measure_structure
from medseg.files import hash_content
from medseg.review.cache import OpenCase
from medseg.review.case import Finding


class Line(Record):
    """One structure of one Case."""

    structure: str
    volume_ml: float
    volume_low_ml: float | None = None
    volume_high_ml: float | None = None
    """Ends of an interval: guaranteed at ``rate`` where the model was calibrated, else credible at 90 %."""
    rate: float | None = None
    """Null for an interval that nothing guarantees."""
    largest_diameter_mm: float
    parts: int
    mean_intensity: float
    """Of the channel that is looked at."""
    mean_entropy_nats: float | None = None
    expected_dice: float | None = None
    centre: Triple
    """Voxel (z, y, x) of the page to go to: the one of the structure that is nearest to its centre of mass."""


class Numbers(Document):
    """Lines of a label map, kept so that a large Case is measured once."""

    kind: ClassVar[str] = "review_numbers"

    lines: tuple[Line, ...]
    absent: tuple[str, ...]
    """Structures without a voxel."""


def measure(one: OpenCase, finding: Finding, channel: int = 0) -> Numbers:
    """The lines of a label map, from the disk where it was measured before. Raises what reading it raises."""
    labels = one.labels(finding)
    entropy = finding.maps.get("entropy")
    told = [interval.model_dump() for interval in finding.intervals.values()]
    key = hash_content([one.viewer_labels(finding).name, channel, str(entropy), told])[:16]
    path = one.folder / "numbers" / f"{key}.json"
    if path.is_file():
        try:
            return Numbers.load(path)
        except MedsegError:
            pass  # of an older medseg: measured anew
    numbers = _measured(one, finding, channel, labels, entropy)
    numbers.save(path)
    return numbers


def _measured(one: OpenCase, finding: Finding, channel: int, labels: NDArray[Any], entropy: Path | None) -> Numbers:
    doubt = None if entropy is None else one.map(entropy)
    lines, absent = [], []
    for target in finding.table.targets:
        mask = target.mask(labels)
        found = measure_structure(
            target.name, mask, one.affine, one.image[channel : channel + 1], one.record.channels[channel : channel + 1],
            doubt,
        )  # fmt: skip
        if found is None:
            absent.append(target.name)
            continue
        lines.append(_line(found, finding, _nearest(mask, one.affine, found.centre_mm)))
    return Numbers(lines=tuple(lines), absent=tuple(absent))


def _line(found: Measurement, finding: Finding, centre: Triple) -> Line:
    low, high, rate, dice = _interval(found.structure, finding)
    return Line(
        structure=found.structure,
        volume_ml=found.volume_ml,
        volume_low_ml=low,
        volume_high_ml=high,
        rate=rate,
        largest_diameter_mm=found.largest_diameter_mm,
        parts=found.parts,
        mean_intensity=found.intensities[0].mean,
        mean_entropy_nats=found.mean_entropy_nats,
        expected_dice=dice,
        centre=centre,
    )


def _interval(name: str, finding: Finding) -> tuple[float | None, float | None, float | None, float | None]:
    """Low, high, rate and expected Dice, as far as they are known."""
    structures = finding.uncertainty.structures if finding.uncertainty is not None else ()
    estimate = next((one.estimate for one in structures if one.estimate.name == name), None)
    known, dice = finding.intervals.get(name), estimate.expected_dice if estimate is not None else None
    if known is not None:
        return known.low_ml, known.high_ml, known.rate, dice
    if estimate is not None:
        return estimate.low_ml, estimate.high_ml, None, dice
    return None, None, None, None


def _nearest(mask: NDArray[np.bool_], affine: Affine, centre_mm: tuple[float, float, float]) -> Triple:
    """The voxel of the mask nearest to a point: the centre of mass of a bent structure may lie outside of it."""
    centre = np.linalg.solve(affine, [*centre_mm, 1.0])[:3]
    at = tuple(int(np.clip(round(value), 0, extent - 1)) for value, extent in zip(centre, mask.shape, strict=True))
    if mask[at]:
        return at[0], at[1], at[2]
    places = np.argwhere(mask)
    z, y, x = places[np.argmin((((places - centre) @ affine[:3, :3].T) ** 2).sum(axis=1))]
    return int(z), int(y), int(x)


class Change(Record):
    """One structure in two label maps."""

    structure: str
    first_ml: float
    second_ml: float
    dice: float | None = None
    """Null where neither holds the structure, or where they lie on different images."""

    @property
    def change(self) -> float | None:
        """Of the volume, as a share of the first; None where there was nothing."""
        return (self.second_ml - self.first_ml) / self.first_ml if self.first_ml else None


def compare(one: OpenCase, first: Finding, second: Finding, other: OpenCase | None = None) -> list[Change]:
    """The structures that both tables name, in two label maps of the Case, or in one of it and one of ``other``."""
    arrays = one.labels(first), (other or one).labels(second)
    voxel_ml = [float(np.prod(case.spacing)) / 1000 for case in (one, other or one)]
    known = {target.name: target for target in second.table.targets}
    changes = []
    for target in first.table.targets:
        if target.name not in known:
            continue
        masks = target.mask(arrays[0]), known[target.name].mask(arrays[1])
        sizes = [int(np.count_nonzero(mask)) for mask in masks]
        dice = None
        if other is None and sum(sizes):
            dice = 2 * int(np.count_nonzero(masks[0] & masks[1])) / sum(sizes)
        volumes = [size * ml for size, ml in zip(sizes, voxel_ml, strict=True)]
        changes.append(Change(structure=target.name, first_ml=volumes[0], second_ml=volumes[1], dice=dice))
    return changes


class Under(Record):
    """What lies under the cursor."""

    voxel: Triple
    """(z, y, x) in the file, as other programs count them."""
    position_mm: tuple[float, float, float]
    """World coordinates, RAS+ (x, y, z)."""
    intensity: float
    structure: str | None = None
    entropy_nats: float | None = None


def under(one: OpenCase, place: Triple, channel: int = 0, finding: Finding | None = None) -> Under:
    """What lies at a voxel (z, y, x) of the page."""
    x, y, z = (float(value) for value in position_mm(one.affine, place))
    name = entropy = None
    if finding is not None:
        index = int(one.labels(finding)[place])
        names = [target.name for target in finding.table.targets if index in target.indices]
        name = " / ".join(names) or None
        path = finding.maps.get("entropy")
        entropy = None if path is None else float(one.map(path)[place])
    return Under(
        voxel=file_voxel(one, place),
        position_mm=(x, y, z),
        intensity=float(one.image[(channel, *place)]),
        structure=name,
        entropy_nats=entropy,
    )


def position_mm(affine: Affine, place: Triple) -> NDArray[np.float64]:
    """World millimetres (x, y, z) of a voxel's centre."""
    return affine[:3, :3] @ np.array(place, dtype=np.float64) + affine[:3, 3]


def distance_mm(affine: Affine, first: Triple, second: Triple) -> float:
    """Between the centres of two voxels, in space."""
    return float(np.linalg.norm(position_mm(affine, first) - position_mm(affine, second)))


def file_voxel(one: OpenCase, place: Triple) -> Triple:
    """A voxel (z, y, x) of the page in the axes of the file."""
    found = [0, 0, 0]
    for axis, (own, back) in enumerate(zip(one.turn.order, one.turn.reverse, strict=True)):
        found[own] = one.record.file_shape[own] - 1 - place[axis] if back else place[axis]
    return found[0], found[1], found[2]
