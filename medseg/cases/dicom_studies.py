"""A folder of DICOM studies as a Dataset, or as Cases to predict: a series is an image, a SEG or RTSTRUCT its labels.

Knows no DICOM itself; ``medseg.images.dicom`` reads it. A file path stands for the whole series that it is a slice of.
Case names are hashes of UIDs, and a patient is called by the first of his cases: an ID, or its hash, which could be
guessed, enters no workspace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cases.case import Case
from medseg.cases.draft import Draft
from medseg.cases.labels import Label, LabelTable
from medseg.cases.listing import apply_description
from medseg.errors import Complaint, DatasetError, MedsegError
from medseg.images.dicom import require_extra

if TYPE_CHECKING:
    from medseg.images.dicom.file import FirstLook
    from medseg.images.dicom.intake import Intake
    from medseg.images.dicom.manifest import Manifest, StudyChoice
    from medseg.images.dicom.selection import SeriesRules
    from medseg.images.dicom.series import Series

RULES_NAME = "series.yaml"
"""Beside the studies: which series is which channel."""
_ALLOW = "Allow it by rules: select=RULES.yaml."


@dataclass(frozen=True)
class DicomCases:
    """What there is to predict in a folder, what can't be, and what became of every file."""

    cases: list[Case]
    complaints: list[Complaint]
    manifest: Manifest


def read_dicom(draft: Draft) -> None:
    """Fill the draft: a Case for each series that a label file was drawn on.

    With rules in ``series.yaml`` its other channels are other series of the study. Names of channels and labels are
    those of a ``dataset.yaml`` without cases, else the modality and the names in the label files.
    """
    require_extra()
    from medseg.images.dicom.intake import take_in
    from medseg.images.dicom.selection import SeriesRules

    apply_description(draft)
    path = draft.folder / RULES_NAME
    rules = SeriesRules.load(path) if path.is_file() else None
    found = take_in(draft.folder)
    labelled: dict[str, tuple[Series, FirstLook]] = {}
    for look in found.labels:
        series = _labelled_series(draft, look, found)
        if series is None:
            continue
        if series.name in labelled:
            other = labelled[series.name][1].path
            sentence = f"{other} and {look.path} are both labels of series {series.uid}."
            draft.complain(series.name, "two-label-files", sentence, "Keep one of them.", look.path)
        else:
            labelled[series.name] = (series, look)
    patients: dict[str, str] = {}
    for name, (series, _) in sorted(labelled.items()):
        patients.setdefault(series.patient, name)
    for series, look in labelled.values():
        _add(draft, series, look, found, rules, patients[series.patient] if series.patient else None)
    _name_channels(draft, [series for series, _ in labelled.values()], rules)
    _name_labels(draft, [look.path for _, look in labelled.values()])
    left_out = len(found.series) - len(labelled)
    if left_out and rules is None:
        sentence = f"{left_out} series in {draft.folder} have no labels and are left out."
        draft.remark("", "series-without-labels", sentence, "'medseg predict' can segment them.")


def find_dicom_cases(folder: Path, channels: Sequence[str], rules: SeriesRules | None) -> DicomCases:
    """A Case for each study by the rules; without rules, where the model has one channel, for each series.

    Raises DatasetError where several channels need rules, or there is nothing to predict.
    """
    require_extra()
    from medseg.images.dicom.intake import take_in

    if rules is None and len(channels) > 1:
        raise DatasetError(
            f"The model takes {len(channels)} channels ({', '.join(channels)}), and the studies in {folder} do not say "
            "which series is which. Say it by rules: select=RULES.yaml."
        )
    if rules is not None:
        rules.require_channels(channels)
    found = take_in(folder)
    cases, complaints, choices = _by_rules(found, rules) if rules is not None else _one_each(found)
    if not cases and not complaints:
        raise DatasetError(f"There is no DICOM series in {folder} that could be predicted.")
    return DicomCases(cases, complaints, found.manifest.model_copy(update={"choices": tuple(choices)}))


def _one_each(found: Intake) -> tuple[list[Case], list[Complaint], list[StudyChoice]]:
    from medseg.images.dicom.selection import doubts_about

    cases: list[Case] = []
    complaints = [_refused(series) for series in found.refused]
    for series in found.series:
        problem = doubts_about(series)
        if problem:
            sentence = f"Series {series.uid} is passed over: {problem}."
            complaints.append(Complaint(series.name, "doubtful-series", sentence, _ALLOW))
        else:
            _append(cases, complaints, series.name, [series])
    return cases, complaints, []


def _by_rules(found: Intake, rules: SeriesRules) -> tuple[list[Case], list[Complaint], list[StudyChoice]]:
    from medseg.images.dicom.manifest import StudyChoice
    from medseg.images.dicom.selection import choose_series

    cases: list[Case] = []
    complaints: list[Complaint] = []
    choices: list[StudyChoice] = []
    for study in dict.fromkeys(series.study_uid for series in (*found.series, *found.refused)):
        own = [series for series in found.series if series.study_uid == study]
        try:
            chosen, channels = choose_series(own, rules)
        except DatasetError as error:
            choices.append(StudyChoice(study_uid=study, problem=str(error)))
            refused = "".join(f" {_refused(x).sentence}" for x in found.refused if x.study_uid == study)
            complaints.append(Complaint(f"study-{study[-12:]}", "no-series", f"Study {study}: {error}{refused}", ""))
            continue
        choices.append(StudyChoice(study_uid=study, channels=channels))
        _append(cases, complaints, chosen[0].name, chosen)
    return cases, complaints, choices


def _append(cases: list[Case], complaints: list[Complaint], name: str, chosen: Sequence[Series]) -> None:
    scattered = next((series for series in chosen if _is_scattered(series)), None)
    if scattered is None:
        cases.append(Case(name, tuple(series.files[0] for series in chosen)))
    else:
        complaints.append(_scattered(scattered))


def _is_scattered(series: Series) -> bool:
    return len({path.parent for path in series.files}) > 1


def _scattered(series: Series) -> Complaint:
    sentence = f"The files of series {series.uid} lie in several folders, such as {series.files[0].parent}."
    return Complaint(series.name, "scattered-series", sentence, "Put them into one, or use 'medseg convert' first.")


def _refused(series: Series) -> Complaint:
    sentence = f"Series {series.uid} is not safe to use ({series.verdict}): {series.reason}."
    remedy = "Look at it; 'medseg convert' interpolates what is allowed there."
    return Complaint(series.name, f"series-{series.verdict.replace('_', '-')}", sentence, remedy)


def _labelled_series(draft: Draft, look: FirstLook, found: Intake) -> Series | None:
    """The accepted series that a label file was drawn on; a complaint where there is none, or more than one."""
    referred = [series for series in found.series if series.uid in look.referenced_series]
    in_place = [series for series in found.series if series.frame_of_reference_uid == look.frame_of_reference_uid]
    candidates = referred if look.referenced_series else in_place
    if len(candidates) == 1:
        return candidates[0]
    refused = next((series for series in found.refused if series.uid in look.referenced_series), None)
    if refused is not None and not candidates:
        complaint = _refused(refused)
        draft.complain(refused.name, complaint.code, complaint.sentence, complaint.remedy, look.path)
    elif candidates:
        sentence = f"{look.path} could belong to any of {len(candidates)} series: its references name more than one."
        draft.complain("", "ambiguous-labels", sentence, "Keep only the series that it was drawn on.", look.path)
    else:
        sentence = f"{look.path} holds labels, but the series that it was drawn on is not in {draft.folder}."
        draft.complain("", "labels-without-series", sentence, "Add the series, or take the file away.", look.path)
    return None


def _add(
    draft: Draft, series: Series, look: FirstLook, found: Intake, rules: SeriesRules | None, patient: str | None
) -> None:
    chosen = [series]
    if rules is not None:
        from medseg.images.dicom.selection import choose_series

        try:
            chosen, _ = choose_series([x for x in found.series if x.study_uid == series.study_uid], rules)
        except DatasetError as error:
            sentence = f"Study {series.study_uid}: {error}"
            draft.complain(series.name, "no-series", sentence, "Adapt the rules.", look.path)
            return
        if chosen[0] is not series:
            draft.complain(
                series.name,
                "labels-elsewhere",
                f"Study {series.study_uid}: {look.path.name} was drawn on series {series.uid}, but the rules choose "
                f"{chosen[0].uid} for the first channel, '{rules.channels[0].channel}'.",
                "Let the first channel be the one that labels were drawn on.",
                look.path,
            )
            return
    scattered = next((one for one in chosen if _is_scattered(one)), None)
    if scattered is not None:
        complaint = _scattered(scattered)
        draft.complain(series.name, complaint.code, complaint.sentence, complaint.remedy, scattered.files[0])
        return
    draft.add(Case(series.name, tuple(x.files[0] for x in chosen), look.path, patient))


def _name_channels(draft: Draft, series: Sequence[Series], rules: SeriesRules | None) -> None:
    if rules is not None:
        draft.channels = draft.channels or tuple(rule.channel for rule in rules.channels)
    modalities = {one.modality for one in series}
    draft.channels = draft.channels or (modalities.pop() if len(modalities) == 1 else "image",)


def _name_labels(draft: Draft, files: Sequence[Path]) -> None:
    """Names of segments in alphabetical order, with the values 1, 2, ..., unless the labels are named already."""
    if draft.labels is not None:
        return
    from medseg.images.dicom.reading import structures_in

    known = {}
    for file in files:
        try:
            for structure in structures_in(file):
                known.setdefault(structure.name, structure)
        except MedsegError as error:
            draft.complain("", "unreadable", str(error), "", file)
    named = sorted(known.items())
    labels = [Label(name=name, value=value, color=x.color, code=x.code) for value, (name, x) in enumerate(named, 1)]
    draft.labels = LabelTable(labels=tuple(labels))
