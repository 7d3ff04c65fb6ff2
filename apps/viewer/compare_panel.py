"""Two label maps side by side: two models, a correction and what it came from, or another time."""

from dataclasses import dataclass

import streamlit as st
from opened import open_case
from texts import plain, text

from medseg.errors import MedsegError
from medseg.review.alignment import AlignedCase, aligned
from medseg.review.cache import OpenCase
from medseg.review.case import Finding, ReviewCase
from medseg.review.numbers import Change, compare
from medseg.review.sources import Source
from medseg.review.view import Difference


@dataclass(frozen=True)
class Comparison:
    """What is compared: in the picture, or beside it."""

    difference: Difference | None = None
    beside: tuple[OpenCase | AlignedCase, Finding | None] | None = None
    """Another examination, as it is or aligned with this one, with what was found in it."""


def show_comparison(place: Source, one: OpenCase, case: ReviewCase, finding: Finding | None) -> Comparison:
    """Draw the panel."""
    others = [each for each in _known(case) if finding is not None and each.name != finding.name]
    cases = [each.name for each in place.cases if each.name != case.name]
    if not others and not cases:
        return Comparison()
    with st.expander(text("compare.title"), icon=":material/compare:", key="compare"):
        kinds = [None, *(["labels"] if others else []), *(["case"] if cases else [])]
        kind = st.segmented_control(
            text("compare.kind"), kinds[1:], format_func=lambda at: text(f"compare.{at}"), key="compare_kind"
        )
        if kind == "labels" and finding is not None:
            return _labels(one, finding, others)
        if kind == "case":
            return _case(place, one, finding, cases)
    return Comparison()


def _labels(one: OpenCase, finding: Finding, others: list[Finding]) -> Comparison:
    names = [each.name for each in others]
    second = others[names.index(st.selectbox(text("compare.with"), names, key=f"with_{one.case.name}"))]
    try:
        changes = compare(one, finding, second)
    except (MedsegError, OSError) as error:
        st.error(plain(error))
        return Comparison()
    if not changes:
        st.info(text("compare.nothing"))
        return Comparison()
    _table(changes, finding.name, second.name)
    structure = st.selectbox(text("compare.structure"), [change.structure for change in changes], key="difference")
    st.caption(text("compare.colors", first=plain(finding.name), second=plain(second.name)))
    return Comparison(Difference(finding, second, structure))


def _case(place: Source, one: OpenCase, finding: Finding | None, cases: list[str]) -> Comparison:
    name = st.selectbox(text("compare.other"), cases, key="beside")
    other = open_case(place, place.case(name), "beside")
    known = _known(place.case(name))
    second = next((each for each in known if finding is not None and each.name == finding.name), (known or [None])[0])
    if finding is not None and second is not None:
        try:
            _table(compare(one, finding, second, other), one.case.name, name)
        except (MedsegError, OSError) as error:
            st.error(plain(error))
    if st.toggle(text("compare.align"), help=text("compare.align_help"), key=f"align_{one.case.name}_{name}"):
        try:
            return Comparison(beside=(_aligned(one, other, one.record.source, other.record.source), second))
        except MedsegError as error:
            st.error(plain(error))
    return Comparison(beside=(other, second))


@st.cache_resource(max_entries=8, show_spinner=text("compare.aligning"))
def _aligned(_one: OpenCase, _other: OpenCase, first: str, second: str) -> AlignedCase:  # noqa: ARG001 (the key)
    return aligned(_one, _other)


def _table(changes: list[Change], first: str, second: str) -> None:
    rows = {
        text("findings.structure"): [change.structure for change in changes],
        text("compare.ml", name=first): [f"{change.first_ml:.2f}" for change in changes],
        text("compare.ml", name=second): [f"{change.second_ml:.2f}" for change in changes],
        text("compare.change"): ["" if change.change is None else f"{change.change:+.0%}" for change in changes],
        text("compare.dice"): ["" if change.dice is None else f"{change.dice:.3f}" for change in changes],
    }
    st.dataframe({name: column for name, column in rows.items() if any(column)}, hide_index=True)


def _known(case: ReviewCase) -> list[Finding]:
    return [*case.findings, *([case.reference] if case.reference else [])]
