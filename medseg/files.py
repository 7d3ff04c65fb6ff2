"""Files that appear whole or not at all, and the hashes by which they are recognised.

Knows nothing of what is in them. The rule is the usual one: write a temporary file in the same folder, flush it to
the disk, rename it over the final name, flush the folder.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medseg.errors import MedsegError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path with the same suffixes; on success it becomes ``path``, on any failure it vanishes.

    Raises MedsegError when the folder can't be written or the disk is full.
    """
    path = Path(path)
    suffixes = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_name(path, suffixes)
        temporary.touch(exist_ok=False)  # with the rights that the user's umask leaves
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    except OSError as error:
        raise MedsegError(f"Could not write {path}: {error.strerror or error}. Nothing was replaced.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """The same for a folder: build it beside its final place, then rename; an older folder is replaced at the end.

    Several processes may write the same folder at once: each puts a whole one there, and the last one stays.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_name(path)
        temporary.mkdir()
        yield temporary
        for entry in (*temporary.rglob("*"), temporary):
            flush(entry)
        _put_in_place(temporary, path)
        flush(path.parent)
    except OSError as error:
        raise MedsegError(
            f"Could not write {path}: {error.strerror or error}. Check the rights of {path.parent} and its free space."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def require_replaceable(folder: Path, mark: str) -> None:
    """Raise MedsegError where ``folder`` holds anything but an earlier result, known by its file ``mark``."""
    if folder.exists() and not (folder / mark).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise MedsegError(
            f"output={folder} exists and holds no {mark}; nothing was replaced. Choose a new folder with output=DIR."
        )


def _put_in_place(new: Path, path: Path) -> None:
    """Rename a folder to ``path``; one that is there already is moved aside first and deleted afterwards."""
    for _ in range(100):
        try:
            new.replace(path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        old = _new_name(path)
        with suppress(FileNotFoundError):  # another process was faster
            path.replace(old)
            shutil.rmtree(old, ignore_errors=True)
    raise OSError(errno.EBUSY, "other processes keep writing it")


def _new_name(path: Path, suffixes: str = "") -> Path:
    """A name beside ``path`` that nobody uses; hidden, so that no reader takes it for a file of its own."""
    return path.with_name(f".partial-{secrets.token_hex(8)}{suffixes}")


def flush(path: Path) -> None:
    """Make the file's or folder's content survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock that other processes respect; it ends with the block, or with the process however that ends.

    Raises BlockingIOError where another process holds it and ``wait`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal text."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_content(content: object) -> str:
    """SHA-256 of anything JSON can hold, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def require_free_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raise MedsegError before work starts that the disk could not hold."""
    folder = Path(folder)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise MedsegError(
            f"{purpose} needs about {needed_bytes / 1e9:.1f} GB but only {free / 1e9:.1f} GB are free in {folder}. "
            "Free some space, or choose another place with workspace=DIR."
        )
