"""Maps against captum's, hooks that are gone, and verdicts on networks that know something and that know nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum import attr
from torch import nn

from medseg.errors import SettingsError
from medseg.explanation.cam import class_activation_map
from medseg.explanation.case import Question, Window, region_of
from medseg.explanation.layers import choose_layer
from medseg.explanation.methods import explain
from medseg.explanation.sanity import check_sanity, rank_correlation
from medseg.explanation.target import Target
from medseg.networks.build import build_network
from medseg.planning.plan import NetworkPlan

from tiny import table_of

SIZE = 16


def network_plan(dimensions=3):
    """Three stages, so that one lies at a quarter of the resolution."""
    stride, kernel = ((2, 2, 2), (3, 3, 3)) if dimensions == 3 else ((1, 2, 2), (1, 3, 3))
    return NetworkPlan(
        features=(4, 8, 8),
        strides=((1, 1, 1), stride, stride),
        kernels=(kernel,) * 3,
        encoder_convolutions=(1, 1, 1),
        decoder_convolutions=(1, 1),
    )


def question(dimensions=3, seed=0) -> Target:
    torch.manual_seed(seed)
    network = build_network(network_plan(dimensions), dimensions, 1, 3).eval().requires_grad_(False)
    size = (SIZE if dimensions == 3 else 1, SIZE, SIZE)
    region = torch.zeros(size, dtype=torch.bool)
    region[..., 5:9, 6:10] = True
    return Target(network, torch.randn(1, 1, *size), 1, region)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("method", ["seg_grad_cam", "hires_cam"])
def test_a_map_is_captum_s_on_a_single_pass(dimensions, method):
    target = question(dimensions)
    for name in ("encoder.stages.2", "decoder.stages.0", "decoder.stages.1"):
        layer = target.network.get_submodule(name)
        given = target.patch.clone().requires_grad_(True)  # captum needs a gradient to reach the layer
        if method == "seg_grad_cam":
            theirs = attr.LayerGradCam(target.score, layer).attribute(given).sum(dim=1)
        else:
            theirs = attr.LayerGradientXActivation(target.score, layer).attribute(given).sum(dim=1)
        theirs = theirs.detach().relu().reshape(1, 1, *([1] if dimensions == 2 else []), *theirs.shape[1:])
        theirs = nn.functional.interpolate(theirs, size=target.patch.shape[2:], mode="trilinear", align_corners=False)
        ours = class_activation_map(target, name, method)
        assert ours.shape == target.region.shape
        torch.testing.assert_close(ours, theirs[0, 0], atol=1e-5, rtol=1e-4)
        assert not any(module._forward_hooks for module in target.network.modules())


def test_hooks_are_gone_even_where_the_network_fails():
    target = question()
    broken = Target(target.network, target.patch[..., :7], 1, target.region)
    with pytest.raises(Exception, match="7"):
        class_activation_map(broken, "decoder.stages.0", "hires_cam")
    assert not any(module._forward_hooks for module in target.network.modules())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_layer_is_the_last_one_at_a_quarter_of_the_resolution(dimensions):
    target = question(dimensions)
    assert choose_layer(target).startswith("encoder.stages.2") or choose_layer(target) == "encoder"
    assert choose_layer(target, "last").startswith("decoder.stages.1")
    assert choose_layer(target, "decoder.stages.0") == "decoder.stages.0"
    with pytest.raises(SettingsError, match=r"Some are: .*decoder\.stages\.0"):
        choose_layer(target, "layer4")


def test_a_map_without_positive_evidence_is_blank_and_nothing_is_stretched():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv3d(1, 2, 3, padding=1)

        def forward(self, x):
            return -self.layer(x).relu()

    torch.manual_seed(0)
    target = question()
    found = explain(target.with_network(Constant().eval()), "hires_cam", "layer")
    assert found.is_blank
    assert found.values.max() == 0


def test_integrated_gradients_account_for_the_score_and_occlusion_finds_what_matters():
    found = explain(centre_reader(), "integrated_gradients")
    assert found.unaccounted is not None
    assert found.unaccounted < 0.02
    seen = explain(centre_reader(), "occlusion").values
    near = torch.zeros_like(seen, dtype=torch.bool)
    near[5:11, 5:11, 5:11] = True
    assert seen[near].sum() > 0.95 * seen.sum() > 0


def centre_reader() -> Target:
    """A network whose score in the middle is the brightness there; the image is bright in the middle and noisy."""
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1)).eval()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        network[0].weight[0, 0, 1, 1, 1] = 1
        network[2].weight[1, 0] = 1
    random = torch.Generator().manual_seed(0)
    patch = 0.1 * torch.randn(1, 1, SIZE, SIZE, SIZE, generator=random)
    patch[..., 6:10, 6:10, 6:10] += 2
    region = torch.zeros((SIZE,) * 3, dtype=torch.bool)
    region[6:10, 6:10, 6:10] = True
    return Target(network.requires_grad_(False), patch, 1, region)


def test_a_map_that_the_score_follows_and_the_weights_make_is_believed():
    target = centre_reader()
    found = explain(target, "hires_cam", "1").values
    report = check_sanity(target, found, lambda other: explain(other, "hires_cam", "1").values)
    assert report.is_faithful
    assert report.deletion[0] == pytest.approx(1)
    assert report.insertion[-1] == pytest.approx(1)
    assert report.deletion_area < 0.5 * report.deletion_area_random


def test_a_map_that_ignores_the_weights_or_the_score_is_not_believed():
    target = centre_reader()

    def edges(_other):
        """What looks like an explanation of any network."""
        return target.patch[0, 0].abs()

    report = check_sanity(target, edges(target), edges)
    assert not report.depends_on_weights
    assert "forget" in report.verdict
    upside_down = explain(target, "hires_cam", "1").values.amax() - explain(target, "hires_cam", "1").values
    report = check_sanity(target, upside_down, lambda other: explain(other, "hires_cam", "1").values)
    assert not report.is_faithful
    assert "Do not believe" in report.verdict


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("method", ["seg_grad_cam", "hires_cam"])
def test_no_map_of_a_network_that_was_never_trained_is_believed(method, dimensions):
    for seed in range(6):
        target = question(dimensions, seed)
        # Where such a network says the structure is: the region that a user would ask about.
        found = target.network(target.patch)[0].argmax(0) == 1
        target = replace(target, region=found if found.any() else target.region)
        report = check_sanity(target, explain(target, method).values, lambda other: explain(other, method).values)
        assert not report.is_decided
        assert "Do not believe" in report.verdict or "blank" in report.verdict


def test_ranks_correlate_as_spearman_says_and_a_flat_map_with_nothing():
    first = torch.tensor([[[1.0, 2.0, 3.0, 10.0]]])
    assert rank_correlation(first, first**3) == pytest.approx(1)
    assert rank_correlation(first, -first) == pytest.approx(-1)
    assert rank_correlation(first, torch.ones_like(first)) == 0


def test_a_region_is_a_structure_a_component_or_a_ball():
    table = table_of(2)
    labels = np.zeros((10, 12, 14), np.uint8)
    labels[1:3, 1:3, 1:3], labels[5:9, 5:9, 5:9], labels[0, 0, 13] = 1, 1, 2
    spacing = (2.0, 1.0, 1.0)
    assert region_of(Question("structure 1"), labels, spacing, table).sum() == 8 + 64
    assert region_of(Question("structure 1", component=2), labels, spacing, table).sum() == 8
    ball = region_of(Question("structure 2", point=(5, 6, 7), radius_mm=2.0), labels, spacing, table)
    assert ball[5, 6, 9]
    assert ball[4, 6, 7]
    assert not ball[3, 6, 7]
    for asked, sentence in (
        (Question("liver"), "Known are"),
        (Question("structure 1", component=3), "2 component"),
        (Question("structure 2", point=(10, 0, 0)), "outside of the image"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            region_of(asked, labels, spacing, table)


def test_a_patch_is_cut_and_put_back_where_it_was_even_beyond_the_edge():
    array = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
    window = Window((-1, 2, 3), (7, 4, 4), (5, 6, 7))
    patch = window.cut(array)
    assert patch.shape == (7, 4, 4)
    assert patch[0].max() == 0
    put = window.put(patch)
    np.testing.assert_array_equal(put[:, 2:6, 3:7], array[:, 2:6, 3:7])
    assert put[:, :2].max() == 0


def transformer(dimensions=3) -> Target:
    plan = network_plan(dimensions).model_copy(update={"name": "transunet", "features": (4, 8, 16)})
    plan = plan.model_copy(update={"encoder_convolutions": (1, 1, 2)})
    target = question(dimensions)
    torch.manual_seed(0)
    return target.with_network(build_network(plan, dimensions, 1, 3).eval().requires_grad_(False))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_rollout_multiplies_the_attention_that_the_network_itself_uses(dimensions):
    target = transformer(dimensions)
    encoder = target.network.encoder
    x = target.patch.squeeze(2) if dimensions == 2 else target.patch
    for stage in encoder.stages:
        x = stage(x)
    placed = encoder.positions(encoder.embedding(x))
    tokens, rollout = placed.flatten(2).transpose(1, 2), torch.eye(placed[0, 0].numel())
    for block in encoder.blocks:
        # Of values that are the identity, attention gives its own weights.
        queries, keys, _ = block.qkv(block.norm1(tokens)).chunk(3, -1)
        each = [
            nn.functional.scaled_dot_product_attention(q, k, torch.eye(q.shape[1])[None])[0]
            for q, k in zip(queries.chunk(block.heads, -1), keys.chunk(block.heads, -1), strict=True)
        ]
        rollout = (torch.stack(each).mean(0) + torch.eye(len(rollout))) / 2 @ rollout
        tokens = block(tokens)
    shape = placed.shape[2:] if dimensions == 3 else (1, *placed.shape[2:])
    where = nn.functional.adaptive_avg_pool3d(target.region[None, None].float(), shape).flatten()
    wanted = (where / where.sum() @ rollout * len(rollout) - 1).relu().reshape(1, 1, *shape)
    wanted = nn.functional.interpolate(wanted, size=target.patch.shape[2:], mode="trilinear", align_corners=False)
    found = explain(target, "attention_rollout")
    torch.testing.assert_close(found.values, wanted[0, 0], atol=1e-4, rtol=1e-3)
    assert not found.is_blank
    assert not any(module._forward_hooks for module in target.network.modules())


def test_rollout_is_refused_where_not_every_place_attends_to_every_other():
    with pytest.raises(SettingsError, match="transunet"):
        explain(question(), "attention_rollout")
