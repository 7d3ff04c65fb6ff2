"""Which layer a class activation map looks at: by a rule that holds for any network, or by name.

Knows nothing of particular networks: resolutions are read off one pass. Rule: the last layer computed at a quarter of
the patch's resolution or less. Nearer to the output a map is close to the segmentation itself and explains nothing;
deeper it no longer says where.
"""

from __future__ import annotations

from torch import nn

from medseg.errors import SettingsError
from medseg.explanation.target import Target
from medseg.networks.layers import resolutions

_QUARTER = 0.25


def choose_layer(target: Target, name: str = "auto") -> str:
    """The dotted name of a layer. ``auto`` follows the rule, ``last`` is the last one before the output's own.

    Raises SettingsError for a layer that the network lacks or does not use, naming some that it has.
    """
    shares = resolutions(target.network, target.patch)
    if name == "auto":
        coarse = [layer for layer, share in shares.items() if share <= _QUARTER]
        # A network that never goes so far down is looked at where it is coarsest.
        lowest = min(shares.values())
        return (coarse or [layer for layer, share in shares.items() if share == lowest])[-1]
    if name == "last":
        before = [layer for layer in shares if not _is_head(target.network, layer)]
        return before[-1]
    if name not in shares:
        known = [layer for layer in shares if layer.count(".") <= 2]
        raise SettingsError(f"layer={name} is no layer of this network that gives a map. Some are: {', '.join(known)}.")
    return name


def _is_head(network: nn.Module, name: str) -> bool:
    """Whether a layer is a convolution of one voxel, or holds nothing but such ones: it only weighs channels."""
    layer = network.get_submodule(name)
    sizes = [kernel for part in layer.modules() if (kernel := getattr(part, "kernel_size", None)) is not None]
    return bool(sizes) and all(set(size) == {1} for size in sizes)
