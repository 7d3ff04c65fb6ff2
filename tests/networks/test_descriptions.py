"""What each network says of itself to the planner, held against the network that is built."""

import pytest
import torch

from medseg.errors import PlanError
from medseg.networks.build import build_network
from medseg.planning.architectures import ARCHITECTURES
from medseg.planning.memory import layers_of, parameter_count
from medseg.planning.plan import NetworkPlan

_NEAR = {"transunet": 0.02, "segformer": 0.04, "swin_unetr": 0.12}
"""Layer norm's statistics and the indices of Swin's table of places are not described."""


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
    assert kept - batch.numel() == pytest.approx(described, rel=_NEAR.get(name, 0.001))


@pytest.mark.parametrize("name", [name for name, kind in ARCHITECTURES.items() if kind.plain])
@pytest.mark.parametrize("attention", ["se", "cbam"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_channel_attention_is_described_and_changes_what_a_stage_gives(name, attention, dimensions):
    flat = dimensions == 2
    plan = NetworkPlan(
        name=name,
        features=(4, 32, 40),
        strides=((1, 1, 1), *[(1, 2, 2) if flat else (2, 2, 2)] * 2),
        kernels=((1, 3, 3), *[(1, 3, 3) if flat else (3, 3, 3)] * 2),
        encoder_convolutions=(1, 1, 1),
        decoder_convolutions=(1, 1),
        attention=attention,
    )
    network = build_network(plan, dimensions, 1, 2).train()
    patch = (1, 16, 16) if flat else (8, 16, 16)
    batch = torch.randn(2, 1, *patch)
    assert parameter_count(plan, 1, 2) == sum(p.numel() for p in network.parameters())
    described = 2 * sum(layer.saved(patch) for layer in layers_of(plan, 1, 2))
    assert kept_for_backward(network, batch) - batch.numel() == pytest.approx(described, rel=0.04)
    plain = network.encoder.stages[0].convs(batch.squeeze(2) if flat else batch)
    weighed = network.encoder.stages[0].attention(plain)
    assert weighed.shape == plain.shape
    assert not torch.equal(weighed, plain)
    sum(one.square().sum() for one in network(batch)).backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", [name for name, kind in ARCHITECTURES.items() if not kind.plain])
def test_channel_attention_is_refused_where_there_are_no_plain_stages(name):
    plan = NetworkPlan(
        name=name,
        features=(4, 8),
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
        encoder_convolutions=(1, 1),
        decoder_convolutions=(1,),
        attention="se",
    )
    with pytest.raises(PlanError, match=rf"'{name}' has no stages of plain convolutions.*choose one of: unet"):
        build_network(plan, 3, 1, 2)
