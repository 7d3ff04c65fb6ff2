"""From a prepared image to Labels on the file's own grid, and from the files of a Case to the Labels to write.

Knows nothing of where models lie on the disk (``medseg.inference.bundle``). Probabilities are averaged over folds,
mirror images and tiles by default; ``combine="logits"`` averages logits instead, as nnU-Net does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from medseg.arrays import Image, Labels, Triple
from medseg.errors import SettingsError
from medseg.inference.restore import restore_labels
from medseg.inference.sliding_window import Combine, predict_rows
from medseg.planning.plan import ConfigurationPlan
from medseg.preprocessing.grid import Grid
from medseg.progress import Progress

_CPU_VOXELS = 64**3
"""On a CPU a batch only saves the overhead of each call: one tile of 64 x 64 x 64, four of 256 x 256."""
_LARGEST_BATCH = {"cpu": 4, "mps": 4, "cuda": 32}


def predict_image(
    image: Image,
    grid: Grid,
    networks: Sequence[nn.Module],
    configuration: ConfigurationPlan,
    *,
    classes: int,
    device: torch.device | str = "cpu",
    mirror_axes: Iterable[int] = (),
    step: float = 0.5,
    tile_batch: int | None = None,
    combine: Combine = "probabilities",
    case: str = "",
    progress: Progress | None = None,
) -> Labels:
    """Label indices ``(Z, Y, X)`` on the file's own grid of a prepared image ``(C, Z, Y, X)``.

    The networks are moved to ``device`` and put into eval mode for the time of the prediction. ``classes`` counts the
    background; ``step`` is the distance of tiles as a share of the patch; ``tile_batch`` is chosen by the memory when
    left out. Raises MedsegError when a network gives NaN or the memory does not suffice, SettingsError for a step
    outside of 0 to 1.
    """
    if not 0 < step <= 1:
        raise SettingsError(f"step should be above 0 and at most 1 (a share of the patch), but is {step}.")
    device = torch.device(device)
    with _in_eval_mode(networks):
        for network in networks:
            network.to(device)
        batch = tile_batch or choose_tile_batch(configuration, image.shape[0], classes, device)
        rows = predict_rows(
            image,
            networks,
            configuration.patch_size,
            classes,
            device=device,
            mirror_axes=[axis for axis in mirror_axes if configuration.patch_size[axis] > 1],
            step=step,
            tile_batch=batch,
            combine=combine,
            case=case,
            progress=progress,
        )
        return restore_labels(rows, grid, classes)


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
        # The largest stage's convolution holds its input (twice as wide behind a skip connection), output and norm.
        working = max(working, 4 * features * voxels)
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


def estimate_memory(
    file_shape: Triple,
    grid: Grid,
    configuration: ConfigurationPlan,
    *,
    channels: int,
    classes: int,
    network_bytes: int,
    tile_batch: int,
    device: torch.device | str = "cpu",
) -> Memory:
    """The peak of reading, preparing, predicting and restoring one image, beyond the running program itself.

    ``network_bytes`` are the parameters of all networks together. Classes count only with the slab of one patch's
    depth and with a few rows, never with the volume.
    """
    depth, patch_height, patch_width = configuration.patch_size
    height, width = max(grid.prepared_shape[1], patch_height), max(grid.prepared_shape[2], patch_width)
    slab = 4 * classes * depth * height * width
    rows = 4 * classes * 3 * height * width + 16 * prod(grid.cropped_shape[1:]) + 4 * classes * 2 * height * width
    tiles = tile_batch * tile_bytes(configuration, channels, classes)
    prepared, stored = 4 * channels * prod(grid.prepared_shape), 4 * channels * prod(file_shape)
    labels = prod(file_shape) * (1 if classes <= 256 else 2) * 2
    # Preparation holds the voxels of the file, of the crop turned, and of the crop normalised.
    preparing = 3 * stored + prepared + 8 * prod(grid.prepared_shape)
    predicting = stored + prepared + labels
    on_device = slab + rows + tiles + network_bytes
    if torch.device(device).type == "cpu":
        return Memory(max(preparing, predicting + on_device), 0)
    return Memory(max(preparing, predicting), on_device)
