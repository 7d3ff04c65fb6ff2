"""What all networks have in common: an encoder that sees the image, a decoder that gives logits, and what they take.

Knows nothing of how either is built. Every network is such a pair, so that training, prediction, export and the
transfer of weights meet one kind of module, whose parameters begin with ``encoder.`` and ``decoder.``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn
from torch.jit import is_tracing  # type: ignore[attr-defined]

from medseg.networks.blocks import CONVOLUTIONS, check_patch, initialise
from medseg.networks.dropout import MapDropout
from medseg.networks.learned_noise import LearnedNoise
from medseg.planning.coarse_layers import auxiliary_stages, finest_stage
from medseg.planning.plan import NetworkPlan

_LINEAR = {2: "bilinear", 3: "trilinear"}


class EncoderDecoder(nn.Module):
    """A network for 2D and 3D.

    (B, C, Z, Y, X) -> logits (B, K, Z, Y, X); in training mode with deep supervision a list of logits, finest first, as
    many as there are decoder stages. A 2D network takes Z = 1. With ``head=learned`` K is 1 + FACTORS times as many in
    training mode. Raises PlanError when the batch does not fit.

    The encoder gives a list of maps, finest first. The decoder takes that list and whether every head is wanted, and
    gives a list of logits, finest first.
    """

    def __init__(
        self, plan: NetworkPlan, dimensions: int, channels: int, encoder: nn.Module, decoder: nn.Module
    ) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.channels = channels
        self.divisor = plan.divisor
        self.deep_supervision = plan.deep_supervision
        self.is_evidential = plan.head == "evidential"
        self.encoder = encoder
        self.dropout = MapDropout(plan.dropout)
        self.decoder = decoder
        self.noise = LearnedNoise() if plan.head == "learned" else None
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        # A traced or compiled graph has its shape checked where it is made.
        if not is_tracing() and not torch.compiler.is_compiling():
            check_patch(x.shape, self.channels, self.divisor, self.dimensions)
        if self.dimensions == 2:
            x = x.squeeze(2)
        every_head = self.training and self.deep_supervision
        logits = self.decoder(self.dropout(self.encoder(x)), every_head)
        if self.is_evidential:
            # alpha = 1 + evidence; softmax of its logarithm is the Dirichlet distribution's mean (Sensoy et al. 2018).
            logits = [F.softplus(one.float()).log1p() for one in logits]
        if self.noise is not None:
            logits = [self.noise(one) for one in logits]
        if self.dimensions == 2:
            logits = [one.unsqueeze(2) for one in logits]
        return logits if every_head else logits[0]


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """A map at the size of another, by linear interpolation."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, like.shape[2:], mode=_LINEAR[x.dim() - 2], align_corners=False)


class CoarseDecoder(nn.Module):
    """A decoder that ends at a coarser stage than the image: its logits are enlarged to the patch.

    With deep supervision they are given at their own resolution too, and deeper maps of the encoder get auxiliary
    heads, as in PSPNet (Zhao et al. 2017). Heads stand from the coarsest to the finest, as in every decoder.
    """

    def __init__(self, plan: NetworkPlan, dimensions: int, width: int, classes: int) -> None:
        super().__init__()
        self.finest = finest_stage(plan)
        self.scale = plan.strides[self.finest][-dimensions:]
        self.auxiliary = auxiliary_stages(plan)
        widths = [*(plan.features[stage] for stage in self.auxiliary), width]
        self.heads = nn.ModuleList(CONVOLUTIONS[dimensions](w, classes, 1) for w in widths)

    def forward(self, maps: list[Tensor], every_head: bool) -> list[Tensor]:
        """Logits, finest first; only the finest unless ``every_head``."""
        logits = self.heads[-1](self.decode(maps))
        size = [n * step for n, step in zip(logits.shape[2:], self.scale, strict=True)]
        enlarged = F.interpolate(logits, size, mode=_LINEAR[logits.dim() - 2], align_corners=False)
        if not every_head:
            return [enlarged]
        deeper = [head(maps[stage]) for head, stage in zip(self.heads[:-1], self.auxiliary, strict=True)]
        return [enlarged, *([logits] if self.finest else []), *deeper[::-1]]

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The map from which the logits are made, at the decoder's finest stage."""
        raise NotImplementedError
