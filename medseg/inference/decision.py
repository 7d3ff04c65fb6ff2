"""Scores of classes or regions become label indices: the largest class, or the regions found, written in their order.

Knows nothing of grids or networks. A region is found where its probability is above 1/2; a later one overwrites an
earlier one (nnU-Net's region-based labels). Each rule says which outputs it decides on together, so that they can be
interpolated where it matters and nowhere else (``medseg.inference.restore``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.cases.labels import LabelTable


@dataclass(frozen=True)
class LargestClass:
    """Classes exclude one another: the largest score wins, the lowest of equals."""

    classes: int

    @property
    def outputs(self) -> int:
        return self.classes

    @property
    def largest_index(self) -> int:
        return self.classes - 1

    def questions(self, scores: Tensor) -> tuple[Tensor, ...]:
        """Scores ``(K, ...)`` apart by what is decided on together: here all of them."""
        return (scores,)

    def answer(self, planes: Iterable[Tensor]) -> Tensor:
        """The class of each voxel from the planes of one question, in order; only the best so far is kept."""
        best: Tensor | None = None
        classes = torch.empty(0)
        for index, plane in enumerate(planes):
            if best is None:
                best, classes = plane.clone(), torch.zeros(plane.shape, dtype=self._dtype, device=plane.device)
                continue
            classes.masked_fill_(plane > best, index)
            torch.maximum(best, plane, out=best)
        return classes

    def labels(self, answers: Sequence[Tensor]) -> Tensor:
        """Label indices from the answers to all questions."""
        return answers[0]

    @property
    def _dtype(self) -> torch.dtype:
        return torch.uint8 if self.classes <= 256 else torch.int32


@dataclass(frozen=True)
class RegionsFound:
    """Regions may overlap: each is found or not by itself."""

    written: tuple[int, ...]
    """The label index of each region, in their order."""
    logits: bool = False
    """Whether the scores are logits; their sigmoid is taken in float32, as in nnU-Net."""

    @property
    def outputs(self) -> int:
        return len(self.written)

    @property
    def largest_index(self) -> int:
        return max(self.written)

    def questions(self, scores: Tensor) -> tuple[Tensor, ...]:
        """Scores ``(R, ...)`` apart: every region by itself."""
        return scores.split(1)

    def answer(self, planes: Iterable[Tensor]) -> Tensor:
        """Whether the one region is found, 0 or 1."""
        (plane,) = planes
        return ((plane.float().sigmoid() if self.logits else plane) > 0.5).to(torch.uint8)

    def labels(self, answers: Sequence[Tensor]) -> Tensor:
        """Label indices from the answers to all questions."""
        dtype = torch.uint8 if self.largest_index <= 255 else torch.int32
        painted = torch.zeros(answers[0].shape, dtype=dtype, device=answers[0].device)
        for index, found in zip(self.written, answers, strict=True):
            painted[found.bool()] = index
        return painted


Decision = LargestClass | RegionsFound


def decision_of(table: LabelTable, logits: bool = False) -> Decision:
    """The rule for a network trained on the targets of a table; ``logits`` says what its scores are."""
    if table.activation == "sigmoid":
        return RegionsFound(tuple(target.written_index for target in table.targets), logits)
    return LargestClass(len(table))


def decide(scores: Tensor, decision: Decision) -> Tensor:
    """Label indices ``(...)`` from scores ``(K, ...)``."""
    return decision.labels([decision.answer(question) for question in decision.questions(scores)])
