"""The clinicians' viewer as a server: ``medseg view``, or ``streamlit run apps/viewer.py -- input=DIR``.

Words behind ``--`` say what to look at (``medseg view help`` lists them); without any it is the workspace last used
from this folder. The pages lie in ``viewer/``; what they show is computed in ``medseg.review``.
"""

import sys
from pathlib import Path

ROOM = Path(__file__).resolve().parent / "viewer"
sys.path[:0] = [] if str(ROOM) in sys.path else [str(ROOM)]

import streamlit as st  # noqa: E402
from serving import layers, options, read_settings, routes  # noqa: E402

SETTINGS, AUDIT = read_settings()
app = st.App(ROOM / "pages.py", routes=routes(AUDIT), middleware=layers(SETTINGS, AUDIT))

if __name__ == "__main__":
    app.run(config=options(SETTINGS))
