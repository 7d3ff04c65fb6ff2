"""Make parameter_counts.json: how many parameters every network has for three real plans.

Run from the project's folder: ``PYTHONPATH=.:tests python tests/golden/make_parameter_counts.py``. It counts tensors of
networks that are built, not what the planner says of them; a change of these numbers breaks every trained model of that
network, so it has to be meant.
"""

import json
from pathlib import Path

import torch

from medseg.networks.build import BUILDERS, build_network
from medseg.planning.architectures import architecture
from medseg.planning.plan import NetworkPlan

PLANS = {
    "hippocampus, 40x56x40": (3, (32, 64, 128, 256), ((1, 1, 1), *[(2, 2, 2)] * 3), ((3, 3, 3),) * 4),
    "anisotropic MR, 20x320x256": (
        3,
        (32, 64, 128, 256, 320, 320, 320),
        ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)),
        (*[(1, 3, 3)] * 2, *[(3, 3, 3)] * 5),
    ),
    "slices, 1x512x512": (2, (32, 64, 128, 256, 512, 512, 512), ((1, 1, 1), *[(1, 2, 2)] * 6), ((1, 3, 3),) * 7),
}
"""Dimensions, features, strides and kernels."""


def plan_for(network: str, plan: str) -> tuple[NetworkPlan, int]:
    """The plan with as many convolutions or blocks as the network has by default, and its dimensions."""
    dimensions, features, strides, kernels = PLANS[plan]
    encoder, decoder = architecture(network).counts(len(features))
    return NetworkPlan(
        name=network,
        features=features,
        strides=strides,
        kernels=kernels,
        encoder_convolutions=encoder,
        decoder_convolutions=decoder,
    ), dimensions


def parameters_of(network: str, plan: str) -> int:
    """Parameters for one channel and three classes, background counted; built without memory for them."""
    network_plan, dimensions = plan_for(network, plan)
    with torch.device("meta"):
        built = build_network(network_plan, dimensions, 1, 3)
    return sum(parameter.numel() for parameter in built.parameters())


def main() -> None:
    found = {plan: {network: parameters_of(network, plan) for network in BUILDERS} for plan in PLANS}
    Path(__file__).with_name("parameter_counts.json").write_text(json.dumps(found, indent=1) + "\n")
    for plan, counts in found.items():
        print(plan, *(f"  {network:<16}{number:>12,}" for network, number in counts.items()), sep="\n")


if __name__ == "__main__":
    main()
