"""``medseg explain method=counterfactual``: an image without the structure, or with it, and what was changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medseg.commands.console import say
from medseg.commands.explained_case import Asked
from medseg.errors import SettingsError
from medseg.explanation.document import Counterfactual
from medseg.files import folder_written_whole, require_replaceable
from medseg.images.formats import write_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medseg.commands.explain import ExplainSettings
    from medseg.explanation.counterfactual import Changed
    from medseg.inference.model import Model


def run_counterfactual(settings: ExplainSettings, model: Model, asked: Asked) -> None:
    """Write ``changed.nii.gz``, ``difference.nii.gz``, two pictures and ``counterfactual.json``; only the last where
    nothing was found."""
    from medseg.explanation.counterfactual import counterfactual, is_already

    channels = asked.image.array.shape[0]
    found = counterfactual(asked.target, settings.change, channels, model.labels.activation == "softmax")
    if is_already(found.before, settings.change):
        what = "nothing to remove" if settings.change == "remove" else "nothing to add"
        raise SettingsError(
            f"{100 * found.before:.0f} % of the region is '{asked.label}' for this network in one pass: {what}."
        )
    difference = _on_file(asked, found) if found.was_found else np.zeros_like(asked.image.array)
    image = replace(asked.image, array=asked.image.array + difference)
    predicted = _predicted_anew(asked, image) if found.was_found else None
    document = _document(settings, asked, found, predicted)
    output = settings.output or asked.folder(model, settings.method)
    require_replaceable(output, "counterfactual.json")
    with folder_written_whole(output) as folder:
        document.save(folder / "counterfactual.json")
        if predicted is not None:
            for number, (after, changed) in enumerate(zip(image.array, difference, strict=True)):
                name = "" if channels == 1 else f"_{number:04d}"
                write_image(folder / f"changed{name}.nii.gz", after, asked.image)
                write_image(folder / f"difference{name}.nii.gz", changed, asked.image)
            _draw(folder, asked, image.array[0], np.abs(difference).max(axis=0), predicted, document)
    say(document.verdict)
    if document.voxels_after is not None:
        say(
            f"Predicted anew: {document.voxels_after} voxels of the region are the structure, {document.voxels_before} "
            f"before; elsewhere {document.elsewhere_after}, {document.elsewhere_before} before."
        )
    say(f"Numbers{', images and pictures' if found.was_found else ''}: {output}")


def _on_file(asked: Asked, found: Changed) -> NDArray[np.float32]:
    """The change ``(C, Z, Y, X)`` on the file's grid and in its units: normalisation is undone by regression."""
    from medseg.explanation.case import on_own_grid

    rows = []
    for channel, stored in enumerate(asked.image.array):
        normal = on_own_grid(asked.target.patch[0, channel], asked.window, asked.grid)
        change = on_own_grid((found.patch - asked.target.patch)[0, channel], asked.window, asked.grid)
        inside = (normal > normal.min()) & (normal < normal.max()) & (normal != 0)  # neither clipped nor outside
        x, y = normal[inside].astype(np.float64), stored[inside].astype(np.float64)
        slope = float(np.cov(x, y)[0, 1] / max(x.var(ddof=1), 1e-12)) if x.size > 1 else 1.0
        rows.append((slope * change).astype(np.float32))
    return np.stack(rows)


def _predicted_anew(asked: Asked, image: object) -> NDArray[np.integer]:
    from medseg.images.volume import Volume
    from medseg.inference.options import Options
    from medseg.inference.predict import predict_volume

    assert isinstance(image, Volume)
    device = next(asked.networks.networks[0].parameters()).device
    return predict_volume(image, asked.networks, Options(device, mirror=False), asked.case.name)


def _voxels(asked: Asked, labels: NDArray[np.integer]) -> tuple[int, int]:
    """Of the structure in the region, and elsewhere."""
    mask = asked.networks.labels.targets[asked.structure].mask(labels)
    return int((mask & asked.region).sum()), int((mask & ~asked.region).sum())


def _document(
    settings: ExplainSettings, asked: Asked, found: Changed, predicted: NDArray[np.integer] | None
) -> Counterfactual:
    before, after = _voxels(asked, asked.predicted), None if predicted is None else _voxels(asked, predicted)
    apart = (found.patch - asked.target.patch).abs().max()
    return Counterfactual(
        case=asked.case.name,
        label=asked.label,
        change=settings.change,
        configuration=asked.configuration,
        fold=asked.fold,
        region_voxels=int(asked.target.region.sum()),
        share_before=found.before,
        share_after=found.after,
        share_everything=found.everything,
        was_found=found.was_found,
        changed_share=float(found.opacity[found.place].mean()) if found.was_found else None,
        largest_change=float(apart) if found.was_found else None,
        voxels_before=before[0],
        voxels_after=after[0] if after else None,
        elsewhere_before=before[1],
        elsewhere_after=after[1] if after else None,
    )


def _draw(
    folder: Path,
    asked: Asked,
    after: NDArray[np.float32],
    apart: NDArray[np.float32],
    predicted: NDArray[np.integer],
    document: Counterfactual,
) -> None:
    from medseg.evaluation.heat_pictures import HeatMap, Outlined, draw_heat
    from medseg.evaluation.palette import COLORS

    image = asked.image
    affine = image.affine if image.orientation_known else None
    title = f"{document.case}: the smallest change found that would {document.change} {document.label}"
    region = Outlined("the region", asked.region.astype(np.uint8), COLORS[1:2])
    changed = HeatMap("change", apart, "in the image's units")
    draw_heat(folder / "counterfactual.png", image.array[0], region, [changed], image.spacing, title, affine)
    mask = asked.networks.labels.targets[asked.structure].mask(predicted) & asked.region
    left = Outlined("what is found then", (asked.region.astype(np.uint8) + mask).astype(np.uint8), COLORS[1:3])
    draw_heat(folder / "changed.png", after, left, [changed], image.spacing, f"{title}\nafter the change", affine)
