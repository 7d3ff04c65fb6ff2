"""A folder of DICOM files becomes series with verdicts and a manifest in which every file has exactly one outcome.

Knows nothing of models. Files are found whatever they are called; what is not safe is refused with its reason, unless
the user allows that verdict.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.errors import DatasetError
from medseg.images.dicom.file import FirstLook, look_at
from medseg.images.dicom.judging import Judged, judge_headers
from medseg.images.dicom.manifest import FileEntry, Manifest, SeriesEntry
from medseg.images.dicom.series import Series
from medseg.images.dicom.verdict import RESAMPLED, SAFE, Verdict
from medseg.progress import Progress, Silent


@dataclass(frozen=True)
class Intake:
    """All that was found in a folder."""

    folder: Path
    series: tuple[Series, ...]
    """Accepted ones."""
    refused: tuple[Series, ...]
    labels: tuple[FirstLook, ...]
    """Segmentations and structure sets."""
    files: tuple[FileEntry, ...]

    @property
    def manifest(self) -> Manifest:
        """The document to write beside the outputs."""
        entries = [*(_entry(one, True) for one in self.series), *(_entry(one, False) for one in self.refused)]
        return Manifest(
            files=self.files, series=tuple(sorted(entries, key=lambda entry: (entry.study_uid, entry.name)))
        )

    def refuse(self, series: Series, reason: str) -> Intake:
        """The same with one series refused after all, such as when its pixels can't be decoded."""
        moved = replace(series, refusal=reason)
        files = tuple(
            file.model_copy(update={"outcome": "refused", "reason": reason})
            if file.series == series.name and file.outcome == "used"
            else file
            for file in self.files
        )
        kept = tuple(one for one in self.series if one is not series)
        return replace(self, series=kept, refused=(*self.refused, moved), files=files)


def take_in(folder: Path, allow: Collection[Verdict] = (), progress: Progress | None = None) -> Intake:
    """Look through a folder with all its folders.

    ``allow`` names verdicts (gap, variable_spacing, tilted) that are interpolated on a regular grid instead of refused.
    Raises DatasetError where there is no such folder, or for a verdict that can't be allowed.
    """
    forbidden = sorted(set(allow) - RESAMPLED - SAFE)
    if forbidden:
        names = ", ".join(sorted(RESAMPLED))
        raise DatasetError(f"A series that is {forbidden[0]} makes no volume. What can be allowed is: {names}.")
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}.")
    progress = progress or Silent()
    paths = list(_files(folder))
    progress.start("Reading headers", len(paths))
    looks = []
    for path in paths:
        looks.append(look_at(path))
        progress.advance()
    progress.finish()
    return _intake(folder, looks, allow)


def take_in_paths(folder: Path, paths: Iterable[Path], allow: Collection[Verdict] = ()) -> Intake:
    """The same for just these files of a folder, such as those of one study."""
    return _intake(folder, [look_at(path) for path in paths], allow)


def _intake(folder: Path, looks: list[FirstLook], allow: Collection[Verdict]) -> Intake:
    judged = list(judge_headers(look.header for look in looks if look.kind == "image" and look.header is not None))
    accepted = [one for one in judged if one.series.verdict in SAFE or one.series.verdict in allow]
    refused = [one for one in judged if one not in accepted]
    return Intake(
        folder,
        tuple(one.series for one in accepted),
        tuple(one.series for one in refused),
        tuple(look for look in looks if look.kind == "labels"),
        tuple(_outcomes(folder, looks, accepted, refused)),
    )


def _files(folder: Path) -> Iterator[Path]:
    """Every file, in an order that does not depend on the disk."""
    for place, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders.sort()
        yield from (Path(place) / name for name in sorted(names))


def _refuse_folder(error: OSError) -> None:
    """A folder that can't be listed would be left out without a word."""
    raise DatasetError(f"{error.filename} can't be listed: {error.strerror}. Correct its rights, or move it elsewhere.")


def _shown(path: Path) -> str:
    """A path as text; bytes that are no UTF-8 (names of old archives) as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _outcomes(
    folder: Path, looks: list[FirstLook], accepted: list[Judged], refused: list[Judged]
) -> Iterator[FileEntry]:
    of_image: dict[Path, FileEntry] = {}
    for judged in (*accepted, *refused):
        for path, entry in _of_judged(judged, accepted=judged in accepted):
            of_image[path] = _joined(of_image.get(path), entry)
    for look in looks:
        path = _shown(look.path.relative_to(folder))
        if look.kind == "image":
            yield of_image[look.path].model_copy(update={"path": path})
        elif look.kind == "labels":
            yield FileEntry(path=path, outcome="labels")
        else:
            outcome = "unreadable" if look.kind == "unreadable" else "skipped"
            yield FileEntry(path=path, outcome=outcome, reason=look.reason)


def _joined(first: FileEntry | None, second: FileEntry) -> FileEntry:
    """A file whose frames belong to several series: used where one of them is accepted, which come first."""
    if first is None or first.outcome != second.outcome:
        return first or second
    return first.model_copy(update={"series": f"{first.series} {second.series}"})


def _of_judged(judged: Judged, *, accepted: bool) -> Iterator[tuple[Path, FileEntry]]:
    series = judged.series
    for path in dict.fromkeys(one.path for one in judged.copies):
        yield path, FileEntry(path="", outcome="skipped", reason="a copy of another file", series=series.name)
    for path in series.files:
        if accepted:
            yield path, FileEntry(path="", outcome="used", series=series.name)
        else:
            reason = f"{series.verdict}: {series.geometry.detail}"
            yield path, FileEntry(path="", outcome="refused", reason=reason, series=series.name)


def _entry(series: Series, accepted: bool) -> SeriesEntry:
    header = series.slices[0].header
    return SeriesEntry(
        name=series.name,
        study_uid=series.study_uid,
        series_uid=series.uid,
        part=series.part,
        modality=series.modality,
        description=series.description,
        verdict=series.verdict,
        accepted=accepted,
        detail=series.reason,
        slices=len(series.slices),
        rows=header.rows,
        columns=header.columns,
        shape=series.shape,
        spacing=series.spacing,
        flags=series.flags,
        remarks=series.remarks,
    )
