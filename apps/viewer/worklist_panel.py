"""The worklist in the sidebar: search, status, order, and a button for each Case."""

from collections.abc import Mapping

import streamlit as st
from session import case_name, choose_case
from texts import plain, text

from medseg.review.records import STATUSES, Review
from medseg.review.sources import Source
from medseg.review.worklist import Row, neighbour, worklist

_SHOWN = 100
ICONS = {
    "open": ":material/radio_button_unchecked:",
    "accepted": ":material/check_circle:",
    "rejected": ":material/cancel:",
    "needs_edit": ":material/edit:",
}


def show_worklist(place: Source, reviews: Mapping[str, Review]) -> list[Row]:
    """Draw it; returns the lines that match."""
    with st.sidebar:
        st.markdown(f"**{text('worklist.title')}** · {plain(place.title)}")
        search = st.text_input(text("worklist.search"), key="search", placeholder=text("worklist.search_hint"))
        # One below the other: side by side the sidebar cuts their words off.
        status = st.selectbox(
            text("worklist.status"),
            ["any", "open", *STATUSES],
            format_func=lambda one: text(f"status.{one}"),
            key="status",
        )
        order = st.selectbox(
            text("worklist.order"), ["urgency", "name"], format_func=lambda one: text(f"worklist.by_{one}"), key="order"
        )
        rows = worklist(place.cases, reviews, search, None if status == "any" else status, order)
        st.caption(text("worklist.count", shown=len(rows), all=len(place.cases)))
        if rows and case_name() not in {case.name for case in place.cases}:
            choose_case(rows[0].case.name)
        _steps(rows)
        _buttons(rows)
        for remark in place.remarks:
            st.warning(plain(remark))
    return rows


def _steps(rows: list[Row]) -> None:
    """To the case before and after, also by keys."""
    left, right = st.columns(2)
    for column, step, name, key in ((left, -1, "previous", "k"), (right, 1, "next", "j")):
        column.button(
            text(f"worklist.{name}"),
            key=name,
            shortcut=key,
            width="stretch",
            disabled=not rows,
            on_click=lambda step=step: choose_case(neighbour(rows, case_name() or "", step)),
        )


def _buttons(rows: list[Row]) -> None:
    with st.container(height=520, border=False, gap="xxsmall", key="worklist"):
        for row in rows[:_SHOWN]:
            name = row.case.name
            urgency = "" if row.urgency is None else f"  ·  {row.urgency:.2f}"
            st.button(
                plain(name) + urgency,
                key=f"case_{name}",
                icon=ICONS[row.status],
                type="primary" if name == case_name() else "tertiary",
                width="stretch",
                help=text("worklist.urgency_help") if row.urgency is not None else None,
                on_click=choose_case,
                args=(name,),
            )
        if len(rows) > _SHOWN:
            st.caption(text("worklist.more", count=len(rows) - _SHOWN))
