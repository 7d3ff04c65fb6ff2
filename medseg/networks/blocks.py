"""The pieces that networks are built of: the convolution block, and nnU-Net's initialisation.

Knows nothing of how they are put together. Rules: nnU-Net (Isensee et al., Nature Methods 2021): convolution with bias,
instance normalisation, leaky ReLU; He-normal weights (He et al. 2015) for a slope of 0.01.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from medseg.arrays import Triple
from medseg.errors import PlanError
from medseg.networks.channel_attention import make_attention
from medseg.planning.plan import AttentionName

SLOPE = 0.01
"""Of the leaky ReLU below zero."""

CONVOLUTIONS: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.ConvTranspose2d | nn.ConvTranspose3d]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOLS: dict[int, type[nn.AvgPool2d | nn.AvgPool3d]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
NORMS: dict[int, type[nn.InstanceNorm2d | nn.InstanceNorm3d]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class ConvBlock(nn.Module):
    """Convolution (with bias, half padding), instance norm, leaky ReLU; the bias and the leaky ReLU may be left out.

    (B, C_in, *space) -> (B, C_out, *space / stride), where space has ``dimensions`` axes. ``dilation`` spreads the
    kernel; ``depthwise`` lets each output channel see its own input channel only.
    """

    def __init__(
        self,
        dimensions: int,
        c_in: int,
        c_out: int,
        kernel: Triple,
        stride: Triple = (1, 1, 1),
        bias: bool = True,
        activated: bool = True,
        dilation: int = 1,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        size, step = kernel[-dimensions:], stride[-dimensions:]
        padding = tuple(dilation * (k - 1) // 2 for k in size)
        groups = c_in if depthwise else 1
        self.conv = CONVOLUTIONS[dimensions](c_in, c_out, size, step, padding, dilation, groups, bias)  # type: ignore[arg-type]
        self.norm = NORMS[dimensions](c_out, eps=1e-5, affine=True)
        self.activation = nn.LeakyReLU(SLOPE, inplace=True) if activated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class ConvStage(nn.Module):
    """Several ConvBlocks in a row; the first one changes the number of channels and the resolution.

    ``attention`` puts squeeze-and-excitation or convolutional block attention behind them.
    """

    def __init__(
        self,
        dimensions: int,
        c_in: int,
        c_out: int,
        kernel: Triple,
        stride: Triple,
        convolutions: int,
        attention: AttentionName = "none",
    ) -> None:
        super().__init__()
        first = ConvBlock(dimensions, c_in, c_out, kernel, stride)
        self.convs = nn.Sequential(
            first, *(ConvBlock(dimensions, c_out, c_out, kernel) for _ in range(convolutions - 1))
        )
        self.attention = make_attention(attention, dimensions, c_out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.convs(x))


class SeparableBlock(nn.Module):
    """A depthwise and a pointwise ConvBlock: a convolution in two cheap steps (Howard et al. 2017, MobileNets)."""

    def __init__(self, dimensions: int, c_in: int, c_out: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.depthwise = ConvBlock(dimensions, c_in, c_in, kernel, stride, depthwise=True)
        self.pointwise = ConvBlock(dimensions, c_in, c_out, (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut: average pooling where it strides, 1x1 where the channels change (ResNet-D).

    (B, C_in, *space) -> (B, C_out, *space / stride). He et al. 2015, the shortcut of He et al. 2019 (Bag of Tricks).
    """

    def __init__(
        self, dimensions: int, c_in: int, c_out: int, kernel: Triple, stride: Triple = (1, 1, 1), dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv1 = ConvBlock(dimensions, c_in, c_out, kernel, stride, dilation=dilation)
        self.conv2 = ConvBlock(dimensions, c_out, c_out, kernel, activated=False, dilation=dilation)
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)
        shortcut: list[nn.Module] = []
        if max(stride) > 1:
            step = stride[-dimensions:]
            shortcut.append(POOLS[dimensions](step, step))  # type: ignore[arg-type]
        elif dilation > 1:
            shortcut.append(nn.Identity())  # so that the weights have the names that they have where it strides
        if c_in != c_out:
            shortcut.append(ConvBlock(dimensions, c_in, c_out, (1, 1, 1), bias=False, activated=False))
        self.skip = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv2(self.conv1(x)) + self.skip(x))


class ResidualStage(nn.Module):
    """Several ResidualBlocks in a row; the first one changes the number of channels and the resolution."""

    def __init__(
        self, dimensions: int, c_in: int, c_out: int, kernel: Triple, stride: Triple, blocks: int, dilation: int = 1
    ) -> None:
        super().__init__()
        first = ResidualBlock(dimensions, c_in, c_out, kernel, stride, dilation)
        further = (ResidualBlock(dimensions, c_out, c_out, kernel, dilation=dilation) for _ in range(blocks - 1))
        self.blocks = nn.Sequential(first, *further)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def initialise(module: nn.Module) -> None:
    """He-normal weights for every convolution, those of ViT for every linear map, zero biases.

    For ``network.apply(initialise)``.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_patch(shape: Sequence[int], channels: int, divisor: Triple, dimensions: int) -> None:
    """Raise PlanError when a batch (B, C, Z, Y, X) does not fit the network, naming the size that would."""
    if len(shape) != 5:
        raise PlanError(
            f"The network takes a batch (B, C, Z, Y, X), but got {len(shape)} axes: {list(shape)}. "
            "A 2D image has Z = 1."
        )
    if shape[1] != channels:
        raise PlanError(f"The network takes {channels} channels, but got {shape[1]}. Give the channels of its plan.")
    patch = list(shape[2:])
    if dimensions == 2 and patch[0] != 1:
        raise PlanError(f"A 2D network takes one slice at a time (Z = 1), but got a patch of {patch} (z, y, x).")
    if any(size % d for size, d in zip(patch, divisor, strict=True)):
        padded = [max(math.ceil(size / d), 1) * d for size, d in zip(patch, divisor, strict=True)]
        raise PlanError(
            f"A patch of {patch} (z, y, x) does not fit the network: each axis must be a multiple of "
            f"{list(divisor)}. Pad it to {padded}."
        )
