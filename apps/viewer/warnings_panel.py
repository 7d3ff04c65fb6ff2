"""What a reader should know before believing the picture: doubts of the intake, of the run, about the orientation."""

import streamlit as st
from texts import plain, text

from medseg.review.cache import OpenCase
from medseg.review.case import Finding, ReviewCase


def show_warnings(one: OpenCase, case: ReviewCase, finding: Finding | None) -> None:
    """Draw them; nothing where there are none."""
    if case.description:
        st.text(text("case.description", words=case.description))
    if not one.record.orientation_known:
        st.warning(text("case.no_orientation"), icon=":material/warning:")
    if finding is None:
        st.info(text("case.no_finding"))
    remarks = dict.fromkeys((*one.record.remarks, *(finding.remarks if finding is not None else ())))
    if remarks:
        st.warning("\n".join(f"- {plain(remark)}" for remark in remarks), icon=":material/warning:")
