"""Times cubic resampling against skimage, which nnU-Net uses; run by hand: python tests/benchmarks/resampling.py."""

import time

import numpy as np
from skimage.transform import resize

from medseg.images.resample import resample_image, resize_matrix

SHAPE, NEW_SHAPE = (100, 256, 256), (150, 192, 192)


def seconds(work, repeats):
    """The best of several runs, in seconds of this process's CPU, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result


def main():
    """Print the times, their ratio and the largest difference."""
    image = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)

    def ours_from_scratch():
        resize_matrix.cache_clear()
        return resample_image(image, NEW_SHAPE, None)

    keywords = {"order": 3, "mode": "edge", "anti_aliasing": False, "clip": True, "preserve_range": True}
    theirs, expected = seconds(lambda: resize(image[0].astype(float), NEW_SHAPE, **keywords), 2)
    cold, _ = seconds(ours_from_scratch, 3)
    warm, result = seconds(lambda: resample_image(image, NEW_SHAPE, None), 5)
    print(f"skimage {theirs:.3f} s; matrices {cold:.3f} s from scratch, {warm:.3f} s with kept matrices")
    print(f"ratio {theirs / cold:.1f} from scratch, {theirs / warm:.1f} with kept matrices")
    print(f"largest difference {np.abs(result[0] - expected).max():.2e} (values of standard deviation 1)")


if __name__ == "__main__":
    main()
