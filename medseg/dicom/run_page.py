"""The report of a run as one HTML page that needs no network: what went in, what came out, verdicts, times, warnings.

Everything from a header is escaped. Pictures are embedded until the page would become too heavy; the rest are read
from the folders beside it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

from medseg.dicom.formats import FILES
from medseg.dicom.record import RunReport, StudyRecord
from medseg.evaluation.measurements import Measurement
from medseg.files import write_text

_EMBEDDED_BYTES = 20_000_000
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#222;max-width:1100px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.05em;margin:0 0 .4em;font-family:ui-monospace,monospace}
table{border-collapse:collapse;margin:.4em 0 .8em}td,th{padding:.2em .9em .2em 0;text-align:left;vertical-align:top}
th{color:#777;font-weight:500}.n{text-align:right;font-variant-numeric:tabular-nums}
section{border-top:1px solid #ddd;padding:1em 0}.failed h2{color:#b00020}.banner{background:#fff4d6;padding:.6em 1em}
.study{display:flex;gap:2em;justify-content:space-between;align-items:flex-start}
img{max-width:45%;max-height:420px;border-radius:4px}small{color:#777}ul{margin:.3em 0;padding-left:1.2em}
"""


def write_page(path: Path, report: RunReport) -> None:
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
        f"<h1>{escape(title)}</h1>",
        "<p class=banner>Results of a program, unverified. Not for clinical use.</p>",
        _table((), facts.items()),
        _list(f"{count} file(s): {reason}" for reason, count in sorted(report.unused.items())),
        *(_study(study, pictures.get(study.study), study.study in report.earlier) for study in _in_order(report)),
    ]
    write_text(
        path,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{''.join(body)}</html>\n",
    )


def _in_order(report: RunReport) -> Iterable[StudyRecord]:
    """Failed ones first."""
    return sorted(report.studies, key=lambda study: (study.status == "done", study.study))


def _study(study: StudyRecord, picture: str | None, earlier: bool) -> str:
    note = f"{study.seconds:.1f} s{', by an earlier run' if earlier else ''}"
    parts = [f"<h2>{study.study} <small>{study.status}, {note}</small></h2>"]
    if study.sentence:
        parts.append(f"<p>{escape(study.sentence)}</p>")
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
    parts.append(_table(("channel", "modality", "slices", "spacing z, y, x (mm)", "verdict", "reason"), rows))
    measured = [
        (one.structure, f"{one.volume_ml:.2f}", f"{one.largest_diameter_mm:.1f}", str(one.parts),
         f"{one.intensities[0].mean:.4g}" if one.intensities else "-") for one in study.measurements
    ]  # fmt: skip
    heads = ["structure", "volume, mL", "largest diameter, mm", "parts", "mean intensity"]
    if any(one.volume_interval is not None for one in study.measurements):
        heads.append("volume interval, mL")
        measured = [(*row, _interval(one)) for row, one in zip(measured, study.measurements, strict=True)]
    parts.append(_table(heads, measured))
    parts.append(_list(study.remarks))
    image = "" if picture is None else f"<img loading=lazy alt='overlay' src='{picture}'>"
    return f"<section class='study {study.status}'><div>{''.join(parts)}</div>{image}</section>"


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


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table whose columns of numbers stand on the right."""
    heads, rows = list(heads), [list(row) for row in rows]
    if not rows:
        return ""
    numbers = [bool(heads) and all(_is_number(cell) for cell in column) for column in zip(*rows, strict=True)]
    head = f"<tr>{_cells('th', heads, numbers)}</tr>" if heads else ""
    body = "".join(f"<tr>{_cells('td', row, numbers)}</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def _cells(tag: str, texts: Iterable[str], numbers: Iterable[bool]) -> str:
    pairs = zip(texts, numbers, strict=True)
    return "".join(f"<{tag}{' class=n' if number else ''}>{escape(text)}</{tag}>" for text, number in pairs)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).isdigit()


def _list(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""
