"""Which case, region and network ``medseg explain`` asks about, ready to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.arrays import Image, Labels, Mask
from medseg.cases.case import Case, read_case_image
from medseg.cases.folds import Folds
from medseg.cases.formats import read_dataset
from medseg.commands.console import Bar
from medseg.errors import SettingsError
from medseg.inference.inputs import find_cases
from medseg.paths import Workspace

if TYPE_CHECKING:
    import torch

    from medseg.commands.explain import ExplainSettings
    from medseg.explanation.case import Window
    from medseg.explanation.target import Target
    from medseg.images.volume import Volume
    from medseg.inference.model import Fold, Model, Networks
    from medseg.preprocessing.grid import Grid


@dataclass(frozen=True)
class Predicted:
    """A case as the network sees it and what it found."""

    case: Case
    image: Volume
    labels: Labels
    prepared: Image
    """(C, Z, Y, X); of a cascade with the labels of the network before it."""
    grid: Grid


@dataclass(frozen=True)
class Asked:
    """What is explained, ready."""

    case: Case
    image: Volume
    region: Mask
    target: Target
    window: Window
    grid: Grid
    networks: Networks
    fold: int | str
    configuration: str
    predicted: Labels
    label: str

    @property
    def structure(self) -> int:
        """Number of the label among the model's structures."""
        return self.networks.labels.target_names.index(self.label)

    def folder(self, model: Model, method: str) -> Path:
        """Where the answer goes unless somebody says otherwise."""
        return model.folder / "explanations" / f"{self.case.name}_{method}_{self.structure + 1}"


def ask(settings: ExplainSettings, model: Model) -> Asked:
    """The region of the case that the settings name. Raises SettingsError where there is none."""
    from medseg.explanation.case import Question, region_of, target_of
    from medseg.inference.devices import choose_device

    if settings.case is None or settings.label is None:
        raise SettingsError(f"method={settings.method} explains one structure in one case. Give case= and label=.")
    case = named_case(settings.case, model)
    name, folds = model.choose(settings.configuration)
    fold = settings.fold if settings.fold is not None else held_out_by(model, name, case.name, folds)
    device = choose_device(settings.device)
    networks = model.load(name, [fold], device, "torch")
    seen = predicted(case, networks, device)
    question = Question(settings.label, settings.component, settings.point, settings.radius_mm)
    region = region_of(question, seen.labels, seen.image.spacing, model.labels)
    target, window = target_of(region, settings.label, seen.image, seen.prepared, seen.grid, networks)
    return Asked(case, seen.image, region, target, window, seen.grid, networks, fold, name, seen.labels, settings.label)


def predicted(case: Case, networks: Networks, device: torch.device) -> Predicted:
    """The case's labels by these networks, without mirror images, and what goes into them."""
    from medseg.inference.memory import Layout
    from medseg.inference.options import Options
    from medseg.inference.passes import Passes, PreparedImage
    from medseg.inference.predict import predict_volume

    image, options = read_case_image(case, len(networks.plan.channels)), Options(device, mirror=False)
    with Bar() as bar:
        labels = predict_volume(image, networks, options, case.name, bar)
    whole = PreparedImage(image, [networks])
    prepared = Passes(whole, [networks], options, Layout(), case.name).network_input(networks)
    return Predicted(case, image, labels, prepared, whole.prepare(networks)[1])


def named_case(name: str, model: Model) -> Case:
    """The named case of the workspace's dataset, or the one of an image file."""
    listed = Workspace(model.folder).dataset
    known = {case.name: case for case in read_dataset(listed).cases} if listed.is_file() else {}
    if name in known:
        return known[name]
    if not Path(name).is_file():
        some = f" Some of the dataset's are: {', '.join(list(known)[:5])}." if known else ""
        raise SettingsError(f"case={name} is neither a case of the model's dataset nor an image file.{some}")
    (case,), _ = find_cases(Path(name), [channel.name for channel in model.plan.channels])
    return case


def held_out_by(model: Model, name: str, case: str, folds: Sequence[Fold]) -> Fold:
    """The fold whose network has not seen the case; else the first."""
    path = Workspace(model.folder).folds
    if path.is_file():
        for number, fold in enumerate(Folds.load(path).folds):
            if case in fold.validation and number in model.weights[name]:
                return number
    return folds[0]
