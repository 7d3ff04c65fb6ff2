"""What was found: which label map, its structures with colour and switch, and their numbers."""

from dataclasses import dataclass, field

import streamlit as st
from session import go_to, start_at
from texts import plain, text

from medseg.errors import MedsegError
from medseg.evaluation.palette import Color, colors_of
from medseg.review.cache import OpenCase
from medseg.review.case import Finding, ReviewCase
from medseg.review.numbers import Line, Numbers, measure

_SWITCHES = 12
"""With more structures than this, one list instead of a switch for each."""


_HELPED = ("volume", "interval", "diameter", "intensity", "parts", "entropy", "dice")


@dataclass(frozen=True)
class Panel:
    """What was chosen on the right, as the picture in the middle needs it."""

    finding: Finding | None = None
    shown: frozenset[str] | None = None
    colors: dict[str, Color] = field(default_factory=dict)
    channel: int = 0


def show_findings(one: OpenCase, case: ReviewCase) -> Panel:
    """Draw the panel."""
    channel = _channel(one)
    known = [*case.findings, *([case.reference] if case.reference else [])]
    if not known:
        return Panel(channel=channel)
    names = [finding.name for finding in known]
    name = st.selectbox(text("findings.which"), names, key=f"finding_{case.name}")
    finding = known[names.index(name)]
    try:
        numbers = measure(one, finding, channel)
    except (MedsegError, OSError) as error:
        st.error(plain(error))
        return Panel(channel=channel)
    if numbers.lines:
        start_at(max(numbers.lines, key=lambda line: line.volume_ml).centre)
    shown, colors = _structures(finding)
    _table(case, finding, numbers)
    return Panel(finding, shown, colors, channel)


def _channel(one: OpenCase) -> int:
    channels = [*range(len(one.record.channels))]
    if len(channels) < 2:
        return 0
    return st.selectbox(text("case.channel"), channels, format_func=lambda at: one.record.channels[at], key="channel")


def _structures(finding: Finding) -> tuple[frozenset[str], dict[str, Color]]:
    """The switches; returns the names that are on, and colours that were changed."""
    targets = finding.table.targets
    names = [target.name for target in targets]
    if len(names) > _SWITCHES:
        shown = st.multiselect(text("findings.structures"), names, default=names, key="structures")
        return frozenset(shown), {}
    shown, colors, row = set(), {}, []
    for number, (target, default) in enumerate(zip(targets, colors_of(targets), strict=True)):
        if number % 2 == 0:
            row = st.columns([1, 5, 1, 5], vertical_alignment="center", gap="small")
        swatch, switch = row[2 * (number % 2) : 2 * (number % 2) + 2]
        label = text("findings.color", structure=target.name)
        picked = swatch.color_picker(label, _hex(default), key=f"color_{target.name}", label_visibility="collapsed")
        colors[target.name] = _color(picked)
        if switch.checkbox(plain(target.name), value=True, key=f"shown_{target.name}"):
            shown.add(target.name)
    return frozenset(shown), colors


def _table(case: ReviewCase, finding: Finding, numbers: Numbers) -> None:
    """The numbers; choosing a line goes to the middle of its structure."""
    if numbers.lines:
        key = f"table_{case.name}_{finding.name}"
        st.dataframe(
            _columns(numbers.lines),
            key=key,
            hide_index=True,
            column_config={text(f"findings.{name}"): _described(name) for name in _HELPED},
            selection_mode="single-row",
            on_select=lambda: _chosen(key, numbers),
        )
        st.caption(text("findings.click"))
    rates = {line.rate for line in numbers.lines if line.rate is not None}
    if any(line.volume_low_ml is not None for line in numbers.lines):
        told = text("findings.rate", rate=min(rates)) if rates else text("findings.credible")
        st.caption(told)
    if numbers.absent:
        st.caption(text("findings.absent", names=plain(", ".join(numbers.absent))))


def _columns(lines: tuple[Line, ...]) -> dict[str, list[object]]:
    """Only the columns in which something stands."""
    rows: dict[str, list[object]] = {
        text("findings.structure"): [line.structure for line in lines],
        text("findings.volume"): [_ml(line.volume_ml) for line in lines],
        text("findings.interval"): [_between(line) for line in lines],
        text("findings.diameter"): [f"{line.largest_diameter_mm:.1f}" for line in lines],
        text("findings.intensity"): [f"{line.mean_intensity:.0f}" for line in lines],
        text("findings.parts"): [line.parts for line in lines],
        text("findings.entropy"): [_number(line.mean_entropy_nats, 3) for line in lines],
        text("findings.dice"): [_number(line.expected_dice, 2) for line in lines],
    }
    return {name: column for name, column in rows.items() if any(value != "" for value in column)}


def _described(name: str) -> dict[str, object]:
    return st.column_config.Column(width="small", alignment="right", help=text(f"findings.{name}_help"))


def _between(line: Line) -> str:
    if line.volume_low_ml is None or line.volume_high_ml is None:
        return ""
    return f"{_ml(line.volume_low_ml)} – {_ml(line.volume_high_ml)}"  # noqa: RUF001 (a range has an en dash)


def _ml(volume: float) -> str:
    """Three digits, which is more than anybody knows."""
    return f"{volume:.{2 if volume < 10 else 1 if volume < 100 else 0}f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _chosen(key: str, numbers: Numbers) -> None:
    rows = st.session_state[key].selection.rows
    if rows:
        go_to(numbers.lines[rows[0]].centre)


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _color(text_: str) -> Color:
    red, green, blue = (int(text_[start : start + 2], 16) for start in (1, 3, 5))
    return red, green, blue
