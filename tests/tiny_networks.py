"""Networks of a single convolution, and smooth images for them: predicting takes no time, labels are not trivial."""

import numpy as np
import torch
from torch import nn

from medseg.images.volume import Volume
from medseg.inference.model import Networks
from medseg.planning.plan import ConfigurationPlan, NetworkPlan

from tiny import table_of, tiny_plan

CPU = torch.device("cpu")


def model_of(classes: int, patch=(16, 16, 16), spacing=(1.0, 1.0, 1.0), seed: int = 0) -> Networks:
    """A single convolution that gives scores of many classes."""
    configuration = ConfigurationPlan(
        dimensions=3,
        spacing=spacing,
        median_shape=patch,
        patch_size=patch,
        batch_size=2,
        batch_dice=False,
        network=NetworkPlan(
            features=(1,),
            strides=((1, 1, 1),),
            kernels=((3, 3, 3),),
            encoder_convolutions=(1,),
            decoder_convolutions=(),
        ),
    )
    torch.manual_seed(seed)
    network = nn.Conv3d(1, classes, 3, padding=1).eval().requires_grad_(False)
    return Networks((network,), "3d_fullres", configuration, (0,), tiny_plan(), table_of(classes - 1), (), f"{seed}")


def image_of(shape, seed: int = 0) -> Volume:
    """Smooth noise, so that structures are larger than a voxel."""
    noise = np.random.default_rng(seed).normal(size=[n // 4 + 2 for n in shape]).astype(np.float32)
    for axis, size in enumerate(shape):
        noise = noise.repeat(4, axis=axis).take(range(size), axis=axis)
    return Volume(noise[None], np.eye(4)[[2, 1, 0, 3]])
