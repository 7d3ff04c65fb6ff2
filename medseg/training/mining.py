"""Hard patches: those on which the network did worst are seen again in the next round.

A patch is remembered as the (iteration, sample) from which it follows, so that a round's list is a few numbers in the
course of the training: a resumed training draws the same patches. Knows nothing of images. After online hard example
mining (Shrivastava et al. 2016), over rounds instead of within a batch, so that workers may read ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from medseg.cases.labels import LabelTable
from medseg.documents import Record
from medseg.training.dice import any_of

ROUND = 100
"""Iterations."""
_KEPT = 0.25
"""Share of a round's patches that counts as hard."""

Origin = tuple[int, int]
"""(iteration, sample) from which a patch's place follows."""


class Mined(Record):
    """What is known of hard patches at some iteration."""

    hard: tuple[Origin, ...] = ()
    """Those of the last whole round, hardest first: they are drawn from now."""
    seen: tuple[tuple[float, Origin], ...] = ()
    """Error and origin of every patch of this round."""

    def after(self, iteration: int, errors: Sequence[float], origins: Sequence[Origin]) -> Self:
        """With one more step, ``iteration`` of which are then done."""
        seen = (*self.seen, *((round(error, 6), origin) for error, origin in zip(errors, origins, strict=True)))
        if iteration % ROUND:
            return self.model_copy(update={"seen": seen})
        worst: dict[Origin, float] = {}
        for error, origin in sorted(seen, key=lambda one: (-one[0], one[1])):
            worst.setdefault(origin, error)
        kept = list(worst)[: max(1, round(_KEPT * len(seen)))]
        return self.model_copy(update={"hard": tuple(kept), "seen": ()})


def errors_of(logits: Tensor, labels: Tensor, table: LabelTable) -> Tensor:
    """1 - Dice of each patch, mean over the targets that are there or were found, (B,); 0 where none is.

    Logits (B, K, Z, Y, X), label indices (B, Z, Y, X). Voxels of the ignore index do not count.
    """
    classes = None if table.activation == "sigmoid" else logits.argmax(1)
    known = None if table.ignore_index is None else labels != table.ignore_index
    losses, there = [], []
    for output, target in enumerate(table.targets):
        found = logits[:, output] > 0 if classes is None else classes == target.indices[0]
        found = found if known is None else found & known
        truth = any_of(labels, target.indices)
        both, total = (part.flatten(1).sum(1) for part in (found & truth, found.int() + truth.int()))
        losses.append(1 - 2 * both / total.clamp(min=1))
        there.append(total > 0)
    present = torch.stack(there).float()
    return (torch.stack(losses) * present).sum(0) / present.sum(0).clamp(min=1)
