"""Every network becomes an ONNX graph that gives the same logits, for any batch."""

import pytest
import torch

from medseg.inference.onnx import OnnxNetwork, to_onnx
from medseg.networks.build import BUILDERS, build_network
from medseg.planning.plan import NetworkPlan

pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'medseg[onnx]'")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BUILDERS))
@pytest.mark.parametrize(
    ("dimensions", "patch", "strides", "kernels"),
    [
        (3, (4, 20, 16), ((1, 1, 1), (1, 2, 2), (2, 2, 2)), ((1, 3, 3), (3, 3, 3), (3, 3, 3))),
        (2, (1, 40, 28), ((1, 1, 1), (1, 2, 2), (1, 2, 2)), ((1, 3, 3),) * 3),
    ],
)
def test_a_network_gives_the_same_logits_as_an_onnx_graph(name, dimensions, patch, strides, kernels):
    plan = NetworkPlan(
        name=name,
        features=(4, 6, 8),
        strides=strides,
        kernels=kernels,
        encoder_convolutions=(1, 2, 2),
        decoder_convolutions=(1, 1),
    )
    torch.manual_seed(0)
    network = build_network(plan, dimensions, 2, 3).eval()
    graph = OnnxNetwork(to_onnx(network, 2, patch, {}), "the test")
    for batch in (1, 3):
        tiles = torch.randn(batch, 2, *patch)
        with torch.no_grad():
            torch.testing.assert_close(graph(tiles), network(tiles), atol=1e-4, rtol=1e-3)
