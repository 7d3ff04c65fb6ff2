"""Headers without what identifies a patient: the Basic Application Level Confidentiality Profile of PS3.15 annex E.

The table of attributes and actions is the standard's (2026c), as the package dicom-anonymizer ships it. The actions are
carried out here, because they have to reach into nested sequences and to give the same UID for the same UID in every
process. Pixels are not looked at: burned-in text is refused elsewhere, and a head still has a face.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import secrets
from pathlib import Path

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.sr.codedict import codes

from medseg.errors import MedsegError
from medseg.files import written_whole

_REMOVED, _EMPTIED = set(table.X_TAGS), {*table.Z_TAGS, *table.X_Z_TAGS}
_DUMMIED = {*table.D_TAGS, *table.Z_D_TAGS, *table.X_D_TAGS, *table.X_Z_D_TAGS}
_UIDS = set(table.U_TAGS)
_REPEATING = [tag for tag in table.X_TAGS if len(tag) == 4]
"""Curves and overlays: group and element, each with its mask."""
_DUMMIES = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UT"), "REMOVED"),
    "AS": "000Y", "DA": "19000101", "DT": "19000101000000", "TM": "000000", "DS": "0", "IS": "0",
}  # fmt: skip
_METHOD = codes.DCM.BasicApplicationConfidentialityProfile


class Pseudonyms:
    """The same new UID and patient ID for the same old one, which nobody without the secret can trace back."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def kept_in(cls, path: Path) -> Pseudonyms:
        """With the secret in a file, made at first use and readable by its owner alone."""
        if not path.is_file():
            with written_whole(path) as temporary:
                temporary.chmod(0o600)
                temporary.write_bytes(secrets.token_bytes(32))
        secret = path.read_bytes()
        if len(secret) != 32:
            raise MedsegError(f"{path} should hold 32 bytes. Delete it to begin with new pseudonyms.")
        return cls(secret)

    def uid(self, old: str) -> str:
        """A UID under 2.25, as PS3.5 annex B.2 makes them of 128 bits."""
        return f"2.25.{int.from_bytes(self._digest('uid', old)[:16])}" if old else old

    def patient(self, old: str) -> str:
        return f"MEDSEG-{self._digest('patient', old).hex()[:12].upper()}"

    def _digest(self, what: str, text: str) -> bytes:
        return hmac.digest(self._secret, f"{what}:{text}".encode(), hashlib.sha256)


def deidentified(dataset: Dataset, pseudonyms: Pseudonyms) -> Dataset:
    """A copy that satisfies the basic profile; UIDs and the patient's ID are replaced, everything else is as it was."""
    result = copy.deepcopy(dataset)
    patient = pseudonyms.patient(str(dataset.get("PatientID") or ""))
    _clean(result, pseudonyms)
    result.PatientID, result.PatientName = patient, None
    mark(result)
    meta = getattr(result, "file_meta", None)
    if meta is not None and "MediaStorageSOPInstanceUID" in meta:
        for keyword in ("SourceApplicationEntityTitle", "SendingApplicationEntityTitle", "PrivateInformation"):
            meta.pop(keyword, None)
        meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
    return result


def mark(dataset: Dataset) -> None:
    """Say in the header what was done."""
    method = Dataset()
    method.CodeValue, method.CodingSchemeDesignator, method.CodeMeaning = _METHOD[:3]
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "medseg, PS3.15 basic profile"
    dataset.DeidentificationMethodCodeSequence = [method]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def _clean(dataset: Dataset, pseudonyms: Pseudonyms) -> None:
    for element in list(dataset):
        tag = (element.tag.group, element.tag.element)
        if element.tag.is_private or tag in _REMOVED or _is_repeating(tag):
            del dataset[element.tag]
        elif tag in _UIDS:
            element.value = _replaced(element, pseudonyms)
        elif tag in _EMPTIED or element.VR == "PN":  # whoever it is, the profile names no person
            element.value = None
        elif tag in _DUMMIED:
            if element.VR in _DUMMIES:
                element.value = _DUMMIES[element.VR]
            else:
                del dataset[element.tag]
        elif element.VR == "SQ":
            for item in element.value:
                _clean(item, pseudonyms)


def _is_repeating(tag: tuple[int, int]) -> bool:
    return any(tag[0] & mask == group and tag[1] & low == element for group, element, mask, low in _REPEATING)


def _replaced(element: DataElement, pseudonyms: Pseudonyms) -> object:
    values = [element.value] if element.VM <= 1 else element.value
    replaced = [pseudonyms.uid(str(value or "")) for value in values]
    return replaced[0] if element.VM <= 1 else replaced
