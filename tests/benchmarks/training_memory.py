"""The planner's estimate of a training step's memory against the measured peak, for plans of many kinds.

Run from the project's folder: ``python tests/benchmarks/training_memory.py``; about a minute per ten plans on a quiet
machine, which memory does not depend on. Each step is a real one (augmentation, network, loss, optimizer) in a fresh
process; its peak is what the system reports above the imported libraries. On a machine with a GPU the same steps are
measured there too. Words: names of plans.
"""

import sys
from dataclasses import dataclass

from medseg.cases.labels import LabelTable
from medseg.planning.architectures import architecture
from medseg.planning.memory import training_memory
from medseg.planning.patch import to_network
from medseg.planning.plan import ConfigurationPlan, TrainingPlan
from medseg.planning.topology import find_topology
from medseg.training.memory_probe import Probe, measure_training_memory

STEPS = 4


@dataclass(frozen=True)
class Kind:
    """A plan in short."""

    patch: tuple[int, ...]
    batch: int
    features: int
    structures: int = 2
    channels: int = 1
    network: str = "unet"
    deep_supervision: bool = True
    regions: bool = False

    def configuration(self) -> ConfigurationPlan:
        spacing = (1.0,) * len(self.patch)
        widest = 16 if len(self.patch) == 2 else 10
        topology = find_topology(spacing, self.patch)
        network, patch = to_network(topology, architecture(self.network), self.features, widest)
        return ConfigurationPlan(
            dimensions=3 if len(self.patch) == 3 else 2,
            spacing=(1.0, 1.0, 1.0),
            median_shape=patch,
            patch_size=patch,
            batch_size=self.batch,
            batch_dice=False,
            network=network.model_copy(update={"deep_supervision": self.deep_supervision}),
        )

    def labels(self) -> LabelTable:
        names = [f"structure {value}" for value in range(1, self.structures + 1)]
        table = {"labels": [{"name": name, "value": value} for value, name in enumerate(names, 1)]}
        if self.regions:
            table["regions"] = [
                {"name": f"region {i}", "labels": names[i:], "written": i + 1} for i in range(len(names))
            ]
        return LabelTable.validated(table, "benchmark")


KINDS = {
    "hippocampus on a CPU": Kind((40, 56, 40), 2, 16),
    "narrow, four channels": Kind((40, 56, 40), 2, 8, structures=3, channels=4),
    "twenty classes": Kind((64, 64, 64), 2, 8, structures=19),
    "one patch": Kind((64, 64, 64), 1, 16, structures=1),
    "wide, batch of four": Kind((48, 48, 48), 4, 32, channels=2),
    "large patch": Kind((96, 96, 96), 2, 8),
    "slices": Kind((128, 128), 12, 32),
    "large slices, ten classes": Kind((256, 256), 4, 16, structures=9, channels=3),
    "residual": Kind((48, 48, 48), 2, 16, network="residual_unet"),
    "residual, narrow": Kind((64, 64, 64), 2, 8, structures=4, channels=2, network="residual_unet"),
    "residual, slices": Kind((128, 128), 6, 32, network="residual_unet"),
    "one head": Kind((48, 64, 64), 2, 24, deep_supervision=False),
    "regions": Kind((64, 64, 64), 2, 16, structures=3, channels=4, regions=True),
    "attention gates": Kind((48, 48, 48), 2, 16, network="attention_unet"),
    "thin slab": Kind((12, 96, 96), 3, 24),
}


def compare(kind: Kind, device: str = "cpu") -> tuple[int, int]:
    """Estimated and measured bytes of a step, without the libraries."""
    configuration, labels = kind.configuration(), kind.labels()
    measured = measure_training_memory(
        Probe(
            configuration=configuration,
            training=TrainingPlan(),
            labels=labels,
            channels=kind.channels,
            device="cuda" if device == "cuda" else "cpu",
            steps=STEPS,
        )
    )
    estimate = training_memory(
        configuration.network,
        configuration.patch_size,
        kind.batch,
        kind.channels,
        labels.outputs,
        device,
    )
    return estimate.step, measured.step


def benchmark(names: list[str]) -> None:
    import torch

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    ratios = []
    for device in devices:
        print(f"{'plan on ' + device:28s} {'estimate':>10s} {'measured':>10s} {'ratio':>6s}")
        for name in names or KINDS:
            estimate, measured = compare(KINDS[name], device)
            ratios.append(estimate / measured)
            print(f"{name:28s} {estimate / 1e6:7.0f} MB {measured / 1e6:7.0f} MB {ratios[-1]:6.2f}", flush=True)
    print(f"{len(ratios)} plans, ratio {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    benchmark(sys.argv[1:])
