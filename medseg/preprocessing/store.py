"""Prepared Cases on disk: a random patch is read without loading the Case, and nothing stale is ever used.

Each Case is a folder with two memory-mapped ``.npy`` arrays, the voxels of each target, and a record that names what
it was made from; it appears whole or not at all. Memory-mapping was chosen by measurement against blosc2
(``tests/benchmarks/store.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Image, Labels
from medseg.cases.case import Case, read_case_image, read_case_labels
from medseg.cases.content import voxel_hash
from medseg.cases.labels import LabelTable
from medseg.documents import Document, Record
from medseg.errors import Complaint, DatasetError, MedsegError
from medseg.executors import Executor, Threads
from medseg.files import folder_written_whole, hash_content, hash_file, require_free_space
from medseg.images.volume import Volume
from medseg.planning.plan import ConfigurationPlan, Plan
from medseg.preprocessing.grid import Grid
from medseg.preprocessing.prepare import prepare_image, prepare_labels
from medseg.progress import Progress, Silent

_MOST_LOCATIONS = 10_000
_LOCATION_SHARE = 0.01
_RULES = 1
"""Raised whenever the code of preparation changes what it writes."""


class FileStamp(Record):
    """One file as it was when it was read."""

    path: str
    size: int
    changed_ns: int
    sha256: str


class PreparedRecord(Document):
    """What a prepared Case was made from and how it leads back to its file; ``case.json``."""

    kind: ClassVar[str] = "prepared-case"

    name: str
    files: tuple[FileStamp, ...]
    """The files it was made from."""
    voxel_hash: str
    """Of the voxels as they were read (``medseg.cases.content``)."""
    shaping: str
    """Hash of every Plan value that shapes the arrays."""
    grid: Grid
    label_voxels: tuple[int, ...]
    """Voxels of each label index after preparation, background first; what nobody annotated comes last."""
    targets: int
    """How many targets there are."""
    ignores: bool
    """Whether the labels have a value for what nobody annotated."""


@dataclass(frozen=True)
class PreparedCase:
    """A prepared Case, its arrays memory-mapped and read-only."""

    name: str
    image: NDArray[np.float32]
    """(C, Z, Y, X)."""
    labels: NDArray[np.unsignedinteger]
    """(Z, Y, X), label indices."""
    locations: tuple[NDArray[np.int32], ...]
    """For each target up to 10,000 of its voxels, (n, 3) in (z, y, x); empty where absent."""
    annotated: NDArray[np.int32] | None
    """As many of the voxels that somebody annotated; None where the labels have no ignore value."""
    grid: Grid
    voxel_hash: str
    previous: NDArray[np.unsignedinteger] | None = None
    """(Z, Y, X), the labels that the previous configuration of a cascade has predicted; None outside of cascades."""

    def network_input(self, structures: int) -> Image:
        """The image, in a cascade with a channel for each of ``structures`` of the previous labels, in memory."""
        if self.previous is None:
            return self.image
        return with_previous(self.image, self.previous, structures)


def with_previous(image: Image, previous: Labels, structures: int) -> Image:
    """A prepared image ``(C, Z, Y, X)`` with a channel for each structure of the previous labels ``(Z, Y, X)``."""
    indices = np.arange(1, structures + 1, dtype=previous.dtype)[:, None, None, None]
    return np.concatenate([image, (previous[None] == indices).astype(np.float32)])


def previous_folder(prepared: Path) -> Path:
    """Where a cascade's previous labels of the Cases in ``prepared`` lie (``medseg.preprocessing.previous``)."""
    return prepared.with_name(f"{prepared.name}.previous")


def open_prepared(folder: Path, name: str, cascade: bool = False) -> PreparedCase:
    """Open one Case that ``prepare_cases`` has written, in a ``cascade`` with its previous labels.

    Raises MedsegError when it is not there.
    """
    place = folder / name
    record = PreparedRecord.load(place / "case.json")
    try:
        before = previous_folder(folder) / name / "labels.npy"
        previous = np.load(before, mmap_mode="r", allow_pickle=False) if cascade else None
        image = np.load(place / "image.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(place / "labels.npy", mmap_mode="r", allow_pickle=False)
        every = np.load(place / "locations.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MedsegError(
            f"The prepared case {place} is damaged ({error}). Delete the folder and train again."
        ) from None
    starts = np.searchsorted(every[:, 0], np.arange(1, record.targets + 3))
    *locations, annotated = (every[a:b, 1:] for a, b in pairwise(starts))
    return PreparedCase(
        name=name,
        image=image,
        labels=labels,
        locations=tuple(locations),
        annotated=annotated if record.ignores else None,
        grid=record.grid,
        voxel_hash=record.voxel_hash,
        previous=previous,
    )


def prepare_cases(
    cases: Sequence[Case],
    table: LabelTable,
    plan: Plan,
    configuration: ConfigurationPlan,
    folder: Path,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> None:
    """Prepare every Case that is not prepared yet, or was from other data or another Plan.

    The executor may work on several at once: threads side by side (reading and the matrix products release the GIL), or
    machines that see the same paths; what is written does not depend on it. By default one after the other. Raises
    DatasetError with one complaint per Case that failed; the others are kept.
    """
    progress = progress or Silent()
    shaping = shaping_hash(table, plan, configuration)
    stale = [case for case in cases if not _is_current(folder / case.name, case, shaping)]
    if not stale:
        return
    z, y, x = configuration.median_shape
    require_free_space(folder, len(stale) * z * y * x * (4 * len(plan.channels) + 1), "Preparing the cases")
    progress.start("Preparing", len(stale))
    failed: dict[str, str] = {}
    for done in (executor or Threads())(_Preparation(table, plan, configuration, folder), stale):
        if done.fault is not None:
            raise done.fault
        if done.error is not None:
            failed[done.item.name] = done.error
        progress.advance()
    progress.finish()
    if failed:
        remedy = "Run 'medseg check' on the dataset."
        complaints = [Complaint(name, "not-prepared", said, remedy) for name, said in sorted(failed.items())]
        raise DatasetError(f"{len(complaints)} of {len(cases)} cases could not be prepared:", complaints)


@dataclass(frozen=True)
class _Preparation:
    """Prepares a Case, here or on another machine."""

    table: LabelTable
    plan: Plan
    configuration: ConfigurationPlan
    folder: Path

    def __call__(self, case: Case) -> None:
        prepare_case(case, self.table, self.plan, self.configuration, self.folder)


def data_hash(folder: Path, names: Sequence[str]) -> str:
    """A hash of the content of all files that the named prepared Cases were made from."""
    records = [PreparedRecord.load(folder / name / "case.json") for name in sorted(names)]
    return hash_content([[record.name, [stamp.sha256 for stamp in record.files]] for record in records])


def changed_since(folder: Path, measured: Mapping[str, str]) -> tuple[str, ...]:
    """Names of prepared Cases whose voxels are not those that were ``measured`` (``voxel_hash`` by Case), sorted."""
    records = [PreparedRecord.load(folder / name / "case.json") for name in sorted(measured)]
    return tuple(one.name for one in records if one.voxel_hash != measured[one.name])


def prepare_case(case: Case, table: LabelTable, plan: Plan, configuration: ConfigurationPlan, folder: Path) -> None:
    """Prepare one Case and write it whole."""
    stamps = stamp_files(case)
    volume = read_case_image(case, len(plan.channels))
    truth = _labels_of(case, table, volume)
    image, grid = prepare_image(volume, plan, configuration)
    labels = prepare_labels(truth, grid, len(table), table.ignore_index)
    with folder_written_whole(folder / case.name) as temporary:
        np.save(temporary / "image.npy", image)
        np.save(temporary / "labels.npy", labels)
        np.save(temporary / "locations.npy", sample_locations(labels, table, case.name))
        PreparedRecord(
            name=case.name,
            files=stamps,
            voxel_hash=voxel_hash(volume, truth),
            shaping=shaping_hash(table, plan, configuration),
            grid=grid,
            label_voxels=tuple(int(n) for n in np.bincount(labels.ravel(), minlength=len(table.known_values))),
            targets=len(table.targets),
            ignores=table.ignore is not None,
        ).save(temporary / "case.json")


def _labels_of(case: Case, table: LabelTable, volume: Volume) -> Volume:
    """The Case's Labels; background everywhere where it has none and the table asks for none."""
    if case.labels is None and not table.targets:
        return replace(volume, array=np.zeros(volume.shape, np.uint8))
    return read_case_labels(case, table, volume)


def sample_locations(labels: Labels, table: LabelTable, name: str) -> NDArray[np.int32]:
    """Voxels of each target as rows (number, z, y, x), targets counted from 1: up to 10,000 or 1 %, whichever is more.

    Where the table has an ignore value, voxels of any other follow under the next number: those that were annotated.
    Drawn without replacement by a generator seeded with the Case's name, so that it is the same on every machine.
    """
    random = np.random.Generator(np.random.Philox(int(hash_content(name)[:16], 16)))
    rows = []
    masks = [target.mask for target in table.targets]
    if table.ignore is not None:
        masks.append(lambda labels: labels != table.ignore_index)
    for number, mask in enumerate(masks, start=1):
        found = np.flatnonzero(mask(labels))
        keep = max(min(_MOST_LOCATIONS, len(found)), int(np.ceil(len(found) * _LOCATION_SHARE)))
        chosen = np.sort(random.choice(found, keep, replace=False)) if keep < len(found) else found
        places = np.stack(np.unravel_index(chosen, labels.shape), axis=1)
        rows.append(np.column_stack([np.full(len(places), number), places]).astype(np.int32))
    return np.concatenate(rows) if rows else np.zeros((0, 4), np.int32)


def shaping_hash(table: LabelTable, plan: Plan, configuration: ConfigurationPlan) -> str:
    """A hash that changes whenever a Plan value changes that shapes the prepared arrays."""
    shaping: dict[str, Any] = {
        "rules": _RULES,
        "labels": table.known_values,
        "targets": [target.indices for target in table.targets],
        "ignore": table.ignore_index,
        "orientation": plan.orientation,
        "axis_order": plan.axis_order,
        "channels": [channel.model_dump() for channel in plan.channels],
        "dimensions": configuration.dimensions,
        "spacing": configuration.spacing,
    }
    return hash_content(shaping)


def stamp_files(case: Case) -> tuple[FileStamp, ...]:
    """Size, time of change and content hash of each of the Case's files."""
    return tuple(
        FileStamp(path=str(file), size=file.stat().st_size, changed_ns=file.stat().st_mtime_ns, sha256=hash_file(file))
        for file in case.files
    )


def _is_current(place: Path, case: Case, shaping: str) -> bool:
    """Whether the Case on disk was made by this Plan from these files.

    A file whose path, size and time of change are as noted is taken as unchanged; otherwise its content decides.
    """
    try:
        record = PreparedRecord.load(place / "case.json")
        if record.shaping != shaping or [stamp.path for stamp in record.files] != [str(f) for f in case.files]:
            return False
        for stamp in record.files:
            now = Path(stamp.path).stat()
            untouched = (now.st_size, now.st_mtime_ns) == (stamp.size, stamp.changed_ns)
            if not untouched and hash_file(Path(stamp.path)) != stamp.sha256:
                return False
    except (MedsegError, OSError):
        return False
    return True
