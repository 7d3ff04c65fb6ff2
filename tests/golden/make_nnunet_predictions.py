"""Make nnunet_predictions.npz: the labels that nnU-Net (nnunetv2==2.8.1) gives for the models of nnunet_cases.

Run in an environment of its own that has nnunetv2, from this folder: ``python make_nnunet_predictions.py DATA``. DATA
is the folder of real images with ``nnunet_model``; of these, copies stored in other ways are predicted as well.
Cascades need batchgenerators==0.25.1, with which such models were trained: later ones resample labels by another rule.
"""

import json
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from nnunet_cases import (
    CASCADES,
    FEATURES,
    MODELS,
    copies_of,
    dataset_of,
    image_of,
    plans_of,
    plans_of_cascade,
    weights_of,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import nn

CASE = "hippocampus_040"


def write_model(model, folder: Path, plans: dict | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans or plans_of(model)))
    (folder / "dataset.json").write_text(json.dumps(dataset_of(model)))
    for fold in model.folds:
        network = (ResidualEncoderUNet if model.blocks else PlainConvUNet)(
            model.channels,
            2,
            FEATURES,
            {2: nn.Conv2d, 3: nn.Conv3d}[model.dimensions],
            model.kernels,
            model.strides,
            model.blocks or (2, 2),
            model.classes,
            (1,) if model.blocks else (2,),
            conv_bias=True,
            norm_op={2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[model.dimensions],
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
        )
        parameters = network.state_dict()
        for name, value in weights_of(model, fold).items():
            parameters[name].copy_(torch.from_numpy(value))
        content = {"network_weights": parameters, "trainer_name": "nnUNetTrainer"}
        content["init_args"] = {"configuration": model.configuration}
        content["inference_allowed_mirroring_axes"] = model.mirror_axes
        (folder / f"fold_{fold}").mkdir()
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")


def predict(
    folder: Path, folds: tuple[int, ...], images: list[np.ndarray], affine: np.ndarray, before: Path | None = None
) -> tuple[np.ndarray, Path]:
    """Labels (Z, Y, X) of an image, each channel (Z, Y, X), as nnU-Net writes them, and the folder of their file.

    ``before`` is the folder of the previous stage's labels.
    """
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), folds)
    place = Path(tempfile.mkdtemp())
    files = []
    for index, image in enumerate(images):
        files.append(str(place / f"case_{index:04d}.nii.gz"))
        written = nibabel.Nifti1Image(np.ascontiguousarray(image.transpose(2, 1, 0)), affine)
        written.set_sform(affine, 1)
        written.set_qform(affine, 1)
        nibabel.save(written, files[-1])
    predictor.predict_from_files_sequential(
        [files], [str(place / "case")], False, True, str(before) if before else None
    )
    return np.asarray(nibabel.load(place / "case.nii.gz").dataobj).astype(np.uint8).transpose(2, 1, 0), place


def main() -> None:
    torch.set_num_threads(1)
    data, root, found = Path(sys.argv[1]), Path(tempfile.mkdtemp()), {}
    for name, model in MODELS.items():
        write_model(model, root / name)
        channels, affine = image_of(model)
        found[name], _ = predict(root / name, model.folds, list(channels), affine)
        print(name, np.bincount(found[name].ravel()), flush=True)
    for name, stages in CASCADES.items():
        before, plans = None, plans_of_cascade(stages)
        for stage in stages:
            write_model(stage, root / name / stage.configuration, plans)
            channels, affine = image_of(stage)
            place = root / name / stage.configuration
            key = f"{name}_{stage.configuration}"
            found[key], before = predict(place, stage.folds, list(channels), affine, before)
            print(key, np.bincount(found[key].ravel()), flush=True)
    file = nibabel.load(data / "hippocampus" / "imagesTr" / f"{CASE}.nii.gz")
    array = np.asarray(file.dataobj).astype(np.float32).transpose(2, 1, 0)
    for name, copy, affine in copies_of(array, file.affine):
        found[f"{CASE}_{name}"], _ = predict(data / "nnunet_model" / "model", (0,), [copy], affine)
        print(name, np.bincount(found[f"{CASE}_{name}"].ravel()), flush=True)
    np.savez_compressed(Path(__file__).with_name("nnunet_predictions.npz"), **found)


if __name__ == "__main__":
    main()
