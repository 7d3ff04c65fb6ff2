"""A folder into which studies arrive: each is handed over once, when nothing of it has changed for a while.

Knows nothing of what is done with a study. There is no sign in DICOM that a study is complete; that nothing arrives any
more is what everybody goes by. A study that gets further images later is handed over again, as a whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medseg.images.dicom.file import look_at


@dataclass
class Arrivals:
    """What lies in the folder, by study; one short entry for each file stays in memory."""

    folder: Path
    settle_seconds: float
    clock: Callable[[], float] = time.monotonic
    _files: dict[Path, tuple[tuple[int, int], str]] = field(default_factory=dict)
    """Size and time of change, and the study; an empty one for what is no image."""
    _changed: dict[str, float] = field(default_factory=dict)
    _waiting: set[str] = field(default_factory=set)

    def look(self) -> list[tuple[str, list[Path]]]:
        """Studies with news that have settled, with all their files; the one that settled first comes first."""
        now = self.clock()
        seen = dict(self._listing())
        for path in [path for path in self._files if path not in seen]:
            self._files.pop(path)
        for path, state in seen.items():
            known = self._files.get(path)
            if known is None or known[0] != state:
                header = look_at(path).header
                study = "" if header is None else header.study_uid
                self._files[path] = (state, study)
                if study:
                    self._changed[study] = now
                    self._waiting.add(study)
        settled = [study for study in self._waiting if now - self._changed[study] >= self.settle_seconds]
        self._waiting -= set(settled)
        found = [(study, self.files_of(study)) for study in sorted(settled, key=lambda one: self._changed[one])]
        return [(study, files) for study, files in found if files]

    def files_of(self, study: str) -> list[Path]:
        return sorted(path for path, (_, owner) in self._files.items() if owner == study)

    def _listing(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        for place, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if name.startswith("."):
                    continue  # still being written
                path = Path(place) / name
                try:
                    state = path.stat()
                except FileNotFoundError:
                    continue  # taken away meanwhile
                yield path, (state.st_size, state.st_mtime_ns)


def prune(folder: Path, most_bytes: int, keep: Callable[[Path], bool]) -> int:
    """Delete the folders inside that changed longest ago until the rest takes ``most_bytes``; returns how many.

    ``keep`` tells which must stay, such as one whose study is not processed yet.
    """
    held = []
    for inner in folder.iterdir() if folder.is_dir() else ():
        files = [path for path in inner.iterdir() if path.is_file()] if inner.is_dir() else []
        if files:
            held.append((max(path.stat().st_mtime for path in files), inner, files))
    total, deleted = sum(path.stat().st_size for _, _, files in held for path in files), 0
    for _, inner, files in sorted(held):
        if total <= most_bytes:
            break
        if keep(inner):
            continue
        total -= sum(path.stat().st_size for path in files)
        for path in files:
            path.unlink(missing_ok=True)
        inner.rmdir()
        deleted += 1
    return deleted
