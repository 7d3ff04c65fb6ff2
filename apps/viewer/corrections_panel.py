"""Corrections in the page: remove or rename a part, grow or shrink a structure, undo, and the way to other programs."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import streamlit as st
from opened import refresh
from session import place_in, reviewer
from texts import plain, text

from medseg.arrays import Labels
from medseg.errors import MedsegError
from medseg.review.cache import OpenCase
from medseg.review.case import Finding
from medseg.review.corrections import Corrections, grown, relabelled_component, shrunk, without_component
from medseg.review.exports import export_for_editing
from medseg.review.sources import Source


def show_corrections(place: Source, one: OpenCase, finding: Finding | None) -> None:
    """Draw the panel; nothing where there is nothing to correct."""
    if finding is None:
        return
    corrections = Corrections(place.corrections / one.case.name, one)
    with st.expander(text("correct.title"), icon=":material/edit:", key="correct"):
        st.caption(text("correct.how"))
        _parts(one, finding, corrections)
        _sizes(one, finding, corrections)
        if corrections.current is not None:
            label = text("correct.undo", number=corrections.current)
            st.button(label, key="undo", icon=":material/undo:", width="stretch", on_click=lambda: _undo(corrections))
        _elsewhere(place, one, finding, corrections)
        for step in corrections.history.steps[:-6:-1]:
            told = text("correct.step", number=step.number, action=plain(step.action), who=plain(step.reviewer))
            st.caption(told)


def _parts(one: OpenCase, finding: Finding, corrections: Corrections) -> None:
    """The part under the crosshair goes away, or becomes another structure."""
    names = [label.name for label in finding.table.labels]
    to = st.selectbox(text("correct.to"), range(1, len(names)), format_func=lambda at: names[at], key="rename_to")
    left, right = st.columns(2)
    remove = text("correct.remove")
    left.button(
        remove,
        key="remove",
        width="stretch",
        on_click=lambda: _apply(corrections, finding, remove, lambda array: without_component(array, place_in(one))),
    )
    label = text("correct.rename", name=plain(names[to]))
    right.button(
        label,
        key="rename",
        width="stretch",
        on_click=lambda: _apply(
            corrections, finding, label, lambda array: relabelled_component(array, place_in(one), to)
        ),
    )


def _sizes(one: OpenCase, finding: Finding, corrections: Corrections) -> None:
    """A structure grows or shrinks by millimetres."""
    names = [label.name for label in finding.table.labels]
    left, right = st.columns(2)
    index = left.selectbox(text("correct.which"), range(1, len(names)), format_func=lambda at: names[at], key="which")
    by_mm = right.number_input(text("correct.by"), min_value=0.1, value=round(max(one.spacing), 1), key="by_mm")
    for column, name, change in ((left, "grow", grown), (right, "shrink", shrunk)):
        label = text(f"correct.{name}", name=names[index], mm=f"{by_mm:g}")
        column.button(
            text(f"correct.{name}_button"),
            key=name,
            width="stretch",
            on_click=lambda change=change, label=label: _apply(
                corrections, finding, label, lambda array: change(array, index, by_mm, one.spacing)
            ),
        )


def _elsewhere(place: Source, one: OpenCase, finding: Finding, corrections: Corrections) -> None:
    """Out to 3D Slicer or ITK-SNAP, and back."""
    st.divider()
    if st.button(text("correct.export"), key="export", icon=":material/folder_zip:", width="stretch"):
        try:
            with st.spinner(text("correct.exporting")):
                folder = export_for_editing(one, finding, place.state / "exports" / one.case.name)
        except (MedsegError, OSError) as error:
            st.error(plain(error))
        else:
            st.success(text("correct.exported", folder=plain(folder)))
    sent = st.file_uploader(text("correct.back"), key=f"back_{one.case.name}", max_upload_size=500)
    if sent is not None and st.button(text("correct.take"), key="take", type="primary", width="stretch"):
        with tempfile.TemporaryDirectory() as folder:
            # The name is ours; only the ending is taken over, because it tells the format.
            ending = ".nii.gz" if sent.name.endswith(".nii.gz") else Path(sent.name).suffix
            path = Path(folder) / f"labels{ending if ending in _ENDINGS else ''}"
            with path.open("wb") as target:
                shutil.copyfileobj(sent, target)
            try:
                corrections.take_back(path, finding, reviewer())
            except (MedsegError, OSError) as error:
                st.error(plain(str(error).replace(str(path), text("correct.file"))))
                return
        refresh()
        st.rerun()


_ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd")


def _apply(corrections: Corrections, finding: Finding, action: str, change: Callable[[Labels], Labels]) -> None:
    """Make a new version, or say why not."""
    try:
        corrections.add(change(corrections.one.labels(finding)), finding, action, reviewer())
    except (MedsegError, OSError) as error:
        st.session_state["medseg_told"] = str(error)
        return
    refresh()
    st.session_state.pop(f"finding_{corrections.one.case.name}", None)


def _undo(corrections: Corrections) -> None:
    try:
        corrections.undo()
    except (MedsegError, OSError) as error:
        st.session_state["medseg_told"] = str(error)
        return
    refresh()
    st.session_state.pop(f"finding_{corrections.one.case.name}", None)
