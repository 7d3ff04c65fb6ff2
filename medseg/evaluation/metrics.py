"""Two label arrays of one Case -> numbers for each structure.

Knows nothing of files, and takes for granted that both arrays lie on the same grid (``images.volume.require_same_grid``
sees to that). Surfaces are defined in ``surfaces.py``; overlap is counted in voxels, volume in millilitres. Everything
is computed on the structure's bounding box.

What happens when a structure is missing (``status``):

    scored        in both: every number is given
    absent        in neither: no numbers (null), counted, never averaged as 0 or as 1
    missed        only in the truth: Dice, IoU, NSD and boundary F1 are 0; HD95 and ASSD are infinite, written as null
    false_alarm   only in the prediction: the same

Structures are the targets of a label table, so regions may overlap. Voxels that nobody annotated in the truth are left
out of both arrays: they are neither in a structure nor beside it, and a surface next to them is no surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from medseg.arrays import Labels, Mask, Spacing
from medseg.cases.labels import LabelTable
from medseg.documents import Record
from medseg.errors import DatasetError, GeometryError
from medseg.evaluation.surfaces import average_distance_mm, boundary_f1, hausdorff_mm, measure_surfaces, surface_dice

Status = Literal["scored", "absent", "missed", "false_alarm"]


class StructureScores(Record):
    """The numbers of one structure in one Case; null where a number would have no meaning (see the module)."""

    name: str
    """The structure."""
    status: Status
    """Whether the structure is in both arrays, in neither, or in one only."""
    dice: float | None = None
    """2 TP / (2 TP + FP + FN), voxels."""
    iou: float | None = None
    """TP / (TP + FP + FN), voxels."""
    hd95_mm: float | None = None
    """Larger of both directions' 95th area-weighted percentile of surface distance. Like the three below, null where
    a structure in both has no surface among annotated voxels."""
    assd_mm: float | None = None
    """Area-weighted mean of surface distance over both surfaces."""
    nsd: float | None = None
    """Share of both surfaces' area within the tolerance of the other surface."""
    boundary_f1: float | None = None
    """Harmonic mean of surface precision and surface recall at the tolerance."""
    truth_ml: float
    """Volume of the structure in the labels."""
    prediction_ml: float
    """Volume of the structure in the prediction."""
    volume_error_ml: float | None = None
    """Prediction minus truth: positive is too much."""
    volume_error_relative: float | None = None
    """The same divided by the true volume; null where that is 0."""
    tp: int
    """Voxels in both."""
    fp: int
    """Voxels in the prediction only."""
    fn: int
    """Voxels in the truth only."""


METRICS = ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "boundary_f1", "volume_error_ml", "volume_error_relative")
"""The fields of StructureScores that can be averaged over Cases."""


class CaseScores(Record):
    """The numbers of every structure in one Case."""

    case: str
    """The Case's name."""
    tolerance_mm: float
    """The tolerance of NSD and boundary F1."""
    structures: tuple[StructureScores, ...]
    """In the order of the label table."""

    @property
    def mean_dice(self) -> float | None:
        """Mean Dice over the structures that are in the truth or the prediction; None when none is."""
        found = [structure.dice for structure in self.structures if structure.dice is not None]
        return float(np.mean(found)) if found else None


def score_case(
    prediction: Labels,
    truth: Labels,
    spacing: Spacing,
    table: LabelTable,
    tolerance_mm: float = 1.0,
    case: str = "",
) -> CaseScores:
    """Score a prediction against the truth, both label indices (Z, Y, X) on one grid with ``spacing`` mm (z, y, x).

    One result for each target of the table. Raises GeometryError for different shapes and DatasetError for an index
    that the table does not have; the prediction can't hold the ignore index.
    """
    if prediction.shape != truth.shape:
        raise GeometryError(
            f"Case '{case}': the prediction has shape {prediction.shape} but the labels have {truth.shape} (z, y, x)."
        )
    for what, labels, known in (("prediction", prediction, len(table)), ("labels", truth, len(table.known_values))):
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < known:
            raise DatasetError(
                f"Case '{case}': the {what} hold the indices {labels.min()} to {labels.max()}, but only 0 to "
                f"{known - 1} have a meaning there. Give the labels.yaml that belongs to them."
            )
    from scipy import ndimage  # slow to import

    predicted, true = (ndimage.find_objects(labels, max_label=len(table)) for labels in (prediction, truth))
    structures = []
    for target in table.targets:
        boxes = [found for index in target.indices for found in (predicted[index - 1], true[index - 1])]
        # With a margin, because voxels around a structure decide whether its surface counts.
        box = _joint_box(boxes, margin=0 if table.ignore is None else 1)
        known = None if table.ignore is None else truth[box] != table.ignore_index
        masks = target.mask(prediction[box]), target.mask(truth[box])
        structures.append(_score_structure(target.name, *masks, known, spacing, tolerance_mm))
    return CaseScores(case=case, tolerance_mm=tolerance_mm, structures=tuple(structures))


def _score_structure(
    name: str, prediction: Mask, truth: Mask, known: Mask | None, spacing: Spacing, tolerance_mm: float
) -> StructureScores:
    if known is not None:
        prediction, truth = prediction & known, truth & known
    voxel_ml = float(np.prod(spacing)) / 1000
    tp = int(np.count_nonzero(prediction & truth))
    n_prediction, n_truth = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    fp, fn = n_prediction - tp, n_truth - tp
    counts = {"tp": tp, "fp": fp, "fn": fn, "truth_ml": n_truth * voxel_ml, "prediction_ml": n_prediction * voxel_ml}
    if not n_prediction and not n_truth:
        return StructureScores(name=name, status="absent", **counts)
    error_ml = (n_prediction - n_truth) * voxel_ml
    errors = {
        "volume_error_ml": error_ml,
        "volume_error_relative": (n_prediction - n_truth) / n_truth if n_truth else None,
    }
    if not n_prediction or not n_truth:
        status: Status = "missed" if n_truth else "false_alarm"
        return StructureScores(
            name=name, status=status, dice=0.0, iou=0.0, nsd=0.0, boundary_f1=0.0, **errors, **counts
        )
    surfaces = measure_surfaces(prediction, truth, spacing, known)
    return StructureScores(
        name=name,
        status="scored",
        dice=2 * tp / (2 * tp + fp + fn),
        iou=tp / (tp + fp + fn),
        hd95_mm=None if surfaces is None else hausdorff_mm(surfaces),
        assd_mm=None if surfaces is None else average_distance_mm(surfaces),
        nsd=None if surfaces is None else surface_dice(surfaces, tolerance_mm),
        boundary_f1=None if surfaces is None else boundary_f1(surfaces, tolerance_mm),
        **errors,
        **counts,
    )


_Box = tuple[slice, ...]


def _joint_box(found: Sequence[_Box | None], margin: int) -> _Box:
    """The smallest box that holds all, with a margin where there is room; an empty one where all are None."""
    boxes = [box for box in found if box is not None]
    if not boxes:
        return (slice(0, 0),) * 3
    sides = [(min(part.start for part in axis), max(part.stop for part in axis)) for axis in zip(*boxes, strict=True)]
    return tuple(slice(max(low - margin, 0), high + margin) for low, high in sides)
