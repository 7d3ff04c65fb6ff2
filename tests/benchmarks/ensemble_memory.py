"""Peak memory of an ensemble of ten with uncertainty against that of a single network, each in a process of its own.

Run from the project's folder: ``python tests/benchmarks/ensemble_memory.py size=128`` (five minutes). The networks have
random weights and eight mirror images each; words: ``size=160`` (voxels of each axis), ``networks=10``, ``runs=5``.
Prints the peaks beyond what the program takes before it predicts (median and range over runs, the two by turns), the
maps' own size, and by how much the ensemble's median is more. A single run says little: the peak of the same process
varies by a third from run to run, with what glibc happens to keep of freed blocks. Always the same (69 MiB for one
network and 68 for three at ``size=128``) it is with ``MALLOC_MMAP_THRESHOLD_=262144 MALLOC_TRIM_THRESHOLD_=262144``
before the command, at twice the time; ``malloc_trim`` between tiles changed nothing.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

WORDS = {"size": "160", "networks": "10", "runs": "5"}


def peak_kib() -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1])


def measure(size: int, count: int) -> None:
    """Print the growth of the peak, MiB, while a cube is predicted by ``count`` networks with uncertainty."""
    import numpy as np
    import torch

    from medseg.images.volume import Volume
    from medseg.inference.memory import Layout
    from medseg.inference.model import Networks
    from medseg.inference.options import Options
    from medseg.inference.passes import Passes, PreparedImage
    from medseg.networks.build import build_network
    from medseg.uncertainty.case import MemberSpread, Trust

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tiny import TABLE, tiny_plan

    torch.set_num_threads(1)
    plan = tiny_plan()
    configuration = plan.configurations["3d_fullres"].model_copy(update={"patch_size": (64, 64, 64)})
    networks = []
    for seed in range(count):
        torch.manual_seed(seed)
        networks.append(build_network(configuration.network, 3, 1, len(TABLE)).eval().requires_grad_(False))
    model = Networks(tuple(networks), "3d_fullres", configuration, (0,), plan, TABLE, (0, 1, 2), "ten")
    noise = np.random.default_rng(0).normal(size=(1, size, size, size)).astype(np.float32)
    image = Volume(noise, np.eye(4)[[2, 1, 0, 3]])

    def predict(model: Networks, image: Volume) -> None:
        spread = MemberSpread("tta", Trust(TABLE, None, 0.9))
        prepared = PreparedImage(image, [model])
        seen = spread.accumulator(prepared.prepare(model)[1])
        options = Options(torch.device("cpu"), step=1.0, tile_batch=1, spread=spread)
        Passes(prepared, [model], options, Layout()).stream([seen])

    small = replace(image, array=noise[:, :64, :64, :64])
    predict(replace(model, networks=(networks[0],)), small)  # what libraries load once is not counted
    before = peak_kib()
    predict(model, image)
    print((peak_kib() - before) / 1024)


def main(arguments: list[str]) -> None:
    words = WORDS | dict(argument.split("=", 1) for argument in arguments)
    size, count = int(words["size"]), int(words["networks"])
    peaks: dict[int, list[float]] = {1: [], count: []}
    for networks in list(peaks) * int(words["runs"]):
        command = [sys.executable, __file__, "measure", str(size), str(networks)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[networks].append(float(done.stdout))
    for networks, found in peaks.items():
        spread = f"{median(found):.0f} MiB ({min(found):.0f} to {max(found):.0f} in {len(found)} runs)"
        print(f"{networks:3d} network(s), {size}^3 voxels, 8 mirror images: {spread}")
    print(f"of which the four maps are {4 * 4 * size**3 / 2**20:.0f} MiB")
    more = 100 * (median(peaks[count]) / median(peaks[1]) - 1)
    print(f"{count} networks need {more:+.1f} % of memory against one")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main(sys.argv[1:])
