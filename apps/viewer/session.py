"""What a reader's session remembers: which Case, where in it, the ruler, the reader's name. Small things only."""

import streamlit as st

from medseg.arrays import Triple
from medseg.review.cache import OpenCase
from medseg.review.slices import Frame

_CASE, _PLACE, _RULER, _POINTER = "medseg_case", "medseg_place", "medseg_ruler", "medseg_pointer"


def case_name() -> str | None:
    """The Case that is read."""
    return st.session_state.get(_CASE)


def choose_case(name: str) -> None:
    """Turn to another Case, in its middle."""
    if name != case_name():
        for key in (_PLACE, _RULER, _POINTER):
            st.session_state.pop(key, None)
    st.session_state[_CASE] = name


def place_in(one: OpenCase) -> Triple:
    """The voxel (z, y, x) that is looked at; at first the middle."""
    found = st.session_state.get(_PLACE)
    if found is None or any(not 0 <= at < extent for at, extent in zip(found, one.shape, strict=True)):
        found = tuple(extent // 2 for extent in one.shape)
        st.session_state[_PLACE] = found
    return found


def start_at(place: Triple) -> None:
    """Where to look first, unless the reader looks somewhere already."""
    st.session_state.setdefault(_PLACE, place)


def go_to(place: Triple) -> None:
    """Look at a voxel."""
    st.session_state[_PLACE] = place
    st.session_state.pop(_POINTER, None)


def scroll(one: OpenCase, axis: int, steps: int) -> None:
    """Some slices further, within the Case."""
    place = list(place_in(one))
    place[axis] = min(max(place[axis] + steps, 0), one.shape[axis] - 1)
    z, y, x = place
    go_to((z, y, x))


def pointer() -> tuple[str, Triple] | None:
    """Over which plane the pointer rests, and over which voxel."""
    return st.session_state.get(_POINTER)


def ruler() -> tuple[Triple, Triple] | None:
    """The two ends of the ruler, once both are set."""
    ends = st.session_state.get(_RULER, ())
    return (ends[0], ends[1]) if len(ends) == 2 else None


def set_ruler(place: Triple) -> None:
    """The first end, or the second; a third one begins anew."""
    ends = st.session_state.get(_RULER, ())
    st.session_state[_RULER] = (*ends, place) if len(ends) == 1 else (place,)


def reviewer() -> str:
    """Who reads: as entered on the page."""
    return st.session_state.get("medseg_reviewer", "")


def told() -> str | None:
    """What went wrong in a callback; said once."""
    return st.session_state.pop("medseg_told", None)


def clear_ruler() -> None:
    """Take the ruler away."""
    st.session_state.pop(_RULER, None)


def clicked(key: str, frame: Frame) -> None:
    """A picture was clicked: go there, or with Shift set an end of the ruler."""
    event = st.session_state[key].clicked
    if event:
        voxel = frame.voxel_at(float(event["down"]), float(event["right"]))
        set_ruler(voxel) if event.get("ruler") else go_to(voxel)


def scrolled(key: str, one: OpenCase, frame: Frame) -> None:
    """The wheel was turned over a picture, or an arrow key pressed."""
    steps = st.session_state[key].scrolled
    if steps:
        scroll(one, frame.axis, int(steps))


def rested(key: str, frame: Frame) -> None:
    """The pointer rests over a picture."""
    event = st.session_state[key].rested
    if event:
        st.session_state[_POINTER] = (frame.plane, frame.voxel_at(float(event["down"]), float(event["right"])))


def slid(key: str, axis: int) -> None:
    """A slider was moved to a slice, counted from 1."""
    place = list(st.session_state[_PLACE])
    place[axis] = int(st.session_state[key]) - 1
    z, y, x = place
    go_to((z, y, x))
