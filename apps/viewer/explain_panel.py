"""Why a structure was found: a class activation map on demand, with the verdict whether to believe it."""

from typing import get_args

import streamlit as st
from jobs_panel import queue
from session import place_in
from texts import plain, text

from medseg.errors import MedsegError
from medseg.review.asking import Explained, Method, Question, explain_words, explanations_in
from medseg.review.cache import OpenCase
from medseg.review.case import Finding
from medseg.review.numbers import file_voxel
from medseg.review.sources import Source

_METHODS: tuple[Method, ...] = get_args(Method)


def show_explanations(place: Source, one: OpenCase, finding: Finding | None) -> Explained | None:
    """Draw the panel; returns the explanation whose map is to be shown."""
    found = explanations_in(place.explanations, one.case.name)
    if not found and (place.model is None or finding is None):
        return None
    chosen = None
    with st.expander(text("explain.title"), icon=":material/psychology:", key="explain"):
        if found:
            known = {each.number: each for each in found}
            number = st.selectbox(
                text("explain.which"),
                [0, *known],
                format_func=lambda at: explanation_words(known[at]) if at else text("explain.none"),
                key=f"explained_{one.case.name}",
            )
            chosen = known.get(number)
        if chosen is not None:
            _verdict(chosen)
        if place.model is not None and finding is not None:
            _ask(place, one, finding)
    return chosen


def _verdict(chosen: Explained) -> None:
    """What the sanity check says stands beside the map, not behind a click."""
    document = chosen.document
    if document.is_blank:
        st.info(text("explain.blank"))
    elif document.is_believable:
        st.success(plain(chosen.verdict), icon=":material/verified:")
    else:
        st.warning(plain(chosen.verdict or text("explain.unchecked")), icon=":material/warning:")
    if document.share_in_region is not None:
        shares = {"inside": f"{document.share_in_region:.0%}", "chance": f"{document.share_by_chance:.0%}"}
        st.caption(text("explain.share", **shares))
    st.caption(text("explain.meaning"))


def _ask(place: Source, one: OpenCase, finding: Finding) -> None:
    names = list(finding.table.target_names)
    label = st.selectbox(text("explain.structure"), names, key="explain_structure")
    region = st.selectbox(
        text("explain.region"), ["all", "largest", "cursor"], format_func=_region, key="explain_region"
    )
    method = st.selectbox(
        text("explain.method"), _METHODS, format_func=lambda at: text(f"method.{at}"), key="explain_method"
    )
    layer = "auto"
    if method in ("hires_cam", "seg_grad_cam"):
        layer = st.selectbox(
            text("explain.layer"),
            ["auto", "last"],
            format_func=lambda at: text(f"layer.{at}"),
            key="explain_layer",
            help=text("explain.layer_help"),
        )
    if st.button(text("explain.ask"), key="ask", icon=":material/play_arrow:", width="stretch"):
        question = Question(
            label,
            method,
            layer,
            component=1 if region == "largest" else None,
            point=file_voxel(one, place_in(one)) if region == "cursor" else None,
        )
        assert place.model is not None  # or there is no form
        try:
            words = explain_words(one, place.model, place.inputs / one.case.name, question)
            queue(place).add(f"{one.case.name}: {label}", "explain", words, place.explanations)
        except (MedsegError, OSError) as error:
            st.error(plain(error))
            return
        st.rerun()


def explanation_words(explained: Explained) -> str:
    """What an explanation is called on the page: its number, structure and region, method, and which of its layers."""
    document = explained.document
    words = [text("explain.name", number=explained.number, structure=document.label)]
    if document.point is not None:
        words.append(text("explain.region_point"))
    elif document.component is not None:
        largest = document.component == 1
        words.append(
            text("explain.region_largest") if largest else text("explain.region_part", number=document.component)
        )
    words.append(text(f"method.{document.method}"))
    words += [text(f"layer.{document.layer_choice}")] if document.layer_choice else []
    return " · ".join(words)


def _region(name: str) -> str:
    return text(f"explain.region_{name}")
