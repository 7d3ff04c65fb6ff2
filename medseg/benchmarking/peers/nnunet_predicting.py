"""C2, C3, nnU-Net's side: its predictor on image files, in this process (its own default starts six more)."""

from pathlib import Path

import numpy as np
import SimpleITK
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


def prepare(request):
    """``nnunet_model`` is a model folder, ``images`` files of one channel, ``mirror`` its test-time augmentation."""
    device = torch.device(request["device"])
    predictor = nnUNetPredictor(
        use_mirroring=request["mirror"],
        perform_everything_on_device=device.type == "cuda",
        device=device,
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(request["nnunet_model"], request["folds"])
    output = Path(request["output"])
    output.mkdir(parents=True, exist_ok=True)
    names = [str(output / Path(image).name.removesuffix(".nii.gz")) for image in request["images"]]

    def work():
        predictor.predict_from_files_sequential([[image] for image in request["images"]], list(names), False, True)
        return names, {}

    return work


def keep(result, folder):
    """The labels of every image."""
    for index, name in enumerate(result):
        labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(f"{name}.nii.gz"))
        np.save(folder / f"labels_{index}.npy", labels.astype(np.uint8))
