"""``medseg explain``: what in the image the score of a predicted structure depends on, and whether to believe that.

Seconds on a CPU, after training: ``medseg explain case=NAME label=liver``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from medseg.arrays import Mask
from medseg.cases.case import Case, read_case_image
from medseg.cases.folds import Folds
from medseg.cases.formats import read_dataset
from medseg.commands.console import Bar, say
from medseg.errors import SettingsError
from medseg.explanation.document import Explanation
from medseg.files import folder_written_whole, require_replaceable
from medseg.images.formats import write_image
from medseg.inference.inputs import find_cases
from medseg.paths import Workspace
from medseg.settings import Settings, build

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medseg.explanation.case import Window
    from medseg.explanation.methods import Evidence
    from medseg.explanation.target import Target
    from medseg.images.volume import Volume
    from medseg.inference.model import Fold, Model
    from medseg.preprocessing.grid import Grid


class ExplainSettings(Settings):
    """Settings of ``medseg explain``."""

    case: str
    """The name of a case of the model's dataset, or an image file."""
    label: str
    """Which structure."""
    method: Literal["seg_grad_cam", "hires_cam", "integrated_gradients", "occlusion", "attention_rollout"] = "hires_cam"
    """integrated_gradients and occlusion need the extra: pip install medseg[explain]; attention_rollout is for
    transunet, and the same for every structure at a place."""
    layer: str = "auto"
    """Of the maps by class activation: auto (the last one at a quarter of the resolution), last, or its name."""
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


@dataclass(frozen=True)
class _Asked:
    """What is explained, ready."""

    case: Case
    image: Volume
    region: Mask
    target: Target
    fold: int | str
    configuration: str


def run(words: Mapping[str, str]) -> None:
    """Write ``map.nii.gz``, ``explanation.png`` and ``explanation.json``."""
    settings = build(ExplainSettings, words)
    from medseg.explanation.case import on_own_grid
    from medseg.explanation.methods import explain
    from medseg.explanation.sanity import check_sanity
    from medseg.inference.bundle import open_model

    model = open_model(settings.model)
    if settings.model is None:
        say(f"Model: {model.folder} (the workspace last used from here)")
    asked, window, grid = _ask(settings, model)
    evidence = explain(asked.target, settings.method, settings.layer)
    report = None
    if settings.sanity:
        layer = evidence.layer or "auto"
        say("Randomising the network and blurring the image ...")
        report = check_sanity(
            asked.target, evidence.values, lambda other: explain(other, settings.method, layer).values
        ).model_dump(mode="json")
    values = on_own_grid(evidence.values, window, grid)
    document = _document(settings, asked, evidence, report)
    name = f"{asked.case.name}_{settings.method}_{model.labels.target_names.index(settings.label) + 1}"
    output = settings.output or model.folder / "explanations" / name
    require_replaceable(output, "explanation.json")
    with folder_written_whole(output) as folder:
        write_image(folder / "map.nii.gz", values, asked.image)
        document.save(folder / "explanation.json")
        _draw(folder / "explanation.png", asked, values, document)
    _show(document, output)


def _ask(settings: ExplainSettings, model: Model) -> tuple[_Asked, Window, Grid]:
    from medseg.explanation.case import Question, region_of, target_of
    from medseg.inference.devices import choose_device
    from medseg.inference.options import Options
    from medseg.inference.passes import PreparedImage
    from medseg.inference.predict import predict_volume

    case = _case(settings, model)
    name, folds = model.choose(settings.configuration)
    fold = settings.fold if settings.fold is not None else _held_out_by(model, name, case.name, folds)
    device = choose_device(settings.device)
    networks = model.load(name, [fold], device, "torch")
    if networks.previous is not None:
        raise SettingsError(
            f"{name} is a cascade, whose input is another prediction; explain {networks.previous.name}."
        )
    image = read_case_image(case, len(model.plan.channels))
    with Bar() as bar:
        predicted = predict_volume(image, networks, Options(device, mirror=False), case.name, bar)
    question = Question(settings.label, settings.component, settings.point, settings.radius_mm)
    region = region_of(question, predicted, image.spacing, model.labels)
    prepared, grid = PreparedImage(image, [networks]).prepare(networks)
    target, window = target_of(region, settings.label, image, prepared, grid, networks)
    return _Asked(case, image, region, target, fold, name), window, grid


def _case(settings: ExplainSettings, model: Model) -> Case:
    """The named case of the workspace's dataset, or the one of an image file."""
    listed = Workspace(model.folder).dataset
    known = {case.name: case for case in read_dataset(listed).cases} if listed.is_file() else {}
    if settings.case in known:
        return known[settings.case]
    if not Path(settings.case).is_file():
        some = f" Some of the dataset's are: {', '.join(list(known)[:5])}." if known else ""
        raise SettingsError(f"case={settings.case} is neither a case of the model's dataset nor an image file.{some}")
    (case,), _ = find_cases(Path(settings.case), [channel.name for channel in model.plan.channels])
    return case


def _held_out_by(model: Model, name: str, case: str, folds: Sequence[Fold]) -> Fold:
    """The fold whose network has not seen the case; else the first."""
    path = Workspace(model.folder).folds
    if path.is_file():
        for number, fold in enumerate(Folds.load(path).folds):
            if case in fold.validation and number in model.weights[name]:
                return number
    return folds[0]


def _document(
    settings: ExplainSettings, asked: _Asked, evidence: Evidence, report: dict[str, Any] | None
) -> Explanation:
    values, region = evidence.values, asked.target.region
    total = float(values.sum())
    return Explanation(
        case=asked.case.name,
        label=settings.label,
        method=settings.method,
        layer=evidence.layer,
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


def _draw(path: Path, asked: _Asked, values: NDArray[np.float32], document: Explanation) -> None:
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
