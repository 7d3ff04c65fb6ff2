"""DICOMweb: search (QIDO-RS), fetch (WADO-RS) and store (STOW-RS), through the dicomweb-client library.

Knows nothing of what is sent. PS3.18. Instances are fetched one at a time and in the encoding they are stored in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
import requests
from dicomweb_client import DICOMwebClient

from medseg.dicom.archive import Query, Tls, require_all_stored
from medseg.errors import MedsegError
from medseg.files import hash_content, written_whole

_ANY_SYNTAX = (("application/dicom", "*"),)
_TIMEOUT = 120


@dataclass(frozen=True)
class Web:
    """An archive that is spoken to by DICOMweb."""

    url: str
    tls: Tls

    def send(self, files: Sequence[Path]) -> None:
        """STOW-RS, one request for each object, so that memory holds one."""
        failed: dict[str, str] = {}
        with self._asked("store objects") as client:
            for path in files:
                answer = client.store_instances([pydicom.dcmread(path)])
                for item in answer.get("FailedSOPSequence") or []:
                    failed[path.name] = f"reason 0x{int(item.get('FailureReason') or 0):04X}"
        require_all_stored(failed, len(files), self.url)

    def find(self, query: Query) -> list[str]:
        """QIDO-RS at study level."""
        with self._asked("search") as client:
            found = client.search_for_studies(search_filters=dict(query), get_remaining=True)
        return sorted({study["0020000D"]["Value"][0] for study in found})

    def fetch(self, study_uid: str, folder: Path) -> int:
        """WADO-RS."""
        count = 0
        with self._asked("fetch a study") as client:
            for dataset in client.iter_study(study_uid, media_types=_ANY_SYNTAX):
                name = hash_content(str(dataset.SOPInstanceUID))[:24]
                with written_whole(folder / hash_content(study_uid)[:16] / f"{name}.dcm") as path:
                    dataset.save_as(path)
                count += 1
        return count

    @contextmanager
    def _asked(self, what: str) -> Iterator[DICOMwebClient]:
        with requests.Session() as session:
            session.trust_env = False  # REQUESTS_CA_BUNDLE would go before tls.ca, and a proxy would see the patients
            if self.tls.ca is not None:
                session.verify = str(self.tls.ca)
            if self.tls.certificate is not None:
                own, key = str(self.tls.certificate), self.tls.key
                session.cert = own if key is None else (own, str(key))
            try:
                yield DICOMwebClient(self.url, session=session, timeout=_TIMEOUT)
            except requests.RequestException as error:
                answer = error.response
                told = type(error).__name__ if answer is None else f"status {answer.status_code}"
                raise MedsegError(f"{self.url} could not {what}: {told}. Check the address and TLS.") from None
