"""Class scores of a prepared image, tile by tile, handed out in rows as soon as no later tile touches them.

Knows nothing of files, plans or the patient: an array and networks in, rows of scores out. Tile positions and Gaussian
weights are nnU-Net's (Isensee et al. 2021, sliding window inference). The tiles form a regular grid, so their weights
are a product of three 1-D weights that already sum to one over the tiles on each voxel: no count volume is needed, and
the accumulator holds one patch's depth of rows instead of the volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.arrays import Image, Triple
from medseg.errors import MedsegError
from medseg.progress import Progress, Silent

Combine = Literal["probabilities", "logits"]


@dataclass(frozen=True)
class Rows:
    """Finished scores of the rows ``start, start + 1, ...`` of axis 0, ``(K, N, Y, X)``.

    A view of the accumulator: it is valid until the next Rows are asked for, so copy what you keep.
    """

    start: int
    scores: Float32[Tensor, "K N Y X"]


@dataclass(frozen=True)
class AxisTiles:
    """The tiles along one axis of an image that is padded to at least one patch."""

    size: int
    """Voxels of the image."""
    patch: int
    before: int
    """Zeros before the image; as many, or one more, stand behind it."""
    starts: tuple[int, ...]
    """First voxel of each tile in the padded image."""
    weights: Float32[np.ndarray, "N P"]
    """Weight of each voxel of each tile; on every voxel they sum to 1 over the tiles."""

    @property
    def padded(self) -> int:
        return max(self.size, self.patch)


def tile_starts(size: int, patch: int, step: float) -> tuple[int, ...]:
    """First voxels of ``ceil((size - patch) / (step * patch)) + 1`` evenly spaced tiles; ``size >= patch``.

    A patch of one voxel (the slices of a 2D network) gives every voxel once.
    """
    if patch == 1:
        return tuple(range(size))
    count = int(np.ceil((size - patch) / (step * patch))) + 1
    distance = (size - patch) / max(count - 1, 1)
    return tuple(sorted({int(np.round(distance * index)) for index in range(count)}))


def gaussian(patch: int) -> Float64[np.ndarray, " P"]:
    """Gaussian with its peak of 1 at ``patch // 2`` and a standard deviation of an eighth of the patch.

    It never falls below exp(-8), so nnU-Net's rule for zeros (they appear in half precision only) has nothing to do.
    """
    distance = np.arange(patch) - patch // 2
    return np.exp(-0.5 * (distance / (patch / 8)) ** 2)


def tile_axis(size: int, patch: int, step: float) -> AxisTiles:
    """Lay tiles over one axis; ``step`` is a share of the patch, above 0 and at most 1."""
    padded = max(size, patch)
    starts = tile_starts(padded, patch, step)
    weight, total = gaussian(patch), np.zeros(padded)
    for start in starts:
        total[start : start + patch] += weight
    normalised = np.stack([weight / total[start : start + patch] for start in starts])
    return AxisTiles(size, patch, (padded - size) // 2, starts, normalised.astype(np.float32))


def tile_grid(shape: Triple, patch: Triple, step: float) -> tuple[AxisTiles, AxisTiles, AxisTiles]:
    """Lay tiles over an image of ``shape`` (z, y, x)."""
    z, y, x = (tile_axis(size, length, step) for size, length in zip(shape, patch, strict=True))
    return z, y, x


def mirror_combinations(axes: Iterable[int]) -> list[tuple[int, ...]]:
    """All ``2 ** d`` sets of axes to flip, nothing first."""
    axes = sorted(set(axes))
    return [chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)]


def predict_rows(
    image: Image,
    networks: Sequence[nn.Module],
    patch: Triple,
    classes: int,
    *,
    device: torch.device,
    mirror_axes: Iterable[int] = (),
    step: float = 0.5,
    tile_batch: int = 1,
    combine: Combine = "probabilities",
    case: str = "",
    progress: Progress | None = None,
) -> Iterator[Rows]:
    """Yield the averaged scores of a prepared image ``(C, Z, Y, X)`` in rows along axis 0, in ascending order.

    The networks (in eval mode, on ``device``) and the flips over ``mirror_axes`` are averaged with equal weight, as
    probabilities or as logits; overlapping tiles are averaged with Gaussian weights. ``tile_batch`` tiles go through a
    network at once; it is halved when a GPU's memory does not suffice. ``case`` is the name used in errors.
    Raises MedsegError when a network gives a value that is not finite, or when a single tile does not fit.
    """
    progress = progress or Silent()
    ensemble = _Ensemble(networks, mirror_combinations(mirror_axes), classes, combine, device, case)
    z, y, x = tile_grid(image.shape[1:], patch, step)
    tiles = list(product(range(len(z.starts)), range(len(y.starts)), range(len(x.starts))))
    progress.start(case or "predicting", len(tiles))
    weights = [torch.from_numpy(axis.weights).to(device) for axis in (z, y, x)]
    slab = _Slab(classes, z, y, x, device)
    for (i, j, k), scores in _tile_scores(_padded(image, (z, y, x)), tiles, (z, y, x), ensemble, tile_batch, progress):
        yield from slab.finish(z.starts[i])
        weight = weights[0][i, :, None, None] * weights[1][j, :, None] * weights[2][k]
        slab.add(scores, weight, z.starts[i], y.starts[j], x.starts[k])
    yield from slab.finish(z.padded)
    progress.finish()


class _Slab:
    """Accumulator for one patch's depth of rows; row r of the padded image lies at ``r % patch``."""

    def __init__(self, classes: int, z: AxisTiles, y: AxisTiles, x: AxisTiles, device: torch.device) -> None:
        self._scores = torch.zeros((classes, z.patch, y.padded, x.padded), dtype=torch.float32, device=device)
        self._z, self._next = z, 0
        self._inside = (..., slice(y.before, y.before + y.size), slice(x.before, x.before + x.size))
        self._patch = (slice(None), slice(None), y.patch, x.patch)

    def add(self, scores: Tensor, weight: Tensor, z: int, y: int, x: int) -> None:
        """Add one tile's weighted scores; all rows before ``z`` have been finished."""
        _, _, height, width = self._patch
        for first, rows in self._pieces(z, z + self._z.patch):
            here = slice(first - z, first - z + rows.stop - rows.start)
            self._scores[:, rows, y : y + height, x : x + width].addcmul_(scores[:, here], weight[here])

    def finish(self, end: int) -> Iterator[Rows]:
        """Hand out the rows before ``end`` that lie inside the image, and make room for later ones."""
        image_start, image_end = self._z.before, self._z.before + self._z.size
        for first, rows in self._pieces(self._next, end):
            lower, upper = max(first, image_start), min(first + rows.stop - rows.start, image_end)
            if lower < upper:
                inside = slice(rows.start + lower - first, rows.start + upper - first)
                yield Rows(lower - image_start, self._scores[:, inside][self._inside])
            self._scores[:, rows] = 0
        self._next = end

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, slice]]:
        """Rows ``start`` to ``end`` as (first row, place in the ring); two pieces where the ring wraps."""
        while start < end:
            place = start % self._z.patch
            length = min(end - start, self._z.patch - place)
            yield start, slice(place, place + length)
            start += length


@dataclass(frozen=True)
class _Ensemble:
    """Networks times flips; called with a batch ``(B, C, *patch)``, gives scores ``(B, K, *patch)`` float32."""

    networks: Sequence[nn.Module]
    flips: Sequence[tuple[int, ...]]
    classes: int
    combine: Combine
    device: torch.device
    case: str

    @torch.inference_mode()
    def __call__(self, batch: NDArray[np.float32]) -> Tensor:
        tiles = torch.from_numpy(batch).to(self.device)
        total: Tensor | None = None
        for network, flip in product(self.networks, self.flips):
            axes = [axis + 2 for axis in flip]
            with autocast(self.device):
                logits = network(tiles.flip(axes) if axes else tiles)
            scores = logits.float()
            if self.combine == "probabilities":
                scores = scores.softmax(dim=1)
            scores = scores.flip(axes) if axes else scores
            total = scores if total is None else total.add_(scores)
        if total is None:
            raise MedsegError("There is no network to predict with.")
        self._require_sound(total, tiles)
        return total.div_(len(self.networks) * len(self.flips))

    def _require_sound(self, scores: Tensor, tiles: Tensor) -> None:
        if scores.shape[1] != self.classes or scores.shape[2:] != tiles.shape[2:]:
            raise MedsegError(
                f"The network gave scores of shape {tuple(scores.shape[1:])} for a tile {tuple(tiles.shape[2:])}, but "
                f"({self.classes}, {', '.join(str(size) for size in tiles.shape[2:])}) was expected: the model and its "
                "plan do not belong together."
            )
        # A sum is finite only if every summand is, and needs no copy of the scores.
        if not bool(torch.isfinite(scores.sum())):
            raise MedsegError(
                f"Case '{self.case}': the network produced NaN or infinity. Look for NaN or extreme values in the "
                "image with 'medseg check'; if the image is sound, the model is damaged: train it again."
            )


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where a CUDA device computes in it; everywhere else float32 (on a CPU bfloat16 is slower)."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def _padded(image: Image, axes: Sequence[AxisTiles]) -> NDArray[np.float32]:
    """The image with zeros around it where it is smaller than the patch; the image itself where it is not."""
    if all(axis.size >= axis.patch for axis in axes):
        return image
    return np.pad(image, [(0, 0), *((axis.before, axis.padded - axis.size - axis.before) for axis in axes)])


def _tile_scores(
    image: Image,
    tiles: Sequence[Triple],
    axes: Sequence[AxisTiles],
    ensemble: _Ensemble,
    tile_batch: int,
    progress: Progress,
) -> Iterator[tuple[Triple, Tensor]]:
    """Each tile's place and scores ``(K, *patch)``, in order, computed ``tile_batch`` at a time."""
    position = 0
    while position < len(tiles):
        chosen = tiles[position : position + tile_batch]
        batch = np.stack([_tile(image, tile, axes) for tile in chosen])
        scores = _unless_memory_is_short(ensemble, batch)
        if scores is None:
            if tile_batch == 1:
                raise MedsegError(
                    f"Case '{ensemble.case}': the GPU's memory does not suffice for a single tile of "
                    f"{batch.shape[2:]} voxels. Close other programs that use the GPU, or predict with device=cpu."
                )
            tile_batch //= 2
            progress.note(f"The GPU's memory does not suffice; going on with {tile_batch} tile(s) at once.")
            continue
        yield from zip(chosen, scores, strict=True)
        position += len(chosen)
        progress.advance(len(chosen))


def _tile(image: Image, tile: Triple, axes: Sequence[AxisTiles]) -> NDArray[np.float32]:
    starts = (axis.starts[index] for axis, index in zip(axes, tile, strict=True))
    window = tuple(slice(start, start + axis.patch) for axis, start in zip(axes, starts, strict=True))
    return image[(slice(None), *window)]


def _unless_memory_is_short(ensemble: _Ensemble, batch: NDArray[np.float32]) -> Tensor | None:
    """The scores, or None when the GPU has no room; a function of its own so that no frame keeps the tensors alive."""
    try:
        return ensemble(batch)
    except torch.cuda.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()
    return None
