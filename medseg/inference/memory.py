"""How much memory a Case needs, and how its prediction is laid out so that it stays within a bound.

Knows nothing of how a prediction is made; it counts what the other modules of this room hold at once. The labels do not
depend on the layout, only the time does.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Literal

import torch

from medseg.arrays import label_dtype
from medseg.errors import MedsegError
from medseg.images.resample import resampled_shape
from medseg.images.volume import Volume
from medseg.inference.model import Networks
from medseg.inference.options import Options, flip_sets
from medseg.inference.storage import OnDevice, OnDisk, Storage
from medseg.planning.plan import ConfigurationPlan
from medseg.preprocessing.prepare import network_axes, permuted_spacing, prepared_spacing

_CPU_VOXELS = 64**3
"""On a CPU a batch only saves the overhead of each call: one tile of 64 x 64 x 64, four of 256 x 256."""
_LIBRARY_BYTES = 100_000_000
"""What torch's convolutions load and keep once they are used for the first time."""
_LARGEST_BATCH = {"cpu": 4, "mps": 4, "cuda": 32}
_ROW_COPIES = 5
"""Rows of scores that are held while one is restored: two neighbours, the next one, their mixture and a product."""
_SHARE_OF_FREE = 0.9


@dataclass(frozen=True)
class Memory:
    """Estimated peaks in bytes; on a CPU everything but ``disk`` is ``host``."""

    host: int
    device: int
    disk: int = 0

    def __str__(self) -> str:
        on_device = f", {self.device / 1e9:.1f} GB on the device" if self.device else ""
        on_disk = f", {self.disk / 1e9:.1f} GB in a temporary file" if self.disk else ""
        return f"{self.host / 1e9:.1f} GB of memory{on_device}{on_disk}"


@dataclass(frozen=True)
class Layout:
    """Where scores are added up, and whether tiles go one by one."""

    scores: Literal["device", "host", "disk"] = "device"
    single_tiles: bool = False

    def storage(self, options: Options) -> Storage:
        """A new place for scores."""
        if self.scores == "disk":
            assert options.scratch is not None  # a layout on disk is only chosen where there is a folder
            return OnDisk(options.scratch)
        return OnDevice(options.device if self.scores == "device" else torch.device("cpu"))

    def tile_batch(self, configuration: ConfigurationPlan, channels: int, classes: int, options: Options) -> int:
        """How many tiles of a configuration go through its networks at once."""
        if self.single_tiles:
            return 1
        return options.tile_batch or choose_tile_batch(configuration, channels, classes, options.device)


_LAYOUTS = (
    Layout(),
    Layout(single_tiles=True),
    Layout("host"),
    Layout("host", single_tiles=True),
    Layout("disk"),
    Layout("disk", single_tiles=True),
)
"""From the fastest to the smallest."""


@dataclass(frozen=True)
class Bound:
    """What a prediction may use beyond the running program and its networks, in bytes."""

    host: int | None
    program: int
    """What the program held before the prediction; counts towards ``max_memory``."""

    @classmethod
    def of(cls, options: Options) -> Bound:
        """By ``max_memory``, or by what is free now; call it when the networks are loaded and nothing else is."""
        program = resident_bytes()
        if options.max_memory is not None:
            return cls(options.max_memory - program, program)
        free = free_bytes()
        return cls(None if free is None else int(_SHARE_OF_FREE * free), program)

    def allows(self, host: int) -> bool:
        """Whether so many bytes are within it."""
        return self.host is None or host <= self.host


def choose_layout(
    image: Volume, model: Networks, options: Options, bound: Bound, case: str = ""
) -> tuple[Layout, Memory]:
    """The fastest layout within the bound, and its estimate.

    ``image`` may be without its voxels (``peek_image``). Raises MedsegError naming the smallest ``max_memory`` where
    none is.
    """
    layouts = [layout for layout in _LAYOUTS if _differs(layout, options)]
    found = [(layout, estimate_memory(image, model, options, layout)) for layout in layouts]
    possible = [(layout, memory) for layout, memory in found if _has_room(memory.disk, options.scratch)]
    on_device = _device_bytes(options.device)
    for layout, memory in possible:
        if bound.allows(memory.host) and (on_device is None or memory.device <= on_device or layout.scores == "disk"):
            return layout, memory
    smallest = min(memory.host for _, memory in possible) + bound.program
    shape = "x".join(str(size) for size in image.shape)
    allowed = (bound.host or 0) + bound.program
    raise MedsegError(
        f"Case '{case}': {shape} voxels and {model.labels.outputs} classes need at least {ceil(smallest / 1e8) / 10} "
        f"GB of memory in all, but only {allowed / 1e9:.1f} GB may be used. Give it max_memory="
        f"{ceil(smallest / 1e8) / 10}GB on a computer that has as much"
        + ("." if any(memory.disk for _, memory in possible) else ", or free space on the disk for its scores.")
    )


def _differs(layout: Layout, options: Options) -> bool:
    if layout.scores == "host":
        return options.device.type != "cpu"
    return layout.scores != "disk" or options.scratch is not None


def _has_room(needed: int, folder: Path | None) -> bool:
    if not needed or folder is None:
        return True
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free > needed


def _device_bytes(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def estimate_memory(image: Volume, model: Networks, options: Options, layout: Layout | None = None) -> Memory:
    """The peak of preparing, predicting and restoring an image, beyond the running program and its networks.

    An upper estimate. Classes count with the slab of one patch's depth and with a few rows, never with the volume.
    Configurations that are averaged are all at work at once; a cascade's previous one is over before.
    """
    layout = layout or Layout()
    members = (model, *model.beside)
    parts = [_at_work(image, member, options, layout) for member in members]
    before = [member.previous for member in members if member.previous is not None]
    first = [_at_work(image, member, options, layout) for member in before]
    both = {member.identity for member in members} & {member.identity for member in before}
    kept = [_kept_bytes(image, member, options) for member in before if member.identity in both]
    at_once = [_sum(parts), *first]
    # Prepared arrays and the image stay; so do the scores of what is averaged and asked for labels too.
    disk = max(part.disk for part in at_once) + (sum(kept) if layout.scores == "disk" else 0)
    working = max(part.host for part in at_once) + (0 if layout.scores == "disk" else sum(kept))
    stored, voxels = 4 * image.array.size, prod(image.shape)
    arrays = sum(_prepared_bytes(image, member) for member in (*members, *before))
    labels = label_dtype(len(model.labels) - 1)(0).nbytes * voxels
    # Voxels of the file, of the crop turned and normalised, a channel while that is done and the mask (whose parts are
    # numbered where a channel is masked); then the turned ones are gone and each channel is resampled axis by axis.
    masked = any(channel.masked for channel in model.plan.channels)
    normalising = 3 * stored + (14 if masked else 6) * voxels
    resampling = 2 * stored + arrays + 2 * max(_channel_bytes(image, member) for member in members)
    preparing = max(normalising, resampling)
    # The file's voxels stay for the picture; labels of this and of a previous configuration, and a copy as they turn.
    predicting = stored + arrays + (2 + len(before)) * labels + working
    # Values of the labels, what is written, and component rules' numbers (32 bits each).
    finishing = stored + 3 * labels + (6 * voxels if model.rules and options.postprocess else 0)
    return Memory(max(preparing, predicting, finishing), max(part.device for part in at_once), disk)


def writing_bytes(image: Volume, model: Networks) -> int:
    """What a finished Case holds until it is written."""
    return 4 * image.array.size + 3 * label_dtype(len(model.labels) - 1)(0).nbytes * prod(image.shape)


def reading_bytes(image: Volume, model: Networks) -> int:
    """The peak of reading and preparing an image, upper estimate."""
    members = (model, *model.beside)
    arrays = sum(_prepared_bytes(image, member) for member in members)
    return 3 * 4 * image.array.size + arrays + 14 * prod(image.shape)


def _sum(parts: list[Memory]) -> Memory:
    return Memory(sum(p.host for p in parts), sum(p.device for p in parts), sum(p.disk for p in parts))


def _at_work(image: Volume, model: Networks, options: Options, layout: Layout) -> Memory:
    """What one configuration's networks, slab and rows take while it predicts."""
    configuration, classes = model.configuration, model.labels.outputs
    classes += options.spread.channels if options.spread is not None else 0
    channels = _channels(image, model)
    _, height, width = _padded_shape(image, model)
    _, b, c = _turned_shape(image, model)
    # nnU-Net's arithmetic keeps every network's logits by themselves, and a count of the tiles, in half precision.
    kept = 2 * (len(model.networks) * classes + 1) if options.combine == "nnunet" else 4 * classes
    slab = kept * configuration.patch_size[0] * height * width
    restoring = 4 * classes * _ROW_COPIES * height * width + 32 * b * c
    several = len(model.networks) * len(flip_sets(model.mirror_axes, options.mirror)) > 1
    batch = layout.tile_batch(configuration, channels, classes, options)
    # A batch, and one tile's scores for tiles of a single value.
    tiles = batch * tile_bytes(configuration, channels, classes, several) + 4 * classes * prod(configuration.patch_size)
    if options.spread is not None:  # what is said of each class beside its logit, and its copy turned back
        more = model.labels.outputs * (options.spread.logits_per_class - 1)
        tiles += 2 * batch * 4 * more * prod(configuration.patch_size)
    work = tiles + restoring + _LIBRARY_BYTES
    disk = slab if layout.scores == "disk" else 0
    if options.device.type == "cpu":
        return Memory(work + slab - disk, 0, disk)
    if layout.scores == "device":
        return Memory(0, work + slab)
    return Memory(restoring + 4 * classes * prod(configuration.patch_size) + slab - disk, tiles + _LIBRARY_BYTES, disk)


def _kept_bytes(image: Volume, model: Networks, options: Options) -> int:
    """The whole scores of a configuration that is averaged with its own cascade."""
    depth, height, width = _padded_shape(image, model)
    return (2 if options.combine == "nnunet" else 4) * model.labels.outputs * depth * height * width


def _channels(image: Volume, model: Networks) -> int:
    return image.array.shape[0] + (len(model.labels) - 1 if model.previous is not None else 0)


def _turned_shape(image: Volume, model: Networks) -> tuple[int, int, int]:
    permutation, _ = network_axes(image, model.plan)
    a, b, c = (image.shape[axis] for axis in permutation)
    return a, b, c


def _prepared_shape(image: Volume, model: Networks) -> tuple[int, int, int]:
    permutation, _ = network_axes(image, model.plan)
    spacing = permuted_spacing(image, permutation)
    return resampled_shape(_turned_shape(image, model), spacing, prepared_spacing(spacing, model.configuration))


def _padded_shape(image: Volume, model: Networks) -> tuple[int, int, int]:
    z, y, x = (max(n, p) for n, p in zip(_prepared_shape(image, model), model.configuration.patch_size, strict=True))
    return z, y, x


def _prepared_bytes(image: Volume, model: Networks) -> int:
    """The prepared image, and once more where it is padded or joined with a cascade's labels."""
    padded, shape = _padded_shape(image, model), _prepared_shape(image, model)
    once = 4 * image.array.shape[0] * prod(shape)
    more = 4 * _channels(image, model) * prod(padded) if padded != shape or model.previous is not None else 0
    return once + more


def _channel_bytes(image: Volume, model: Networks) -> int:
    """One channel while it is resampled axis by axis: never larger than the larger size of every axis."""
    larger = [max(n, m) for n, m in zip(_turned_shape(image, model), _prepared_shape(image, model), strict=True)]
    return 4 * prod(larger)


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


def tile_bytes(configuration: ConfigurationPlan, channels: int, classes: int, several: bool = True) -> int:
    """Upper estimate of the memory that one tile needs in a network: skip connections, working maps and scores.

    ``several`` evaluations (networks or flips) are added up, which takes the scores once more.
    """
    network, voxels = configuration.network, float(prod(configuration.patch_size))
    kept, working = 0.0, 0.0
    for features, stride in zip(network.features, network.strides, strict=True):
        voxels /= prod(stride)
        kept += features * voxels
        # A decoder's convolution holds its input (twice as wide behind a skip connection), that input in the order that
        # the processor likes, its output and its norm.
        working = max(working, 6 * features * voxels)
    patch = prod(configuration.patch_size)
    # The scores in the processor's own order, padded to whole vectors, and as they are handed on.
    scores = 2 * (classes + 8) + (classes if several else 0)
    return int(4 * (kept + working + (2 * channels + scores) * patch))


def resident_bytes() -> int:
    """What the program holds in memory now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024


def free_bytes() -> int | None:
    """What programs may still ask for on this computer or in this container; None where the system does not say."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(statistics["inactive_file"])
        return min(free, int((group / "memory.max").read_text()) - used)
    except (OSError, ValueError, KeyError):  # no limit ("max") or no such file
        return free
