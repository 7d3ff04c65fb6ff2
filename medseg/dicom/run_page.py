"""The report of a run as one HTML page that needs no network: what went in, what came out, verdicts, times, warnings.

Everything from a header is escaped. Pictures are embedded until the page would become too heavy; the rest are read
from the folders beside it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

from medseg.dicom.formats import FILES
from medseg.dicom.record import RunReport, StudyRecord
from medseg.evaluation.measurements import Measurement
from medseg.reports.page import Html, banner, bullets, figure, table, tag, write_page

_EMBEDDED_BYTES = 20_000_000


def write_run_page(path: Path, report: RunReport) -> None:
    """Write the page whole."""
    pictures = _pictures(path.parent, report.studies)
    done = len(report.studies) - len(report.failed)
    title = f"{done} of {len(report.studies)} studies done"
    facts = {
        "model": f"{report.model}, checksum {report.checksum[:16]}",
        "medseg": report.medseg,
        "written": ", ".join(report.formats),
        "time": f"{report.started} to {report.finished} ({report.seconds:.1f} s)",
        "failed": str(len(report.failed)),
        "done by an earlier run": str(len(report.earlier)),
        **{f"files {outcome}": str(count) for outcome, count in sorted(report.files.items())},
    }
    body = [
        tag("h1", title),
        banner("Results of a program, unverified. Not for clinical use."),
        table((), facts.items()),
        bullets(f"{count} file(s): {reason}" for reason, count in sorted(report.unused.items())),
        *(_study(study, pictures.get(study.study), study.study in report.earlier) for study in _in_order(report)),
    ]
    write_page(path, title, body, linked_pictures=True)


def _in_order(report: RunReport) -> Iterable[StudyRecord]:
    """Failed ones first."""
    return sorted(report.studies, key=lambda study: (study.status == "done", study.study))


def _study(study: StudyRecord, picture: str | None, earlier: bool) -> Html:
    note = f"{study.seconds:.1f} s{', by an earlier run' if earlier else ''}"
    parts = [tag("h2", f"{study.study} ", tag("small", f"{study.status}, {note}"), class_="code")]
    if study.sentence:
        parts.append(tag("p", study.sentence))
    rows = [
        (
            line.used_for or "-",
            line.modality,
            str(line.slices),
            " x ".join(f"{step:g}" for step in line.spacing or ()) or "-",
            line.verdict,
            line.reason,
        )
        for line in study.series
    ]
    parts.append(table(("channel", "modality", "slices", "spacing z, y, x (mm)", "verdict", "reason"), rows))
    measured = [
        (one.structure, f"{one.volume_ml:.2f}", f"{one.largest_diameter_mm:.1f}", str(one.parts),
         f"{one.intensities[0].mean:.4g}" if one.intensities else "-") for one in study.measurements
    ]  # fmt: skip
    heads = ["structure", "volume, mL", "largest diameter, mm", "parts", "mean intensity"]
    if any(one.volume_interval is not None for one in study.measurements):
        heads.append("volume interval, mL")
        measured = [(*row, _interval(one)) for row, one in zip(measured, study.measurements, strict=True)]
    parts.append(table(heads, measured))
    parts.append(bullets(study.remarks))
    image = Html() if picture is None else figure(picture, "overlay", caption=False)
    return tag("section", tag("div", *parts), image, class_=f"beside {study.status}")


def _interval(measured: Measurement) -> str:
    known = measured.volume_interval
    return "-" if known is None else f"{known.low_ml:.2f} to {known.high_ml:.2f} ({known.rate:.4g} of cases)"


def _pictures(folder: Path, studies: Iterable[StudyRecord]) -> dict[str, str]:
    found: dict[str, str] = {}
    budget = _EMBEDDED_BYTES
    for study in studies:
        name = FILES["png"]
        path = folder / study.study / name
        if name not in study.files or not path.is_file():
            continue
        budget -= path.stat().st_size
        data = base64.b64encode(path.read_bytes()).decode() if budget > 0 else ""
        found[study.study] = f"data:image/png;base64,{data}" if data else f"{study.study}/{name}"
    return found
