"""The torture set: no series is silently wrong, none crashes the reader, and every file has one outcome."""

from collections import Counter
from pathlib import Path

import pytest

from medseg.errors import ImageFileError
from medseg.images.dicom.intake import Intake, take_in

from messy_dicom import CASES, Messy, misreading


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_messy_folder_is_read_rightly_or_refused_with_a_reason(case: Messy, tmp_path: Path) -> None:
    slices = case.write(tmp_path / "messy")
    found = take_in(tmp_path / "messy")
    read, undecodable = [], []
    for series in found.series:
        try:
            volume = series.read()
        except ImageFileError:
            undecodable.append(series)
        else:
            read.append(series)
            assert misreading(volume.array[0], volume.affine, slices) == ""
    refused = [*(str(series.verdict) for series in found.refused), *("undecodable" for _ in undecodable)]
    assert Counter(str(series.verdict) for series in read) == Counter(case.accepted)
    assert Counter(refused) == Counter(case.refused)
    _every_file_has_one_outcome(found, tmp_path / "messy")
    assert all(series.geometry.detail for series in found.refused)


def _every_file_has_one_outcome(found: Intake, folder: Path) -> None:
    on_disk = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert sorted(file.path for file in found.files) == on_disk
    assert all(file.reason for file in found.files if file.outcome in {"refused", "skipped", "unreadable"})
    names = {series.name for series in (*found.series, *found.refused)}
    assert {name for file in found.files if file.outcome == "used" for name in file.series.split()} <= names
    assert {series.name for series in found.series} <= {name for file in found.files for name in file.series.split()}
    assert len(names) == len(found.series) + len(found.refused)
