"""One battery for every network: shapes, gradients, names, what it refuses; and the counts of nnU-Net's own network."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.make_parameter_counts import PLANS, parameters_of, plan_for
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from medseg.errors import PlanError
from medseg.networks.build import BUILDERS, build_network
from medseg.planning.architectures import ARCHITECTURES
from medseg.planning.memory import forward_flops, parameter_count
from medseg.planning.plan import NetworkPlan

GOLDEN = Path(__file__).parents[1] / "golden"


def a_plan(features=(4, 6, 8), strides=None, kernels=None, deep_supervision=True, convolutions=2, name="unet"):
    depth = len(features)
    return NetworkPlan(
        name=name,
        features=features,
        strides=strides or ((1, 1, 1), *[(2, 2, 2)] * (depth - 1)),
        kernels=kernels or ((3, 3, 3),) * depth,
        encoder_convolutions=(convolutions,) * depth,
        decoder_convolutions=(convolutions,) * (depth - 1),
        deep_supervision=deep_supervision,
    )


def flat_plan(**changes):
    return a_plan(strides=((1, 1, 1), (1, 2, 2), (1, 2, 2)), kernels=((1, 3, 3),) * 3, **changes)


def count(network):
    return sum(p.numel() for p in network.parameters())


def count_by_arithmetic(plan, dimensions, channels, classes):
    """Parameters of nnU-Net's PlainConvUNet, added up layer by layer without torch."""

    def block(c_in, c_out, kernel):
        return c_in * c_out * math.prod(kernel[-dimensions:]) + c_out + 2 * c_out

    f, total = plan.features, 0
    for i, n in enumerate(plan.encoder_convolutions):
        total += block(channels if i == 0 else f[i - 1], f[i], plan.kernels[i])
        total += (n - 1) * block(f[i], f[i], plan.kernels[i])
    for j, n in enumerate(plan.decoder_convolutions):
        i = len(f) - 2 - j
        total += f[i + 1] * f[i] * math.prod(plan.strides[i + 1][-dimensions:]) + f[i]
        total += block(2 * f[i], f[i], plan.kernels[i]) + (n - 1) * block(f[i], f[i], plan.kernels[i])
        if plan.deep_supervision or i == 0:
            total += (f[i] + 1) * classes
    return total


def test_builders_and_planning_know_the_same_networks():
    assert list(BUILDERS) == list(ARCHITECTURES)


def test_an_unknown_network_is_refused_with_the_known_names():
    with pytest.raises(PlanError, match=r"no network 'wnet'.*unet"):
        build_network(a_plan(name="wnet"), 3, 1, 2)


def test_four_dimensions_are_refused():
    with pytest.raises(PlanError, match="2 or 3 dimensions, not 4"):
        build_network(a_plan(), 4, 1, 2)


@pytest.mark.parametrize("name", list(BUILDERS))
class TestEveryNetwork:
    def test_gives_logits_of_the_patch_in_evaluation(self, name):
        network = build_network(a_plan(name=name), 3, 2, 5).eval()
        assert network(torch.randn(2, 2, 8, 12, 16)).shape == (2, 5, 8, 12, 16)

    def test_gives_one_output_per_decoder_stage_in_training(self, name):
        outputs = build_network(a_plan(name=name), 3, 1, 3).train()(torch.randn(2, 1, 8, 12, 16))
        second = (8, 12, 16) if name == "unetpp" else (4, 6, 8)  # the heads of a U-Net++ are all at full resolution
        assert [tuple(o.shape) for o in outputs] == [(2, 3, 8, 12, 16), (2, 3, *second)]

    @pytest.mark.parametrize("depth", [2, 5])
    def test_goes_as_deep_as_the_plan_says(self, name, depth):
        plan = a_plan(name=name, features=(2, 3, 4, 4, 5)[:depth], convolutions=1)
        patch = tuple(2 * n for n in plan.divisor)
        outputs = build_network(plan, 3, 1, 2).train()(torch.randn(1, 1, *patch))
        assert len(outputs) == depth - 1
        assert outputs[0].shape == (1, 2, *patch)

    def test_gives_one_output_in_training_without_deep_supervision(self, name):
        network = build_network(a_plan(name=name, deep_supervision=False), 3, 1, 3).train()
        assert network(torch.randn(2, 1, 8, 8, 8)).shape == (2, 3, 8, 8, 8)
        assert all(p.requires_grad for p in network.parameters())

    def test_drops_and_restores_z_in_2d(self, name):
        network = build_network(flat_plan(name=name), 2, 1, 3)
        outputs = network.train()(torch.randn(2, 1, 1, 16, 8))
        second = (1, 16, 8) if name == "unetpp" else (1, 8, 4)
        assert [tuple(o.shape) for o in outputs] == [(2, 3, 1, 16, 8), (2, 3, *second)]
        assert network.eval()(torch.randn(2, 1, 1, 16, 8)).shape == (2, 3, 1, 16, 8)
        assert all(p.ndim in (1, 2, 4) for p in network.parameters())

    def test_gives_the_finest_training_output_in_evaluation(self, name):
        network = build_network(a_plan(name=name), 3, 1, 3)
        x = torch.randn(1, 1, 8, 8, 8)
        assert torch.equal(network.train()(x)[0], network.eval()(x))

    @pytest.mark.parametrize("deep_supervision", [True, False])
    def test_gives_every_parameter_a_gradient(self, name, deep_supervision):
        network = build_network(a_plan(name=name, deep_supervision=deep_supervision), 3, 1, 3).train()
        outputs = network(torch.randn(2, 1, 8, 8, 8))
        sum(o.square().sum() for o in (outputs if deep_supervision else [outputs])).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())

    def test_has_the_same_weights_for_the_same_seed(self, name):
        states = []
        for _ in range(2):
            torch.manual_seed(3)
            states.append(build_network(a_plan(name=name), 3, 1, 3).state_dict())
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])

    def test_gives_the_same_gradients_twice(self, name):
        found = []
        for _ in range(2):
            torch.manual_seed(3)
            network = build_network(a_plan(name=name), 3, 1, 3).train()
            sum(o.square().sum() for o in network(torch.randn(2, 1, 8, 8, 8))).backward()
            found.append([p.grad for p in network.parameters()])
        assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))

    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
    def test_gives_nearly_the_same_in_half_precision(self, name, kind):
        torch.manual_seed(0)
        network = build_network(a_plan(name=name), 3, 1, 3).eval()
        x = torch.randn(1, 1, 8, 8, 8)
        with torch.no_grad(), torch.autocast("cpu", kind):
            half = network(x).float()
        whole = network(x)
        assert (half - whole).abs().max() < 0.05 * whole.abs().max() + 0.05

    def test_learns_two_patches_by_heart(self, name):
        torch.manual_seed(0)
        network = build_network(a_plan(name=name, features=(8, 12, 16)), 3, 1, 2).train()
        labels = torch.zeros(2, 8, 8, 8, dtype=torch.int64)
        labels[0, 2:6, 1:5, 3:7] = 1
        labels[1, 3:7, 2:7, 0:4] = 1
        image = labels[:, None] + 0.3 * torch.randn(2, 1, 8, 8, 8)
        optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
        for _ in range(40):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(image)[0], labels).backward()
            optimizer.step()
        found = network.eval()(image).argmax(1)
        least = 0.7 if name in ("deeplab", "light") else 0.9  # these see a structure of 4 voxels as 2
        assert 2 * (found & labels).sum() / (found.sum() + labels.sum()) > least

    def test_names_the_padded_size_when_a_patch_does_not_fit(self, name):
        network = build_network(a_plan(name=name), 3, 1, 2)
        with pytest.raises(PlanError, match=r"\[9, 8, 3\].*multiple of \[4, 4, 4\].*Pad it to \[12, 8, 4\]"):
            network(torch.zeros(1, 1, 9, 8, 3))

    def test_names_the_channels_that_it_expects(self, name):
        with pytest.raises(PlanError, match="takes 3 channels, but got 1"):
            build_network(a_plan(name=name), 3, 3, 2)(torch.zeros(1, 1, 8, 8, 8))

    def test_refuses_a_batch_without_z(self, name):
        with pytest.raises(PlanError, match="Z = 1"):
            build_network(flat_plan(name=name), 2, 1, 2)(torch.zeros(1, 1, 8, 8))

    def test_refuses_several_slices_at_once_in_2d(self, name):
        with pytest.raises(PlanError, match="one slice at a time"):
            build_network(flat_plan(name=name), 2, 1, 2)(torch.zeros(1, 1, 4, 8, 8))

    @pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of torch's own InstanceNorm
    def test_can_be_traced(self, name):
        network = build_network(a_plan(name=name), 3, 1, 2).eval()
        x = torch.randn(1, 1, 8, 8, 8)
        assert torch.equal(torch.jit.trace(network, x)(x), network(x))

    def test_can_be_exported(self, name):
        network = build_network(a_plan(name=name), 3, 1, 2).eval()
        x = torch.randn(1, 1, 8, 8, 8)
        assert torch.allclose(torch.export.export(network, (x,)).module()(x), network(x), atol=1e-5)

    @pytest.mark.parametrize(
        ("patch", "strides"),
        [
            ((40, 56, 40), ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))),
            ((20, 320, 256), ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))),
            ((1, 512, 512), ((1, 1, 1), *[(1, 2, 2)] * 6)),
        ],
    )
    def test_takes_the_patches_of_real_plans(self, name, patch, strides):
        flat = patch[0] == 1
        kernels = tuple((1 if flat or (step == (1, 2, 2) and i < 3) else 3, 3, 3) for i, step in enumerate(strides))
        features = (4, 6, 8, 8, 8, 8, 8)[: len(strides)]
        plan = a_plan(name=name, features=features, strides=strides, kernels=kernels, convolutions=1)
        with torch.device("meta"):  # shapes without arithmetic
            network = build_network(plan, 2 if flat else 3, 1, 2).train()
            outputs = network(torch.empty(2, 1, *patch))
        assert len(outputs) == len(strides) - 1
        assert outputs[0].shape == (2, 2, *patch)


def test_the_hippocampus_plan_has_as_many_parameters_as_nnunet_counts():
    plan = a_plan(features=(32, 64, 128, 256))
    network = build_network(plan, 3, 1, 3)
    assert count(network) == count_by_arithmetic(plan, 3, 1, 3) == 5_603_177
    assert round(count(network) / 1e6, 1) == 5.6


def test_nnunets_default_2d_plan_has_as_many_parameters_as_arithmetic_says():
    plan = a_plan(
        features=(32, 64, 128, 256, 512, 512),
        strides=((1, 1, 1), *[(1, 2, 2)] * 5),
        kernels=((1, 3, 3),) * 6,
    )
    assert count(build_network(plan, 2, 1, 2)) == count_by_arithmetic(plan, 2, 1, 2)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_plan_has_as_many_parameters_as_arithmetic_says_and_keeps_the_patch(data):
    depth = data.draw(st.integers(2, 4))
    dimensions = data.draw(st.sampled_from((2, 3)))
    one_axis = st.integers(1, 2)
    first = (lambda n: (1, *n[1:])) if dimensions == 2 else tuple
    strides = [first(data.draw(st.tuples(one_axis, one_axis, one_axis))) for _ in range(depth - 1)]
    kernels = [first(data.draw(st.tuples(*[st.sampled_from((1, 3))] * 3))) for _ in range(depth)]
    plan = NetworkPlan(
        features=tuple(data.draw(st.lists(st.integers(2, 6), min_size=depth, max_size=depth))),
        strides=((1, 1, 1), *strides),
        kernels=tuple(kernels),
        encoder_convolutions=tuple(data.draw(st.lists(st.integers(1, 3), min_size=depth, max_size=depth))),
        decoder_convolutions=tuple(data.draw(st.lists(st.integers(1, 3), min_size=depth - 1, max_size=depth - 1))),
        deep_supervision=data.draw(st.booleans()),
    )
    network = build_network(plan, dimensions, 2, 3).eval()
    assert count(network) == count_by_arithmetic(plan, dimensions, 2, 3)
    patch = tuple(d * 2 if i or dimensions == 3 else 1 for i, d in enumerate(plan.divisor))
    with torch.no_grad():
        assert network(torch.randn(1, 2, *patch)).shape == (1, 3, *patch)


def fused_attention_flops(query, key, value, *args, out_shape=None, **kwargs):
    """Of torch's fused attention on the CPU, which its counter does not know."""
    return 4 * math.prod(query[:-1]) * key[-2] * query[-1]


def counted_flops(network, x):
    """What torch's own counter finds in a forward pass, two for a multiplication with its addition."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={fused: fused_attention_flops}) as counter:
        network(x)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize(
    ("dimensions", "strides", "kernels", "patch"),
    [
        (3, ((1, 1, 1), (1, 2, 2), (2, 2, 2)), ((1, 3, 3), (3, 3, 3), (3, 3, 3)), (4, 12, 8)),
        (3, ((1, 1, 1), (2, 2, 2), (1, 2, 1)), ((3, 3, 3),) * 3, (4, 8, 8)),
        (2, ((1, 1, 1), (1, 2, 2), (1, 2, 1)), ((1, 3, 3),) * 3, (1, 16, 8)),
    ],
)
def test_the_planner_knows_the_parameters_and_flops_of_every_network(name, dimensions, strides, kernels, patch):
    plan = NetworkPlan(
        name=name,
        features=(4, 6, 6),
        strides=strides,
        kernels=kernels,
        encoder_convolutions=(1, 3, 2),
        decoder_convolutions=(1, 2),
    )
    network = build_network(plan, dimensions, 2, 5).train()
    assert parameter_count(plan, 2, 5) == count(network)
    assert forward_flops(plan, patch, 2, 5) == counted_flops(network, torch.randn(1, 2, *patch))


@pytest.mark.parametrize("plan", list(PLANS))
@pytest.mark.parametrize("name", list(BUILDERS))
def test_every_network_has_as_many_parameters_as_it_always_had(name, plan):
    """Otherwise no trained model of it can be read any more; tests/golden/make_parameter_counts.py prints them."""
    expected = json.loads((GOLDEN / "parameter_counts.json").read_text())[plan][name]
    assert parameters_of(name, plan) == expected
    assert parameter_count(plan_for(name, plan)[0], 1, 3) == expected


def test_a_residual_block_starts_as_its_shortcut():
    torch.manual_seed(0)
    network = build_network(a_plan(name="residual_unet"), 3, 1, 2)
    block = network.encoder.stages[0].blocks[0]
    x = torch.randn(1, 4, 4, 4, 4)
    assert torch.equal(block(x), torch.nn.functional.leaky_relu(x, 0.01))
    assert block.conv1.norm.weight.all()


def test_weights_start_he_normal_for_the_leaky_slope():
    torch.manual_seed(0)
    convolution = build_network(a_plan(features=(32, 64)), 3, 1, 2).encoder.stages[1].convs[1].conv
    expected = math.sqrt(2 / (1 + 0.01**2) / (64 * 27))
    assert convolution.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert not convolution.bias.any()


@pytest.mark.real
def test_nnunets_own_weights_map_onto_the_network_one_to_one(real_data):
    model = real_data / "nnunet_model" / "model"
    arguments = json.loads((model / "plans.json").read_text())["configurations"]["3d_tiny"]["architecture"]
    arguments = arguments["arch_kwargs"]
    plan = NetworkPlan(
        features=arguments["features_per_stage"],
        strides=arguments["strides"],
        kernels=arguments["kernel_sizes"],
        encoder_convolutions=arguments["n_conv_per_stage"],
        decoder_convolutions=arguments["n_conv_per_stage_decoder"],
    )
    from numpy._core.multiarray import scalar

    safe = [scalar, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
    with torch.serialization.safe_globals(safe):
        theirs = torch.load(model / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=True)
    # nnU-Net registers each layer several times; the decoder's view of the encoder and all_modules are doubles.
    unique = {
        key: value
        for key, value in theirs["network_weights"].items()
        if "all_modules" not in key and not key.startswith("decoder.encoder.")
    }
    network = build_network(plan, 3, 1, 3)
    ours = network.state_dict()
    assert [tuple(v.shape) for v in unique.values()] == [tuple(v.shape) for v in ours.values()]

    def renamed(key):
        key = key.replace("transpconvs", "transposed").replace("seg_layers", "heads")
        return key.replace(".0.convs.", ".convs.") if key.startswith("encoder.") else key

    assert [renamed(key) for key in unique] == list(ours)
    network.load_state_dict({renamed(key): value for key, value in unique.items()})
