"""A U-Net++ can be cut down to its first levels."""

import pytest
import torch

from medseg.errors import PlanError
from medseg.networks.build import build_network
from medseg.networks.unet_plus_plus import prune
from medseg.planning.memory import parameter_count
from medseg.planning.plan import NetworkPlan

PLAN = NetworkPlan(
    name="unetpp",
    features=(4, 6, 8, 10),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    encoder_convolutions=(1, 2, 2, 1),
    decoder_convolutions=(1, 2, 1),
)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_pruned_network_gives_the_logits_of_that_head_with_fewer_parameters(level):
    torch.manual_seed(0)
    whole = build_network(PLAN, 3, 1, 2)
    image = torch.randn(1, 1, 4, 16, 8)
    plan, state = prune(PLAN, whole.state_dict(), level)
    pruned = build_network(plan, 3, 1, 2)
    pruned.load_state_dict(state)
    deepest_first = whole.train()(image)
    assert torch.equal(pruned.eval()(image), deepest_first[::-1][level - 1])
    assert parameter_count(plan, 1, 2) < parameter_count(PLAN, 1, 2)


def test_a_level_without_a_head_is_refused():
    state = build_network(PLAN, 3, 1, 2).state_dict()
    with pytest.raises(PlanError, match=r"no head of level 4.*levels 1 to 3"):
        prune(PLAN, state, 4)
    with pytest.raises(PlanError, match="deep_supervision=true"):
        prune(PLAN.model_copy(update={"deep_supervision": False}), state, 1)
