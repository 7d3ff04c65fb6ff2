"""DIMSE: store, find and move as the caller; receive as the side that is called (PS3.4 annexes B and C).

Knows nothing of what is done with what arrives. Files are written whole, under names that are hashes of UIDs. Names of
patients are neither logged nor part of a path.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,  # pyright: ignore[reportAttributeAccessIssue]
    StudyRootQueryRetrieveInformationModelMove,  # pyright: ignore[reportAttributeAccessIssue]
    Verification,  # pyright: ignore[reportAttributeAccessIssue]
)

from medseg.dicom.archive import Address, Query, Tls, require_all_stored
from medseg.errors import MedsegError
from medseg.files import hash_content, written_whole

_LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
"""Newer than some lists of storage classes."""
_MOST_CONTEXTS = 128
_PENDING, _SUCCESS = (0xFF00, 0xFF01), 0x0000
_OUT_OF_RESOURCES, _CANNOT_UNDERSTAND = 0xA700, 0xC000
_TIMEOUT = 60


@dataclass(frozen=True)
class Node:
    """An archive that is spoken to by DIMSE."""

    address: Address
    own_aet: str
    tls: Tls
    receive_at: tuple[str, int] = ("127.0.0.1", 11112)
    """Our own address and port, to which the archive has to know how to send."""

    def echo(self) -> None:
        """Raise MedsegError unless the node answers."""
        with self._associated([(Verification, None)]) as association:
            self._require(association.send_c_echo(), "echo")

    def send(self, files: Sequence[Path]) -> None:
        """C-STORE."""
        headers = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]) for path in files]
        kinds = sorted({(str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for one in headers})
        failed: dict[str, str] = {}
        with self._associated(kinds) as association:
            for path in files:
                try:
                    status = association.send_c_store(pydicom.dcmread(path))
                except ValueError as error:  # no context for this kind of object was accepted
                    failed[path.name] = " ".join(str(error).split())[:200]
                    continue
                code = status.get("Status")
                if code is None or (code != _SUCCESS and not 0xB000 <= code <= 0xBFFF):
                    failed[path.name] = "no answer" if code is None else f"status 0x{code:04X}"
        require_all_stored(failed, len(files), str(self.address))

    def find(self, query: Query) -> list[str]:
        """C-FIND at study level."""
        model, found = StudyRootQueryRetrieveInformationModelFind, []
        with self._associated([(model, None)]) as association:
            for status, answer in association.send_c_find(_identifier(query), model):
                if status.get("Status") in _PENDING and answer is not None:
                    found.append(str(answer.StudyInstanceUID))
                elif status.get("Status") != _SUCCESS:
                    self._require(status, "search")
        return sorted(set(found))

    def fetch(self, study_uid: str, folder: Path) -> int:
        """C-MOVE to a receiver of our own, which is there just for that time."""
        model = StudyRootQueryRetrieveInformationModelMove
        before = _count(folder)
        with (
            receiving(folder, self.own_aet, self.receive_at, self.tls),
            self._associated([(model, None)]) as association,
        ):
            answers = association.send_c_move(_identifier({"StudyInstanceUID": study_uid}), self.own_aet, model)
            for status, _ in answers:
                code = status.get("Status")
                # A warning (0xB000) tells that some were not sent, such as kinds that we did not accept.
                if code not in (*_PENDING, _SUCCESS, 0xB000):
                    self._require(status, f"move of a study to {self.own_aet}")
        return _count(folder) - before

    @contextmanager
    def _associated(self, kinds: Sequence[tuple[Any, str | None]]) -> Iterator[Association]:
        ae = AE(ae_title=self.own_aet)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _TIMEOUT
        ae.connection_timeout = 10
        for abstract, syntax in kinds[:_MOST_CONTEXTS]:
            ae.add_requested_context(abstract, UID(syntax) if syntax else None)  # type: ignore[arg-type]
        context = self.tls.for_client()
        association = ae.associate(
            self.address.host,
            self.address.port,
            ae_title=self.address.aet,
            tls_args=None if context is None else (context, self.address.host),
        )
        if not association.is_established:
            why = "refused the association" if association.is_rejected else "does not answer or accepts none of it"
            raise MedsegError(f"{self.address} {why}. Check address, AE titles (ours is {self.own_aet}) and TLS.")
        try:
            yield association
        finally:
            if association.is_established:
                association.release()

    def _require(self, status: Dataset, what: str) -> None:
        code = status.get("Status")
        if code != _SUCCESS:
            told = "nothing" if code is None else f"status 0x{code:04X} {status.get('ErrorComment', '')}".strip()
            raise MedsegError(f"{self.address} answered {told} to the {what}.")


@contextmanager
def receiving(
    folder: Path,
    aet: str,
    where: tuple[str, int],
    tls: Tls,
    callers: Sequence[str] = (),
    least_free_bytes: int = 2_000_000_000,
) -> Iterator[int]:
    """Receive by C-STORE into a folder while the context lasts; gives the port.

    Only ``callers`` may send, if there are any. Below ``least_free_bytes`` of free disk everything is refused. Raises
    MedsegError when the port can't be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ae = AE(ae_title=aet)
    ae.require_called_aet = True
    ae.require_calling_aet = list(callers)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _TIMEOUT
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    ae.add_supported_context(_LABELMAP, ALL_TRANSFER_SYNTAXES)
    ae.add_supported_context(Verification)
    handlers = [(evt.EVT_C_STORE, _store, [folder, least_free_bytes])]
    try:
        server = ae.start_server(where, block=False, ssl_context=tls.for_server(), evt_handlers=handlers)  # type: ignore[arg-type]
    except OSError as error:
        raise MedsegError(f"Port {where[1]} on {where[0]} can't be used: {error.strerror}. Choose another.") from None
    assert server is not None  # without block there is a server
    try:
        yield int(server.server_address[1])
    finally:
        ae.shutdown()


def _store(event: evt.Event, folder: Path, least_free_bytes: int) -> int:
    if shutil.disk_usage(folder).free < least_free_bytes:
        return _OUT_OF_RESOURCES
    try:
        study, instance = str(event.dataset.StudyInstanceUID), str(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
    except Exception:  # whatever was sent, it is no study's
        return _CANNOT_UNDERSTAND
    try:
        with written_whole(folder / hash_content(study)[:16] / f"{hash_content(instance)[:24]}.dcm") as path:
            path.write_bytes(event.encoded_dataset())
    except MedsegError:
        return _OUT_OF_RESOURCES
    return _SUCCESS


def _identifier(query: Query) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    for keyword, value in query.items():
        setattr(identifier, keyword, value)
    return identifier


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*.dcm"))
