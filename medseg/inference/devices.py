"""Which device to compute on, and with which precision, by what the machine can do."""

from __future__ import annotations

import sys

import torch

from medseg.errors import SettingsError


def choose_device(name: str) -> torch.device:
    """The device of this name; 'auto' takes CUDA, then MPS, then the CPU.

    Raises SettingsError when the machine has no such device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if present[device])
    if not present.get(name, False):
        usable = ", ".join(device for device, there in present.items() if there)
        raise SettingsError(f"device={name} was asked for, but this machine offers only: {usable}.")
    return torch.device(name)


def choose_precision(device: torch.device) -> str:
    """Fabric's word for the precision: bfloat16 where a GPU computes in it, float16 on older ones, else float32.

    Never reduced on a CPU: without AVX-512 bfloat16 convolutions are about a hundred times slower than float32.
    """
    if device.type != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def peak_memory_bytes(device: torch.device) -> int | None:
    """The most memory that this process has had so far: on a GPU torch's, elsewhere all of it; None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
