"""C4, G4, MONAI's side: sliding_window_inference with the same Gaussian weights as medseg, then the largest class."""

import time

import numpy as np
import torch
from monai.inferers import sliding_window_inference


def prepare(request):
    """``image`` is a file of (1, Z, Y, X), ``network`` a TorchScript file."""
    device = torch.device(request["device"])
    image = torch.from_numpy(np.load(request["image"]))[None]
    network = torch.jit.load(request["network"], map_location=device).eval()
    weights = torch.from_numpy(np.load(request["weights"])).to(device)
    spent = [0.0]

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def clocked(tiles):
        wait()
        started = time.perf_counter()
        result = network(tiles)
        wait()
        spent[0] += time.perf_counter() - started
        return result

    @torch.inference_mode()
    def work():
        spent[0] = 0.0
        scores = sliding_window_inference(
            image.to(device), request["patch"], 1, clocked, overlap=0.5, roi_weight_map=weights
        )
        return scores.argmax(dim=1)[0].to(torch.uint8).cpu().numpy(), {"network_seconds": spent[0]}

    return work


def keep(result, folder):
    """The labels."""
    np.save(folder / "labels_0.npy", result)
