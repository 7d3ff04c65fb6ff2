"""DICOM as images: a folder of files becomes series with a verdict on their geometry, and a series becomes a Volume.

Knows nothing of models or of writing DICOM, which ``medseg.dicom`` does. The modules here need the extra ``dicom``.
"""

from __future__ import annotations

from importlib.util import find_spec

from medseg.errors import MedsegError


def require_extra() -> None:
    """Raise MedsegError with the line to type where the DICOM libraries are not installed."""
    if find_spec("pydicom") is None or find_spec("highdicom") is None:
        raise MedsegError("DICOM needs an extra: pip install 'medseg[dicom]'.")
