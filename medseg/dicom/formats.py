"""What can be written of a study, and what each file is called; a list and nothing else, so that help stays fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Format = Literal["seg", "sr", "nifti", "csv", "png", "rtstruct", "pmap"]
FILES: Mapping[Format, str] = {
    "seg": "segmentation.dcm",
    "sr": "report.dcm",
    "pmap": "entropy.dcm",
    "rtstruct": "contours.dcm",
    "nifti": "labels.nii.gz",
    "csv": "measurements.csv",
    "png": "overlay.png",
}
"""What each format is called in the folder of a study."""
TABLE = "labels.yaml"
"""Names, values and colours of the labels, beside them as NIfTI."""
IMAGES_NOTE = ".state/images.json"
"""In the output folder: where the studies were. Not a result; it names a path, and stays."""
