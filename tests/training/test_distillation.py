"""Learning from a teacher: the divergence by hand, its gradient, and a student that comes to say the same."""

import lightning_fabric
import pytest
import torch

from medseg.networks.build import BUILDERS, build_network
from medseg.planning.plan import DistillationPlan
from medseg.training.distillation import Student, Teachers, divergence_from, map_difference

from tiny import tiny_plan


def by_hand(teacher, student, temperature):
    p, q = (torch.exp(x / temperature) / torch.exp(x / temperature).sum() for x in (teacher, student))
    return temperature**2 * sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True)).item()


def test_the_divergence_of_classes_is_that_of_softened_probabilities():
    teacher, student = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.0, 1.0, 0.3])
    shaped = [x.reshape(1, 3, 1, 1, 1) for x in (teacher, student)]
    found = divergence_from([shaped[0]], shaped[1], 3.0, "softmax").item()
    assert found == pytest.approx(by_hand(teacher, student, 3.0), rel=1e-5)


def test_the_divergence_of_regions_is_that_of_each_region():
    teacher, student = torch.tensor([2.0, -1.0]), torch.tensor([0.0, 1.0])
    shaped = [x.reshape(1, 2, 1, 1, 1) for x in (teacher, student)]
    found = divergence_from([shaped[0]], shaped[1], 2.0, "sigmoid").item()
    each = [by_hand(torch.stack((torch.tensor(0.0), a)), torch.stack((torch.tensor(0.0), b)), 2.0)
            for a, b in zip(teacher, student, strict=True)]  # fmt: skip
    assert found == pytest.approx(sum(each) / 2, rel=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_who_says_what_the_teachers_say_has_nothing_to_learn(activation):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 2, 4, 4, requires_grad=True)
    found = divergence_from([logits.detach(), logits.detach()], logits, 2.0, activation)
    found.backward()
    assert abs(found.item()) < 1e-6
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_its_gradient_is_right(activation):
    torch.manual_seed(0)
    teacher, logits = torch.randn(1, 3, 1, 2, 2).double(), torch.randn(1, 3, 1, 2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: divergence_from([teacher], x, 2.0, activation), (logits,))


def test_a_student_learns_from_two_teachers_alone_and_leaves_them_as_they_are():
    torch.manual_seed(0)
    plan = tiny_plan().configurations["3d_fullres"].network
    networks = [build_network(plan, 3, 1, 3) for _ in range(2)]
    student = build_network(plan.model_copy(update={"name": "attention_unet"}), 3, 1, 3).train()
    teachers = Teachers(networks, DistillationPlan(weight=1.0), "softmax", 8)
    before = [parameter.clone() for network in networks for parameter in network.parameters()]
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    optimizer, images, seen = torch.optim.AdamW(student.parameters(), 0.02), torch.randn(2, 1, 8, 8, 8), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = teachers.mix(fabric, torch.tensor(7.0), images, student(images))
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.3 * seen[0]
    after = [parameter for network in networks for parameter in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", list(BUILDERS))
@pytest.mark.parametrize("dimensions", [2, 3])
def test_any_student_learns_a_teachers_coarsest_map_through_an_adapter(name, dimensions):
    torch.manual_seed(0)
    (configuration,) = tiny_plan(dimensions).configurations.values()
    teacher = build_network(configuration.network.model_copy(update={"features": (4, 12)}), dimensions, 1, 3)
    plan = configuration.network.model_copy(update={"name": name, "features": (4, 8)})
    configuration = configuration.model_copy(update={"network": plan})
    teachers = Teachers([teacher, teacher], DistillationPlan(weight=0.0, features=1.0), "softmax", 12)
    student = teachers.student(build_network(plan, dimensions, 1, 3).train(), configuration)
    assert isinstance(student, Student)
    images = torch.randn(2, 1, *((1, 16, 16) if dimensions == 2 else (16, 16, 16)))
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    loss = teachers.mix(fabric, torch.tensor(0.0), images, student(images))
    loss.backward()
    assert all(adapter.weight.grad.any() for adapter in student.adapters)
    for part, learns in (("encoder", True), ("decoder", False)):
        gradients = [p.grad for p in student.network.get_submodule(part).parameters() if p.grad is not None]
        assert any(gradient.any() for gradient in gradients) == learns
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_map_that_is_the_teachers_but_for_mean_and_variance_is_apart_by_its_own_variance_alone():
    torch.manual_seed(0)
    theirs = 3 * torch.randn(2, 4, 5, 6, 7) + 2
    normed = torch.nn.functional.instance_norm(theirs)
    assert map_difference(normed, theirs).item() == pytest.approx(0, abs=1e-10)
    assert map_difference(torch.zeros_like(theirs), theirs).item() == pytest.approx(1, abs=1e-3)
    coarser = torch.nn.functional.avg_pool3d(normed, 1, (1, 2, 2))
    assert map_difference(coarser, theirs).isfinite()


def test_without_a_weight_for_maps_the_student_is_the_network_itself():
    configuration = tiny_plan().configurations["3d_fullres"]
    network = build_network(configuration.network, 3, 1, 3)
    assert Teachers([network], DistillationPlan(), "softmax", 8).student(network, configuration) is network
