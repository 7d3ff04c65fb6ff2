"""The page of all reviews, with their export as CSV and the next training's dataset."""

import streamlit as st
from opened import log, source
from texts import moment, plain, text

from medseg.errors import MedsegError
from medseg.review.exports import export_dataset

place = source()
reviews = log(place)
found = reviews.all()
st.subheader(text("records.title"))
if not found:
    st.info(text("records.none"))
else:
    columns = {
        "time": [moment(review.time) for review in reversed(found)],
        "case": [review.case for review in reversed(found)],
        "status": [text(f"status.{review.status}") for review in reversed(found)],
        "reviewer": [review.reviewer for review in reversed(found)],
        "difficulty": [text(f"difficulty.{review.difficulty}") for review in reversed(found)],
        "comment": [review.comment for review in reversed(found)],
        "finding": [review.finding for review in reversed(found)],
    }  # the hash of the labels is for the CSV, where a program reads it
    st.dataframe({text(f"records.{name}"): column for name, column in columns.items()}, hide_index=True)
    st.download_button(text("records.csv"), reviews.csv(), "reviews.csv", "text/csv", icon=":material/download:")
    st.subheader(text("records.next"))
    st.caption(text("records.next_how"))
    if st.button(text("records.export"), key="export_dataset", icon=":material/dataset:"):
        folder = place.state / "dataset"
        try:
            count = export_dataset(place.cases, reviews.last(), folder, f"{place.title}_reviewed")
        except (MedsegError, OSError) as error:
            st.error(plain(error))
        else:
            st.success(text("records.exported", count=count, folder=plain(folder)))
