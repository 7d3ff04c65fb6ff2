"""What there is to predict in a folder of DICOM studies.

Knows no DICOM itself; ``medseg.images.dicom`` reads it. A file path stands for the whole series that it is a slice of,
and a Case is called by a hash of UIDs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cases.case import Case
from medseg.cases.dicom_complaints import is_scattered, refused_series, scattered_files
from medseg.errors import Complaint, DatasetError
from medseg.images.dicom import require_extra

if TYPE_CHECKING:
    from medseg.images.dicom.intake import Intake
    from medseg.images.dicom.manifest import Manifest, StudyChoice
    from medseg.images.dicom.selection import SeriesRules
    from medseg.images.dicom.series import Series

_ALLOW = "Allow it by rules: select=RULES.yaml."


@dataclass(frozen=True)
class DicomCases:
    """What there is to predict in a folder, what can't be, and what became of every file."""

    cases: list[Case]
    complaints: list[Complaint]
    manifest: Manifest


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
    complaints = [refused_series(series) for series in found.refused]
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
            refused = "".join(f" {refused_series(x).sentence}" for x in found.refused if x.study_uid == study)
            complaints.append(Complaint(f"study-{study[-12:]}", "no-series", f"Study {study}: {error}{refused}", ""))
            continue
        choices.append(StudyChoice(study_uid=study, channels=channels))
        _append(cases, complaints, chosen[0].name, chosen)
    return cases, complaints, choices


def _append(cases: list[Case], complaints: list[Complaint], name: str, chosen: Sequence[Series]) -> None:
    scattered = next((series for series in chosen if is_scattered(series)), None)
    if scattered is None:
        cases.append(Case(name, tuple(series.files[0] for series in chosen)))
    else:
        complaints.append(scattered_files(scattered))
