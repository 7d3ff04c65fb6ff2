"""Learning from a teacher: the divergence by hand, its gradient, and a student that comes to say the same."""

import lightning_fabric
import pytest
import torch

from medseg.networks.build import build_network
from medseg.planning.plan import DistillationPlan
from medseg.training.distillation import Teachers, divergence_from

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
    teachers = Teachers(networks, DistillationPlan(weight=1.0), "softmax")
    before = [parameter.clone() for network in networks for parameter in network.parameters()]
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    optimizer, images, seen = torch.optim.AdamW(student.parameters(), 0.02), torch.randn(2, 1, 8, 8, 8), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = teachers.mix(fabric, torch.tensor(7.0), images, student(images)[0])
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.3 * seen[0]
    after = [parameter for network in networks for parameter in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
