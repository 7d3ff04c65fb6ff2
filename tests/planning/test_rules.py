"""The planning rules: preset=default on machines of all sizes, reasons, and the document a Plan is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import PlanError
from medseg.planning.memory import forward_flops
from medseg.planning.plan import Machine, Plan
from medseg.planning.presets import load_preset
from medseg.planning.reasons import leaf_keys
from medseg.planning.rules import make_plan

LAPTOP = Machine(device="cpu", flops_per_second=70e9)


def default_plan(fingerprint, labels, machine=LAPTOP):
    return make_plan(fingerprint, labels, load_preset("default"), machine)


def seconds(plan, name, speed=70e9):
    part = plan.configurations[name]
    return 3 * part.batch_size * forward_flops(part.network, part.patch_size, 1, 3) / speed


@pytest.fixture
def hippocampus(make_fingerprint):
    return make_fingerprint([(1, 1, 1)] * 200, [(36, 50, 35)] * 200, "canonical")


@pytest.fixture
def abdomen(make_fingerprint):
    return make_fingerprint([(1, 0.7676, 0.7676)] * 20, [(482, 512, 512)] * 20, "canonical", channel="CT")


@pytest.mark.parametrize("speed", [60e9, 70e9, 80e9])
def test_two_cpu_cores_get_the_hippocampus_patch_with_sixteen_channels(hippocampus, make_labels, speed):
    plan = default_plan(hippocampus, make_labels(3), Machine(device="cpu", flops_per_second=speed))
    full = plan.configurations["3d_fullres"]
    assert (full.patch_size, full.batch_size) == ((40, 56, 40), 2)
    assert full.network.features == (16, 32, 64, 128)
    assert plan.default_configuration == "3d_fullres"


def test_a_probe_on_a_busy_machine_does_not_cost_the_network_its_width(hippocampus, make_labels):
    busy, hopeless = Machine(device="cpu", flops_per_second=20e9), Machine(device="cpu", flops_per_second=5e9)
    assert default_plan(hippocampus, make_labels(3), busy).configurations["3d_fullres"].network.features[0] == 16
    assert default_plan(hippocampus, make_labels(3), hopeless).configurations["3d_fullres"].network.features[0] == 8


def test_on_a_cpu_an_iteration_takes_about_a_second_in_2d_too(hippocampus, make_labels):
    plan = default_plan(hippocampus, make_labels(3))
    assert plan.configurations["2d"].network.features[0] == 32
    assert 0.8 < seconds(plan, "2d") < 1.2


def test_a_large_case_on_a_small_cpu_gets_a_smaller_patch_before_minutes_per_iteration(abdomen, make_labels):
    plan = default_plan(abdomen, make_labels(3))
    full = plan.configurations["3d_fullres"]
    assert full.network.features[0] == 8
    assert full.batch_size == 2
    assert 0.7 < seconds(plan, "3d_fullres") <= 1.5
    assert "on a CPU with a measured 70 GFLOP/s" in plan.reasons["configurations.3d_fullres.patch_size"]


def test_an_unmeasured_cpu_is_assumed_to_be_a_slow_one(hippocampus, make_labels):
    full = default_plan(hippocampus, make_labels(3), Machine(device="cpu")).configurations["3d_fullres"]
    assert full.network.features[0] == 16
    assert full.batch_size == 2


def test_many_cores_never_get_a_larger_batch_than_a_gpu(hippocampus, make_labels):
    plan = default_plan(hippocampus, make_labels(3), Machine(device="cpu", flops_per_second=1e15))
    full = plan.configurations["3d_fullres"]
    assert (full.network.features[0], full.batch_size) == (32, 7)


def test_a_gpus_memory_scales_the_budget_and_is_capped(abdomen, make_labels):
    def voxels(gigabytes):
        machine = Machine(device="cuda", memory_bytes=int(gigabytes * 1e9))
        z, y, x = default_plan(abdomen, make_labels(3), machine).configurations["3d_fullres"].patch_size
        return z * y * x

    assert voxels(4) < voxels(8.9) < voxels(16) < voxels(30) == voxels(140)
    assert voxels(8 / 0.9) == 128**3


def test_no_patch_for_hardly_any_memory_is_said_in_one_sentence(abdomen, make_labels):
    with pytest.raises(PlanError, match="No patch fits"):
        default_plan(abdomen, make_labels(3), Machine(device="cuda", memory_bytes=10_000))


def test_sides_are_not_mirrored_when_a_structure_has_one(make_fingerprint, make_labels):
    coarse_sideways = make_fingerprint([(1, 1, 3.0)] * 3, [(100, 100, 40)] * 3, "canonical")
    pair = make_labels(["left kidney", "liver", "right kidney"])
    plan = default_plan(coarse_sideways, pair)
    assert plan.axis_order == (2, 0, 1)
    assert plan.training.mirror_axes == (1, 2)
    assert "'left kidney' and 'right kidney'" in plan.reasons["training.mirror_axes"]
    single = default_plan(coarse_sideways, make_labels(["left kidney", "liver"]))
    assert single.training.mirror_axes == (1, 2)
    assert "'left kidney' on the other side" in single.reasons["training.mirror_axes"]
    assert default_plan(coarse_sideways, make_labels(["kidney", "liver"])).training.mirror_axes == (0, 1, 2)
    stored = make_fingerprint([(1, 1, 1)] * 3, [(100, 100, 40)] * 3)
    mirrored = make_plan(stored, pair, load_preset("nnunet"), LAPTOP)
    assert mirrored.training.mirror_axes == (0, 1, 2)


def test_single_slices_are_planned_in_2d_only(make_fingerprint, make_labels):
    slices = make_fingerprint([(1, 1, 1)] * 9, [(1, 200, 180)] * 9, "canonical")
    plan = default_plan(slices, make_labels(2))
    assert set(plan.configurations) == {"2d"}
    assert plan.default_configuration == "2d"
    sideways = make_fingerprint([(1, 1, 1)] * 9, [(200, 1, 180)] * 9, "canonical")
    assert default_plan(sideways, make_labels(2)).axis_order == (1, 0, 2)


def test_tiny_images_still_get_a_network_with_two_stages(make_fingerprint, make_labels):
    for name, part in default_plan(
        make_fingerprint([(1, 1, 1)] * 4, [(6, 7, 5)] * 4, "canonical"), make_labels(2)
    ).configurations.items():
        assert len(part.network.features) >= 2, name


def test_ct_takes_its_numbers_from_the_foreground(make_fingerprint, make_labels):
    for name, scheme in (("CT", "ct"), ("ct", "ct"), ("CT scan", "zscore"), ("noNorm", "none"), ("RGB_to_0_1", "rgb")):
        made = make_fingerprint([(1, 1, 1)] * 4, [(30, 30, 30)] * 4, "canonical", channel=name, relative_volume=0.5)
        channel = default_plan(made, make_labels(2)).channels[0]
        assert channel.normalisation == scheme
        assert channel.masked == (scheme == "zscore")
        if scheme == "ct":
            assert (channel.clip_low, channel.clip_high, channel.mean, channel.std) == (-80, 210, 50, 20)


def test_a_fingerprint_of_another_orientation_is_refused(make_fingerprint, make_labels):
    stored = make_fingerprint([(1, 1, 1)] * 4, [(30, 30, 30)] * 4)
    with pytest.raises(PlanError, match="measured in stored orientation"):
        default_plan(stored, make_labels(2))


MACHINES = [
    ("default", LAPTOP),
    ("default", Machine(device="cuda", memory_bytes=24_000_000_000, flops_per_second=2e13)),
    ("nnunet", Machine(device="any")),
    ("cpu", Machine(device="cuda", memory_bytes=8_000_000_000)),
    ("small_gpu", LAPTOP),
]


@pytest.mark.parametrize(("preset_name", "machine"), MACHINES)
@pytest.mark.parametrize("channel", ["CT", "MRI"])
def test_every_value_has_a_reason_and_keeps_it_in_the_file(
    tmp_path, make_fingerprint, make_labels, preset_name, machine, channel
):
    preset = load_preset(preset_name)
    made = make_fingerprint(
        [(5, 0.7, 0.7)] * 9 + [(2.5, 0.8, 0.8)] * 2, [(90, 500, 500)] * 11, preset.orientation, channel
    )
    plan = make_plan(made, make_labels(3), preset, machine)
    content = plan.content()
    values = set(leaf_keys(content)) - {"kind", "format"}
    assert {key for key in values if not plan.reasons.get(key)} == set()
    assert all("\n" not in reason and "# " not in reason for reason in plan.reasons.values())
    plan.save(tmp_path / "plan.yaml")
    again = Plan.load(tmp_path / "plan.yaml")
    assert again == plan
    assert again.content_hash() == plan.content_hash()
    assert again.reasons == {key: reason for key, reason in plan.reasons.items() if key in values}


def test_a_plan_edited_by_hand_is_read_and_validated(tmp_path, hippocampus, make_labels):
    path = tmp_path / "plan.yaml"
    default_plan(hippocampus, make_labels(3)).save(path)
    text = path.read_text()
    assert "patch_size: [40, 56, 40]  # the median case, padded to a multiple of [8, 8, 8]" in text
    path.write_text(text.replace("patch_size: [40, 56, 40]", "patch_size: [32, 56, 40]"))
    assert Plan.load(path).configurations["3d_fullres"].patch_size == (32, 56, 40)
    path.write_text(text.replace("patch_size: [40, 56, 40]", "patch_size: [40, 50, 40]"))
    with pytest.raises(PlanError, match=r"3d_fullres: .*50 on axis y is not a multiple of 8; try 48"):
        Plan.load(path)


SPACINGS = st.floats(0.3, 8.0).map(lambda x: round(x, 2))
SIZES = st.integers(12, 500)


@settings(max_examples=40, deadline=None)
@given(
    spacing=st.tuples(SPACINGS, SPACINGS, SPACINGS),
    shape=st.tuples(SIZES, SIZES, SIZES),
    choice=st.sampled_from(MACHINES),
)
def test_any_dataset_gets_patches_that_fit_network_image_and_batch(
    make_fingerprint, make_labels, spacing, shape, choice
):
    preset = load_preset(choice[0])
    plan = make_plan(
        make_fingerprint([spacing] * 8, [shape] * 8, preset.orientation), make_labels(4), preset, choice[1]
    )
    assert sorted(plan.axis_order) == [0, 1, 2]
    for name, part in plan.configurations.items():
        divisor = part.network.divisor
        assert all(n % d == 0 for n, d in zip(part.patch_size, divisor, strict=True))
        axes = range(1, 3) if name == "2d" else range(3)
        assert all(part.patch_size[a] < part.median_shape[a] + divisor[a] for a in axes)
        assert part.batch_size >= preset.smallest_batch
        assert len(part.network.features) >= 2
        assert part.network.kernels[-1] == ((1, 3, 3) if name == "2d" else (3, 3, 3))
    assert ("3d_lowres" in plan.configurations) == ("3d_cascade_fullres" in plan.configurations)


def test_a_single_structure_with_a_side_forbids_left_right_mirroring(make_fingerprint, make_labels):
    fingerprint = make_fingerprint([(1, 1, 1)] * 5, [(60, 60, 60)] * 5, "canonical")
    plan = make_plan(fingerprint, make_labels(["left kidney", "liver"]), load_preset("default"), Machine(device="any"))
    assert plan.training.mirror_axes == (0, 1)
    assert "would put 'left kidney' on the other side" in plan.reasons["training.mirror_axes"]
