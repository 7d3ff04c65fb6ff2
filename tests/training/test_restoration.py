"""Hidden blocks: how many, where, what the loss counts, and what a network that restores them is worth."""

import numpy as np
import pytest
import torch
from torch import nn

from medseg.planning.plan import AugmentationPlan, SamplingPlan, TrainingPlan
from medseg.planning.pretraining import Pretraining, as_pretraining, default_block
from medseg.preprocessing.store import open_prepared
from medseg.training.restoration import RestorationLoss, hide, restore_patches

from tiny import table_of, tiny_plan, write_prepared


def plan_of(block, hidden=0.75):
    return Pretraining(hidden=hidden, block=block, images="dataset")


@pytest.mark.parametrize("patch", [(8, 12, 16), (9, 10, 7), (1, 16, 12)])
@pytest.mark.parametrize("hidden", [0.01, 0.6, 0.75, 0.99])
def test_whole_blocks_are_hidden_the_same_number_in_every_patch_and_never_all(patch, hidden):
    block = (1, 4, 4) if patch[0] == 1 else (2, 4, 4)
    images = torch.rand(3, 2, *patch) + 1
    seen, wanted = hide(images, torch.zeros(3, *patch, dtype=torch.int64), plan_of(block, hidden), 1, 5)
    assert torch.equal(wanted[:, :2], images)
    mask = wanted[:, 2].bool()
    assert torch.equal(seen == 0, mask[:, None].expand_as(seen))
    corners = mask[(slice(None), *(slice(0, None, step) for step in block))]
    filled = corners
    for axis, step in enumerate(block, start=1):
        filled = filled.repeat_interleave(step, axis)
    assert torch.equal(filled[:, : patch[0], : patch[1], : patch[2]], mask)
    counts, total = corners.flatten(1).sum(1), corners[0].numel()
    assert set(counts.tolist()) == {min(max(round(hidden * total), 1), total - 1)}


def test_what_is_hidden_follows_from_seed_iteration_and_rank_alone():
    images, labels = torch.rand(2, 1, 8, 8, 8), torch.zeros(2, 8, 8, 8, dtype=torch.int64)
    first, *others = (
        hide(images, labels, plan_of((2, 2, 2)), *key)[1][:, 1]
        for key in ((1, 3, 0), (1, 3, 0), (2, 3), (1, 4), (1, 3, 1))
    )
    assert torch.equal(first, others[0])
    assert not any(torch.equal(first, other) for other in others[1:])
    assert not torch.equal(first[0], first[1])


def test_the_loss_is_the_squared_error_of_hidden_voxels_inside_the_image():
    torch.manual_seed(0)
    images, output = torch.randn(2, 2, 4, 4, 4), torch.randn(2, 2, 4, 4, 4, requires_grad=True)
    labels = torch.zeros(2, 4, 4, 4, dtype=torch.int64)
    labels[:, :, :, 3] = 1  # beyond the border of the image
    _, wanted = hide(images, labels, plan_of((2, 2, 2), 0.5), 1, 1)
    counted = wanted[:, 2].bool()
    assert counted.any()
    assert not counted[..., 3].any()
    by_hand = np.mean([((output[:, c] - images[:, c]) ** 2)[counted].mean().item() for c in range(2)])
    loss = RestorationLoss()([output, torch.zeros(1)], wanted)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    loss.backward()
    assert torch.equal(output.grad != 0, counted[:, None].expand_as(output))
    nothing = torch.cat((images, torch.zeros(2, 1, 4, 4, 4)), 1)
    assert RestorationLoss()(output, nothing).item() == 0


class Given(nn.Module):
    """A network that knows the answer, or gives the same everywhere."""

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, x):
        return self.answer.expand_as(x)


def test_the_share_of_the_variance_is_1_for_the_image_itself_and_0_for_the_mean_of_what_is_visible(tmp_path):
    table = table_of(0, ignore=1)
    image = np.random.default_rng(0).normal(2, 1, (1, 6, 9, 8)).astype(np.float32)
    write_prepared(tmp_path, "a", np.zeros((6, 9, 8), np.uint8), table, image)
    case, patch, plan = open_prepared(tmp_path, "a"), (8, 8, 8), plan_of((2, 2, 2))
    whole = torch.zeros(1, 1, 8, 8, 8)
    whole[0, 0, 1:7] = torch.from_numpy(image[0, :, :8])
    (perfect,) = restore_patches(Given(whole), [case], patch, plan, 1)
    assert perfect.share == pytest.approx(1, abs=1e-6)
    assert np.allclose(perfect.restored, perfect.image)
    assert (perfect.seen == perfect.image.min()).mean() == 0.75 * 6 / 8  # the image fills 6 of 8 slices
    visible = whole[0, 0][torch.from_numpy(perfect.seen[0]) == whole[0, 0]]
    mean = visible[visible != 0].mean()  # outside of the image nothing counts
    (constant,) = restore_patches(Given(mean.reshape(1, 1, 1, 1, 1)), [case], patch, plan, 1)
    assert constant.share == pytest.approx(0, abs=5e-3)  # the darkest voxel is taken for visible here


def test_blocks_are_as_large_as_a_voxel_of_the_coarsest_stage_but_not_larger_than_16():
    network = tiny_plan().configurations["3d_fullres"].network
    assert default_block(network) == (2, 2, 2)
    deep = network.model_copy(update={"strides": ((1, 1, 1), (1, 32, 4))})
    assert default_block(deep) == (1, 16, 4)


def test_nothing_that_needs_labels_or_changes_brightness_is_left_in_the_recipe():
    training = TrainingPlan(
        sampling=SamplingPlan(copy_paste=0.5),
        class_weights="median",
        loss="dice_ce+boundary",
        augmentation=AugmentationPlan(mirror=False, elastic=True, cutmix=True),
    )
    own = as_pretraining(training)
    assert (own.foreground_share, own.sampling, own.class_weights) == (0, SamplingPlan(), "none")
    on = {name for name in AugmentationPlan.model_fields if getattr(own.augmentation, name)}
    assert on == {"rotation", "scaling", "elastic"}
