"""The Fingerprint of small datasets on disk, and nnU-Net's own numbers on real images."""

import dataclasses
import json

import numpy as np
import pytest

from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.formats import read_dataset
from medseg.cases.labels import Label, LabelTable
from medseg.errors import DatasetError
from medseg.images.formats import write_image, write_labels
from medseg.images.volume import Volume
from medseg.planning.measure import measure_fingerprint
from medseg.progress import Silent

TABLE = LabelTable(labels=(Label(name="background", value=0), Label(name="a", value=3), Label(name="b", value=7)))
# stored z, y, x run along world y, -x, z: canonical turns it by a permutation and a flip
TURNED = np.array([[0, -2.0, 0, 5], [3.0, 0, 0, -4], [0, 0, 1.5, 9], [0, 0, 0, 1.0]])


def measure(dataset, orientation, progress, workers=0):
    return measure_fingerprint(dataset, orientation, progress, workers, sample=3000)


def write_case(folder, index, suffix=".nii.gz", channels=1, empty=False):
    rng = np.random.default_rng(index)
    shape = (10 + index, 8, 9)
    image = np.zeros((channels, *shape), np.float32)
    image[:, 2:-1, 1:, :6] = rng.integers(1, 90, (channels, shape[0] - 3, 7, 6))
    labels = np.zeros(shape, np.uint8)
    labels[3:6, 2:5, 1:4] = 3
    labels[6, 3, 2:5] = 7
    labels[0, 0, 8] = 7  # outside the non-zero region
    if empty:
        labels[:] = 0
    images = []
    for c in range(channels):
        images.append(folder / f"case{index}_{c}{suffix}")
        write_image(images[-1], image[c], Volume(image[c], TURNED))
    write_labels(folder / f"case{index}_labels{suffix}", labels, Volume(labels, TURNED))
    return Case(f"case{index}", tuple(images), folder / f"case{index}_labels{suffix}"), image, labels


def write_dataset(folder, count=3, **more):
    folder.mkdir(exist_ok=True)
    made = [write_case(folder, i, **more) for i in range(count)]
    channels = tuple(f"channel {i}" for i in range(more.get("channels", 1)))
    return Dataset("small", channels, TABLE, tuple(case for case, _, _ in made)), made


def test_voxels_that_nobody_annotated_are_no_foreground_and_no_label(tmp_path):
    dataset, made = write_dataset(tmp_path)
    plain = measure(dataset, "stored", Silent())
    for case, (_, _, labels) in zip(dataset.cases, made, strict=True):
        assert case.labels is not None
        labels[7:, :, :] = 200
        write_labels(case.labels, labels, Volume(labels, TURNED))
    sparse = dataclasses.replace(dataset, labels=TABLE.model_copy(update={"ignore": 200}))
    found = measure(sparse, "stored", Silent())
    assert found.channels == plain.channels
    assert found.labels == ("background", "a", "b")
    for case, (_, _, labels) in zip(found.cases, made, strict=True):
        assert case.label_voxels == tuple(int((labels == value).sum()) for value in (0, 3, 7))


def test_every_case_is_cropped_counted_and_described(tmp_path):
    dataset, made = write_dataset(tmp_path)
    found = measure(dataset, "stored", Silent())
    for case, (_, image, labels) in zip(found.cases, made, strict=True):
        assert case.shape == image.shape[1:]
        assert case.cropped_shape == (image.shape[1] - 3, 7, 6)
        assert case.spacing == (3.0, 2.0, 1.5)
        assert case.label_voxels == tuple(int((labels == value).sum()) for value in (0, 3, 7))
    volumes = [(n - 3) * 7 * 6 / (n * 8 * 9) for n in (10, 11, 12)]
    assert found.median_relative_volume == pytest.approx(np.median(volumes))


def test_intensities_are_those_of_nnunets_sample(tmp_path):
    dataset, made = write_dataset(tmp_path, channels=2)
    found = measure(dataset, "stored", Silent())
    drawn = [[], []]
    for _, image, labels in made:
        stream = np.random.RandomState(1234)
        inside = (slice(2, -1), slice(1, None), slice(0, 6))
        for channel, kept in zip(image, drawn, strict=True):
            kept.append(stream.choice(channel[inside][labels[inside] > 0], 1000, replace=True))
    for channel, kept in zip(found.channels, drawn, strict=True):
        whole = np.concatenate(kept)
        low, median, high = np.percentile(whole, (0.5, 50, 99.5))
        assert (channel.percentile_00_5, channel.median, channel.percentile_99_5) == pytest.approx((low, median, high))
        assert (channel.minimum, channel.maximum) == (whole.min(), whole.max())
        assert (channel.mean, channel.std) == pytest.approx((whole.mean(), whole.std()), rel=1e-4)


def test_canonical_orientation_turns_shapes_and_spacings_but_no_intensities(tmp_path):
    dataset, _ = write_dataset(tmp_path)
    stored = measure(dataset, "stored", Silent())
    turned = measure(dataset, "canonical", Silent())
    assert turned.cases[0].spacing == (1.5, 3.0, 2.0)
    assert turned.cases[0].shape == (9, 10, 8)
    assert turned.cases[0].cropped_shape == (6, 7, 7)
    assert turned.channels == stored.channels
    assert turned.median_relative_volume == stored.median_relative_volume


def test_the_number_of_workers_makes_no_difference(tmp_path):
    dataset, _ = write_dataset(tmp_path, count=4)
    assert measure(dataset, "canonical", Silent()) == measure(dataset, "canonical", Silent(), 3)


def test_the_same_voxels_have_the_same_hash_in_every_file_format(tmp_path):
    compressed, _ = write_dataset(tmp_path / "a", count=1)
    other, _ = write_dataset(tmp_path / "b", count=1, suffix=".mha")
    first, second = (measure(d, "stored", Silent()) for d in (compressed, other))
    assert first == second


def test_a_changed_voxel_changes_the_hash(tmp_path):
    dataset, made = write_dataset(tmp_path, count=1)
    before = measure(dataset, "stored", Silent()).cases[0].voxel_hash
    case, image, _ = made[0]
    image[0, 4, 4, 4] += 1
    write_image(case.images[0], image[0], Volume(image[0], TURNED))
    assert measure(dataset, "stored", Silent()).cases[0].voxel_hash != before


def test_cases_without_foreground_take_no_part_in_the_intensities(tmp_path):
    dataset, _ = write_dataset(tmp_path, count=2)
    empty, _, _ = write_case(tmp_path, 5, empty=True)
    found = measure(Dataset("small", dataset.channels, TABLE, (*dataset.cases, empty)), "stored", Silent())
    assert found.cases[2].label_voxels[1:] == (0, 0)
    with pytest.raises(DatasetError, match="No case of dataset 'small' has a voxel of any structure"):
        measure(Dataset("small", dataset.channels, TABLE, (empty,)), "stored", Silent())


def test_every_broken_case_is_reported_at_once(tmp_path):
    dataset, _ = write_dataset(tmp_path)
    dataset.cases[0].images[0].write_bytes(b"no image")
    dataset.cases[2].labels.unlink()
    with pytest.raises(DatasetError, match="2 of 3 cases") as caught:
        measure(dataset, "stored", Silent(), workers=2)
    assert [complaint.case for complaint in caught.value.complaints] == ["case0", "case2"]


@pytest.mark.real
def test_the_hippocampus_fingerprint_is_nnunets(real_data):
    official = json.loads((real_data / "nnunet_model" / "model" / "dataset_fingerprint.json").read_text())
    found = measure_fingerprint(read_dataset(real_data / "hippocampus"), "stored", Silent(), workers=2)
    assert [list(case.cropped_shape) for case in found.cases] == official["shapes_after_crop"]
    assert np.allclose([case.spacing for case in found.cases], official["spacings"], atol=1e-6)
    assert found.median_relative_volume == official["median_relative_size_after_cropping"]
    theirs, ours = official["foreground_intensity_properties_per_channel"]["0"], found.channels[0]
    assert (ours.minimum, ours.maximum) == (theirs["min"], theirs["max"])
    for name in ("mean", "std", "median", "percentile_00_5", "percentile_99_5"):
        assert getattr(ours, name) == pytest.approx(theirs[name], rel=1e-6)


SIDED = LabelTable(
    labels=(Label(name="background", value=0), Label(name="left lung", value=3), Label(name="right lung", value=7))
)


def test_sides_need_an_orientation_unless_axes_are_taken_as_stored(tmp_path):
    dataset, made = write_dataset(tmp_path, count=2)
    case, image, labels = made[0]
    write_image(case.images[0], image[0], Volume(image[0], TURNED, orientation_known=False))
    write_labels(case.labels, labels, Volume(labels, TURNED, orientation_known=False))
    # An unknown file lies where nibabel guesses; image and labels agree, so only the sides are in doubt.
    assert len(measure(dataset, "canonical", Silent()).cases) == 2
    sided = Dataset("small", dataset.channels, SIDED, dataset.cases)
    with pytest.raises(DatasetError, match="'left lung' has a side") as caught:
        measure(sided, "canonical", Silent())
    assert [(found.case, found.code) for found in caught.value.complaints] == [("case0", "unknown-orientation")]
    assert "preset=nnunet" in caught.value.complaints[0].remedy
    assert len(measure(sided, "stored", Silent()).cases) == 2


def test_pictures_that_never_tell_their_orientation_may_have_sides(tmp_path):
    labels = np.full((1, 8, 9), 3, np.uint8)
    labels[0, :, 5:] = 7
    for name in ("a", "b"):
        write_labels(tmp_path / f"{name}.png", labels * 20, Volume(labels, TURNED))
        write_labels(tmp_path / f"{name}_labels.png", labels, Volume(labels, TURNED))
    cases = tuple(Case(name, (tmp_path / f"{name}.png",), tmp_path / f"{name}_labels.png") for name in ("a", "b"))
    assert len(measure(Dataset("pictures", ("x-ray",), SIDED, cases), "canonical", Silent()).cases) == 2
