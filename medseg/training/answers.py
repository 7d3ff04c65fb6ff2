"""What a network answered for a batch and what is true, in the forms that losses need.

Knows no loss. A network is asked one question about every voxel, which class it is of, or one for each region, whether
it lies inside; the second form is the first with two answers, so that a loss of voxels is written once for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from medseg.arrays import Spacing
from medseg.cases.labels import LabelTable
from medseg.networks.learned_noise import alternatives, settled
from medseg.planning.class_weights import ClassWeights
from medseg.training.dice import any_of

_TINY = 1e-8


@dataclass(frozen=True)
class LossSetting:
    """What all losses of one training share."""

    table: LabelTable
    batch_dice: bool
    """Overlaps are taken over the whole batch instead of each patch."""
    class_weights: ClassWeights | None = None
    """How much a voxel counts in losses of voxels, by question and answer; None for all alike."""


class Answers:
    """Logits (B, K, Z, Y, X) beside label indices (B, Z, Y, X); computed in float32, or float64 for such logits.

    Of a network that says how sure it is, those of the probabilities to be expected; ``alternatives`` has the others.
    """

    def __init__(
        self,
        logits: Tensor,
        labels: Tensor,
        setting: LossSetting,
        spacing: Spacing = (1.0, 1.0, 1.0),
        progress: float = 1.0,
    ) -> None:
        self._heads = logits if logits.dtype == torch.float64 else logits.float()
        self.logits = settled(self._heads, setting.table.outputs)
        self.labels, self.setting, self.spacing = labels, setting, spacing
        self.progress = progress
        """Share of the training that is done."""
        self.ignore = setting.table.ignore_index
        self.known = None if self.ignore is None else labels != self.ignore
        """Voxels that somebody annotated, (B, Z, Y, X); None for all."""

    @property
    def are_classes(self) -> bool:
        """Whether the outputs exclude one another."""
        return self.setting.table.activation == "softmax"

    def alternatives(self) -> Iterator[Tensor]:
        """All that the network holds to be equally probable, each like ``logits``: for most networks one answer."""
        return iter([self.logits]) if self._heads is self.logits else alternatives(self._heads)

    @cached_property
    def log_classes(self) -> Tensor:
        """Log-probability of every class (B, K, Z, Y, X)."""
        return F.log_softmax(self.logits, 1)

    def masks(self) -> list[Tensor]:
        """Where each target lies, as masks (B, Z, Y, X)."""
        return [any_of(self.labels, target.indices) for target in self.setting.table.targets]

    def found(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Probability and mask of each target, both (B, Z, Y, X); one at a time, to hold one mask in memory."""
        if self.are_classes:
            # unbind's gradient is one stack, where indexing would fill a volume of zeros for each class.
            for index, probability in enumerate(self.log_classes.exp().unbind(1)[1:], start=1):
                yield probability, self.labels == index
            return
        masks = self.masks()
        for score, mask in zip(self.logits.unbind(1), masks, strict=True):
            yield score.sigmoid(), mask

    def found_known(self) -> Iterator[tuple[Tensor, Tensor]]:
        """``found``, with nothing found and nothing there where nobody annotated."""
        for probability, mask in self.found():
            yield (probability, mask) if self.known is None else (probability * self.known, mask & self.known)

    @cached_property
    def log_answers(self) -> Tensor:
        """Log-probability of every answer to every question, (B, Q, A, Z, Y, X)."""
        if self.are_classes:
            return self.log_classes[:, None]
        return torch.stack([F.logsigmoid(-self.logits), F.logsigmoid(self.logits)], dim=2)

    @cached_property
    def truth(self) -> Tensor:
        """Number of the true answer to every question, (B, Q, Z, Y, X) int64; 0 where nobody annotated."""
        if not self.are_classes:
            return torch.stack(self.masks(), dim=1).long()
        labels = self.labels if self.known is None else torch.where(self.known, self.labels, 0)
        return labels[:, None]

    @cached_property
    def log_truth(self) -> Tensor:
        """Log-probability of the true answer to every question, (B, Q, Z, Y, X)."""
        return self.log_answers.gather(2, self.truth[:, :, None])[:, :, 0]

    def weight(self) -> Tensor | None:
        """How much each answer counts, (B, Q, Z, Y, X); None for all alike."""
        weights = self.setting.class_weights
        known = None if self.known is None else self.known[:, None].to(self.logits.dtype)
        if weights is None:
            return None if known is None else known.expand(self.truth.shape)
        table = self.logits.new_tensor(weights)
        of_question = torch.arange(len(weights), device=table.device)[None, :, None, None, None]
        counted = table[of_question, self.truth]
        return counted if known is None else counted * known

    def mean(self, values: Tensor) -> Tensor:
        """Mean of (B, Q, Z, Y, X) over annotated voxels, by the weight of their classes; 0 where nothing counts."""
        weight = self.weight()
        if weight is None:
            return values.mean()
        return (values * weight).sum() / weight.sum().clamp(min=_TINY)
