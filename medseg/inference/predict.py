"""From a prepared image to Labels on the file's own grid, and from the files of a Case to the Labels to write.

Knows nothing of where models lie on the disk (``medseg.inference.bundle``). Probabilities are averaged over folds,
mirror images and tiles by default; ``combine="logits"`` averages logits instead, and ``combine="nnunet"`` does so with
nnU-Net's own rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.arrays import Image, Labels, label_dtype
from medseg.cases.case import Case, doubt_sides, read_case_image
from medseg.cases.labels import LabelTable
from medseg.errors import DatasetError, SettingsError
from medseg.images.resample import resampled_shape
from medseg.images.volume import Volume
from medseg.inference.components import apply_rules
from medseg.inference.decision import decide, decision_of
from medseg.inference.model import Networks
from medseg.inference.restore import restore_labels, restore_scores
from medseg.inference.slab import Rows
from medseg.inference.sliding_window import Combine, predict_rows
from medseg.planning.plan import ConfigurationPlan
from medseg.preprocessing.grid import Grid
from medseg.preprocessing.prepare import (
    network_axes,
    permuted_spacing,
    prepare_image,
    prepare_labels,
    prepared_spacing,
)
from medseg.preprocessing.store import with_previous
from medseg.progress import Progress, Silent

_CPU_VOXELS = 64**3
"""On a CPU a batch only saves the overhead of each call: one tile of 64 x 64 x 64, four of 256 x 256."""
_LIBRARY_BYTES = 100_000_000
"""What torch's convolutions load and keep once they are used for the first time."""
_LARGEST_BATCH = {"cpu": 4, "mps": 4, "cuda": 32}


def predict_image(
    image: Image,
    grid: Grid,
    networks: Sequence[nn.Module],
    configuration: ConfigurationPlan,
    *,
    labels: LabelTable,
    device: torch.device | str = "cpu",
    mirror_axes: Iterable[int] = (),
    step: float = 0.5,
    tile_batch: int | None = None,
    combine: Combine = "probabilities",
    case: str = "",
    progress: Progress | None = None,
) -> Labels:
    """Label indices ``(Z, Y, X)`` on the file's own grid of a prepared image ``(C, Z, Y, X)``.

    The networks are moved to ``device`` and put into eval mode for the time of the prediction. ``labels`` are what
    they were trained on; ``step`` is the distance of tiles as a share of the patch; ``tile_batch`` is chosen by the
    memory when left out. Raises MedsegError when a network gives NaN or the memory does not suffice, SettingsError for
    a step outside of 0 to 1.
    """
    device = torch.device(device)
    with _in_eval_mode(networks):
        for network in networks:
            network.to(device)
        options = Options(device, True, step, tile_batch, combine)
        rows = _rows(image, networks, configuration, labels, mirror_axes, options, case, progress)
        return restore_labels(rows, grid, decision_of(labels, logits=combine != "probabilities"))


def probability_rows(image: Volume, model: Networks, options: Options, case: str = "") -> tuple[Grid, Iterator[Tensor]]:
    """Class probabilities of each row of the crop box, ``(K, Y, X)`` in network axes, ascending; and the Grid.

    Only ``model`` itself is asked, not what stands beside it. Rows are computed as they are taken.
    """
    prepared, grid = _network_input(image, model, options, case, None)
    axes = model.mirror_axes if options.mirror else ()
    rows = _rows(prepared, model.networks, model.configuration, model.labels, axes, options, case, None)
    return grid, restore_scores(rows, grid)


def _network_input(
    image: Volume, model: Networks, options: Options, case: str, progress: Progress | None
) -> tuple[Image, Grid]:
    """The prepared image, in a cascade with the labels that the previous configuration predicts for it."""
    prepared, grid = prepare_image(image, model.plan, model.configuration)
    if model.previous is None:
        return prepared, grid
    told = f"{case} ({model.previous.name})"
    before = replace(image, array=_predict_alone(image, model.previous, options, told, progress))
    classes = len(model.labels)
    return with_previous(prepared, prepare_labels(before, grid, classes), classes - 1), grid


def _predict_alone(image: Volume, model: Networks, options: Options, case: str, progress: Progress | None) -> Labels:
    """Label indices ``(Z, Y, X)`` on the image's own grid by one configuration, without post-processing."""
    prepared, grid = _network_input(image, model, options, case, progress)
    axes = model.mirror_axes if options.mirror else ()
    rows = _rows(prepared, model.networks, model.configuration, model.labels, axes, options, case, progress)
    return restore_labels(rows, grid, decision_of(model.labels, logits=options.combine != "probabilities"))


def predict_together(
    image: Volume,
    members: Sequence[Networks],
    combinations: Sequence[Sequence[int]],
    options: Options,
    case: str = "",
    progress: Progress | None = None,
    maps: Sequence[NDArray[np.float32]] = (),
    look: Callable[[NDArray[np.float32], Tensor], None] | None = None,
) -> list[Labels]:
    """Label indices ``(Z, Y, X)`` of an image for each combination of members (by place), in one pass over all of them.

    The probabilities of a combination's members are averaged with equal weight. Memory grows with the members and with
    one row, not with the volume times the classes. ``look`` sees each row's averaged probabilities ``(K, Y, X)`` with
    the row of the combination's map, on the image's grid, that it may fill. Raises what ``predict_case`` raises.
    """
    streams = [probability_rows(image, member, options, case) for member in members]
    grid, decision = streams[0][0], decision_of(members[0].labels)
    results = [np.zeros(grid.file_shape, dtype=label_dtype(decision.largest_index)) for _ in combinations]
    box = tuple(slice(low, low + size) for low, size in zip(grid.crop_lower, grid.cropped_shape, strict=True))
    crops = [grid.orient(result)[box] for result in results]
    seen = [grid.orient(one)[box] for one in maps]
    progress = progress or Silent()
    progress.start(case or "predicting", grid.cropped_shape[0])
    for index, rows in enumerate(zip(*(stream for _, stream in streams), strict=True)):
        for place, combination in enumerate(combinations):
            average = (sum(rows[other] for other in combination[1:]) + rows[combination[0]]) / len(combination)
            crops[place][index] = decide(average, decision).cpu().numpy()
            if look is not None:
                look(seen[place][index], average)
        progress.advance()
    progress.finish()
    return results


def _rows(
    image: Image,
    networks: Sequence[nn.Module],
    configuration: ConfigurationPlan,
    labels: LabelTable,
    mirror_axes: Iterable[int],
    options: Options,
    case: str,
    progress: Progress | None,
) -> Iterator[Rows]:
    """Scores of a prepared image, row by row."""
    if not 0 < options.step <= 1:
        raise SettingsError(f"step should be above 0 and at most 1 (a share of the patch), but is {options.step}.")
    batch = options.tile_batch or choose_tile_batch(configuration, image.shape[0], labels.outputs, options.device)
    return predict_rows(
        image,
        networks,
        configuration.patch_size,
        labels.outputs,
        device=options.device,
        mirror_axes=[axis for axis in mirror_axes if configuration.patch_size[axis] > 1],
        step=options.step,
        tile_batch=batch,
        combine=options.combine,
        activation=labels.activation,
        case=case,
        progress=progress,
    )


@contextmanager
def _in_eval_mode(networks: Sequence[nn.Module]) -> Iterator[None]:
    training = [network.training for network in networks]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for network, was_training in zip(networks, training, strict=True):
            network.train(was_training)


@dataclass(frozen=True)
class Options:
    """How a Case is predicted; nothing here changes what the model is."""

    device: torch.device
    mirror: bool = True
    """Average over the flips that were allowed in training."""
    step: float = 0.5
    tile_batch: int | None = None
    combine: Combine = "probabilities"
    postprocess: bool = True
    """Apply the component rules that ``medseg select`` has learned, where the model has any."""


@dataclass(frozen=True)
class Prediction:
    """What was found in one Case."""

    indices: Labels
    """``(Z, Y, X)`` on the grid of ``image``; ``LabelTable.to_values`` makes file values of them."""
    image: Volume
    """As read; what the labels are written like."""
    remarks: tuple[str, ...]


def predict_case(
    case: Case,
    model: Networks,
    options: Options,
    progress: Progress,
    announce: Callable[[Memory], None] | None = None,
) -> Prediction:
    """Read, prepare and predict one Case; ``announce`` is told the estimated peak before the work starts.

    Raises DatasetError or GeometryError for files that can't be used, MedsegError when the prediction fails.
    """
    image = read_case_image(case, len(model.plan.channels))
    doubts = _require_sides(case, image, model)
    if announce is not None:
        announce(estimate_memory(image, model, options))
    indices = predict_volume(image, model, options, case.name, progress)
    return Prediction(indices, image, (*image.remarks, *doubts))


def predict_volume(
    image: Volume, model: Networks, options: Options, case: str = "", progress: Progress | None = None
) -> Labels:
    """Label indices ``(Z, Y, X)`` on the grid of an image ``(C, Z, Y, X)``, post-processing included.

    Raises MedsegError when the prediction fails, SettingsError where options contradict the model.
    """
    if model.beside:
        if options.combine != "probabilities":
            raise SettingsError(
                "Only the probabilities of several configurations can be averaged, not their logits. Name one with "
                "configuration=NAME, or leave combine= and compat= out."
            )
        members = (model, *model.beside)
        (indices,) = predict_together(image, members, [range(len(members))], options, case, progress)
    else:
        indices = _predict_alone(image, model, options, case, progress)
    if options.postprocess and model.rules:
        indices = apply_rules(indices, model.rules, model.labels)
    return indices


def _require_sides(case: Case, image: Volume, model: Networks) -> tuple[str, ...]:
    """A remark where sides can't be told from the file; an error where the file could have said how it lies."""
    if model.plan.orientation != "canonical":
        return ()
    doubt = doubt_sides(case, image, model.labels.target_names)
    if doubt is None:
        return ()
    if doubt.severity == "error":
        remedy = "Write its orientation into the header (a code above 0 for sform or qform)."
        raise DatasetError(f"{doubt.sentence} {remedy}")
    return (str(doubt),)


def choose_tile_batch(configuration: ConfigurationPlan, channels: int, classes: int, device: torch.device) -> int:
    """How many tiles to put through a network at once: 1 to 4 on a CPU, on a GPU as many as half its free memory holds.

    The result does not depend on it, only the time does.
    """
    largest = _LARGEST_BATCH.get(device.type, 1)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        fitting = free // 2 // tile_bytes(configuration, channels, classes)
    else:
        fitting = _CPU_VOXELS // prod(configuration.patch_size)
    return max(1, min(largest, fitting))


def tile_bytes(configuration: ConfigurationPlan, channels: int, classes: int) -> int:
    """Upper estimate of the memory that one tile needs in a network: skip connections, working maps and scores."""
    network, voxels = configuration.network, float(prod(configuration.patch_size))
    kept, working = 0.0, 0.0
    for features, stride in zip(network.features, network.strides, strict=True):
        voxels /= prod(stride)
        kept += features * voxels
        # A decoder's convolution holds its input (twice as wide behind a skip connection), that input in the order that
        # the processor likes, its output and its norm.
        working = max(working, 6 * features * voxels)
    patch = prod(configuration.patch_size)
    return int(4 * (kept + working + (2 * channels + 4 * classes) * patch))


@dataclass(frozen=True)
class Memory:
    """Estimated peaks in bytes; on a CPU everything is ``host``."""

    host: int
    device: int

    def __str__(self) -> str:
        on_device = f", {self.device / 1e9:.1f} GB on the device" if self.device else ""
        return f"{self.host / 1e9:.1f} GB of memory{on_device}"


def estimate_memory(image: Volume, model: Networks, options: Options) -> Memory:
    """The peak of preparing, predicting and restoring an image, beyond the running program itself; an upper estimate.

    Classes count with the slab of one patch's depth and with a few rows, never with the volume. Configurations that are
    averaged are all at work at once.
    """
    parts = [_memory_of(image, member, options) for member in (model, *model.beside)]
    if model.previous is not None:  # its work is over before the cascade's own begins, but its networks stay
        before, own = estimate_memory(image, model.previous, options), parts[0]
        mine, theirs = model.bytes, model.previous.bytes
        on_host = options.device.type == "cpu"
        host = max(own.host + theirs * on_host, before.host + mine * on_host)
        on_device = max(own.device + theirs, before.device + mine) * (not on_host)
        parts[0] = Memory(host, on_device)
    return Memory(sum(part.host for part in parts), sum(part.device for part in parts))


def _memory_of(image: Volume, model: Networks, options: Options) -> Memory:
    configuration, classes, channels = model.configuration, model.labels.outputs, image.array.shape[0]
    channels += len(model.labels) - 1 if model.previous is not None else 0
    permutation, _ = network_axes(image, model.plan)
    spacing = permuted_spacing(image, permutation)
    a, b, c = (image.shape[axis] for axis in permutation)
    shape = resampled_shape((a, b, c), spacing, prepared_spacing(spacing, configuration))
    depth, height, width = (max(n, patch) for n, patch in zip(shape, configuration.patch_size, strict=True))
    # nnU-Net's arithmetic keeps every network's logits by themselves, and a count of the tiles, in half precision.
    kept = 2 * (len(model.networks) * classes + 1) if options.combine == "nnunet" else 4 * classes
    slab = kept * configuration.patch_size[0] * height * width
    # Two rows and their mixture, and the voxels of one row of the result that are interpolated for all classes.
    restoring = 4 * classes * (3 * height * width + b * c) + 32 * b * c
    batch = options.tile_batch or choose_tile_batch(configuration, channels, classes, options.device)
    network = _LIBRARY_BYTES + slab + restoring + model.bytes + batch * tile_bytes(configuration, channels, classes)
    stored, prepared = 4 * channels * prod(image.shape), 4 * channels * depth * height * width
    # The voxels of the file, of the crop turned and of the crop normalised; one channel resampled axis by axis.
    preparing = 3 * stored + prepared + 8 * max(prod(shape), prod(image.shape))
    predicting = stored + prepared + 3 * label_dtype(len(model.labels) - 1)(0).nbytes * prod(image.shape)
    if options.device.type == "cpu":
        return Memory(max(preparing, predicting + network), 0)
    return Memory(max(preparing, predicting), network)
