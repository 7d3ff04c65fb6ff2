"""Class scores of a prepared image, tile by tile, handed out in rows as soon as no later tile touches them.

Knows nothing of files, plans or the patient: an array and networks in, rows of scores out. Where tiles stand is in
``medseg.inference.tiles``; the accumulator (``medseg.inference.slab``) holds one patch's depth of rows, not the volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.arrays import Image, Triple
from medseg.errors import MedsegError
from medseg.inference.onednn import fast_convolutions
from medseg.inference.options import Combine, Mirror, Spread, flip_sets
from medseg.inference.slab import NnunetSlab, Rows, Slab
from medseg.inference.storage import OnDevice, Storage
from medseg.inference.tiles import AxisTiles, tile_grid
from medseg.progress import Progress, Silent

Activation = Literal["softmax", "sigmoid"]
"""What makes probabilities of logits: of classes that exclude one another, or of regions."""


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(dim=1),
    "sigmoid": lambda logits: logits.sigmoid(),
}
_ROWS_BYTES = 2 << 20
"""Scores that are worked on at once; small enough for a processor's cache."""


def predict_rows(
    image: Image,
    networks: Sequence[nn.Module],
    patch: Triple,
    classes: int,
    *,
    device: torch.device,
    mirror_axes: Iterable[int] = (),
    mirror: Mirror = True,
    step: float = 0.5,
    tile_batch: int = 1,
    combine: Combine = "probabilities",
    activation: Activation = "softmax",
    spread: Spread | None = None,
    storage: Storage | None = None,
    case: str = "",
    progress: Progress | None = None,
) -> Iterator[Rows]:
    """Yield the averaged scores of a prepared image ``(C, Z, Y, X)`` in rows along axis 0, in ascending order.

    The networks (in eval mode, on ``device``) and the flips over ``mirror_axes`` (all, or what ``mirror`` says) are
    averaged with equal weight, as probabilities (what ``activation`` makes of logits) or as logits; overlapping tiles
    are averaged with Gaussian weights (``combine="nnunet"``: in half precision, network by network). ``tile_batch``
    tiles go through a network at once; it is halved when a GPU's memory does not suffice. Tiles that hold one value
    only are computed once for each value. ``spread`` adds channels of its own to the scores. Scores are added up in
    ``storage``, by default on ``device``. ``case`` is the name used in errors. Raises MedsegError when a network gives
    a value that is not finite, or too large for half precision where that is asked for, or when a single tile does not
    fit.
    """
    progress = progress or Silent()
    flips = flip_sets(mirror_axes, mirror)
    ensemble = _Ensemble(networks, flips, classes, combine, activation, spread, device, case)
    axes = tile_grid(image.shape[1:], patch, step)
    z, y, x = (range(len(axis.starts)) for axis in axes)
    tiles = list(product(z, y, x))
    progress.start(case or "predicting", len(tiles))
    place = storage or OnDevice(device)
    channels = classes + (spread.channels if spread else 0)
    slab = NnunetSlab(len(networks), classes, axes, place) if combine == "nnunet" else Slab(channels, axes, place)
    for tile, scores in _tile_scores(_padded(image, axes), tiles, axes, ensemble, tile_batch, progress):
        yield from _finite(slab.finish(slab.start_of(tile)), case)
        slab.add(tile, scores)
    yield from _finite(slab.finish(), case)
    progress.finish()


def _finite(finished: Iterable[Rows], case: str) -> Iterator[Rows]:
    """The rows, unless a value is not finite; every tile has a share in them, so that this finds what any tile had."""
    for rows in finished:
        # A sum is finite only if every summand is, and needs no copy of the scores.
        if bool(torch.isfinite(rows.scores.sum(dtype=torch.float32))):
            yield rows
            continue
        if rows.scores.dtype == torch.half and not bool(rows.scores.isnan().any()):
            raise MedsegError(
                f"Case '{case}': the network's logits are too large for half precision, in which nnU-Net adds them up. "
                "Predict without compat=nnunet."
            )
        raise MedsegError(
            f"Case '{case}': the network produced NaN or infinity. Look for NaN or extreme values in the image with "
            "'medseg check'; if the image is sound, the model is damaged: train it again."
        )


class _Ensemble:
    """Networks times flips; called with a batch ``(B, C, *patch)``, gives scores ``(B, K, *patch)`` float32.

    For nnU-Net's arithmetic every network stays by itself, ``(B, networks * K, *patch)``, in the type that it gives.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        flips: Sequence[tuple[int, ...]],
        classes: int,
        combine: Combine,
        activation: Activation,
        spread: Spread | None,
        device: torch.device,
        case: str,
    ) -> None:
        if not networks:
            raise MedsegError("There is no network to predict with.")
        self._networks = networks if spread is None else spread.members(networks)
        self._flips, self._classes = flips, classes
        self._combine, self._spread, self._device, self.case = combine, spread, device, case
        self._normalised = _ACTIVATIONS[activation] if combine == "probabilities" else None

    @torch.inference_mode()
    def __call__(self, batch: NDArray[np.float32]) -> Tensor:
        tiles = torch.from_numpy(batch)
        if self._device.type == "cuda":
            tiles = tiles.pin_memory()
        tiles = tiles.to(self._device, non_blocking=True)
        if self._combine == "nnunet":
            return torch.cat([self._average([network], tiles) for network in self._networks], dim=1)
        return self._average(self._networks, tiles) if self._spread is None else self._with_spread(self._spread, tiles)

    def _with_spread(self, spread: Spread, tiles: Tensor) -> Tensor:
        """The mean over members of what ``spread`` makes of each one's scores; no member outlives its turn.

        A few rows at a time: what is computed on the way to an entropy is as large as several copies of the scores.
        """
        total = torch.zeros((len(tiles), self._classes + spread.channels, *tiles.shape[2:]), device=self._device)
        flips = [[flip] for flip in self._flips] if spread.is_of_mirror_images else [self._flips]
        count = len(self._networks) * len(flips)
        for network, together in product(self._networks, flips):
            if spread.takes_logits:
                for flip in together:
                    logits = self._logits(network, tiles, flip, self._classes * spread.logits_per_class)
                    self._add_rows(total, logits, spread.of_logits, count * len(together))
            else:
                self._add_rows(total, self._average([network], tiles, together), spread.of, count)
        return total

    def _add_rows(self, total: Tensor, scores: Tensor, made: Callable[[Tensor], Tensor], count: int) -> None:
        """Add to ``total`` what is ``made`` of one member's scores, as one of ``count``."""
        depth = total.shape[2]
        rows = max(1, _ROWS_BYTES * depth // (4 * total.numel()))
        for start in range(0, depth, rows):
            total[:, :, start : start + rows] += made(scores[:, :, start : start + rows]).div_(count)

    def _logits(self, network: nn.Module, tiles: Tensor, flip: Sequence[int], wanted: int) -> Tensor:
        """What a network gives for one mirror image, turned back, ``wanted`` channels, float32."""
        axes = [axis + 2 for axis in flip]
        with autocast(self._device), fast_convolutions(self._device):
            logits = network(tiles.flip(axes) if axes else tiles)
        self._require_shape(logits, tiles, wanted)
        return (logits.flip(axes) if axes else logits).float()

    def _average(
        self, networks: Sequence[nn.Module], tiles: Tensor, flips: Sequence[tuple[int, ...]] | None = None
    ) -> Tensor:
        flips = self._flips if flips is None else flips
        total: Tensor | None = None
        for network, flip in product(networks, flips):
            axes = [axis + 2 for axis in flip]
            with autocast(self._device, half=self._combine == "nnunet"), fast_convolutions(self._device):
                logits = network(tiles.flip(axes) if axes else tiles)
            self._require_shape(logits, tiles, self._classes)
            if total is None and not axes and (self._combine == "nnunet" or logits.dtype == torch.float32):
                total = self._added(logits, logits, [], first=True)
            else:
                total = torch.zeros(logits.shape, device=self._device) if total is None else total
                self._added(total, logits, axes, first=False)
        assert total is not None  # there is a network, and not flipping is one of the flips
        return total if len(networks) * len(flips) == 1 else total.div_(len(networks) * len(flips))

    def _added(self, total: Tensor, logits: Tensor, axes: list[int], first: bool) -> Tensor:
        """Add to ``total`` what a network gave, flipped back; ``first``: ``total`` is itself what it gave.

        A few rows at a time, so that a copy of them is small and still in the processor's cache when it is needed.
        """
        if first and self._normalised is None:
            return total
        depth = total.shape[2]
        rows = max(1, _ROWS_BYTES * depth // (4 * total.numel()))
        for start in range(0, depth, rows):
            stop = min(start + rows, depth)
            there = slice(depth - stop, depth - start) if 2 in axes else slice(start, stop)
            part = logits[:, :, there]
            if self._normalised is not None:
                part = self._normalised(part.float())
            part = part.flip(axes) if axes else part
            here = total[:, :, start:stop]
            if not first:
                here += part
            else:
                here.copy_(part)
        return total

    def _require_shape(self, logits: Tensor, tiles: Tensor, wanted: int) -> None:
        if logits.shape[1] != wanted or logits.shape[2:] != tiles.shape[2:]:
            raise MedsegError(
                f"The network gave scores of shape {tuple(logits.shape[1:])} for a tile {tuple(tiles.shape[2:])}, but "
                f"({wanted}, {', '.join(str(size) for size in tiles.shape[2:])}) was expected: the model and "
                "its plan do not belong together."
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
    """Each tile's place and scores ``(K, *patch)``, in order, computed ``tile_batch`` at a time.

    A tile that holds one value only in each channel, like air that was clipped, has the scores of the last such tile
    with the same values, because equal input gives equal output.
    """
    position, reused = 0, 0
    flat: tuple[bytes, Tensor] | None = None
    while position < len(tiles):
        window = _tile(image, tiles[position], axes)
        value = _only_value(window)
        if value is not None:
            if flat is None or flat[0] != value:
                flat = None  # its memory is free before the next one is computed
                flat = (value, _scored(ensemble, window[None])[0])
            else:
                reused += 1
            yield tiles[position], flat[1]
            position += 1
            progress.advance()
            continue
        batch = [window]
        for tile in tiles[position + 1 : position + tile_batch]:
            window = _tile(image, tile, axes)
            if _only_value(window) is not None:
                break
            batch.append(window)
        scores = _scored(ensemble, np.stack(batch))
        if len(scores) < len(batch):
            tile_batch = len(scores)
            progress.note(f"The GPU's memory does not suffice; going on with {tile_batch} tile(s) at once.")
        yield from zip(tiles[position : position + len(scores)], scores, strict=True)
        position += len(scores)
        progress.advance(len(scores))
    if reused:
        progress.note(f"{reused} of {len(tiles)} tiles repeat one that holds a single value; they were not computed.")


def _scored(ensemble: _Ensemble, batch: NDArray[np.float32]) -> Tensor:
    """The scores of a batch, or of its first half (or quarter, ...) where a GPU has no memory for more."""
    count = len(batch)
    while (scores := _unless_memory_is_short(ensemble, batch[:count])) is None:
        if count == 1:
            raise MedsegError(
                f"Case '{ensemble.case}': the GPU's memory does not suffice for a single tile of "
                f"{batch.shape[2:]} voxels. Close other programs that use the GPU, or predict with device=cpu."
            )
        count //= 2
    return scores


def _only_value(window: NDArray[np.float32]) -> bytes | None:
    """The value of each channel as bytes, where each holds only one; None where one holds more."""
    first = window[:, :1, :1, :1]
    if not np.array_equal(first, window[:, -1:, -1:, -1:]) or not (window == first).all():
        return None
    return first.tobytes()


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
