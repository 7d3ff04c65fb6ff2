import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import PlanError
from medseg.federation.privacy.noise import SystemNoise
from medseg.federation.privacy.patient_gradients import PatientGradients, draw_patients, require_no_batch_statistics
from medseg.networks.build import build_network

from tiny import tiny_plan

CLIP = 0.5


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network(
        tiny_plan().configurations["3d_fullres"].network.model_copy(update={"deep_supervision": False}), 3, 1, 3
    )


def patches(count, seed=0, size=16):
    return torch.randn(count, 1, size, size, size, generator=torch.Generator().manual_seed(seed))


def loss_of(network, images, scale=1.0):
    return lambda: scale * network(images).square().mean()


def private(network, noise=0.0, expected=1.0, rate=1.0, clip=CLIP, **more):
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=rate)
    return PatientGradients(network, optimizer, clip, noise, expected, **more)


def norm(gradients):
    return float(torch.stack([g.norm() for g in gradients]).norm())


@pytest.mark.parametrize("count", [1, 100])
def test_a_patient_moves_the_sum_by_no_more_than_the_clip_bound_however_many_patches_they_have(network, count):
    images = patches(count, size=4 if count > 1 else 16) if count == 1 else patches(count, size=8)
    others = [loss_of(network, patches(2, seed), 100) for seed in (1, 2)]
    without = private(network).noised(others)
    moved = private(network).noised([*others, loss_of(network, images, 1e4)])
    assert norm([a - b for a, b in zip(moved, without, strict=True)]) == pytest.approx(CLIP, rel=1e-3)


def test_a_small_gradient_is_not_scaled_up(network):
    (weight,) = (p for name, p in network.named_parameters() if name == "decoder.heads.0.bias")
    gradients = private(network).noised([lambda: 1e-3 * weight.sum()])
    assert norm(gradients) == pytest.approx(1e-3 * len(weight) ** 0.5, rel=1e-4)


def test_noise_has_its_standard_deviation_and_the_divisor_is_the_public_one(network):
    wide = nn.Linear(300, 300, bias=False)
    gradients = private(wide, noise=3.0, expected=2.5).noised([])
    # 90,000 numbers: the standard error of their standard deviation is 0.24 %.
    assert float(gradients[0].std()) == pytest.approx(3.0 * CLIP / 2.5, rel=0.02)
    assert abs(float(gradients[0].mean())) < 6 * 3.0 * CLIP / 2.5 / 300


def test_the_divisor_does_not_follow_how_many_were_drawn(network):
    loss = loss_of(network, patches(1), 1e4)
    one, two = (private(network, expected=4.0).noised([loss] * n) for n in (1, 2))
    assert norm(one) == pytest.approx(CLIP / 4, rel=1e-3)
    assert norm(two) == pytest.approx(2 * CLIP / 4, rel=1e-3)


def test_a_draw_of_nobody_is_a_step_of_noise(network):
    before = [p.detach().clone() for p in network.parameters()]
    private(network, noise=1.0).step([])
    moved = torch.cat([(p.detach() - old).flatten() for p, old in zip(network.parameters(), before, strict=True)])
    assert float(moved.std()) == pytest.approx(CLIP, rel=0.1)
    assert float((moved != 0).float().mean()) > 0.99


def test_noise_is_never_the_same_again_whatever_is_seeded():
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 (what somebody else may do)
        drawn.append(SystemNoise().normal(1000))
    assert not np.intersect1d(*drawn).size
    assert abs(np.concatenate(drawn).mean()) < 6 / 2000**0.5


def test_the_tails_of_the_noise_are_those_of_a_gaussian():
    from scipy.stats import kstest

    assert kstest(SystemNoise().normal(200_000), "norm").pvalue > 1e-6


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_no_number_counts_as_nothing(network, bad):
    gradients = private(network)
    good = loss_of(network, patches(1), 1e4)
    found = gradients.noised([loss_of(network, patches(1), bad), good])
    assert gradients.left_out == 1
    assert norm(found) == pytest.approx(CLIP, rel=1e-3)


def test_a_gradient_of_zero_or_beyond_float32_squared_stays_bounded(network):
    assert norm(private(network).noised([loss_of(network, patches(1), 0.0)])) == 0
    assert norm(private(network).noised([loss_of(network, patches(1), 1e30)])) <= CLIP * 1.001


def test_an_unused_parameter_gets_noise_and_no_error(network):
    spare = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(50, 50)})
    gradients = private(spare, noise=1.0).noised([lambda: spare["used"](torch.ones(1, 2)).sum()])
    assert all(bool((g != 0).all()) for g in gradients)


def test_frozen_parameters_stay_and_do_not_count_in_the_norm(network):
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("decoder."))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    private(network).step([loss_of(network, patches(1), 1e4)])
    moved = {name: p.detach() - before[name] for name, p in network.named_parameters()}
    assert not any(moved[name].any() for name in moved if name.startswith("encoder."))
    assert norm(moved.values()) == pytest.approx(CLIP, rel=1e-3)


def test_the_pull_and_weight_decay_come_after_clipping_and_noise(network):
    gradients = private(network, pull=0.5, rate=1.0)
    start = [p.detach().clone() for p in network.parameters()]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(10.0)
    (found,) = {round(float(g.mean()), 4) for g in gradients.noised([])}
    assert found == 5.0  # mu (w - w_t), far beyond the clip bound and not divided
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, weight_decay=0.5)
    PatientGradients(network, optimizer, CLIP, 0.0, 4.0).step([])
    for parameter, old in zip(network.parameters(), start, strict=True):
        torch.testing.assert_close(parameter.detach(), 0.5 * (old + 10.0))


def test_one_backward_for_each_patient_equals_opacus_hooks_on_a_small_unet():
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    torch.manual_seed(0)
    plan = tiny_plan().configurations["3d_fullres"].network.model_copy(update={"deep_supervision": False})
    network = build_network(plan, 3, 1, 3)
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # hooks can't see through changes in place
    images, expected = patches(3, size=8), 2.0
    ours = private(network, expected=expected).noised([loss_of(network, image[None], 100.0) for image in images])
    hooked = GradSampleModule(network, strict=False, loss_reduction="mean")
    optimizer = DPOptimizer(
        torch.optim.SGD(network.parameters(), lr=1.0), noise_multiplier=0.0, max_grad_norm=CLIP, expected_batch_size=2
    )
    optimizer.zero_grad()
    (100.0 * hooked(images.requires_grad_()).square().mean()).backward()
    optimizer.pre_step()
    for mine, parameter in zip(ours, network.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-6)


def test_opacus_accountant_counts_one_step_however_many_patients_were_drawn(network):
    from opacus.accountants import RDPAccountant

    accountant, gradients = RDPAccountant(), private(network, noise=1.0)
    gradients._optimizer.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=0.5))
    gradients.step([loss_of(network, patches(1, seed)) for seed in range(3)])
    gradients.step([])
    assert accountant.history == [(1.0, 0.5, 2)]


@pytest.mark.parametrize(
    "module",
    [
        nn.BatchNorm3d(4),
        nn.BatchNorm3d(4, affine=False),
        nn.BatchNorm3d(4, track_running_stats=False),
        nn.InstanceNorm3d(4, track_running_stats=True),
        nn.InstanceNorm3d(4, affine=True, track_running_stats=True),
    ],
)
def test_statistics_over_patients_are_refused_with_affine_weights_or_without(module):
    with pytest.raises(PlanError, match=r"'1' is (Batch|Instance)Norm3d"):
        private(nn.Sequential(nn.Conv3d(1, 4, 1), module))


def test_our_own_networks_are_accepted(network):
    require_no_batch_statistics(network)


def test_patients_are_drawn_at_the_public_rate_and_no_seed_repeats_them():
    patients = range(20_000)
    drawn = draw_patients(patients, 0.3)
    assert abs(len(drawn) - 6000) < 6 * (20_000 * 0.21) ** 0.5
    assert draw_patients(patients, 0.3) != drawn
    assert draw_patients(patients, 1.0) == tuple(patients)
