"""Copies of one examination are found however they were saved; different patients are not taken for copies."""

import numpy as np
import pytest

from medseg.cases.formats import read_dataset
from medseg.cases.likeness import find_alike, join_groups, thumbnail_of
from medseg.cases.phantoms import load_recipe, write_phantoms
from medseg.images.formats import read_image
from medseg.images.resample import resample_image


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    recipe = load_recipe("phantom_abdomen").model_copy(update={"cases": 12})
    dataset = read_dataset(write_phantoms(recipe, tmp_path_factory.mktemp("phantoms")))
    return [read_image(case.images[0]).array for case in dataset.cases]


def noisy(image):
    return image + np.random.default_rng(0).normal(0, 0.1 * image.std(), image.shape).astype(np.float32)


def resampled(image, factor):
    z, y, x = (round(n * factor) for n in image.shape[1:])
    return resample_image(image, (z, y, x), None)


COPIES = {
    "flipped": lambda image: image[:, ::-1],
    "flipped twice": lambda image: image[:, :, ::-1, ::-1],
    "transposed": lambda image: image.transpose(0, 3, 1, 2),
    "turned": lambda image: image.transpose(0, 1, 3, 2)[:, :, ::-1],
    "rescaled": lambda image: 0.3 * image + 500,
    "rounded": np.round,
    "noisy": noisy,
    "half": lambda image: resampled(image, 0.5),
    "finer": lambda image: resampled(image, 1.3),
}


@pytest.mark.parametrize("how", COPIES)
def test_every_copy_is_found_and_nothing_else(phantoms, how):
    images = [*phantoms, COPIES[how](phantoms[4])]
    assert find_alike([thumbnail_of(image) for image in images]) == [(4, 12)]


def test_an_image_without_contrast_is_like_no_other():
    flat = thumbnail_of(np.full((1, 5, 6, 7), 3.0, np.float32))
    assert flat == ""
    assert find_alike([flat, flat]) == []


def test_joined_groups_keep_the_first_key():
    groups = {"a": "p1", "b": "p2", "c": "p3", "d": "p2"}
    assert join_groups(groups, [("d", "c"), ("a", "c")]) == dict.fromkeys("abcd", "p1")


@pytest.mark.real
def test_two_hundred_hippocampus_crops_are_two_hundred(real_data):
    files = sorted((real_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))
    thumbnails = [thumbnail_of(read_image(file).array) for file in files]
    assert len(thumbnails) == 200
    assert find_alike(thumbnails) == []
