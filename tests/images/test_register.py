"""Two images of one patient are laid on one another; two that do not belong together are refused."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medseg.errors import GeometryError
from medseg.images.register import align

AFFINE = np.array([[0, 0, 3.0, -50], [0, 3.0, 0, -60], [4.0, 0, 0, 20], [0, 0, 0, 1]])


def body(seed: int = 0, shape: tuple[int, int, int] = (24, 40, 34)) -> np.ndarray:
    """An ellipsoid with organs of several sizes in it."""
    random = np.random.default_rng(seed)
    z, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    image = np.where(z**2 / 0.9 + y**2 / 0.6 + x**2 / 0.7 < 1, 100.0, 0.0)
    for _ in range(12):
        centre, radius = random.uniform(-0.5, 0.5, 3), random.uniform(0.1, 0.3)
        inside = sum((axis - at) ** 2 for axis, at in zip((z, y, x), centre, strict=True)) < radius**2
        image = np.where(inside, random.uniform(20, 250), image)
    return image.astype(np.float32)


def seen_elsewhere(image: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same on a coarser grid, turned, shifted, otherwise bright and noisy: its voxels, its affine and the truth."""
    random = np.random.default_rng(seed)
    truth = np.eye(4)
    truth[:3, :3] = Rotation.from_euler("xyz", random.uniform(-8, 8, 3), degrees=True).as_matrix()
    middle = (AFFINE @ [*((n - 1) / 2 for n in image.shape), 1])[:3]
    truth[:3, 3] = middle + random.uniform(-20, 20, 3) - truth[:3, :3] @ middle
    affine = AFFINE @ np.diag([1.2, 1.2, 1.2, 1])
    back = np.linalg.inv(AFFINE) @ np.linalg.inv(truth) @ affine
    shape = tuple(round(n / 1.2) for n in image.shape)
    other = ndimage.affine_transform(image, back[:3, :3], back[:3, 3], shape, order=1)
    return 400 - other + random.normal(0, 5, shape), affine, truth


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_a_turned_and_shifted_examination_is_found_within_half_a_voxel(seed):
    image = body()
    other, affine, truth = seen_elsewhere(image, seed)
    found = align(image, AFFINE, other, affine)
    places = np.array([[z, y, x, 1] for z in (5, 18) for y in (8, 32) for x in (8, 26)])
    apart = np.linalg.norm(((np.array(found.matrix) - truth) @ AFFINE @ places.T)[:3], axis=0)
    assert apart.max() < 2
    np.testing.assert_allclose(np.array(found.matrix)[:3, :3] @ np.array(found.matrix)[:3, :3].T, np.eye(3), atol=1e-6)


def test_how_a_file_is_stored_makes_no_difference():
    image = body()
    flip = np.diag([1.0, -1, 1, 1])
    flip[1, 3] = image.shape[1] - 1
    found = align(image, AFFINE, image[:, ::-1], AFFINE @ flip)
    np.testing.assert_allclose(found.matrix, np.eye(4), atol=0.2)
    assert (found.similarity, found.overlap) == (pytest.approx(1, abs=0.02), pytest.approx(1, abs=0.02))


def test_images_that_do_not_belong_together_are_refused():
    random = np.random.default_rng(3)
    noise = random.normal(size=(20, 30, 30)).astype(np.float32)
    with pytest.raises(GeometryError, match="could not be aligned: of what one shows only"):
        align(body(), AFFINE, noise, AFFINE)
    with pytest.raises(GeometryError, match="without contrast"):
        align(np.zeros((20, 20, 20)), AFFINE, body(), AFFINE)
    with pytest.raises(GeometryError, match="a few slices"):
        align(body(), AFFINE, body()[:2], AFFINE)
