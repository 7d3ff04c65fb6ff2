"""The page of all reviews, with their export as CSV."""

import streamlit as st
from opened import log, source
from texts import text

place = source()
reviews = log(place)
found = reviews.all()
st.subheader(text("records.title"))
if not found:
    st.info(text("records.none"))
else:
    st.dataframe([review.model_dump() for review in reversed(found)], hide_index=True)
    st.download_button(text("records.csv"), reviews.csv(), "reviews.csv", "text/csv", icon=":material/download:")
