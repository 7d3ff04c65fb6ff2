"""A folder of DICOM studies as a Dataset: a series is an image, a segmentation or structure set its labels.

Knows no DICOM itself; ``medseg.images.dicom`` reads it. A file path stands for the whole series that it is a slice of.
Case names are hashes of UIDs, and a patient is called by the first of his cases: an ID, or its hash, which could be
guessed, enters no workspace.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cases.case import Case
from medseg.cases.dicom_complaints import is_scattered, refused_series, scattered_files
from medseg.cases.draft import Draft
from medseg.cases.labels import Label, LabelTable
from medseg.cases.listing import apply_description
from medseg.errors import DatasetError, MedsegError
from medseg.images.dicom import require_extra

if TYPE_CHECKING:
    from medseg.images.dicom.file import FirstLook
    from medseg.images.dicom.intake import Intake
    from medseg.images.dicom.selection import SeriesRules
    from medseg.images.dicom.series import Series

RULES_NAME = "series.yaml"
"""Beside the studies: which series is which channel."""


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


def _labelled_series(draft: Draft, look: FirstLook, found: Intake) -> Series | None:
    """The accepted series that a label file was drawn on; a complaint where there is none, or more than one."""
    referred = [series for series in found.series if series.uid in look.referenced_series]
    in_place = [series for series in found.series if series.frame_of_reference_uid == look.frame_of_reference_uid]
    candidates = referred if look.referenced_series else in_place
    if len(candidates) == 1:
        return candidates[0]
    refused = next((series for series in found.refused if series.uid in look.referenced_series), None)
    if refused is not None and not candidates:
        complaint = refused_series(refused)
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
    scattered = next((one for one in chosen if is_scattered(one)), None)
    if scattered is not None:
        complaint = scattered_files(scattered)
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
