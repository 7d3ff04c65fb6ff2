"""What ``medseg predict`` writes of one case, wherever it is predicted: labels, a picture, a line of the record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.cases.labels import LabelTable
from medseg.evaluation.palette import colors_of, topmost
from medseg.images.formats import write_labels

if TYPE_CHECKING:
    from medseg.inference.predict import Prediction

PICTURES = 5
"""Of the first cases; a picture of each of thousands would be looked at by nobody."""


def write_prediction(target: Path, prediction: Prediction, labels: LabelTable, picture: bool) -> tuple[str, ...]:
    """Write the labels, and a picture where one is wanted; the remarks on both."""
    write_labels(target, labels.to_values(prediction.indices), prediction.image)
    if picture:
        name = prediction.case
        try:
            _draw(target.parent / "pictures" / f"{name}.png", name, prediction, labels)
        except Exception as error:  # the labels are written; a picture is no reason to call them failed
            return (*prediction.remarks, f"No picture was drawn: {type(error).__name__}: {error}")
    return prediction.remarks


def facts_of(prediction: Prediction, remarks: Sequence[str], seconds: float, target: Path) -> dict[str, Any]:
    """What the record of the run says of a case that was predicted."""
    facts = {"seconds": round(seconds, 2), "file": target.name, "remarks": list(remarks)}
    warning = prediction.judged.warning if prediction.judged is not None else None
    return facts if warning is None else {**facts, "warning": warning}


def _draw(path: Path, name: str, prediction: Prediction, labels: LabelTable) -> None:
    """The first channel and the prediction side by side."""
    from medseg.evaluation.pictures import draw_comparison

    image = prediction.image
    draw_comparison(
        path,
        image.array[0],
        None,
        topmost(prediction.indices, labels),
        image.spacing,
        labels.target_names,
        colors_of(labels.targets),
        name,
        image.affine if image.orientation_known else None,
    )
