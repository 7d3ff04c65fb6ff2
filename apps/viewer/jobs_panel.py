"""What is being computed: progress, the memory it needs, cancel; shown where work was asked for and in the worklist."""

import atexit
from pathlib import Path

import streamlit as st
from opened import refresh
from session import choose_case
from texts import plain, text

from medseg.review.jobs import Job, Queue
from medseg.review.sources import Source

_EVERY = 1.5
"""Seconds between looks."""
ICONS = {
    "queued": ":material/hourglass_empty:",
    "running": ":material/autorenew:",
    "done": ":material/check:",
    "failed": ":material/error:",
    "cancelled": ":material/block:",
}


@st.cache_resource(show_spinner=False)
def _queue(state: str) -> Queue:  # noqa: ARG001 (the key)
    queue = Queue()
    atexit.register(queue.close)
    return queue


def queue(place: Source) -> Queue:
    """The one queue of a source, whoever looks at it."""
    return _queue(str(place.state))


def show_jobs(place: Source, everything: bool = False) -> None:
    """What runs, waits or has failed; with ``everything`` also what is over. Draws itself again until all is done."""
    known = queue(place)
    if known.finished != st.session_state.get("medseg_finished", 0):
        st.session_state["medseg_finished"] = known.finished
        refresh()
        st.rerun()
    if any(not job.is_over for job in known.jobs):
        _running(known, everything)
    else:
        _list(known, _shown(known, everything))


@st.fragment(run_every=_EVERY)
def _running(known: Queue, everything: bool) -> None:
    if known.finished != st.session_state.get("medseg_finished", 0):
        st.rerun()
    _list(known, _shown(known, everything))


def _shown(known: Queue, everything: bool) -> list[Job]:
    return [job for job in known.jobs if everything or not job.is_over or job.state == "failed"]


def _list(known: Queue, jobs: list[Job]) -> None:
    for job in jobs:
        with st.container(border=True, gap="small"):
            st.markdown(f"{ICONS[job.state]} {plain(job.title)} · {text(f'job.{job.state}')}")
            if job.state == "running":
                st.progress(job.share, plain(job.step) or text("job.starting"))
            if job.memory:
                st.caption(text("job.memory", memory=plain(job.memory)))
            if job.state == "failed":
                st.error(plain(job.sentence))
            if job.state == "done":
                st.caption(text("job.seconds", seconds=f"{job.seconds:.0f}"))
                if st.button(text("job.read"), key=f"read_{job.number}_{job.output.parent.name}"):
                    choose_case(job.title.split(":")[0])
                    st.switch_page(Path(__file__).with_name("reading.py"))
            if not job.is_over:
                st.button(
                    text("job.cancel"),
                    key=f"cancel_{job.number}_{job.output.parent.name}",
                    on_click=known.cancel,
                    args=(job,),
                )
