"""A loss that keeps a site's network near the one it was given, or corrects the way its gradients drift.

Knows nothing of sites. FedProx (Li et al. 2020): mu / 2 times the *squared* distance from the anchor. SCAFFOLD
(Karimireddy et al. 2020): a constant is added to each gradient, which as a loss is its product with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class AnchoredLoss(nn.Module):
    """loss + mu / 2 * ||w - w_0||^2 + <slope, w>, with w_0 the weights as they are when it is made."""

    def __init__(self, loss: nn.Module, parameters: Mapping[str, Tensor], mu: float, slope: Mapping[str, Tensor]):
        super().__init__()
        self.loss, self.mu = loss, mu
        self._pulled = [(w, w.detach().clone(), slope.get(name)) for name, w in parameters.items()]

    def forward(self, logits: Tensor | list[Tensor], labels: Tensor) -> Tensor:
        """The loss of a batch, as the loss inside takes it."""
        total = self.loss(logits, labels)
        for weights, anchor, slope in self._pulled:
            if self.mu:
                total = total + self.mu / 2 * (weights - anchor).square().sum()
            if slope is not None:
                total = total + (slope * weights).sum()
        return total


def require_no_batch_statistics(network: nn.Module) -> None:
    """Raise SiteError("batch-statistics") for a network that holds statistics of batches, affine or not.

    Averages of them are those of no data at all: a federated network with batch normalisation may collapse where each
    site's own does well.
    """
    from medseg.errors import SiteError

    for module in network.modules():
        is_batch = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_batch or getattr(module, "track_running_stats", False):
            raise SiteError("batch-statistics")
