"""Where Cases for looking at come from: a workspace, what predict or dicom wrote, a dataset, a folder of images.

Knows the layouts, and opens documents but no image. What reviewers make (reviews, corrections, runs, the cache) is kept
in ``review/`` inside the folder that is looked at, or in ``state=DIR`` where that can't be written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.cases.case import Case
from medseg.cases.formats import read_dataset
from medseg.cases.labels import LabelTable
from medseg.errors import DatasetError, MedsegError
from medseg.images.formats import find_dicom
from medseg.inference.inputs import has_images
from medseg.paths import Workspace, last_used
from medseg.planning.plan import Plan
from medseg.review.case import Finding, ReviewCase
from medseg.review.dicom_results import cases_of_studies, is_dicom_output
from medseg.review.folders import cases_of_images, dicom_cases
from medseg.review.runs import Run, is_run, read_run
from medseg.settings import Settings

STATE = "review"


class SourceSettings(Settings):
    """What to look at; by default the workspace last used from here."""

    workspace: Path | None = None
    """A workspace: its cases with the predictions of every trained fold, reference labels, and runs."""
    input: Path | None = None
    """Instead: what 'medseg predict' or 'medseg dicom' wrote, a dataset, or a folder of images."""
    predictions: tuple[Path, ...] = ()
    """Folders of label files to lay over the cases, such as those of two models to compare."""
    model: Path | None = None
    """What can be run from the page; by default the workspace itself, or the model that made the predictions."""
    images: Path | None = None
    """Where the DICOM studies are that 'medseg dicom' has segmented; by default where they were then."""
    state: Path | None = None
    """Where reviews, corrections and prepared images are kept; by default review/ in the folder that is looked at."""
    audit: Path | None = None
    """Log of who signed in and opened what; by default audit.jsonl beside the reviews."""


@dataclass(frozen=True)
class Source:
    """Cases that belong together, and where reviewers' work on them is kept."""

    title: str
    state: Path
    cases: tuple[ReviewCase, ...]
    model: Path | None = None
    """What can be run on a case from the page."""
    remarks: tuple[str, ...] = ()
    audit: Path | None = None

    @property
    def log(self) -> Path:
        """Of who opened what."""
        return self.audit or self.state / "audit.jsonl"

    @property
    def cache(self) -> Path:
        return self.state / "cache"

    @property
    def runs(self) -> Path:
        return self.state / "runs"

    @property
    def uploads(self) -> Path:
        return self.state / "uploads"

    @property
    def inputs(self) -> Path:
        return self.state / "inputs"

    @property
    def explanations(self) -> Path:
        return self.state / "explanations"

    @property
    def corrections(self) -> Path:
        return self.state / "corrections"

    @property
    def records(self) -> Path:
        return self.state / "reviews.sqlite"

    def case(self, name: str) -> ReviewCase:
        """The Case of this name. Raises DatasetError where there is none, whatever the name."""
        found = next((one for one in self.cases if one.name == name), None)
        if found is None:
            raise DatasetError(f"There is no case {name[:140]!r} here.")
        return found


def state_of(settings: SourceSettings) -> Path:
    """Where reviewers' work is kept. Raises MedsegError where nothing says what to look at."""
    return settings.state or (settings.input or settings.workspace or last_used().folder).resolve() / STATE


def log_of(settings: SourceSettings) -> Path:
    """The log of who opened what. Raises MedsegError where nothing says what to look at."""
    return settings.audit or state_of(settings) / "audit.jsonl"


def open_source(settings: SourceSettings) -> Source:
    """Everything that is there to look at. Raises MedsegError with a sentence where that is nothing."""
    if settings.workspace is not None and settings.input is not None:
        raise DatasetError("workspace= and input= both say what to look at. Leave one out.")
    folder = settings.input or settings.workspace or last_used().folder
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}. Name one with input=DIR or workspace=DIR.")
    source = _opened(folder.resolve(), settings)
    model = settings.model.resolve() if settings.model is not None else source.model
    source = replace(source, model=model, audit=log_of(settings))
    for extra in settings.predictions:
        source = _laid_over(source, [read_run(extra.resolve(), extra.name)])
    return with_own_work(source)


def with_own_work(source: Source) -> Source:
    """The source with what has been made in it: uploads, runs and corrections, the newest first."""
    known = {case.name for case in source.cases}
    uploads = [case for case in _uploads(source) if case.name not in known]
    source = replace(source, cases=(*source.cases, *uploads))
    runs = [read_run(folder, f"run {folder.name}") for folder in sorted(source.runs.glob("*")) if is_run(folder)]
    return _with_corrections(_laid_over(source, runs))


def _opened(folder: Path, settings: SourceSettings) -> Source:
    state = settings.state or folder / STATE
    workspace = Workspace(folder)
    if workspace.plan.is_file() and workspace.dataset.is_file():
        return _of_workspace(workspace, state)
    if settings.workspace is not None:
        raise DatasetError(f"{folder} is no workspace: it has no plan.yaml and dataset.yaml. Look at it with input=.")
    if is_dicom_output(folder):
        cases, remarks = cases_of_studies(folder, settings.images)
        return Source(folder.name, state, tuple(cases), remarks=tuple(remarks))
    if is_run(folder):
        return _of_run(read_run(folder, folder.name), state)
    if has_images(folder):
        return Source(folder.name, state, tuple(cases_of_images(folder)))
    try:
        dataset = read_dataset(folder)
    except DatasetError:
        if find_dicom(folder) is None:
            raise
        return Source(folder.name, state, tuple(dicom_cases(folder)))
    cases = [_of_dataset(case, dataset.channels, dataset.labels) for case in (*dataset.cases, *dataset.unlabelled)]
    return Source(dataset.name, state, tuple(cases))


def _of_workspace(workspace: Workspace, state: Path) -> Source:
    plan, table = Plan.load(workspace.plan), LabelTable.load(workspace.labels)
    dataset = read_dataset(workspace.dataset)
    cases = [_of_dataset(case, dataset.channels, table) for case in (*dataset.cases, *dataset.unlabelled)]
    looks = [
        Run(look.name.replace("_", " "), look / "predictions", table)
        for look in sorted(workspace.test.glob("look_*"), reverse=True)
    ]
    seen = {name for look in looks for name in look.files}
    cases += [_of_dataset(case, dataset.channels, table) for case in dataset.test if case.name in seen]
    held_out = [
        Run(f"{name}, fold {fold.name.removeprefix('fold_')}", fold / "validation", table)
        for name in plan.configurations
        for fold in sorted((workspace.folder / name).glob("fold_*"))
    ]
    source = Source(plan.dataset, state, tuple(cases), workspace.folder)
    return _laid_over(source, [*held_out, *looks])


def _of_dataset(case: Case, channels: tuple[str, ...], table: LabelTable) -> ReviewCase:
    reference = None if case.labels is None else Finding("reference", case.labels, table)
    return ReviewCase(case.name, case.images, channels, reference=reference)


def _of_run(run: Run, state: Path) -> Source:
    if run.input is None or not run.input.exists():
        raise DatasetError(
            f"{run.folder} does not say where its images are, or they are gone. Name their folder with input=, and "
            f"this one with predictions=[{run.folder}]."
        )
    only_dicom = run.input.is_dir() and not has_images(run.input)
    found = dicom_cases(run.input) if only_dicom else cases_of_images(run.input)
    cases = [case for case in found if case.name in run.files]
    return _laid_over(Source(run.folder.name, state, tuple(cases), run.model), [run])


def _laid_over(source: Source, runs: Iterable[Run]) -> Source:
    """Every Case with what the runs found in it, the last run first."""
    cases = list(source.cases)
    for run in runs:
        cases = [
            replace(case, findings=(found, *case.findings)) if (found := run.finding(case.name)) else case
            for case in cases
        ]
    return replace(source, cases=tuple(cases))


def _with_corrections(source: Source) -> Source:
    cases: list[ReviewCase] = []
    for case in source.cases:
        folder = source.corrections / case.name
        files = sorted(folder.glob("*.nii.gz"), key=lambda path: int(path.name.split(".")[0]))
        table = _table_of(case, folder)
        found = [Finding(f"correction {path.name.split('.')[0]}", path, table) for path in files if table is not None]
        cases.append(replace(case, findings=(*reversed(found), *case.findings)))
    return replace(source, cases=tuple(cases))


def _table_of(case: ReviewCase, folder: Path) -> LabelTable | None:
    if (folder / "labels.yaml").is_file():
        return LabelTable.load(folder / "labels.yaml")
    return next((one.table for one in (*case.findings, *([case.reference] if case.reference else []))), None)


def _uploads(source: Source) -> Sequence[ReviewCase]:
    found: list[ReviewCase] = []
    for folder in sorted(source.uploads.glob("*")) if source.uploads.is_dir() else []:
        try:
            found += cases_of_images(folder) if has_images(folder) else dicom_cases(folder)
        except MedsegError:
            continue  # told to whoever sent it
    return found
