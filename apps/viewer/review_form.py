"""What the reader thinks of a label map: accepted, rejected or to be edited, how hard it was, and why."""

import streamlit as st
from opened import refresh
from session import reviewer
from texts import moment, plain, text
from user import user

from medseg.access.gate import NOBODY
from medseg.errors import MedsegError
from medseg.files import hash_file
from medseg.review.case import Finding, ReviewCase
from medseg.review.records import DIFFICULTIES, STATUSES, Review, ReviewLog


def _ask_name() -> None:
    """Who reads, once for reviews and corrections: whoever has signed in, else what is entered."""
    if user() != NOBODY:
        st.session_state["medseg_reviewer"] = user()
        st.caption(text("review.signed_in", name=plain(user())))
        return
    known = st.session_state.get("medseg_reviewer", "")
    st.session_state["medseg_reviewer"] = st.text_input(text("review.reviewer"), known, key="reviewer")


def show_review(case: ReviewCase, finding: Finding | None, reviews: ReviewLog) -> None:
    """Draw the form and the reviews so far."""
    if finding is None:
        return
    st.markdown(f"**{text('review.title')}**")
    _ask_name()
    with st.form(f"review_{case.name}", clear_on_submit=False):
        status = st.segmented_control(
            text("review.status"), STATUSES, format_func=lambda one: text(f"verdict.{one}"), key=f"verdict_{case.name}"
        )
        difficulty = st.segmented_control(
            text("review.difficulty"),
            DIFFICULTIES,
            default="medium",
            required=True,
            format_func=lambda one: text(f"difficulty.{one}"),
            key=f"difficulty_{case.name}",
        )
        comment = st.text_area(text("review.comment"), key=f"comment_{case.name}", height=68)
        sent = st.form_submit_button(text("review.save"), type="primary", width="stretch")
    if sent:
        _save(case, finding, reviews, (status, difficulty, comment))
    for review in reversed(reviews.all(case.name)):
        st.caption(
            text(
                "review.line",
                status=text(f"status.{review.status}"),
                reviewer=plain(review.reviewer),
                time=moment(review.time),
            )
        )
        if review.comment:
            st.text(review.comment)


def _save(case: ReviewCase, finding: Finding, reviews: ReviewLog, given: tuple[str | None, str | None, str]) -> None:
    status, difficulty, comment = given
    if status is None:
        st.warning(text("review.no_status"))
        return
    try:
        reviews.add(
            Review(
                case=case.name,
                finding=finding.name,
                labels=hash_file(finding.labels),
                status=status,  # type: ignore[arg-type]
                difficulty=difficulty or "medium",  # type: ignore[arg-type]
                comment=comment,
                reviewer=reviewer(),
            )
        )
    except (MedsegError, OSError) as error:
        st.error(plain(error))
        return
    refresh()
    st.rerun()
