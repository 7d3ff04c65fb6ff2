"""What each network says of itself to the planner, held against the network that is built."""

import pytest
import torch

from medseg.networks.build import build_network
from medseg.planning.architectures import ARCHITECTURES
from medseg.planning.memory import layers_of
from medseg.planning.plan import NetworkPlan


def kept_for_backward(network, batch):
    """Numbers that autograd keeps, each storage once, without the parameters and without numbers per channel."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    found = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters and tensor.numel() > batch.shape[0] * 64:
            found[storage.data_ptr()] = tensor  # held, so that the place is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(batch)
    assert outputs
    return sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in found.values())


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("features", [(4, 6, 8), (4, 4, 4)])
@pytest.mark.parametrize(
    ("dimensions", "strides", "kernels", "patch"),
    [
        (3, ((1, 1, 1), (2, 2, 2), (1, 2, 2)), ((1, 3, 3), (3, 3, 3), (3, 3, 3)), (8, 24, 16)),
        (2, ((1, 1, 1), (1, 2, 2), (1, 2, 2)), ((1, 3, 3),) * 3, (1, 64, 48)),
    ],
)
def test_a_description_knows_what_training_keeps_for_the_backward_pass(
    name, features, dimensions, strides, kernels, patch
):
    plan = NetworkPlan(
        name=name,
        features=features,
        strides=strides,
        kernels=kernels,
        encoder_convolutions=(1, 2, 2),
        decoder_convolutions=(2, 1),
    )
    batch = torch.randn(2, 2, *patch)
    described = 2 * sum(layer.saved(patch) for layer in layers_of(plan, 2, 3))
    kept = kept_for_backward(build_network(plan, dimensions, 2, 3).train(), batch)
    assert kept - batch.numel() == pytest.approx(described, rel=0.02)
