"""What a network makes of a prepared image at its coarsest layer, pooled to one vector.

Knows nothing of other Cases. The image is seen in a few tiles that are spread over it evenly, once each, without mirror
images; mean and standard deviation of every feature over their voxels. The hook is gone when the vector is there.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.arrays import Image, Triple
from medseg.inference.tiles import tile_grid
from medseg.networks.layers import resolutions

TILES = 4


def coarsest_layer(network: nn.Module, patch: Tensor) -> str:
    """The dotted name of the last layer that is computed at the coarsest resolution of a patch ``(1, C, Z, Y, X)``."""
    shares = resolutions(network, patch)
    lowest = min(shares.values())
    return [name for name, share in shares.items() if share == lowest][-1]


def features_of(
    network: nn.Module, prepared: Image, patch_size: Triple, layer: str | None = None
) -> tuple[str, Float[np.ndarray, " F"]]:
    """The layer (the coarsest, unless it is given) and its pooled features of an image ``(C, Z, Y, X)``."""
    device = next(network.parameters()).device
    seen: list[Tensor] = []
    handle = None
    try:
        with torch.no_grad():
            for tile in _tiles(prepared, patch_size):
                patch = torch.from_numpy(tile)[None].to(device)
                if handle is None:
                    layer = layer or coarsest_layer(network, patch)
                    handle = network.get_submodule(layer).register_forward_hook(
                        lambda _layer, _input, output: seen.append(_pooled(output))
                    )
                network(patch)
    finally:
        if handle is not None:
            handle.remove()
    assert layer is not None  # there is at least one tile
    mean, square = torch.stack(seen).mean(dim=0)
    spread = (square - mean**2).clamp_(min=0).sqrt()
    return layer, torch.cat([mean, spread]).cpu().numpy()


def _pooled(output: Tensor) -> Tensor:
    """Mean and mean square of each feature over the voxels: ``(2, F)``."""
    values = output[0].flatten(1).double()
    return torch.stack([values.mean(dim=1), (values**2).mean(dim=1)])


def _tiles(prepared: Image, patch_size: Triple) -> list[Image]:
    """A few of the tiles of a sliding window without overlap, zeros around the image as there."""
    size: Triple = (prepared.shape[1], prepared.shape[2], prepared.shape[3])
    axes = tile_grid(size, patch_size, 1.0)
    margins = [(axis.before, axis.padded - axis.size - axis.before) for axis in axes]
    padded = np.pad(prepared, [(0, 0), *margins])
    starts = list(product(*(axis.starts for axis in axes)))
    chosen = sorted({round(place) for place in np.linspace(0, len(starts) - 1, min(TILES, len(starts)))})
    return [
        np.ascontiguousarray(
            padded[(slice(None), *(slice(at, at + n) for at, n in zip(starts[place], patch_size, strict=True)))],
            dtype=np.float32,
        )
        for place in chosen
    ]
