"""A Volume becomes the array that the network sees: orient, crop, normalise, resample, in that order.

Normalising before resampling keeps the zeros outside the body from bleeding in (nnU-Net's rule). Knows nothing of
where the arrays are kept; that is ``medseg.preprocessing.store``.
"""

from __future__ import annotations

import numpy as np

from medseg.arrays import Image, Labels, Spacing, Triple
from medseg.images.crop import crop, nonzero_box, nonzero_mask
from medseg.images.orientation import to_canonical
from medseg.images.resample import resample_image, resample_labels, resampled_shape, separate_axis
from medseg.images.volume import Volume
from medseg.planning.plan import ConfigurationPlan, Plan
from medseg.preprocessing.grid import Grid, orient
from medseg.preprocessing.intensity import normalise_image


def prepare_image(image: Volume, plan: Plan, configuration: ConfigurationPlan) -> tuple[Image, Grid]:
    """The prepared image, float32 ``(C, Z, Y, X)`` in network axes, and the Grid that leads back to the file.

    Raises DatasetError when the number of channels is another than the Plan's.
    """
    permutation, flips = network_axes(image, plan)
    spacing = permuted_spacing(image, permutation)
    oriented = np.ascontiguousarray(orient(image.array, permutation, flips), dtype=np.float32)
    lower, upper = nonzero_box(oriented)
    cropped = crop(oriented, lower, upper)
    inside = nonzero_mask(cropped) if any(c.masked for c in plan.channels) else np.ones(cropped.shape[1:], bool)
    normalised = normalise_image(cropped, plan.channels, inside)
    del oriented, cropped, inside  # of a large image each takes as much as the image
    target = prepared_spacing(spacing, configuration)
    z, y, x = normalised.shape[1:]
    shape = resampled_shape((z, y, x), spacing, target)
    prepared = resample_image(normalised, shape, separate_axis(spacing, target))
    return prepared, Grid(
        file_shape=image.shape,
        permutation=permutation,
        flips=flips,
        crop_lower=lower,
        cropped_shape=(z, y, x),
        cropped_spacing=spacing,
        prepared_shape=shape,
        prepared_spacing=target,
    )


def prepare_labels(labels: Volume, grid: Grid, classes: int, ignore: int | None = None) -> Labels:
    """Label indices on the prepared image's grid: same turn, same box, resampled label by label.

    ``ignore`` is the index of voxels that nobody annotated; what lies between them and structures, and is neither for
    the larger part, is not annotated either.
    """
    oriented = grid.orient(labels.array)
    upper = tuple(low + size for low, size in zip(grid.crop_lower, grid.cropped_shape, strict=True))
    cropped = np.ascontiguousarray(crop(oriented, grid.crop_lower, (upper[0], upper[1], upper[2])))
    separate = separate_axis(grid.cropped_spacing, grid.prepared_spacing)
    values = range(classes) if ignore is None else (*range(classes), ignore)
    return resample_labels(cropped, grid.prepared_shape, separate, values, ignore)


def network_axes(image: Volume, plan: Plan) -> tuple[Triple, tuple[bool, bool, bool]]:
    """The Plan's orientation and axis order as one signed permutation of the file's axes."""
    permutation, flips = (0, 1, 2), (False, False, False)
    if plan.orientation == "canonical":
        permutation, flips = to_canonical(image.affine)
    a, b, c = plan.axis_order
    return (permutation[a], permutation[b], permutation[c]), (flips[a], flips[b], flips[c])


def permuted_spacing(image: Volume, permutation: Triple) -> Spacing:
    """The file's spacing in network axes, mm."""
    a, b, c = (image.spacing[axis] for axis in permutation)
    return a, b, c


def prepared_spacing(spacing: Spacing, configuration: ConfigurationPlan) -> Spacing:
    """The spacing to resample to; in 2D slices are never resampled through the plane."""
    z, y, x = configuration.spacing
    return (spacing[0], y, x) if configuration.dimensions == 2 else (z, y, x)
