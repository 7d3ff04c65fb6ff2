"""Changes of colour for channels red, green and blue: stains of histology, cameras; in place, off unless asked for.

Knows nothing of labels. Stain: the amounts of haematoxylin, eosin and residue vary (Ruifrok and Johnston 2001; Tellez
et al. 2018). Colour: the channels mix a little, so that hue and saturation vary. Ranges are our own choice, mild ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medseg.training.augmentation_intensity import beside, chosen_samples, index_of

_P_STAIN, _STAIN_FACTOR, _STAIN_SHIFT = 0.3, 0.15, 0.02
_P_COLOUR, _MIXING, _COLOUR_SHIFT = 0.3, 0.08, 0.1
_HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density of haematoxylin, eosin and diaminobenzidine in red, green and blue."""
_DARKEST = 1e-2
_SPACE = (-3, -2, -1)


def colour_channels(names: Sequence[str]) -> tuple[int, int, int] | None:
    """Places of the channels that are called red, green and blue, in any case; None where one is missing."""
    known = {name.casefold(): place for place, name in enumerate(names)}
    found = [known.get(name) for name in ("red", "green", "blue")]
    red, green, blue = found
    return None if red is None or green is None or blue is None else (red, green, blue)


def change_stain(images: Tensor, rgb: Sequence[int], random: np.random.Generator) -> None:
    """Each stain's amount times 0.85 to 1.15 and plus up to 0.02; p 0.3.

    Whatever the normalisation, the three channels together are first brought to 0...1 by their range in the patch.
    """
    chosen = chosen_samples(len(images), _P_STAIN, random)
    factors = random.uniform(1 - _STAIN_FACTOR, 1 + _STAIN_FACTOR, (len(chosen), 3))
    shifts = random.uniform(-_STAIN_SHIFT, _STAIN_SHIFT, (len(chosen), 3))
    if len(chosen) == 0:
        return
    index = index_of(chosen, images)[:, None], torch.as_tensor(list(rgb)).to(images.device)[None]
    old = images[index]
    low, high = old.amin((-4, *_SPACE), True), old.amax((-4, *_SPACE), True)
    span = (high - low).clamp(min=1e-7)
    density = -torch.log(((old - low) / span).clamp(min=_DARKEST))
    stains = images.new_tensor(np.linalg.inv(_normed(_HED)))
    amounts = torch.einsum("nczyx,cs->nszyx", density, stains)
    changed = amounts * beside(factors, images) + beside(shifts, images)
    # What was clipped, or is no mixture of these stains, keeps its difference.
    difference = torch.einsum("nszyx,sc->nczyx", changed - amounts, images.new_tensor(_normed(_HED)))
    images[index] = torch.exp(-density - difference).clamp(max=1.0) * span + low


def change_colour(images: Tensor, rgb: Sequence[int], random: np.random.Generator) -> None:
    """Each channel takes up to 8 % of each other one, and is shifted by up to a tenth of its spread; p 0.3."""
    chosen = chosen_samples(len(images), _P_COLOUR, random)
    mixing = np.eye(3) + random.uniform(-_MIXING, _MIXING, (len(chosen), 3, 3))
    shifts = random.uniform(-_COLOUR_SHIFT, _COLOUR_SHIFT, (len(chosen), 3))
    if len(chosen) == 0:
        return
    index = index_of(chosen, images)[:, None], torch.as_tensor(list(rgb)).to(images.device)[None]
    old = images[index]
    mean, spread = old.mean(_SPACE, keepdim=True), old.std(_SPACE, correction=0, keepdim=True)
    mixed = torch.einsum("nczyx,nkc->nkzyx", old - mean, images.new_tensor(mixing))
    images[index] = mixed + mean + beside(shifts, images) * spread


def _normed(rows: Sequence[Sequence[float]]) -> np.ndarray:
    matrix = np.array(rows)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
