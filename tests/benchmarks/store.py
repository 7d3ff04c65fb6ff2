"""Which way of keeping prepared images lets a random patch be read fastest: memory-mapped npy or blosc2?

Run: python tests/benchmarks/store.py (needs: pip install blosc2). Prints milliseconds per 64 x 64 x 64 patch and bytes.
"""

import sys
import tempfile
import time
from pathlib import Path

import blosc2
import numpy as np
from scipy.ndimage import gaussian_filter

SHAPE, PATCH, REPEATS = (1, 96, 192, 192), 64, 200


def main() -> None:
    """Time both on the same random patches of one smooth, noisy volume."""
    random = np.random.default_rng(0)
    image = gaussian_filter(random.normal(size=SHAPE).astype(np.float32), (0, 2, 2, 2)) * 20
    image += random.normal(scale=0.1, size=SHAPE).astype(np.float32)
    corners = [[int(random.integers(n - PATCH)) for n in SHAPE[1:]] for _ in range(REPEATS)]
    with tempfile.TemporaryDirectory() as folder:
        npy, b2nd = Path(folder) / "image.npy", Path(folder) / "image.b2nd"
        np.save(npy, image)
        options = {"chunks": (1, 64, 64, 64), "blocks": (1, 32, 32, 32), "urlpath": str(b2nd)}
        blosc2.asarray(image, cparams={"codec": blosc2.Codec.LZ4HC, "clevel": 5}, **options)
        mapped, compressed = np.load(npy, mmap_mode="r"), blosc2.open(str(b2nd), mode="r")
        for name, array, path in (("npy memory-mapped", mapped, npy), ("blosc2 LZ4HC", compressed, b2nd)):
            started = time.perf_counter()
            for z, y, x in corners:
                np.ascontiguousarray(array[:, z : z + PATCH, y : y + PATCH, x : x + PATCH])
            each = (time.perf_counter() - started) / REPEATS
            sys.stdout.write(f"{name:<20}{each * 1e3:8.2f} ms per patch  {path.stat().st_size / 1e6:8.1f} MB\n")


if __name__ == "__main__":
    main()
