"""The page where a Case is read: the worklist on the left, the Case in the middle, what was found on the right."""

import streamlit as st
from case_panel import show_case
from compare_panel import show_comparison
from corrections_panel import show_corrections
from explain_panel import show_explanations
from findings_panel import show_findings
from jobs_panel import show_jobs
from opened import log, open_case, source
from review_form import show_review
from session import case_name, told
from texts import plain, text
from warnings_panel import show_warnings
from worklist_panel import show_worklist

place = source()
reviews = log(place)
rows = show_worklist(place, reviews.last())
with st.sidebar:
    show_jobs(place)
if case_name() not in {case.name for case in place.cases}:
    st.info(text("start.empty" if not place.cases else "worklist.none"))
    st.stop()
case = place.case(case_name() or "")
one = open_case(place, case, "reading")
middle, right = st.columns([13, 7], gap="medium")
with right:
    panel = show_findings(one, case)
    show_review(case, panel.finding, reviews)
    explained = show_explanations(place, one, panel.finding)
    comparison = show_comparison(place, one, case, panel.finding)
    show_corrections(place, one, panel.finding)
with middle, st.container(key="picture"):
    if problem := told():
        st.error(plain(problem))
    show_warnings(one, case, panel.finding)
    show_case(one, panel, explained, comparison)
