"""A Plan that was checked against a measured training step.

Measures nothing itself: the probe is handed in. What it finds is written into the Plan's Machine, and is read from
there by whoever plans for the same machine again.
"""

from __future__ import annotations

from collections.abc import Callable

from medseg.planning.plan import ConfigurationPlan, Machine
from medseg.planning.rules import Planned


def plan_by_probe(
    plan_for: Callable[[Machine], Planned], machine: Machine, probe: Callable[[ConfigurationPlan], int]
) -> Planned:
    """The Plan in which all estimates of memory are scaled by what was measured for the default configuration.

    ``probe`` gives the bytes of a training step, without the libraries. A Machine whose factor is known already is not
    measured again.
    """
    planned = plan_for(machine)
    name, configuration = planned.plan.configuration(None)
    memory = planned.sizes[name].memory
    if machine.memory_factor is not None or memory is None:
        return planned
    factor = float(f"{probe(configuration) / memory.step:.3g}")
    return plan_for(machine.model_copy(update={"memory_factor": factor}))
