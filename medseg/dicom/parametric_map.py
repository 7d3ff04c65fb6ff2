"""A map of real numbers, such as how undecided the model was, as a DICOM Parametric Map on the frames of its images.

Knows nothing of how the map was computed. Follows PS3.3 A.75 (Parametric Map); values are stored as 32-bit floats.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medseg.dicom.origin import NOT_FOR_CLINICAL_USE, Origin, new_object
from medseg.dicom.sources import as_sources

ENTROPY = Code("predictive-entropy", "99MEDSEG", "Predictive entropy in nats")
"""DICOM has no code for it; 99 marks a private scheme (PS3.16 chapter 8)."""


def make_entropy_map(
    sources: Sequence[Dataset], entropy: NDArray[np.floating], largest: float, origin: Origin
) -> hd.pm.ParametricMap:
    """The object, not yet written.

    ``entropy`` is (Z, Y, X) in nats on the frames of ``sources`` and in their order; ``largest`` is the value at which
    nothing is decided, and the upper end of the window.
    """
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="ENTROPY",
        lut_explanation="Predictive entropy (nats)",
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, float(largest)),
        slope=1,
        intercept=0,
        quantity_definition=ENTROPY,
    )
    made = hd.pm.ParametricMap(
        source_images=as_sources(sources, entropy),
        pixel_array=np.ascontiguousarray(entropy, dtype=np.float32),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=largest / 2, window_width=largest)],
        content_description=NOT_FOR_CLINICAL_USE,
        content_label="ENTROPY",
        series_description=origin.series_description,
        **new_object("PMAP"),
        **origin.equipment(),
    )
    made.Laterality = None  # the sources may show a paired organ without saying which
    return made
