"""De-identification reaches everything that names a patient, and keeps what belongs together together."""

import io

import pydicom
from pydicom import Dataset

from medseg.dicom.deidentify import Pseudonyms, deidentified

from tiny_dicom import make_series

SECRETS = ("Muster", "hnlich", "p1", "Doe", "Acme Hospital", "19551224", "1.2.3.4.5", "20200131")


def identifying_series() -> list[Dataset]:
    series = make_series(
        PatientBirthDate="19551224",
        ReferringPhysicianName="Doe^Jane",
        InstitutionName="Acme Hospital",
        StudyDate="20200131",
        AcquisitionDate="20200131",
        StudyDescription="Muster",
        AccessionNumber="1.2.3.4.5",
    )
    for dataset in series:
        inner = Dataset()
        inner.ReferencedSOPClassUID, inner.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5"
        inner.PatientName = "Doe^John"  # hidden in a sequence that the table does not name
        outer = Dataset()
        outer.ReferencedImageSequence = [inner]
        dataset.SharedFunctionalGroupsSequence = [outer]
        dataset.private_block(0x0099, "Acme Hospital", create=True).add_new(1, "LO", "Muster")
        dataset.add_new(0x60000010, "US", 2)
        dataset.add_new(0x60003000, "OW", b"Doe\0")
    return series


def written(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def test_nothing_that_identifies_the_patient_is_left_in_the_file():
    dataset = identifying_series()[0]
    before, after = written(dataset), written(deidentified(dataset, Pseudonyms(b"x" * 32)))
    assert all(secret.encode() in before for secret in SECRETS)
    assert [secret for secret in SECRETS if secret.encode() in after] == []


def test_uids_stay_consistent_and_everything_else_stays_as_it_was():
    series = identifying_series()
    names = Pseudonyms(b"x" * 32)
    after = [deidentified(dataset, names) for dataset in series]
    assert len({ds.SeriesInstanceUID for ds in after}) == 1
    assert len({ds.SOPInstanceUID for ds in after}) == len(series)
    inner = after[0].SharedFunctionalGroupsSequence[0].ReferencedImageSequence[0]
    assert inner.ReferencedSOPInstanceUID == names.uid("1.2.3.4.5")
    assert inner.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert after[0].SOPInstanceUID == after[0].file_meta.MediaStorageSOPInstanceUID
    assert after[0].PatientIdentityRemoved == "YES"
    for keyword in ("PixelData", "ImagePositionPatient", "PixelSpacing", "Modality", "RescaleSlope"):
        assert after[0][keyword].value == series[0][keyword].value
    assert series[0].PatientName == "Muster^Ähnlich"


def test_the_secret_is_kept_for_the_next_start_and_for_nobody_else(tmp_path):
    first, second = (Pseudonyms.kept_in(tmp_path / "secret") for _ in range(2))
    assert first.uid("1.2.3") == second.uid("1.2.3") != Pseudonyms.kept_in(tmp_path / "other").uid("1.2.3")
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
