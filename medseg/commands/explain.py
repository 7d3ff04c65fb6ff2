"""``medseg explain``: what in the image the score of a predicted structure depends on, and whether to believe that.

Seconds on a CPU, after training: ``medseg explain case=NAME label=liver``
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from medseg.commands.console import say
from medseg.commands.explained_case import Asked, ask
from medseg.explanation.document import Explanation
from medseg.files import folder_written_whole, require_replaceable
from medseg.images.formats import write_image
from medseg.settings import Settings, build

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medseg.explanation.methods import Evidence


class ExplainSettings(Settings):
    """Settings of ``medseg explain``."""

    case: str | None = None
    """The name of a case of the model's dataset, or an image file; tcav takes up to ten held-out ones unless named."""
    label: str | None = None
    """Which structure; tcav takes all unless named."""
    method: Literal[
        "seg_grad_cam",
        "hires_cam",
        "integrated_gradients",
        "occlusion",
        "attention_rollout",
        "tcav",
        "counterfactual",
    ] = "hires_cam"
    """integrated_gradients and occlusion need the extra: pip install medseg[explain]; attention_rollout is for
    transunet, and the same for every structure at a place; tcav: whether structures depend on a concept;
    counterfactual: the smallest change of the image that removes the structure, or adds it."""
    concept: Path | None = None
    """tcav: a folder of images that show it, or a CSV of boxes in cases (case,z0,z1,y0,y1,x0,x1, in voxels)."""
    random: Path | Literal["automatic"] = "automatic"
    """tcav: the same of what does not; automatic takes boxes of the same size anywhere in the cases."""
    runs: int = Field(default=20, ge=5, le=1000)
    """tcav: how many times random examples and half of the concept's are drawn."""
    change: Literal["remove", "add"] = "remove"
    """counterfactual: replace the region by its surroundings until the structure is gone, or by something uniform until
    it is there."""
    layer: str = "auto"
    """Of tcav and maps by class activation: auto (the last one at a quarter of the resolution), last, or its name."""
    component: PositiveInt | None = None
    """Only this connected part of the structure, 1 is the largest; such as one that should not be there."""
    point: tuple[int, int, int] | None = None
    """Instead of the structure: what lies around this voxel (z, y, x) of the file."""
    radius_mm: float = Field(default=5.0, gt=0)
    """How far around the point."""
    sanity: bool = False
    """Randomise the network layer by layer, blur the image in the map's order, and give a verdict."""
    model: Path | None = None
    """A bundle or a workspace; by default the workspace last used from here."""
    configuration: str | None = None
    """2d, 3d_fullres, ...; by default the plan's own choice."""
    fold: int | Literal["full"] | None = None
    """Whose network; by default that of the fold which held the case out, else the first."""
    output: Path | None = None
    """Folder for the map, a picture and the numbers; by default explanations/ in the model's folder."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""


SETTINGS = (ExplainSettings,)


def run(words: Mapping[str, str]) -> None:
    """Write ``map.nii.gz``, ``explanation.png`` and ``explanation.json``; or what tcav and counterfactual write."""
    settings = build(ExplainSettings, words)
    from medseg.explanation.case import on_own_grid
    from medseg.explanation.methods import explain
    from medseg.explanation.sanity import check_sanity
    from medseg.inference.bundle import open_model

    model = open_model(settings.model)
    if settings.model is None:
        say(f"Model: {model.folder} (the workspace last used from here)")
    if settings.method == "tcav":
        from medseg.commands.explain_concept import run_concept

        run_concept(settings, model)
        return
    asked, method = ask(settings, model), settings.method
    if method == "counterfactual":
        from medseg.commands.explain_counterfactual import run_counterfactual

        run_counterfactual(settings, model, asked)
        return
    evidence = explain(asked.target, method, settings.layer)
    report = None
    if settings.sanity:
        layer = evidence.layer or "auto"
        say("Randomising the network and blurring the image ...")
        report = check_sanity(
            asked.target, evidence.values, lambda other: explain(other, method, layer).values
        ).model_dump(mode="json")
    values = on_own_grid(evidence.values, asked.window, asked.grid)
    document = _document(settings, asked, evidence, report)
    output = settings.output or asked.folder(model, method)
    require_replaceable(output, "explanation.json")
    with folder_written_whole(output) as folder:
        write_image(folder / "map.nii.gz", values, asked.image)
        document.save(folder / "explanation.json")
        _draw(folder / "explanation.png", asked, values, document)
    _show(document, output)


def _document(
    settings: ExplainSettings, asked: Asked, evidence: Evidence, report: dict[str, Any] | None
) -> Explanation:
    values, region = evidence.values, asked.target.region
    total = float(values.sum())
    return Explanation(
        case=asked.case.name,
        label=asked.label,
        method=settings.method,
        layer=evidence.layer,
        layer_choice=_layer_choice(settings.layer) if evidence.layer else None,
        component=settings.component,
        point=settings.point,
        configuration=asked.configuration,
        fold=asked.fold,
        region_voxels=int(region.sum()),
        score=asked.target.value,
        largest=float(values.max()),
        is_blank=evidence.is_blank,
        share_in_region=float(values[region].sum()) / total if total > 0 else None,
        share_by_chance=float(region.float().mean()),
        unaccounted=evidence.unaccounted,
        sanity=report,
    )


def _layer_choice(layer: str) -> Literal["auto", "last", "named"]:
    return layer if layer in ("auto", "last") else "named"


def _draw(path: Path, asked: Asked, values: NDArray[np.float32], document: Explanation) -> None:
    from medseg.evaluation.heat_pictures import HeatMap, Outlined, draw_heat
    from medseg.evaluation.palette import COLORS

    image = asked.image
    layer = f" at {document.layer}" if document.layer else ""
    told = "shows what the score depends on, not correctness"
    title = f"{document.case}: {document.label}, {document.method}{layer}\n{told}"
    affine = image.affine if image.orientation_known else None
    evidence = HeatMap("evidence", values, "as the method gives it", "none that is positive")
    region = Outlined("the region", asked.region.astype(np.uint8), COLORS[1:2])
    draw_heat(path, image.array[0], region, [evidence], image.spacing, title, affine)


def _show(document: Explanation, output: Path) -> None:
    layer = f" at layer {document.layer}" if document.layer else ""
    say(
        f"{document.method}{layer}, fold {document.fold}; {document.region_voxels} voxels, "
        f"mean logit {document.score:.2f}"
    )
    if document.is_blank:
        say("No positive evidence: the map is blank.")
    elif document.share_in_region is not None:
        share, chance = document.share_in_region, document.share_by_chance
        say(
            f"{100 * share:.1f} % of the evidence lies in the region itself, which is {100 * chance:.1f} % of the patch"
        )
    if document.unaccounted is not None:
        say(f"{100 * document.unaccounted:.1f} % of the score is not accounted for by the map")
    if document.sanity is not None:
        found = document.sanity
        alike = ", ".join(f"{one['correlation']:.2f} ({100 * one['share']:.0f} %)" for one in found["randomised"])
        say(
            f"Rank correlation after randomising the last layers: {alike}; up to {found['threshold']:g} counts as other"
        )
        for what, sign in (("deletion", "least"), ("insertion", "largest")):
            area, other = found[f"{what}_area"], found[f"{what}_area_random"]
            say(f"Area under the {what} curve: {area:.3f}; {sign} of random orders {other:.3f}")
        say(found["verdict"])
    say(f"Map, picture and numbers: {output}")
