"""Plans for a machine's memory and for the time at hand."""

import pytest

from medseg.errors import PlanError
from medseg.planning.fitting import require_memory
from medseg.planning.memory import training_memory
from medseg.planning.plan import Machine
from medseg.planning.presets import load_preset
from medseg.planning.probing import plan_by_probe
from medseg.planning.rules import make_plan, plan_dataset

DEFAULT = load_preset("default")
HOUR = 3600.0


@pytest.fixture
def hippocampus(make_fingerprint):
    return make_fingerprint([(1, 1, 1)] * 200, [(36, 50, 35)] * 200, "canonical")


@pytest.fixture
def abdomen(make_fingerprint):
    return make_fingerprint([(1, 0.7676, 0.7676)] * 20, [(482, 512, 512)] * 20, "canonical", channel="CT")


def needed(plan, device="cpu", classes=3):
    return {
        name: training_memory(c.network, c.patch_size, c.batch_size, len(plan.channels), classes, device).total
        for name, c in plan.configurations.items()
    }


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("memory", [0.8e9, 1.5e9, 4e9, 16e9])
def test_every_configuration_fits_the_memory_that_was_given(abdomen, make_labels, device, memory):
    machine = Machine(device=device, memory_bytes=int(memory), flops_per_second=1e13)
    plan = make_plan(abdomen, make_labels(3), DEFAULT, machine, 8 * HOUR)
    assert max(needed(plan, device).values()) <= DEFAULT.memory_share * memory


def test_more_memory_never_makes_a_smaller_plan(abdomen, make_labels):
    sizes = []
    for memory in (0.7e9, 2e9, 8e9):
        machine = Machine(device="cpu", memory_bytes=int(memory), flops_per_second=1e13)
        plan = make_plan(abdomen, make_labels(3), DEFAULT, machine, 8 * HOUR)
        sizes.append(needed(plan)["3d_fullres"])
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] / 3


def test_memory_that_is_too_small_for_any_plan_is_named_with_one_that_is_not(abdomen, make_labels):
    with pytest.raises(PlanError, match=r"No plan fits in 0.18 GB .* takes about .* memory=(.*)GB") as refusal:
        make_plan(abdomen, make_labels(3), DEFAULT, Machine(device="cpu", memory_bytes=200_000_000))
    enough = float(str(refusal.value).rsplit("memory=", 1)[1].split("GB", maxsplit=1)[0]) * 1e9
    machine = Machine(device="cpu", memory_bytes=int(enough), flops_per_second=1e13)
    assert make_plan(abdomen, make_labels(3), DEFAULT, machine).configurations["3d_fullres"].batch_size == 2


def test_a_preset_that_keeps_to_its_numbers_says_that_it_will_not_fit(hippocampus, make_fingerprint, make_labels):
    stored = make_fingerprint([(1, 1, 1)] * 200, [(36, 50, 35)] * 200)
    plan = make_plan(stored, make_labels(3), load_preset("nnunet"), Machine(device="any"))
    wanted = needed(plan, "cuda")
    with pytest.raises(PlanError, match=r"3d_fullres of preset 'nnunet' takes about .* preset=default"):
        require_memory(plan, 3, "cuda", wanted["3d_fullres"] - 1)
    assert wanted["2d"] > wanted["3d_fullres"]
    said = require_memory(plan, 3, "cuda", wanted["3d_fullres"])
    assert len(said) == 1
    assert said[0].startswith("2d of preset 'nnunet'")
    assert require_memory(plan, 3, "cuda", wanted["2d"]) == []


def test_half_of_more_time_goes_into_more_iterations_and_half_into_larger_ones(hippocampus, make_labels):
    def plan(hours):
        machine = Machine(device="cpu", flops_per_second=70e9)
        return plan_dataset(hippocampus, make_labels(3), DEFAULT, machine, hours * HOUR)

    planned = {hours: plan(hours) for hours in (1 / 30, 0.25, 2, 24, 400)}
    found = [one.sizes["3d_fullres"] for one in planned.values()]
    widths = [one.network.features[0] for one in found]
    assert widths == sorted(widths)
    assert widths[0] < 16 == widths[1] == widths[2] < widths[3] == 32
    assert found[-1].batch == 7  # nnU-Net's, which more time does not raise
    iterations = [one.pace.iterations for one in found]
    assert iterations == sorted(iterations)
    for hours, one in zip(planned, found, strict=True):
        assert one.pace.each <= 3 * max(1, (hours / 2) ** 0.5)
        assert one.pace.iterations >= 300


def test_more_channels_than_preferred_need_time_in_which_the_data_is_seen_often_enough(make_fingerprint, make_labels):
    def width(cases):
        many = make_fingerprint([(1, 1, 1)] * cases, [(36, 50, 35)] * cases, "canonical")
        planned = plan_dataset(many, make_labels(3), DEFAULT, Machine(device="cpu", flops_per_second=160e9), 2 * HOUR)
        sized = planned.sizes["3d_fullres"]
        assert sized.network.features[0] == 16 or sized.pace.passes >= DEFAULT.time.enough_passes
        return sized.network.features[0], planned.plan.reasons["configurations.3d_fullres.network.features"]

    assert width(50)[0] == 32
    assert width(2000) == (16, "16 channels; with 24 each voxel would lie in less than 30 patches in the time")


def test_a_gpu_that_was_not_measured_is_planned_by_its_memory_alone(abdomen, make_labels):
    short, long = (
        make_plan(abdomen, make_labels(3), DEFAULT, Machine(device="cuda", memory_bytes=12_000_000_000), seconds)
        for seconds in (60, 1e6)
    )
    assert short.configurations == long.configurations


def test_what_a_probe_measures_is_written_down_and_not_measured_again(hippocampus, make_labels):
    asked = []

    def plan_for(machine):
        return plan_dataset(hippocampus, make_labels(3), DEFAULT, machine)

    def probe(configuration):
        asked.append(configuration)
        return 2 * plan_for(machine).sizes["3d_fullres"].memory.step

    machine = Machine(device="cpu", memory_bytes=1_500_000_000, flops_per_second=1e12)
    first = plan_by_probe(plan_for, machine, probe)
    assert first.plan.machine.memory_factor == 2
    assert asked == [plan_for(machine).plan.configurations["3d_fullres"]]
    assert first.sizes["3d_fullres"].memory.total <= 0.9 * 1.5e9
    assert first.plan.configurations["3d_fullres"].batch_size < plan_for(machine).sizes["3d_fullres"].batch
    assert plan_by_probe(plan_for, first.plan.machine, probe).plan == first.plan
    assert len(asked) == 1
