"""What is looked at: the source that the words behind the script name, its Cases as they are opened, its reviews.

Held once for all readers, and only as memory maps and documents: nothing large is ever in a session.
"""

import sys
from dataclasses import replace
from pathlib import Path

import streamlit as st
from texts import plain, text
from user import user

from medseg.chained_log import ChainedLog
from medseg.errors import MedsegError
from medseg.review.cache import OpenCase, is_prepared
from medseg.review.cache import open_case as open_prepared
from medseg.review.case import ReviewCase
from medseg.review.records import ReviewLog
from medseg.review.sources import Source, SourceSettings, open_source, with_own_work
from medseg.settings import build, read_words

_OPEN = 2
"""Cases whose maps stay open for all readers together."""


@st.cache_resource(show_spinner=False)
def _files(words: tuple[str, ...]) -> Source:
    return open_source(build(SourceSettings, read_words(words)))


@st.cache_resource(max_entries=4, show_spinner=False)
def _all(words: tuple[str, ...], change: int) -> Source:  # noqa: ARG001 (the number of changes makes it anew)
    return with_own_work(_files(words))


@st.cache_resource(max_entries=_OPEN, ttl=3600, show_spinner=False)
def _opened(_case: ReviewCase, cache: str, files: tuple[tuple[str, int], ...]) -> OpenCase:  # noqa: ARG001 (the key)
    return open_prepared(_case, Path(cache))


@st.cache_resource
def _changes() -> dict[str, int]:
    return {"count": 0}


def source() -> Source:
    """What there is to look at; a page that can't say ends here with the sentence why."""
    words = tuple(word for word in sys.argv[1:] if "=" in word)
    try:
        return _all(words, _changes()["count"])
    except MedsegError as error:
        st.error(plain(error))
        st.info(text("start.how"))
        st.stop()


def open_case(place: Source, case: ReviewCase, where: str) -> OpenCase:
    """The Case, prepared first where that was not done yet; a page that can't ends here with the sentence why.

    Noted in the audit log, once until another one is opened in the same place: nobody looks unseen.
    """
    files = tuple((str(path), path.stat().st_mtime_ns) for path in case.images if path.is_file())
    try:
        if st.session_state.get(key := f"medseg_opened_{where}") != case.name:
            ChainedLog(place.log).append("case opened", user=user(), case=case.name, where=where)
            st.session_state[key] = case.name
        if is_prepared(case, place.cache):
            return replace(_opened(case, str(place.cache), files), case=case)
        with st.spinner(text("case.preparing"), show_time=True):
            return _opened(case, str(place.cache), files)
    except (MedsegError, OSError) as error:
        st.error(plain(error))
        st.stop()


def refresh() -> None:
    """Look again: a run, an upload or a correction has been added."""
    _changes()["count"] += 1


def log(place: Source) -> ReviewLog:
    """The reviews of a source."""
    return ReviewLog(place.records)
