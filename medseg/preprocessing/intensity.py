"""Normalisation of one channel's intensities by the Plan's scheme.

Rules: nnU-Net v2, ``references`` in Isensee et al. 2021: CT is clipped and scaled by the Dataset's foreground, anything
else is brought to zero mean and unit variance by the image itself. Knows nothing of files or networks.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from medseg.arrays import Image, Mask
from medseg.errors import DatasetError
from medseg.planning.plan import ChannelPlan

_EPSILON = 1e-8


def normalise_image(image: Image, channels: tuple[ChannelPlan, ...], inside: Mask) -> Image:
    """A new image ``(C, Z, Y, X)`` with every channel normalised; ``inside`` is the non-zero region.

    Raises DatasetError when the number of channels is another than the Plan's.
    """
    if len(image) != len(channels):
        raise DatasetError(f"The image has {len(image)} channel(s), but the plan has {len(channels)}.")
    result = np.empty(image.shape, np.float32)
    for channel, target, plan in zip(image, result, channels, strict=True):
        target[...] = normalise_channel(channel, plan, inside)
    return result


def normalise_channel(channel: Float32[ndarray, "Z Y X"], plan: ChannelPlan, inside: Mask) -> Float32[ndarray, "Z Y X"]:
    """One channel by its scheme; a constant channel becomes zero, not NaN."""
    channel = np.asarray(channel, dtype=np.float32)
    match plan.normalisation:
        case "ct":
            assert plan.clip_low is not None and plan.clip_high is not None  # held by ChannelPlan's validator
            assert plan.mean is not None and plan.std is not None
            result = np.clip(channel, plan.clip_low, plan.clip_high)
            result -= np.float32(plan.mean)
            result /= np.float32(max(plan.std, _EPSILON))
            return result
        case "zscore" if plan.masked:
            result = channel.copy()
            if inside.any():
                values = channel[inside]
                result[inside] = (values - values.mean()) / max(float(values.std()), _EPSILON)
            return result
        case "zscore":
            result = channel - channel.mean()
            result /= np.float32(max(float(channel.std()), _EPSILON))
            return result
        case "rescale_0_1":
            low = channel.min()
            return (channel - low) / np.float32(max(float(channel.max() - low), _EPSILON))
        case "rgb":
            return channel / np.float32(255)
        case _:
            return channel.copy()
