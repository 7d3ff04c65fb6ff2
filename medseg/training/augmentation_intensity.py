"""Changes of intensity: noise, blur, brightness, contrast, simulated low resolution, gamma; each in place on a batch.

Knows nothing of labels or geometry. Probabilities and ranges: nnU-Net v2's recipe (Isensee et al. 2021). Parameters are
drawn on the CPU, so that every device uses the same; only the noise itself is drawn where the batch lies. Only the
affected channels are computed. Blur and low resolution are linear along each axis: small matrices, fast everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_P_NOISE, _LARGEST_NOISE = 0.1, 0.1
_P_BLUR, _P_BLUR_CHANNEL, _BLUR = 0.2, 0.5, (0.5, 1.0)
_P_BRIGHTNESS, _BRIGHTNESS = 0.15, (0.75, 1.25)
_P_CONTRAST, _CONTRAST = 0.15, (0.75, 1.25)
_P_LOW_RESOLUTION, _P_LOW_RESOLUTION_CHANNEL, _ZOOM = 0.25, 0.5, (0.5, 1.0)
_P_INVERTED_GAMMA, _P_GAMMA, _GAMMA = 0.1, 0.3, (0.7, 1.5)
_BLUR_RADIUS = 4  # four times the largest sigma: what is cut off is below 1e-4
_SPACE = (-3, -2, -1)
_EPSILON = 1e-7


def add_noise(images: Tensor, random: np.random.Generator) -> None:
    """Gaussian noise of standard deviation up to 0.1, the same for all channels of a sample; p 0.1."""
    chosen = chosen_samples(len(images), _P_NOISE, random)
    sigma = random.uniform(0, _LARGEST_NOISE, len(chosen))
    generator = torch.Generator(images.device).manual_seed(int(random.integers(2**62)))
    if len(chosen):
        noise = torch.randn((len(chosen), *images.shape[1:]), generator=generator, device=images.device)
        images[index_of(chosen, images)] += noise * beside(sigma[:, None], images)


def blur(images: Tensor, random: np.random.Generator) -> None:
    """Gaussian blur of 0.5 to 1 voxels, drawn for each axis and channel; p 0.2, then 0.5 for each channel.

    Mirrored at the borders; an axis of length 1 stays as it is. Thin patches are blurred along z as well.
    """
    samples, channels = _chosen_channels(images, _P_BLUR, _P_BLUR_CHANNEL, random)
    if len(samples) == 0:
        return
    sigmas = random.uniform(*_BLUR, (len(samples), 3))
    matrices = [
        None if n == 1 else np.stack([blur_matrix(n, sigma) for sigma in sigmas[:, axis]])
        for axis, n in enumerate(images.shape[2:])
    ]
    index = index_of(samples, images), index_of(channels, images)
    images[index] = along_axes(images[index], matrices)


def change_brightness(images: Tensor, random: np.random.Generator) -> None:
    """Multiply each channel by a factor from 0.75 to 1.25; p 0.15."""
    chosen = chosen_samples(len(images), _P_BRIGHTNESS, random)
    factors = _around_one(_BRIGHTNESS, (len(chosen), images.shape[1]), random)
    if len(chosen):
        images[index_of(chosen, images)] *= beside(factors, images)


def change_contrast(images: Tensor, random: np.random.Generator) -> None:
    """Stretch each channel about its mean by 0.75 to 1.25 and clip it to its former range; p 0.15."""
    chosen = chosen_samples(len(images), _P_CONTRAST, random)
    factors = _around_one(_CONTRAST, (len(chosen), images.shape[1]), random)
    if len(chosen):
        index = index_of(chosen, images)
        old = images[index]
        mean, low, high = old.mean(_SPACE, keepdim=True), old.amin(_SPACE, True), old.amax(_SPACE, True)
        images[index] = torch.clamp((old - mean) * beside(factors, images) + mean, low, high)


def lower_resolution(images: Tensor, random: np.random.Generator, in_plane: bool) -> None:
    """Down by 0.5 to 1 (nearest) and up again (linear); p 0.25, then 0.5 for each channel; not along z in plane."""
    samples, channels = _chosen_channels(images, _P_LOW_RESOLUTION, _P_LOW_RESOLUTION_CHANNEL, random)
    if len(samples) == 0:
        return
    zooms = random.uniform(*_ZOOM, len(samples))
    matrices = [
        None
        if in_plane and axis == 0
        else np.stack([coarse_matrix(n, max(1, round(n * float(zoom)))) for zoom in zooms])
        for axis, n in enumerate(images.shape[2:])
    ]
    index = index_of(samples, images), index_of(channels, images)
    images[index] = along_axes(images[index], matrices)


def change_gamma_inverted(images: Tensor, random: np.random.Generator) -> None:
    """Gamma on the negative image; p 0.1."""
    _change_gamma(images, random, _P_INVERTED_GAMMA, -1.0)


def change_gamma(images: Tensor, random: np.random.Generator) -> None:
    """Gamma; p 0.3."""
    _change_gamma(images, random, _P_GAMMA, 1.0)


def _change_gamma(images: Tensor, random: np.random.Generator, probability: float, sign: float) -> None:
    """Each channel, scaled to 0...1, to the power 0.7 to 1.5; mean and standard deviation stay as they were."""
    chosen = chosen_samples(len(images), probability, random)
    powers = _around_one(_GAMMA, (len(chosen), images.shape[1]), random)
    if len(chosen) == 0:
        return
    index = index_of(chosen, images)
    old = sign * images[index]
    low, high = old.amin(_SPACE, True), old.amax(_SPACE, True)
    new = ((old - low) / (high - low).clamp(min=_EPSILON)) ** beside(powers, images)
    # The range of the result does not matter: mean and spread are set at the end.
    std, mean = torch.std_mean(old, _SPACE, correction=0, keepdim=True)
    new_std, new_mean = torch.std_mean(new, _SPACE, correction=0, keepdim=True)
    images[index] = sign * ((new - new_mean) * (std / new_std.clamp(min=_EPSILON)) + mean)


def along_axes(volumes: Tensor, matrices: Sequence[np.ndarray | None]) -> Tensor:
    """Apply matrices (N, n_out, n) along each axis of (N, Z, Y, X), each volume its own; None leaves the axis alone."""
    z, y, x = (None if m is None else torch.as_tensor(m, dtype=torch.float32).to(volumes.device) for m in matrices)
    if x is not None:
        volumes = (volumes.flatten(1, 2) @ x.mT).unflatten(1, volumes.shape[1:3])
    if y is not None:
        volumes = y[:, None] @ volumes
    if z is not None:
        volumes = (z @ volumes.flatten(2)).unflatten(2, volumes.shape[2:])
    return volumes


def blur_matrix(n: int, sigma: float) -> np.ndarray:
    """(n, n): Gaussian weights of standard deviation ``sigma`` voxels, mirrored at the borders (edge not repeated)."""
    offsets = np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    places = np.abs(np.arange(n)[:, None] + offsets[None, :]) % max(2 * (n - 1), 1)
    places = np.minimum(places, 2 * (n - 1) - places)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n)[:, None], places), weights[None, :])
    return matrix


@lru_cache(maxsize=1024)
def coarse_matrix(n: int, m: int) -> np.ndarray:
    """(n, n): n samples to m by nearest-exact and back to n linearly, as torch.nn.functional.interpolate does."""
    taken = (2 * np.arange(m) + 1) * n // (2 * m)
    place = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, m - 1)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n), taken[below]), 1 - (place - below))
    np.add.at(matrix, (np.arange(n), taken[above]), place - below)
    return matrix


def chosen_samples(count: int, probability: float, random: np.random.Generator) -> np.ndarray:
    """Indices of those that are affected."""
    return np.flatnonzero(random.random(count) < probability)


def _chosen_channels(
    images: Tensor, sample_probability: float, channel_probability: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sample and channel indices of those that are affected."""
    samples = random.random((images.shape[0], 1)) < sample_probability
    affected = samples & (random.random(tuple(images.shape[:2])) < channel_probability)
    rows, columns = np.nonzero(affected)
    return rows, columns


def _around_one(limits: tuple[float, float], shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Factors of which half are drawn below 1 and half above."""
    below = random.random(shape) < 0.5
    return np.where(below, random.uniform(limits[0], 1, shape), random.uniform(1, limits[1], shape))


def index_of(places: np.ndarray, images: Tensor) -> Tensor:
    """Indices as a tensor beside the images."""
    return torch.as_tensor(places).to(images.device)


def beside(values: np.ndarray, images: Tensor) -> Tensor:
    """(N, C) numbers as a (N, C, 1, 1, 1) tensor beside the images."""
    return torch.as_tensor(values, dtype=images.dtype).to(images.device)[..., None, None, None]
