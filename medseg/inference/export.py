"""A model for other programs: its networks as ONNX or TorchScript, and everything around them told in one JSON.

The folder is a bundle (checksums, plan, labels), so ``medseg predict`` runs an ONNX export as it stands.
``export.json`` says how an image becomes a batch and how logits become Labels, for whoever writes that anew.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from medseg.cases.labels import LabelTable
from medseg.documents import Document, Record
from medseg.errors import CheckpointError, MedsegError
from medseg.inference.bundle import bundle_written_whole, weights_name
from medseg.inference.model import Fold, Model, WeightsDescription, read_network
from medseg.inference.onnx import INPUT, OUTPUT, OnnxNetwork, save_graph, to_onnx
from medseg.inference.quantize import Calibration, Quantised, quantise
from medseg.networks.weights import load_weights
from medseg.planning.plan import ChannelPlan

Format = Literal["onnx", "torchscript"]
_SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torchscript": ".ts"}


class ExportedLabel(Record):
    """One class or region of the output."""

    index: int
    """Its place on the class axis of the logits."""
    name: str
    value: int
    """What stands for it in label files; of regions the last one found is written."""


class Export(Document):
    """``export.json``: what surrounds the networks, step by step; all triples are (z, y, x)."""

    kind: ClassVar[str] = "export"
    error: ClassVar[type[MedsegError]] = CheckpointError

    precision: Literal["float32", "int8"] = "float32"
    """int8: convolutions multiply eight-bit integers; input and output are float32 all the same."""
    quantised: dict[str, Quantised] = Field(default_factory=dict)
    """What eight-bit integers have cost and won, by fold."""
    networks: dict[str, str]
    """File of each fold; their probabilities are averaged with equal weight."""
    input: dict[str, Any]
    """Name, type and shape of what a network takes; only the batch varies."""
    output: dict[str, Any]
    """Name, type and shape of what it gives."""
    orientation: str
    """canonical: turn the stored axes to nearest RAS+ first, so that z goes to the head, y to the front and x to the
    right; stored: leave them as they are."""
    axis_order: tuple[int, int, int]
    """Then put the axes in this order; the crop, the spacing and the patch refer to it."""
    crop: str
    """Then crop."""
    channels: tuple[ChannelPlan, ...]
    """Then normalise each channel."""
    normalisation: dict[str, str]
    """What the words mean."""
    spacing: tuple[float, float, float]
    """Then resample to this spacing in mm."""
    resampling: str
    """How."""
    patch_size: tuple[int, int, int]
    """Then predict tiles of this size; a smaller image is padded with zeros on both sides."""
    tiling: str
    """How tiles are laid and averaged."""
    mirror_axes: tuple[int, ...]
    """Axes (0 is z of the network) whose flips may be averaged as well."""
    restoring: str
    """How class scores become labels on the file's own grid."""
    labels: tuple[ExportedLabel, ...]
    """Classes, or regions in the order of writing, in the order of the logits."""


_NORMALISATION = {
    "ct": "clip to [clip_low, clip_high], subtract mean, divide by std",
    "zscore": "subtract the image's mean and divide by its standard deviation (at least 1e-8); masked: of the voxels "
    "inside the non-zero mask only, the others become 0",
    "none": "left as it is",
    "rescale_0_1": "subtract the image's minimum, divide by its range",
    "rgb": "divide by 255",
}
_CROP = "to the bounding box of voxels that are not 0 in any channel (holes filled); the box is needed again at the end"
_RESAMPLING = (
    "to round(spacing / new spacing * size) voxels per axis over the same field of view: cubic spline (order 3, edge "
    "extended); where the largest spacing is more than 3 times the smallest, before or (failing that) after, that axis "
    "is resampled apart by nearest neighbour. In 2D the first axis is never resampled"
)
_TILING = (
    "per axis ceil((size - patch) / (step * patch)) + 1 tiles evenly spaced from edge to edge, step 0.5; {activation} "
    "of each tile's logits, averaged with a Gaussian weight of sigma = patch / 8"
)
_RESTORING = (
    "probabilities are resampled to the cropped image by linear interpolation (nearest along an axis resampled apart); "
    "{decision} and put back into the box (outside: background); the axes are put back in the file's order"
)
_DECISIONS = {
    "softmax": "the class with the highest is taken (the lowest index of equals)",
    "sigmoid": "from the first region to the last, the value of each is written where its probability is above 1/2",
}


def export_model(
    model: Model,
    output: Path,
    kind: Format = "onnx",
    configuration: str | None = None,
    folds: Sequence[Fold] | None = None,
    told: Callable[[str], None] = lambda _: None,
    calibrations: Mapping[Fold, Calibration] | None = None,
) -> Export:
    """Write the chosen folds as graphs, with plan, labels and ``export.json``, whole or not at all.

    ``calibrations`` are cases for each fold, whose network is then written in eight-bit integers (ONNX alone). Raises
    CheckpointError when ``output`` holds anything but a bundle, when the weights are damaged or graphs already,
    SettingsError without the extra.
    """
    name, chosen = model.choose(configuration, folds)
    if model.plan.configurations[name].previous is not None:
        raise CheckpointError(
            f"'{name}' is a cascade, whose input needs the labels of another network; it can't be exported alone. "
            "Choose another with configuration=NAME."
        )
    files = {fold: str(Path(weights_name(name, fold)).with_suffix(_SUFFIXES[kind])) for fold in chosen}
    quantised: dict[str, Quantised] = {}
    loaded = {fold: _torch_network(model.weights[name][fold]) for fold in chosen}
    with bundle_written_whole(output, model.plan) as folder:
        model.plan.save(folder / "plan.yaml")
        model.labels.save(folder / "labels.yaml")
        for fold, (network, description) in loaded.items():
            told(f"Fold {fold} ...")
            (folder / files[fold]).parent.mkdir(parents=True, exist_ok=True)
            about = load_weights(model.weights[name][fold])[1]
            if calibrations is None:
                _WRITERS[kind](network, description, about, folder / files[fold])
                continue
            graph, quantised[str(fold)] = quantise(
                network, description.configuration, model.plan, model.labels, calibrations[fold], about
            )
            save_graph(folder / files[fold], graph)
            told(f"Fold {fold}, int8: {quantised[str(fold)]}")
        first = loaded[chosen[0]][1]
        export = describe_export(model, first, {str(fold): file for fold, file in files.items()})
        if quantised:
            export = export.model_copy(update={"precision": "int8", "quantised": quantised})
        export.save(folder / "export.json")
    return export


def describe_export(model: Model, description: WeightsDescription, files: Mapping[str, str]) -> Export:
    """What another program needs to know."""
    plan, configuration = model.plan, description.configuration
    shape = list(configuration.patch_size)
    spacing = configuration.spacing
    return Export(
        networks=dict(files),
        input={"name": INPUT, "type": "float32", "shape": ["batch", description.channels, *shape]},
        output={"name": OUTPUT, "type": "float32", "shape": ["batch", description.classes, *shape]},
        orientation=plan.orientation,
        axis_order=plan.axis_order,
        crop=_CROP,
        channels=plan.channels,
        normalisation={channel.normalisation: _NORMALISATION[channel.normalisation] for channel in plan.channels},
        spacing=spacing,
        resampling=_RESAMPLING,
        patch_size=configuration.patch_size,
        tiling=_TILING.format(activation=model.labels.activation),
        mirror_axes=description.mirror_axes,
        restoring=_RESTORING.format(decision=_DECISIONS[model.labels.activation]),
        labels=_outputs(model.labels),
    )


def _outputs(table: LabelTable) -> tuple[ExportedLabel, ...]:
    values = [(label.name, label.value) for label in table.labels]
    if table.regions:
        values = [(region.name, region.written) for region in table.regions]
    return tuple(ExportedLabel(index=index, name=name, value=value) for index, (name, value) in enumerate(values))


def _torch_network(path: Path) -> tuple[nn.Module, WeightsDescription]:
    network, description = read_network(path)
    if isinstance(network, OnnxNetwork):
        raise CheckpointError(f"{path} is an exported graph already. Export from the bundle or workspace it came from.")
    return network, description


def _write_onnx(network: nn.Module, description: WeightsDescription, told: Mapping[str, Any], path: Path) -> None:
    save_graph(path, to_onnx(network, description.channels, description.configuration.patch_size, told))


def _write_torchscript(
    network: nn.Module, description: WeightsDescription, told: Mapping[str, Any], path: Path
) -> None:
    del told  # export.json says it
    example = torch.zeros(1, description.channels, *description.configuration.patch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes are constants of a traced graph, and TorchScript itself is deprecated
        torch.jit.trace(network, example).save(path)  # pyright: ignore[reportAttributeAccessIssue]


_WRITERS: dict[Format, Callable[[nn.Module, WeightsDescription, Mapping[str, Any], Path], None]] = {
    "onnx": _write_onnx,
    "torchscript": _write_torchscript,
}
