"""What scanners do to images: bias field, motion, ghosting; each in place on a batch, off unless the Plan says so.

Knows nothing of labels or geometry. Bias field: exp of a polynomial of third degree (Van Leemput et al. 1999); motion
and ghosting are made in k-space (Shaw et al. 2019; TorchIO: Perez-Garcia et al. 2021). Probabilities and ranges are our
own choice, mild ones. Parameters are drawn on the CPU, so that every device uses the same.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from medseg.training.augmentation_intensity import chosen_samples, index_of

_P_BIAS, _LARGEST_BIAS, _DEGREE = 0.15, 0.3, 3
_P_MOTION, _MOST_MOVES, _LARGEST_MOVE = 0.1, 3, 0.03
_P_GHOSTS, _GHOSTS, _GHOST_STRENGTH = 0.1, (2, 6), (0.2, 0.6)
_KEPT_CENTRE = 0.1
"""Share of the k-space lines around the centre that belong to the first position, or are not weakened."""
_POWERS = [powers for powers in product(range(_DEGREE + 1), repeat=3) if 0 < sum(powers) <= _DEGREE]


def add_bias_field(images: Tensor, random: np.random.Generator) -> None:
    """Multiply by a smooth field, the same for all channels of a sample; p 0.15.

    Brightness counts from the darkest voxel of the patch, since normalised intensities may be negative.
    """
    chosen = chosen_samples(len(images), _P_BIAS, random)
    coefficients = random.uniform(-_LARGEST_BIAS, _LARGEST_BIAS, (len(chosen), len(_POWERS)))
    if len(chosen) == 0:
        return
    table = np.zeros((len(chosen), *(_DEGREE + 1,) * 3))
    for number, powers in enumerate(_POWERS):
        table[(slice(None), *powers)] = coefficients[:, number]
    z, y, x = (images.new_tensor(_powers_along(n)) for n in images.shape[2:])
    # axis after axis, the small ones first: the field is a sum of products
    field = torch.einsum("nabc,cx->nabx", images.new_tensor(table), x)
    field = torch.einsum("nabx,by->nayx", field, y)
    field = torch.einsum("nayx,az->nzyx", field, z).exp()[:, None]
    index = index_of(chosen, images)
    old = images[index]
    lowest = old.amin((-3, -2, -1), keepdim=True)
    images[index] = (old - lowest) * field + lowest


def blur_by_motion(images: Tensor, random: np.random.Generator) -> None:
    """The patient moves up to three times by up to 3 % of the patch while k-space is read along one axis; p 0.1.

    The centre of k-space, which holds most of the image, is of the first position, so that labels stay where they are.
    """
    chosen = chosen_samples(len(images), _P_MOTION, random)
    for sample in chosen:
        axis = _long_axis(images, random)
        moves = random.integers(1, _MOST_MOVES + 1)
        starts = np.sort(random.random(moves))
        shifts = random.uniform(-_LARGEST_MOVE, _LARGEST_MOVE, (moves, 3)) * images.shape[2:]
        images[sample] = _moved(images[sample], axis, starts, shifts)


def add_ghosts(images: Tensor, random: np.random.Generator) -> None:
    """Every second to sixth line of k-space along one axis is weakened by 20 to 60 %, but for its centre; p 0.1."""
    chosen = chosen_samples(len(images), _P_GHOSTS, random)
    for sample in chosen:
        axis = _long_axis(images, random)
        every = int(random.integers(_GHOSTS[0], _GHOSTS[1] + 1))
        weakened = 1 - random.uniform(*_GHOST_STRENGTH)
        n = images.shape[2 + axis]
        lines = np.fft.fftfreq(n)
        factors = np.where((np.arange(n) % every == 0) & (np.abs(lines) > _KEPT_CENTRE / 2), weakened, 1.0)
        shape = [1, 1, 1, 1]
        shape[1 + axis] = n
        spectrum = torch.fft.fft(images[sample], dim=1 + axis)
        images[sample] = torch.fft.ifft(spectrum * images.new_tensor(factors).reshape(shape), dim=1 + axis).real


def _moved(volume: Tensor, axis: int, starts: np.ndarray, shifts: np.ndarray) -> Tensor:
    """(C, Z, Y, X) as a scanner sees it that reads lines along ``axis`` in their order while the patient moves."""
    space = volume.shape[1:]
    frequencies = [torch.fft.fftfreq(n, device=volume.device, dtype=volume.dtype) for n in space]
    spectrum = torch.fft.fftn(volume, dim=(1, 2, 3))
    lines = np.fft.fftfreq(space[axis])
    times = lines + 0.5  # from the lowest frequency to the highest
    phase = volume.new_zeros(space)
    for start, shift, until in zip(starts, shifts, [*starts[1:], 1.0], strict=True):
        there = (times >= start) & (times < until) & (np.abs(lines) > _KEPT_CENTRE / 2)
        z, y, x = (f * float(s) for f, s in zip(frequencies, shift, strict=True))
        shape = [1, 1, 1]
        shape[axis] = len(lines)
        phase += (z[:, None, None] + y[:, None] + x) * volume.new_tensor(there).reshape(shape)
    return torch.fft.ifftn(spectrum * torch.exp(-2j * np.pi * phase), dim=(1, 2, 3)).real


def _long_axis(images: Tensor, random: np.random.Generator) -> int:
    """One of the axes that are not thin: lines are not read across a few slices."""
    sizes = images.shape[2:]
    axes = [axis for axis in range(3) if 3 * sizes[axis] >= max(sizes)]
    return axes[int(random.integers(len(axes)))]


def _powers_along(n: int) -> np.ndarray:
    """(degree + 1, n): powers of the position from -1 to 1."""
    place = np.linspace(-1, 1, n) if n > 1 else np.zeros(1)
    return place ** np.arange(_DEGREE + 1)[:, None]
