"""Where a transformer looks: how much each place of the patch has a share in what stands at the region's places.

Attention rollout (Abnar & Zuidema 2020): the attention of each block, averaged over heads and with as much of the
identity for what passes by it, multiplied from the first block to the last. It follows the network's attention alone,
whatever structure is asked about, and says nothing of what its values do to the score. Needs blocks in which every
place attends to every place; windows that shift have no such product.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d, interpolate

from medseg.errors import SettingsError
from medseg.explanation.target import Target
from medseg.networks.transformer import Positions, TransformerBlock


def attention_rollout(target: Target) -> Tensor:
    """By how much more than an even share each place counts ``(Z, Y, X)``, 0 or more, interpolated from the tokens'.

    Raises SettingsError for a network without such blocks.
    """
    attentions, places = _attentions(target)
    z, y, x = (1,) * (3 - len(places)) + places
    shape = (z, y, x)
    count = attentions[0].shape[0]
    rollout = torch.eye(count, dtype=torch.float64)
    for attention in attentions:
        rollout = (attention + torch.eye(count, dtype=torch.float64)) / 2 @ rollout
    where = adaptive_avg_pool3d(target.region[None, None].double().cpu(), shape).flatten()
    share = (where / where.sum()) @ rollout
    more = (share * count - 1).relu().float().reshape(1, 1, *shape)
    return interpolate(more, size=target.patch.shape[2:], mode="trilinear", align_corners=False)[0, 0]


def _attentions(target: Target) -> tuple[list[Tensor], tuple[int, ...]]:
    """Of every block ``(N, N)``, rows sum to 1, in the order of their passes; and the shape of the map of tokens."""
    found: list[Tensor] = []
    shapes: list[tuple[int, ...]] = []
    blocks = [layer for layer in target.network.modules() if isinstance(layer, TransformerBlock)]
    places = [layer for layer in target.network.modules() if isinstance(layer, Positions)]
    if not blocks or len(places) != 1:
        raise SettingsError(
            "method=attention_rollout needs a network in which every place attends to every other (transunet). Take "
            "method=hires_cam."
        )
    handles = [block.qkv.register_forward_hook(_noting(found, block.heads)) for block in blocks]
    handles += [places[0].register_forward_hook(lambda _layer, _input, output: shapes.append(tuple(output.shape[2:])))]
    try:
        with torch.no_grad():
            target.network(target.patch)
    finally:
        for handle in handles:
            handle.remove()
    return found, shapes[0]


def _noting(found: list[Tensor], heads: int) -> Callable[[nn.Module, object, Tensor], None]:
    """A hook that keeps the mean attention over heads, by the queries and keys that the layer gives."""

    def note(_layer: nn.Module, _input: object, output: Tensor) -> None:
        queries, keys, _ = output[0].double().cpu().chunk(3, -1)
        q, k = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (queries, keys))
        found.append((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1).mean(0))

    return note
