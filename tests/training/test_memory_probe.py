"""The estimate of a training step's memory holds against the measured peak."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from training_memory import KINDS, compare

from medseg.errors import PlanError
from medseg.planning.plan import TrainingPlan
from medseg.training.memory_probe import Probe, measure_training_memory


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hippocampus on a CPU", "twenty classes", "residual", "slices", "regions"])
def test_the_estimate_lies_within_a_fifth_of_the_measured_peak(name):
    estimate, measured = compare(KINDS[name])
    assert estimate == pytest.approx(measured, rel=0.2)


@pytest.mark.slow
def test_a_step_that_can_not_be_run_is_one_sentence():
    kind = KINDS["one patch"]
    impossible = kind.configuration().model_copy(update={"batch_size": 10**9})
    with pytest.raises(PlanError, match=r"A training step of \[64, 64, 64\] voxels in batches of 1000000000 could not"):
        measure_training_memory(
            Probe(configuration=impossible, training=TrainingPlan(), labels=kind.labels(), channels=1, device="cpu")
        )
