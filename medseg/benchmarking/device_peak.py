"""How fast a device multiplies large matrices, and how much a network's forward pass asks of it."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from medseg.benchmarking.material import CONFIGURATION, Shape, dataset_json, plans_json
from medseg.planning.from_nnunet import plan_from_nnunet
from medseg.planning.memory import forward_flops
from medseg.planning.nnunet_plans import NnunetPlans


def peak_flops(device: str, size: int, repeats: int = 5) -> float:
    """Floating-point operations per second of the fastest of several products of random square matrices.

    bfloat16 on CUDA, float32 elsewhere. Random data, because zeros cost a GPU less power and let it run faster.
    """
    where = torch.device(device)
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    first, second = (torch.randn(size, size, device=where, dtype=dtype) for _ in range(2))
    fastest = float("inf")
    for _ in range(repeats + 1):
        _wait(where)
        started = time.perf_counter()
        torch.mm(first, second)
        _wait(where)
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest


def network_flops(shape: Shape) -> int:
    """Of one patch, forward."""
    plans = NnunetPlans.model_validate(plans_json(shape))
    plan, table = plan_from_nnunet(plans, dataset_json(shape, 1), [CONFIGURATION], Path())
    return forward_flops(plan.configurations[CONFIGURATION].network, shape.patch, 1, table.outputs)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
