"""Prepared Cases kept open while patches are read from them, and what is found out about them on the way.

Knows nothing of patches. Open files do not travel to worker processes: each opens its own.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Labels, Mask
from medseg.cases.labels import LabelTable
from medseg.preprocessing.store import PreparedCase, open_prepared

MOST_OPEN = 128
"""Cases kept open; each holds three of the 1024 files that a process may usually have open."""


@dataclass(frozen=True)
class Component:
    """A connected part of a target in one Case."""

    places: NDArray[np.int32]
    """Some of its voxels, (n, 3) in (z, y, x); all of them where the target is small."""
    box: tuple[slice, slice, slice]
    """The smallest that holds it."""


class OpenCases:
    """Cases by name, opened when first asked for; the one unused for longest is closed when there are too many."""

    def __init__(self, folder: Path, table: LabelTable, cascade: bool) -> None:
        self.folder, self.table, self.cascade = folder, table, cascade
        self._cases: OrderedDict[str, PreparedCase] = OrderedDict()
        self._components: dict[str, dict[int, list[Component]]] = {}

    def case(self, name: str) -> PreparedCase:
        """The Case. Raises MedsegError when it is not there."""
        if name not in self._cases:
            self._cases[name] = open_prepared(self.folder, name, self.cascade)
            if len(self._cases) > MOST_OPEN:
                closed, _ = self._cases.popitem(last=False)
                self._components.pop(closed, None)
        self._cases.move_to_end(name)
        return self._cases[name]

    def components(self, name: str, target: int) -> list[Component]:
        """The components (26 neighbours) of a target in a Case, found when first asked for."""
        case, known = self.case(name), self._components.setdefault(name, {})
        if target not in known:
            known[target] = components_of(case, target, self.table)
        return known[target]

    def __len__(self) -> int:
        """How many are open."""
        return len(self._cases)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cases": OrderedDict(), "_components": {}}


def components_of(case: PreparedCase, target: int, table: LabelTable) -> list[Component]:
    """The components of a target in a Case, none left out, in the order of their first voxels."""
    numbered = cc3d.connected_components(table.targets[target].mask(np.asarray(case.labels)), connectivity=26)
    places = case.locations[target]
    numbers = numbered[tuple(places.T)]
    boxes = cc3d.statistics(numbered)["bounding_boxes"]
    found = []
    for number in range(1, int(numbered.max()) + 1):
        own, box = places[numbers == number], boxes[number]
        if not len(own):  # of a large target only some voxels are stored, perhaps none of this component
            first = np.argwhere(numbered[box] == number)[:1]
            own = (first + [part.start for part in box]).astype(np.int32)
        found.append(Component(own, box))
    return found


def component_mask(labels: Labels, component: Component, target: int, table: LabelTable) -> Mask:
    """Where in its box a component lies, (Z, Y, X) of the box."""
    numbered = cc3d.connected_components(table.targets[target].mask(labels[component.box]), connectivity=26)
    z, y, x = (int(n) - part.start for n, part in zip(component.places[0], component.box, strict=True))
    return np.asarray(numbered == numbered[z, y, x])
