"""Which intensities are black and which are white: presets of radiology for CT, percentiles for everything else.

Knows nothing of drawing. Presets are centre and width in Hounsfield units, as most workstations have them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from medseg.documents import Record

_AIR_HU = -500
"""An image that reaches below this, and not in fractions, is taken for CT where its channel does not say so."""


class Window(Record):
    """Level and width: ``centre - width / 2`` is black, ``centre + width / 2`` is white."""

    centre: float
    width: float

    @property
    def low(self) -> float:
        return self.centre - self.width / 2

    @property
    def high(self) -> float:
        return self.centre + self.width / 2

    def grey(self, values: NDArray[np.number]) -> NDArray[np.uint8]:
        """Intensities as grey levels 0 to 255."""
        scaled = (values.astype(np.float32) - self.low) * (255 / max(self.width, 1e-6))
        return np.clip(scaled, 0, 255).astype(np.uint8)


CT_WINDOWS: Mapping[str, Window] = {
    "abdomen": Window(centre=40, width=400),
    "mediastinum": Window(centre=50, width=350),
    "lung": Window(centre=-600, width=1500),
    "bone": Window(centre=400, width=2000),
    "brain": Window(centre=40, width=80),
}
"""In Hounsfield units."""
_PERCENTILES: Mapping[str, tuple[float, float]] = {"normal": (1, 99), "contrast": (5, 95), "full": (0, 100)}


def window_between(low: float, high: float) -> Window:
    """From black to white; never of no width."""
    return Window(centre=(low + high) / 2, width=max(high - low, 1e-3))


def is_ct(channel: str, values: NDArray[np.number]) -> bool:
    """Whether intensities are Hounsfield units: the channel is called CT, or whole numbers reach down to air."""
    if channel.upper().startswith("CT"):
        return True
    lowest = float(values.min()) if values.size else 0.0
    return bool(lowest < _AIR_HU and np.array_equal(values, np.rint(values)))


def windows_of(channel: str, values: NDArray[np.number]) -> dict[str, Window]:
    """Presets for a channel by name, the first one to begin with; ``values`` are a sample of its intensities."""
    found = {
        name: window_between(*(float(level) for level in np.percentile(values, levels)))
        for name, levels in _PERCENTILES.items()
    }
    return {**CT_WINDOWS, **found} if is_ct(channel, values) else found
