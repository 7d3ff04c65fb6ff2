"""Weights of one network as the start of another: every tensor that fits is copied, both ends are adapted by name.

Knows nothing of files or Plans. Stages are matched from the finest resolution on, so networks of different depth share
what they have in common. A convolution is taken whole or not at all, and its bias and norm go with it.

A head's rows follow the names of the outputs. An input channel follows its name; a channel that the source lacks starts
at zero beside known ones, which leaves what the network computes as it was (Net2Net, Chen et al. 2016), and where no
name is known every channel gets the mean over the source's, scaled so that the response keeps its size (as timm adapts
its first convolutions).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Fate = Literal["copied", "adapted", "new"]

ENCODER = "encoder."
"""Every network's parameters that see the image first begin with this."""
_DECODER_LEVEL = re.compile(r"(decoder\.\w+\.)(\d+)(\..+)")
_HEAD = re.compile(r"decoder\.heads\.\d+\.(weight|bias)")


@dataclass(frozen=True)
class Ends:
    """What a network's first and last tensors stand for."""

    channels: tuple[str, ...]
    """Names of the input channels."""
    outputs: tuple[str, ...]
    """Names of the output channels."""


@dataclass(frozen=True)
class Transferred:
    """The start of a network, and where each of its tensors comes from."""

    state: dict[str, Tensor]
    fates: dict[str, Fate]

    def parameters(self, fate: Fate, prefix: str = "") -> int:
        """How many numbers have this fate, in the tensors whose names begin with ``prefix``."""
        return sum(self.state[name].numel() for name in self._with(fate, prefix))

    def tensors(self, fate: Fate, prefix: str = "") -> int:
        """How many tensors have this fate."""
        return len(list(self._with(fate, prefix)))

    @property
    def fits(self) -> bool:
        """Whether a single convolution was taken over as it is."""
        return any(fate == "copied" and self.state[name].dim() > 1 for name, fate in self.fates.items())

    def frozen_encoder(self) -> tuple[str, ...]:
        """The encoder's convolutions that were copied as they are, with their biases and norms.

        Those that were adapted or are new have something to learn.
        """
        frozen, whole = [], False
        for name, fate in self.fates.items():
            if self.state[name].dim() > 1:
                whole = fate == "copied"
            if whole and fate == "copied" and name.startswith(ENCODER):
                frozen.append(name)
        return tuple(frozen)

    def _with(self, fate: Fate, prefix: str) -> Iterator[str]:
        return (name for name, found in self.fates.items() if found == fate and name.startswith(prefix))


def transfer(source: Mapping[str, Tensor], known: Ends, fresh: Mapping[str, Tensor], wanted: Ends) -> Transferred:
    """The state of a network, ``fresh`` (in the network's own order), with all that ``source`` has for it.

    ``known`` are the ends of the source and ``wanted`` those of the new network. Nothing given is changed.
    """
    source = _aligned(source, fresh)
    first = next(name for name, tensor in fresh.items() if tensor.dim() > 1)
    state, fates = dict[str, Tensor](), dict[str, Fate]()
    taken = False  # whether the convolution before a bias or norm was
    for name, new in fresh.items():
        old = source.get(name) if new.dim() > 1 or taken else None
        if old is None:
            adapted = None
        elif name == first:
            adapted = _by_channel(old, known.channels, new, wanted.channels)
        elif _HEAD.fullmatch(name):
            adapted = _by_output(old, known.outputs, new, wanted.outputs)
        else:
            adapted = old if old.shape == new.shape else None
        if new.dim() > 1:
            taken = adapted is not None
        same = old is not None and adapted is not None and torch.equal(adapted, old.to(adapted.dtype))
        fates[name] = "new" if adapted is None else "copied" if same else "adapted"
        state[name] = (new if adapted is None else adapted).to(new.dtype).clone()
    return Transferred(state, fates)


def _by_channel(old: Tensor, known: Sequence[str], new: Tensor, wanted: Sequence[str]) -> Tensor | None:
    """The first convolution (F, C, *kernel) for other channels; None where it has another width or kernel."""
    if old.shape[:1] + old.shape[2:] != new.shape[:1] + new.shape[2:]:
        return None
    place = _places(known)
    found = [place.get(name.casefold()) for name in wanted]
    if all(index is None for index in found):
        return old.mean(1, keepdim=True).expand_as(new) * (len(known) / len(wanted))
    zero = torch.zeros_like(old[:, 0])
    return torch.stack([zero if index is None else old[:, index] for index in found], 1)


def _by_output(old: Tensor, known: Sequence[str], new: Tensor, wanted: Sequence[str]) -> Tensor | None:
    """A head's weight or bias (K, ...) with the rows of known outputs; None where there is none, or another width."""
    place = _places(known)
    found = [place.get(name.casefold()) for name in wanted]
    if old.shape[1:] != new.shape[1:] or all(index is None for index in found):
        return None
    rows = []
    for part in range(len(new) // len(wanted)):  # several where a head says more of each output than its logit
        has_part = (part + 1) * len(known) <= len(old)
        for row, index in enumerate(found):
            its = old[part * len(known) + index] if index is not None and has_part else None
            rows.append(new[part * len(wanted) + row] if its is None else its)
    return torch.stack(rows)


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name.casefold(): index for index, name in enumerate(names)}


def _aligned(source: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The source with its decoder counted as in the new network: levels count from the coarsest, but match from the
    finest."""
    have, need = _levels(source), _levels(fresh)
    renamed = {}
    for name, tensor in source.items():
        match = _DECODER_LEVEL.fullmatch(name)
        level = int(match[2]) + need.get(match[1], 0) - have[match[1]] if match else 0
        if level >= 0:
            renamed[f"{match[1]}{level}{match[3]}" if match else name] = tensor
    return renamed


def _levels(names: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of levels in each list of the decoder."""
    levels: dict[str, int] = {}
    for match in filter(None, map(_DECODER_LEVEL.fullmatch, names)):
        levels[match[1]] = max(levels.get(match[1], 0), int(match[2]) + 1)
    return levels
