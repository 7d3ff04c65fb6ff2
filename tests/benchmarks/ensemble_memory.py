"""Peak memory of an ensemble of ten with uncertainty against that of a single network, each in a process of its own.

Run from the project's folder: ``python tests/benchmarks/ensemble_memory.py`` (a minute). The networks have random
weights and eight mirror images each; words: ``size=160`` (voxels of each axis), ``networks=10``. Prints the peaks
beyond what the program takes before it predicts, the maps' own size, and by how much the ensemble needs more. What is
more does not grow with the image and is not in use: glibc keeps freed blocks for later. With
``MALLOC_MMAP_THRESHOLD_=262144 MALLOC_TRIM_THRESHOLD_=262144`` before the command, which gives them back at once, three
networks at ``size=128`` need 70 MiB as one does; without it 93 and 72.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

WORDS = {"size": "160", "networks": "10"}


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
    peaks = {}
    for networks in (1, count):
        command = [sys.executable, __file__, "measure", str(size), str(networks)]
        peaks[networks] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{networks:3d} network(s), {size}^3 voxels, 8 mirror images: {peaks[networks]:.0f} MiB")
    print(f"of which the four maps are {4 * 4 * size**3 / 2**20:.0f} MiB")
    print(f"{count} networks need {100 * (peaks[count] / peaks[1] - 1):+.1f} % of memory against one")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main(sys.argv[1:])
