"""The page where a model is run: on a case that is here, or on an upload; and what became of it."""

import streamlit as st
from jobs_panel import queue, show_jobs
from opened import open_case, refresh, source
from session import case_name, choose_case
from texts import plain, text

from medseg.errors import MedsegError
from medseg.review.asking import predict_words
from medseg.review.estimates import Estimates
from medseg.review.sources import Source
from medseg.review.uploads import Upload, take_upload

_UPLOAD_MB = 2000


def _run(place: Source) -> None:
    st.subheader(text("run.title"))
    if place.model is None:
        st.info(text("run.no_model"))
        return
    st.caption(text("run.model", model=plain(place.model.name)))
    names = [case.name for case in place.cases]
    if not names:
        st.info(text("start.empty"))
        return
    at = names.index(case_name() or names[0]) if (case_name() or names[0]) in names else 0
    name = st.selectbox(text("run.case"), names, index=at, key="run_case")
    left, right = st.columns(2, vertical_alignment="bottom")
    quality = left.selectbox(
        text("run.quality"), ["balanced", "fast", "best"], format_func=lambda one: text(f"run.{one}"), key="run_quality"
    )
    doubt = right.toggle(text("run.uncertainty"), value=True, key="run_uncertainty", help=text("run.uncertainty_help"))
    one = open_case(place, place.case(name), "running")
    try:
        words = predict_words(one, place.model, place.inputs / name, "tta" if doubt else "none", quality)
    except (MedsegError, OSError) as error:
        st.error(plain(error))
        return
    _memory(tuple(words))
    if st.button(text("run.start"), key="run_start", type="primary", icon=":material/play_arrow:"):
        try:
            queue(place).add(name, "predict", words, place.runs)
        except (MedsegError, OSError) as error:
            st.error(plain(error))
            return
        st.rerun()


@st.cache_resource(show_spinner=False)
def _estimates() -> Estimates:
    return Estimates()


def _memory(words: tuple[str, ...]) -> None:
    """What the run will need at most, before it is asked for; looked up beside the page, which goes on meanwhile."""
    found = _estimates().of(words)
    if found is None:
        _waiting(words)
    elif found.refusal:
        st.error(plain(found.refusal))
    else:
        st.caption(text("job.memory", memory=plain(found.memory)))


@st.fragment(run_every=1.0)
def _waiting(words: tuple[str, ...]) -> None:
    if _estimates().of(words) is not None:
        st.rerun()
    st.caption(text("run.estimating"))


def _upload(place: Source) -> None:
    st.subheader(text("upload.title"))
    st.caption(text("upload.how"))
    with st.form("upload", clear_on_submit=True):
        name = st.text_input(text("upload.name"), key="upload_name", placeholder=text("upload.name_hint"))
        files = st.file_uploader(
            text("upload.files"), accept_multiple_files=True, key="upload_files", max_upload_size=_UPLOAD_MB
        )
        sent = st.form_submit_button(text("upload.send"), icon=":material/upload:")
    if sent:
        try:
            take_upload([Upload(one.name, one, one.size) for one in files], name, place.uploads)
        except (MedsegError, OSError) as error:
            st.error(plain(error))
            return
        refresh()
        choose_case(name)
        st.rerun()


place = source()
left, right = st.columns(2, gap="large")
with left:
    _run(place)
    _upload(place)
with right:
    st.subheader(text("job.title"))
    if not queue(place).jobs:
        st.caption(text("job.none"))
    show_jobs(place, everything=True)
