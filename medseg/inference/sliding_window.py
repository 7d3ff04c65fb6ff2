"""Class scores of a prepared image, tile by tile, handed out in rows as soon as no later tile touches them.

Knows nothing of files, plans or the patient: an array and networks in, rows of scores out. Where tiles stand is in
``medseg.inference.tiles``; the accumulator (``medseg.inference.slab``) holds one patch's depth of rows, not the volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.arrays import Image, Triple
from medseg.errors import MedsegError
from medseg.inference.slab import NnunetSlab, Rows, Slab
from medseg.inference.tiles import AxisTiles, tile_grid
from medseg.progress import Progress, Silent

Combine = Literal["probabilities", "logits", "nnunet"]
"""What is averaged; nnunet: logits in half precision and with its weights, to meet nnU-Net's labels to the voxel."""

Activation = Literal["softmax", "sigmoid"]
"""What makes probabilities of logits: of classes that exclude one another, or of regions."""


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
    activation: Activation = "softmax",
    case: str = "",
    progress: Progress | None = None,
) -> Iterator[Rows]:
    """Yield the averaged scores of a prepared image ``(C, Z, Y, X)`` in rows along axis 0, in ascending order.

    The networks (in eval mode, on ``device``) and the flips over ``mirror_axes`` are averaged with equal weight, as
    probabilities (what ``activation`` makes of logits) or as logits; overlapping tiles are averaged with Gaussian
    weights (``combine="nnunet"``: in half precision, network by network). ``tile_batch`` tiles go through a network at
    once; it is halved when a GPU's memory does not suffice. ``case`` is the name used in errors. Raises MedsegError
    when a network gives a value that is not finite, or too large for half precision where that is asked for, or when a
    single tile does not fit.
    """
    progress = progress or Silent()
    ensemble = _Ensemble(networks, mirror_combinations(mirror_axes), classes, combine, activation, device, case)
    axes = tile_grid(image.shape[1:], patch, step)
    z, y, x = (range(len(axis.starts)) for axis in axes)
    tiles = list(product(z, y, x))
    progress.start(case or "predicting", len(tiles))
    slab = NnunetSlab(len(networks), classes, axes, device) if combine == "nnunet" else Slab(classes, axes, device)
    for tile, scores in _tile_scores(_padded(image, axes), tiles, axes, ensemble, tile_batch, progress):
        yield from _within_half(slab.finish(slab.start_of(tile)), case)
        slab.add(tile, scores)
    yield from _within_half(slab.finish(), case)
    progress.finish()


def _within_half(finished: Iterable[Rows], case: str) -> Iterator[Rows]:
    """The rows, unless sums in half precision have run over (beyond 65504), where nnU-Net stops as well."""
    for rows in finished:
        if rows.scores.dtype == torch.half and not bool(torch.isfinite(rows.scores).all()):
            raise MedsegError(
                f"Case '{case}': the network's logits are too large for half precision, in which nnU-Net adds them up. "
                "Predict without compat=nnunet."
            )
        yield rows


@dataclass(frozen=True)
class _Ensemble:
    """Networks times flips; called with a batch ``(B, C, *patch)``, gives scores ``(B, K, *patch)`` float32.

    For nnU-Net's arithmetic every network stays by itself, ``(B, networks * K, *patch)``, in the type that it gives.
    """

    networks: Sequence[nn.Module]
    flips: Sequence[tuple[int, ...]]
    classes: int
    combine: Combine
    activation: Activation
    device: torch.device
    case: str

    @torch.inference_mode()
    def __call__(self, batch: NDArray[np.float32]) -> Tensor:
        tiles = torch.from_numpy(batch).to(self.device)
        if not self.networks:
            raise MedsegError("There is no network to predict with.")
        if self.combine == "nnunet":
            return torch.cat([self._average([network], tiles) for network in self.networks], dim=1)
        return self._average(self.networks, tiles)

    def _average(self, networks: Sequence[nn.Module], tiles: Tensor) -> Tensor:
        total: Tensor | None = None
        for network, flip in product(networks, self.flips):
            axes = [axis + 2 for axis in flip]
            with autocast(self.device, half=self.combine == "nnunet"):
                logits = network(tiles.flip(axes) if axes else tiles)
            scores = logits if self.combine == "nnunet" else logits.float()
            if self.combine == "probabilities":
                scores = scores.sigmoid() if self.activation == "sigmoid" else scores.softmax(dim=1)
            scores = scores.flip(axes) if axes else scores
            total = scores if total is None else total.add_(scores)
        assert total is not None  # there is a network, and not flipping is one of the flips
        self._require_sound(total, tiles)
        return total.div_(len(networks) * len(self.flips))

    def _require_sound(self, scores: Tensor, tiles: Tensor) -> None:
        if scores.shape[1] != self.classes or scores.shape[2:] != tiles.shape[2:]:
            raise MedsegError(
                f"The network gave scores of shape {tuple(scores.shape[1:])} for a tile {tuple(tiles.shape[2:])}, but "
                f"({self.classes}, {', '.join(str(size) for size in tiles.shape[2:])}) was expected: the model and its "
                "plan do not belong together."
            )
        # A sum is finite only if every summand is, and needs no copy of the scores.
        if not bool(torch.isfinite(scores.sum(dtype=torch.float32))):
            raise MedsegError(
                f"Case '{self.case}': the network produced NaN or infinity. Look for NaN or extreme values in the "
                "image with 'medseg check'; if the image is sound, the model is damaged: train it again."
            )


def autocast(device: torch.device, half: bool = False) -> AbstractContextManager[object]:
    """bfloat16 where a CUDA device computes in it; everywhere else float32 (on a CPU bfloat16 is slower).

    ``half`` takes float16 on every CUDA device instead, as nnU-Net does.
    """
    if device.type == "cuda" and half:
        return torch.autocast("cuda", dtype=torch.float16)
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
