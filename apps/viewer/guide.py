"""The page that says how to read: mouse, keys, colours, words."""

import streamlit as st
from texts import text

st.subheader(text("guide.title"))
for name in ("steps", "mouse", "keys", "colors", "numbers", "limits"):
    st.markdown(text(f"guide.{name}"))
