"""The page where a Case is read: the worklist on the left, the Case in the middle, what was found on the right."""

import streamlit as st
from case_panel import show_case
from findings_panel import show_findings
from opened import log, open_case, source
from review_form import show_review
from session import case_name, choose_case
from texts import text
from warnings_panel import show_warnings
from worklist_panel import show_worklist

place = source()
reviews = log(place)
rows = show_worklist(place, reviews.last())
if case_name() not in {case.name for case in place.cases}:
    if not rows:
        st.info(text("start.empty" if not place.cases else "worklist.none"))
        st.stop()
    choose_case(rows[0].case.name)
case = place.case(case_name() or "")
one = open_case(place, case)
middle, right = st.columns([7, 3], gap="medium")
with right:
    panel = show_findings(one, case)
    show_review(case, panel.finding, reviews)
with middle:
    show_warnings(one, case, panel.finding)
    show_case(one, panel)
