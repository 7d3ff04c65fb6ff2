"""``medseg convert``: the series of a DICOM folder become NIfTI files, with a manifest of what became of every file.

A few seconds for a study: ``medseg convert input=DICOM_DIR output=DIR``. The other way, with ``labels=FILE``, labels of
the same voxels become a DICOM Segmentation of their series.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medseg.cases.labels import LabelTable
from medseg.commands.console import Bar, say, table
from medseg.errors import DatasetError, MedsegError
from medseg.files import written_whole
from medseg.images.dicom import require_extra
from medseg.images.formats import write_image
from medseg.settings import Settings, build

if TYPE_CHECKING:
    from medseg.images.dicom.intake import Intake
    from medseg.images.dicom.series import Series


class ConvertSettings(Settings):
    """What to convert, and what may be interpolated."""

    input: Path
    """A folder of DICOM files, with all its folders."""
    output: Path
    """Folder for a NIfTI file of each series (named by a hash, never by what a header says) and manifest.json."""
    allow: tuple[Literal["gap", "variable_spacing", "tilted"], ...] = ()
    """Verdicts on a series that are interpolated on a regular grid; by default such a series is refused."""
    labels: Path | None = None
    """Labels of one series in input, such as NIfTI, to write as a DICOM Segmentation instead."""
    table: Path | None = None
    """labels.yaml with the labels' names, values, codes and colours; by default the one beside the labels."""
    made: Literal["automatic", "semiautomatic", "manual"] = "manual"
    """How the labels were made, which a DICOM Segmentation has to say."""


SETTINGS: tuple[type, ...] = (ConvertSettings,)


def run(words: Mapping[str, str]) -> int:
    """Convert every series that is safe or allowed; 2 when there is none."""
    settings = build(ConvertSettings, words)
    require_extra()
    from medseg.images.dicom.intake import take_in
    from medseg.images.dicom.verdict import Verdict

    with Bar() as bar:
        found = take_in(settings.input, [Verdict(name) for name in settings.allow], bar)
        if not found.files:
            raise DatasetError(f"There is no file in {settings.input}.")
        if settings.labels is not None:
            return _write_segmentation(settings.labels, found, settings)
        bar.start("Converting", len(found.series))
        for series in found.series:
            found = _convert(series, found, settings.output)
            bar.advance()
    found.manifest.save(settings.output / "manifest.json")
    _report(found, settings)
    return 0 if found.series else 2


def _write_segmentation(labels: Path, found: Intake, settings: ConvertSettings) -> int:
    from medseg.dicom.from_labels import segmentation_of_file
    from medseg.dicom.origin import Made

    table = LabelTable.load(settings.table or labels.parent / "labels.yaml")
    made: Made = {"automatic": "AUTOMATIC", "semiautomatic": "SEMIAUTOMATIC", "manual": "MANUAL"}[settings.made]  # type: ignore[assignment]
    segmentation, series = segmentation_of_file(labels, found.series, table, made)
    path = settings.output / f"{series.name}_segmentation.dcm"
    with written_whole(path) as temporary:
        segmentation.save_as(temporary)
    say(f"{path}: {len(segmentation.SegmentSequence)} segment(s) on {len(series.slices)} slices")
    return 0


def _convert(series: Series, found: Intake, output: Path) -> Intake:
    """Write one series; what can't be decoded is refused after all, and the others go on."""
    try:
        volume = series.read()
    except MedsegError as error:
        return found.refuse(series, str(error))
    write_image(output / f"{series.name}.nii.gz", volume.array, volume)
    return found


def _report(found: Intake, settings: ConvertSettings) -> None:
    if found.series:
        rows = [
            (f"{one.name}.nii.gz", one.modality, str(one.verdict), "x".join(map(str, one.shape or ())), *_words(one))
            for one in found.series
        ]
        table("Converted", ("file", "modality", "verdict", "voxels (z, y, x)", "spacing (mm)", "remarks"), rows)
    for series in found.refused:
        say(f"Refused: series {series.uid} ({series.verdict}): {series.reason}")
    counts = dict.fromkeys(("used", "labels", "refused", "skipped", "unreadable"), 0)
    for file in found.files:
        counts[file.outcome] += 1
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    say(f"{len(found.files)} files: {told}. Each with its reason is in {settings.output / 'manifest.json'}.")


def _words(series: Series) -> tuple[str, str]:
    spacing = " x ".join(f"{value:g}" for value in series.spacing or ())
    return spacing, "; ".join((*series.flags, *series.remarks))
