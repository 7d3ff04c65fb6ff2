"""A Dataset while its files are being found: every complaint is kept, so that all of them are told at once.

Knows no format; ``decathlon``, ``nnunet_raw``, ``folders`` and ``listing`` fill it. Case names become file names in a
workspace, so they are held to letters, digits, dot, dash and underscore.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.labels import LabelTable
from medseg.errors import Complaint, DatasetError
from medseg.images.formats import SUFFIXES, stem_of

_CASE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


@dataclass
class Draft:
    """What has been found so far under ``folder`` (absolute), and everything that is wrong with it."""

    folder: Path
    name: str = ""
    channels: tuple[str, ...] = ()
    labels: LabelTable | None = None
    cases: dict[str, Case] = field(default_factory=dict)
    unlabelled: dict[str, Case] = field(default_factory=dict)
    test: dict[str, Case] = field(default_factory=dict)
    complaints: list[Complaint] = field(default_factory=list)
    remarks: list[Complaint] = field(default_factory=list)

    def complain(self, case: str, code: str, sentence: str, remedy: str, file: Path | str = "") -> None:
        """Keep an error."""
        self.complaints.append(Complaint(case, code, sentence, remedy, str(file)))

    def remark(self, case: str, code: str, sentence: str, remedy: str, file: Path | str = "") -> None:
        """Keep a warning."""
        self.remarks.append(Complaint(case, code, sentence, remedy, str(file), severity="warning"))

    def add(self, case: Case, labels_may_lack: bool = False) -> None:
        """Take a Case in if its name is fit and new and its files are there; complain otherwise.

        With ``labels_may_lack`` a label file that is not there makes the Case unlabelled, with a warning.
        """
        if not _CASE_NAME.fullmatch(case.name):
            self.complain(
                case.name[:140],
                "bad-case-name",
                f"The case name {case.name[:140]!r} can't be used as a file name.",
                "Use 1 to 128 letters, digits, dots, dashes and underscores, not starting with a dot.",
            )
            return
        if case.name in self.cases or case.name in self.unlabelled or case.name in self.test:
            self._duplicate(case)
            return
        absent = [path for path in case.images if not path.is_file()]
        if case.labels is not None and not case.labels.is_file():
            if not labels_may_lack:
                absent.append(case.labels)
            else:
                self.remark(
                    case.name,
                    "labels-absent",
                    f"Case '{case.name}': {case.labels.name} is not there, so the case is left unlabelled.",
                    "Put the file back, or take the case out of the list.",
                    case.labels,
                )
                case = replace(case, labels=None)
        for path in absent:
            self.complain(
                case.name,
                "missing-file",
                f"Case '{case.name}': there is no file {path}.",
                "Put it back, correct its name, or leave the case out.",
                path,
            )
        if not absent:
            held_back = self.test if case.split == "test" else self.cases
            (self.unlabelled if case.labels is None else held_back)[case.name] = case

    def _duplicate(self, case: Case) -> None:
        first = self.cases.get(case.name) or self.test.get(case.name) or self.unlabelled[case.name]
        sentence = f"Two cases are called '{case.name}': {first.images[0]} and {case.images[0]}."
        if case.labels is None and case.name in self.cases:
            self.remark(case.name, "duplicate-case", sentence, "The unlabelled one is left out.", case.images[0])
        else:
            self.complain(case.name, "duplicate-case", sentence, "Give each case a name of its own.", case.images[0])

    def files_by_stem(self, folder: Path, ending: str | None = None) -> dict[str, Path]:
        """Image files of a folder by name without suffix, in order; hidden files (macOS '._*') are passed over.

        Two files that differ in their suffix only are a complaint, and neither is given.
        """
        endings = SUFFIXES if ending is None else (ending,)
        found: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()):
            if not path.name.startswith(".") and path.name.lower().endswith(endings) and path.is_file():
                found.setdefault(stem_of(path), []).append(path)
        for stem, paths in found.items():
            if len(paths) > 1:
                self.complain(
                    stem,
                    "ambiguous-sibling",
                    f"{' and '.join(path.name for path in paths)} lie side by side in {folder}; either could be meant.",
                    "Keep one of them.",
                    paths[0],
                )
        return {stem: paths[0] for stem, paths in found.items() if len(paths) == 1}

    def dataset(self) -> Dataset:
        """The Dataset as found. Raises DatasetError with every complaint when there is any."""
        if self.complaints:
            count = f"{len(self.complaints)} things are" if len(self.complaints) > 1 else "One thing is"
            raise DatasetError(f"{count} wrong with the dataset in {self.folder}:", self.complaints)
        return self.as_found()

    def as_found(self) -> Dataset:
        """The Dataset without regard to complaints, for ``check``."""
        return Dataset(
            name=safe_name(self.name or self.folder.name),
            channels=self.channels,
            labels=self.labels or LabelTable(labels=()),
            cases=_in_order(self.cases.values()),
            unlabelled=_in_order(self.unlabelled.values()),
            test=_in_order(self.test.values()),
            remarks=tuple(self.remarks),
        )


def safe_name(name: str) -> str:
    """A Dataset's name names its workspace folder: other characters become underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:128] or "dataset"


def default_channels(count: int) -> tuple[str, ...]:
    """Names where the user gives none."""
    return ("image",) if count == 1 else tuple(f"image {index}" for index in range(count))


def _in_order(cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: case.name))
