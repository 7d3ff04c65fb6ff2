"""Prepared cases are whole, recognised, and made again when what they came from has changed."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.cases.dataset import Dataset
from medseg.cases.labels import Label, LabelTable
from medseg.cases.regions import Region
from medseg.errors import DatasetError, MedsegError
from medseg.executors import Threads
from medseg.files import hash_file
from medseg.images.formats import read_image, read_labels, write_image, write_labels
from medseg.preprocessing.store import PreparedRecord, open_prepared, prepare_cases, sample_locations, shaping_hash

from tiny import TABLE, tiny_plan, write_tiny_dataset

PLAN = tiny_plan()
CONFIGURATION = PLAN.configurations["3d_fullres"]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_tiny_dataset(tmp_path / "data", 3)


def _prepare(dataset: Dataset, folder: Path, workers: int = 1, plan=PLAN) -> dict[str, int]:
    prepare_cases(dataset.cases, TABLE, plan, plan.configurations["3d_fullres"], folder, Threads(workers))
    return {case.name: (folder / case.name / "image.npy").stat().st_mtime_ns for case in dataset.cases}


def test_arrays_are_memory_mapped_and_locations_point_at_their_structure(dataset: Dataset, tmp_path: Path) -> None:
    _prepare(dataset, tmp_path / "prepared")
    case = open_prepared(tmp_path / "prepared", "case_00")
    assert isinstance(case.image, np.memmap)
    assert case.image.shape == (1, 20, 24, 16)
    assert case.image.dtype == np.float32
    assert len(case.locations) == 2
    for index, places in enumerate(case.locations, start=1):
        assert len(places) == (case.labels == index).sum() > 0
        assert (case.labels[tuple(places.T)] == index).all()


def test_nothing_is_prepared_twice(dataset: Dataset, tmp_path: Path) -> None:
    assert _prepare(dataset, tmp_path / "p") == _prepare(dataset, tmp_path / "p")


def test_the_number_of_workers_changes_no_byte(dataset: Dataset, tmp_path: Path) -> None:
    for workers in (0, 3):
        _prepare(dataset, tmp_path / str(workers), workers)
    for case in dataset.cases:
        for name in ("image.npy", "labels.npy", "locations.npy"):
            first, second = (hash_file(tmp_path / str(w) / case.name / name) for w in (0, 3))
            assert first == second


def test_a_changed_image_is_prepared_again_and_only_that_one(dataset: Dataset, tmp_path: Path) -> None:
    before = _prepare(dataset, tmp_path / "p")
    path = dataset.cases[1].images[0]
    volume = read_image(path)
    write_image(path, volume.array + 1, volume)
    after = _prepare(dataset, tmp_path / "p")
    assert [name for name in before if before[name] != after[name]] == ["case_01"]


def test_a_touched_but_equal_file_is_not_prepared_again(dataset: Dataset, tmp_path: Path) -> None:
    before = _prepare(dataset, tmp_path / "p")
    os.utime(dataset.cases[1].images[0], (1, 1))
    assert _prepare(dataset, tmp_path / "p") == before


def test_another_spacing_prepares_everything_again_and_another_batch_size_nothing(
    dataset: Dataset, tmp_path: Path
) -> None:
    before = _prepare(dataset, tmp_path / "p")
    bigger = PLAN.model_copy(
        update={"configurations": {"3d_fullres": CONFIGURATION.model_copy(update={"batch_size": 9})}}
    )
    assert _prepare(dataset, tmp_path / "p", plan=bigger) == before
    coarser = CONFIGURATION.model_copy(update={"spacing": (2.0, 2.0, 2.0)})
    after = _prepare(dataset, tmp_path / "p", plan=PLAN.model_copy(update={"configurations": {"3d_fullres": coarser}}))
    assert all(after[name] != before[name] for name in before)
    assert open_prepared(tmp_path / "p", "case_00").image.shape == (1, 10, 12, 8)


def test_every_bad_case_is_named_and_the_good_ones_are_kept(dataset: Dataset, tmp_path: Path) -> None:
    for case in dataset.cases[:2]:
        data = case.images[0].read_bytes()
        case.images[0].write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError) as caught:
        _prepare(dataset, tmp_path / "p")
    assert [complaint.case for complaint in caught.value.complaints] == ["case_00", "case_01"]
    assert open_prepared(tmp_path / "p", "case_02").image.size


def test_a_half_written_case_does_not_count(dataset: Dataset, tmp_path: Path) -> None:
    _prepare(dataset, tmp_path / "p")
    (tmp_path / "p" / "case_00" / "case.json").write_text("{")
    with pytest.raises(MedsegError):
        open_prepared(tmp_path / "p", "case_00")
    _prepare(dataset, tmp_path / "p")
    assert open_prepared(tmp_path / "p", "case_00").image.size


def test_a_case_without_labels_is_named(dataset: Dataset, tmp_path: Path) -> None:
    bare = replace(dataset, cases=(replace(dataset.cases[0], labels=None),))
    with pytest.raises(DatasetError, match="case_00"):
        _prepare(bare, tmp_path / "p")


def test_locations_are_at_most_ten_thousand_or_one_percent() -> None:
    labels = np.zeros((100, 100, 150), np.uint8)
    labels[:2] = 1
    labels[10:] = 2
    table = LabelTable(labels=tuple(Label(name=str(value), value=value) for value in (1, 2, 3)))
    places = sample_locations(labels, table, "case")
    assert [int((places[:, 0] == index).sum()) for index in (1, 2, 3)] == [10_000, 13_500, 0]
    assert (labels[tuple(places[:, 1:].T)] == places[:, 0]).all()
    np.testing.assert_array_equal(places, sample_locations(labels, table, "case"))


WHOLE = Region(name="whole", labels=("ball", "box"), written=1)
SPARSE = LabelTable(labels=TABLE.labels, regions=(WHOLE, Region(name="box", labels=("box",), written=2)), ignore=9)


def test_locations_are_those_of_regions_and_with_an_ignore_value_of_annotated_voxels() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (9, 10, 11)).astype(np.uint8)
    places = sample_locations(labels, SPARSE, "case")
    found = [labels[tuple(places[places[:, 0] == number, 1:].T)] for number in (1, 2, 3)]
    assert [sorted(set(part.tolist())) for part in found] == [[1, 2], [2], [0, 1, 2]]
    assert [len(part) for part in found] == [np.isin(labels, some).sum() for some in ([1, 2], [2], [0, 1, 2])]


def test_a_prepared_case_gives_them_back_and_counts_what_is_not_annotated(dataset: Dataset, tmp_path: Path) -> None:
    for case in dataset.cases:
        assert case.labels is not None
        volume = read_labels(case.labels)
        volume.array[:, :6] = 9
        write_labels(case.labels, volume.array, volume)
    prepare_cases(dataset.cases, SPARSE, PLAN, CONFIGURATION, tmp_path / "p")
    case = open_prepared(tmp_path / "p", "case_00")
    assert case.annotated is not None
    assert [len(places) for places in (*case.locations, case.annotated)] == [
        (np.isin(case.labels, [1, 2])).sum(), (case.labels == 2).sum(), (case.labels != 3).sum(),
    ]  # fmt: skip
    assert PreparedRecord.load(tmp_path / "p" / "case_00" / "case.json").label_voxels[3] == (case.labels == 3).sum() > 0


def test_other_regions_or_another_ignore_value_prepare_into_another_place() -> None:
    tables = [TABLE, SPARSE, SPARSE.model_copy(update={"regions": ()}), SPARSE.model_copy(update={"ignore": None})]
    assert len({shaping_hash(table, PLAN, CONFIGURATION) for table in tables}) == 4
    renamed = SPARSE.model_copy(update={"regions": (WHOLE.model_copy(update={"name": "all"}), SPARSE.regions[1])})
    assert shaping_hash(renamed, PLAN, CONFIGURATION) == shaping_hash(SPARSE, PLAN, CONFIGURATION)
