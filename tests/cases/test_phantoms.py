"""Phantoms look like abdomens, repeat to the byte, and stay where they are."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from medseg.cases.case import read_case_image, read_case_labels
from medseg.cases.formats import read_dataset
from medseg.cases.phantoms import PhantomRecipe, load_recipe, make_phantom, phantoms_named, write_phantoms
from medseg.cases.sources import DatasetSource
from medseg.errors import DatasetError
from medseg.images.orientation import axis_codes
from medseg.paths import shipped, shipped_names

SMALL = {"spacing": (10.0, 8.0, 8.0), "cases": 3}


def small(name: str = "phantom_abdomen", **changes) -> PhantomRecipe:
    return load_recipe(name).model_copy(update={**SMALL, **changes})


def centre_mm(volume, value):
    places = np.argwhere(volume.array == value)
    return (volume.affine @ [*places.mean(axis=0), 1])[:3]


def test_every_shipped_recipe_can_be_read():
    kinds = {"phantoms": PhantomRecipe, "source": DatasetSource}
    for name in shipped_names("datasets"):
        path = shipped("datasets") / f"{name}.yaml"
        kinds[path.read_text().split()[1]].load(path)
    assert "phantom_abdomen" in shipped_names("datasets")


def test_every_structure_is_there_on_its_side_at_a_likely_size():
    recipe = load_recipe()
    for index in range(3):
        image, labels = make_phantom(recipe, index)
        litres = np.prod(labels.spacing) / 1e6
        size = {label.name: (labels.array == label.value).sum() * litres for label in recipe.labels}
        place = {label.name: centre_mm(labels, label.value) for label in recipe.labels}
        assert 1.0 < size["liver"] < 2.8
        assert 0.08 < size["left kidney"] < 0.3
        assert 0.08 < size["right kidney"] < 0.3
        assert 0.1 < size["spleen"] < 0.5
        assert 0.2 < size["spine"] < 0.8
        assert 0.001 < size["lesion"] < 0.02
        assert place["liver"][0] > 20  # RAS: x runs to the patient's right
        assert place["right kidney"][0] > 20
        assert place["left kidney"][0] < -20
        assert place["spleen"][0] < -40
        assert place["spine"][1] < place["liver"][1]
        assert image.array.dtype == np.float32
        assert image.array.shape == (1, *labels.array.shape)


def test_organs_overlap_in_intensity_but_not_with_fat():
    recipe = load_recipe()
    image, labels = make_phantom(recipe, 1)
    of = {x.name: image.array[0][labels.array == x.value] for x in recipe.labels}
    assert abs(np.median(of["liver"]) - np.median(of["spleen"])) < 2 * of["liver"].std()
    assert np.median(of["liver"]) > 60
    assert image.array.min() >= -1024
    assert np.array_equal(image.array, np.rint(image.array))


def test_a_tumour_has_three_regions_inside_one_another_in_one_hemisphere():
    recipe = load_recipe("phantom_tumour")
    for index in range(5):
        image, labels = make_phantom(recipe, index)
        assert image.array.shape == (2, *labels.array.shape)
        assert image.array.min() == 0
        indices, millilitres = recipe.table.to_indices(labels.array), np.prod(labels.spacing) / 1000
        whole, core, enhancing = (target.mask(indices) for target in recipe.table.targets)
        assert 10 < whole.sum() * millilitres < 300
        assert 0.5 * whole.sum() > core.sum() > enhancing.sum() > 50
        assert (whole & core).sum() == core.sum()
        assert (core & enhancing).sum() == enhancing.sum()
        places = np.argwhere(whole)
        world = np.c_[places, np.ones(len(places))] @ labels.affine.T
        assert abs(world[:, 0].mean()) > 10
        contrast, flair = image.array
        brain = (contrast > 45) & (indices == 0)
        assert np.median(contrast[enhancing]) > np.median(contrast[brain]) + 30
        assert np.median(flair[whole]) > np.median(flair[brain]) + 20


@pytest.mark.parametrize("share", [0.1, 0.5, 0.001])
def test_some_slices_are_annotated_and_spread_over_the_image(share):
    recipe = small("phantom_tumour", spacing=(4.0, 8.0, 8.0))
    image, full = make_phantom(recipe, 0)
    sparse_image, sparse = make_phantom(recipe.model_copy(update={"ignore": 255, "annotated": share}), 0)
    assert np.array_equal(image.array, sparse_image.array)
    known = sparse.array != 255
    kept = np.flatnonzero(known.all(axis=(1, 2)))
    assert known.sum() == known[kept].size
    assert len(kept) == max(1, round(share * len(known)))
    assert np.array_equal(sparse.array[kept], full.array[kept])
    if share == 0.1:
        assert np.diff([0, *kept, len(known)]).max() < 2.2 * len(known) / len(kept)


def test_the_same_seed_and_case_give_the_same_bytes_and_others_do_not():
    def key(recipe, index, seed=None):
        image, labels = make_phantom(recipe, index, seed)
        return hashlib.sha256(image.array.tobytes() + labels.array.tobytes() + image.affine.tobytes()).hexdigest()

    recipe = small()
    assert key(recipe, 0) == key(recipe, 0) == key(recipe, 0, recipe.seed)
    assert len({key(recipe, 0), key(recipe, 1), key(recipe, 0, 7)}) == 3


def test_anatomy_stays_when_the_scanner_changes():
    plain = small(spacing_variation=0.0)
    _, labels = make_phantom(plain, 0)
    _, noisy = make_phantom(plain.model_copy(update={"noise": 80.0, "contrast": 0.4}), 0)
    assert np.array_equal(labels.array, noisy.array)
    _, fine = make_phantom(plain.model_copy(update={"spacing": (5.0, 4.0, 4.0)}), 0)
    for value in (1, 2, 3, 4, 5):
        assert np.linalg.norm(centre_mm(labels, value) - centre_mm(fine, value)) < 4


@pytest.mark.parametrize("axes", ["SAR", "SPL", "RAS", "LIP"])
def test_any_storage_order_shows_the_same_patient(axes):
    recipe = small(spacing_variation=0.0, noise=0.0)
    image, labels = make_phantom(recipe, 0)
    turned_image, turned = make_phantom(recipe.model_copy(update={"axes": axes}), 0)
    assert axis_codes(turned.affine) == axes
    back = np.linalg.inv(turned.affine) @ image.affine
    places = np.argwhere(labels.array >= 0)
    z, y, x = np.rint((np.c_[places, np.ones(len(places))] @ back.T)[:, :3]).astype(int).T
    assert (turned.array[z, y, x] == labels.array.ravel()).mean() > 0.999
    assert np.abs(turned_image.array[0, z, y, x] - image.array.ravel()).mean() < 0.5


def test_noise_and_contrast_do_what_they_say():
    quiet, loud = (make_phantom(small(noise=n), 0)[0].array[0] for n in (0.0, 30.0))
    inside = quiet > -900
    assert (loud - quiet)[inside].std() == pytest.approx(30, rel=0.1)
    noise = (loud - quiet)[2:-2, 4:-4, 4:-4]
    assert np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1] >= 0
    strong, weak = (make_phantom(small(noise=0.0, contrast=c), 0) for c in (1.0, 0.2))
    kidney = strong[1].array == 2
    assert np.median(strong[0].array[0][kidney]) > np.median(weak[0].array[0][kidney]) + 40


def test_edges_have_partial_volume():
    image = make_phantom(small(noise=0.0, shape=0.0), 0)[0].array[0]
    body = image[image.shape[0] // 2]
    assert ((body > -950) & (body < -150)).sum() > 20


def test_phantoms_are_written_once_and_read_as_a_dataset(tmp_path):
    recipe = small()
    path = write_phantoms(recipe, tmp_path / "p")
    dataset = read_dataset(path)
    assert read_dataset(tmp_path / "p") == dataset
    assert (dataset.name, dataset.channels, len(dataset.cases)) == ("phantom_abdomen", ("CT",), 3)
    assert dataset.labels.labels[1].code == "10200004"
    image = read_case_image(dataset.cases[2], 1)
    made_image, made_labels = make_phantom(recipe, 2)
    assert np.array_equal(image.array, made_image.array)
    np.testing.assert_allclose(image.affine, made_image.affine, atol=1e-4)
    assert np.array_equal(read_case_labels(dataset.cases[2], dataset.labels, image).array, made_labels.array)

    before = {file: file.stat().st_mtime_ns for file in path.parent.rglob("*")}
    assert write_phantoms(recipe, tmp_path / "p") == path
    assert {file: file.stat().st_mtime_ns for file in path.parent.rglob("*")} == before


def test_phantoms_of_several_channels_have_a_file_for_each_and_keep_their_regions(tmp_path):
    recipe = small("phantom_tumour", ignore=255, annotated=0.2)
    dataset = read_dataset(write_phantoms(recipe, tmp_path / "p"))
    assert (dataset.channels, dataset.labels) == (("T1c", "FLAIR"), recipe.table)
    assert [file.name for file in dataset.cases[0].images] == ["phantom_000_0000.nii.gz", "phantom_000_0001.nii.gz"]
    image = read_case_image(dataset.cases[1], 2)
    assert np.array_equal(image.array, make_phantom(recipe, 1)[0].array)
    assert read_case_labels(dataset.cases[1], dataset.labels, image).array.max() == dataset.labels.ignore_index


def test_a_recipe_is_named_like_a_dataset_unless_there_is_one_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert phantoms_named(Path("phantom_tumour")) == load_recipe("phantom_tumour")
    small().save(tmp_path / "own.yaml")
    assert phantoms_named(Path("own.yaml")) == small()
    for name in ("hippocampus", "nowhere", "dataset.yaml"):
        assert phantoms_named(Path(name)) is None
    (tmp_path / "phantom_tumour").mkdir()
    assert phantoms_named(Path("phantom_tumour")) is None


def test_another_recipe_or_a_lost_file_makes_them_anew(tmp_path):
    path = write_phantoms(small(), tmp_path / "p")
    first = {file: file.read_bytes() for file in path.parent.rglob("*.gz")}
    read_dataset(path).cases[1].images[0].unlink()
    write_phantoms(small(), tmp_path / "p")
    assert {file: file.read_bytes() for file in path.parent.rglob("*.gz")} == first
    assert len(first) == 6
    write_phantoms(small(), tmp_path / "p", count=2)
    assert len(read_dataset(path).cases) == 2


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(DatasetError, match="left alone"):
        write_phantoms(small(), tmp_path)
    assert (tmp_path / "thesis.docx").exists()


@pytest.mark.parametrize(("change", "words"), [
    ("axes: SAR", "axes: SAS"), ("spacing: [7.5,", "spacing: [0.0,"), ("name: liver", "name: heart"),
    ("channels: [CT]", "channels: [CT, PET]"), ("axes: SAR", "annotated: 0.1"), ("axes: SAR", "anatomy: head"),
    ("axes: SAR", "regions: [{name: all, labels: [heart], written: 1}]"),
])  # fmt: skip
def test_a_recipe_that_makes_no_sense_is_refused(tmp_path, change, words):
    text = (shipped("datasets") / "phantom_abdomen.yaml").read_text().replace(change, words)
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(DatasetError, match=r"r\.yaml"):
        load_recipe(tmp_path / "r.yaml")


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(DatasetError, match="phantom_abdomen"):
        load_recipe("no_such")


def test_labels_left_out_of_a_recipe_become_what_is_around_them():
    recipe = small(spacing=(5.0, 4.0, 4.0))
    with_lesion = make_phantom(recipe, 0)[1].array
    without = make_phantom(recipe.model_copy(update={"labels": recipe.labels[:2]}), 0)[1].array
    assert np.array_equal(without == 1, np.isin(with_lesion, (1, 6)))
    assert Path(shipped("datasets") / "README.md").is_file()
