"""Models of nnU-Net are imported without trusting them, and give nnU-Net's own labels."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.nnunet_cases import (
    CASCADES,
    MODELS,
    Z_FIRST,
    copies_of,
    dataset_of,
    image_of,
    plans_of,
    plans_of_cascade,
    weights_of,
)
from tiny_nnunet import save_checkpoint, write_nifti, write_nnunet_model

from medseg.cases.case import Case
from medseg.errors import CheckpointError, DatasetError, PlanError
from medseg.images.formats import read_image, read_labels
from medseg.inference.bundle import Manifest, open_model
from medseg.inference.model import Networks
from medseg.inference.nnunet_model import ImportedModel, import_nnunet
from medseg.inference.options import Options
from medseg.inference.predict import predict_case
from medseg.inference.sliding_window import predict_rows
from medseg.networks.weights import load_weights
from medseg.preprocessing.prepare import prepare_image
from medseg.progress import Silent

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parents[1] / "golden" / "nnunet_predictions.npz"
SOLID, FLAT = MODELS["two_folds"], MODELS["flat"]


def golden(name: str) -> np.ndarray:
    with np.load(GOLDEN) as found:
        return found[name]


def labels_of(case: Case, networks: Networks, mirror: bool = True) -> np.ndarray:
    return predict_case(case, networks, Options(CPU, mirror, combine="nnunet"), Silent()).indices


@pytest.fixture(scope="module", params=MODELS)
def small(request, tmp_path_factory) -> tuple[str, Path, ImportedModel]:
    """Each small model's name, the folder of its bundle, and what the import gave."""
    folder = tmp_path_factory.mktemp(request.param)
    write_nnunet_model(folder / "model", MODELS[request.param])
    return request.param, folder / "bundle", import_nnunet([folder / "model"], folder / "bundle")


def test_small_models_of_every_kind_give_nnunets_own_labels(tmp_path, small):
    name, _, imported = small
    channels, affine = image_of(MODELS[name])
    files = tuple(tmp_path / f"case_{index:04d}.nii.gz" for index in range(len(channels)))
    for file, channel in zip(files, channels, strict=True):
        write_nifti(file, channel, affine)
    expected = golden(name)
    assert np.bincount(expected.ravel())[1:].max() > 100
    found = imported.model.labels.to_values(labels_of(Case("case", files), imported.model.load()))
    # None differs where this was made; another processor may round a convolution otherwise.
    assert (found != expected).sum() <= expected.size // 2000


def write_cascade(folder: Path, name: str) -> tuple[Path, Path]:
    plans, before, after = plans_of_cascade(CASCADES[name]), *CASCADES[name]
    folders = tuple(folder / f"nnUNetTrainer__nnUNetPlans__{stage.configuration}" for stage in (before, after))
    for place, stage in zip(folders, (before, after), strict=True):
        write_nnunet_model(place, stage, plans)
    return folders[0], folders[1]


@pytest.mark.parametrize("name", CASCADES)
def test_a_cascade_is_imported_with_the_stage_before_it_and_gives_nnunets_own_labels(tmp_path, name):
    write_cascade(tmp_path / "Dataset001_Small", name)
    model = import_nnunet([tmp_path / "Dataset001_Small"], tmp_path / "bundle").model
    (channel,), affine = image_of(CASCADES[name][1])
    write_nifti(tmp_path / "case.nii.gz", channel, affine)
    networks = model.load()
    assert (networks.name, networks.previous and networks.previous.name) == ("3d_cascade_fullres", "3d_lowres")
    found = model.labels.to_values(labels_of(Case("case", (tmp_path / "case.nii.gz",)), networks))
    expected = golden(f"{name}_{networks.name}")
    assert np.bincount(expected.ravel())[1:].max() > 1000
    assert (found != expected).sum() <= expected.size // 2000


def test_a_cascade_without_the_stage_before_it_is_refused_by_name(tmp_path):
    _, after = write_cascade(tmp_path, "cascade")
    with pytest.raises(PlanError, match=r"needs the labels of '3d_lowres'\. Name that folder as well"):
        import_nnunet([after], tmp_path / "bundle")


def test_regions_and_the_ignore_label_are_imported_with_their_model(small):
    name, bundle, imported = small
    model, table = MODELS[name], imported.model.labels
    assert (table.outputs, table.ignore) == (model.classes, model.ignore)
    assert tuple(region.written for region in table.regions) == model.written
    place = f"{model.configuration}/fold_{model.folds[0]}.safetensors"
    assert load_weights(bundle / place)[1]["activation"] == ("sigmoid" if model.regions else "softmax")


def test_an_imported_plan_prepares_images_as_nnunet_does(small):
    name, _, imported = small
    model, plan = MODELS[name], imported.model.plan
    ((configuration_name, configuration),) = plan.configurations.items()
    assert (configuration_name, plan.default_configuration) == (model.configuration, model.configuration)
    assert plan.axis_order == model.transpose
    assert plan.orientation == ("canonical" if model.turn_degrees else "stored")
    assert configuration.patch_size[-model.dimensions :] == model.patch
    assert configuration.network.kernels[1][-model.dimensions :] == model.kernels[1]
    assert [channel.masked for channel in plan.channels] == list(model.masked)
    assert len(imported.model.load().mirror_axes) == len(model.mirror_axes or ())
    if name == "flat":
        assert [channel.normalisation for channel in plan.channels] == ["ct", "rescale_0_1"]
        assert (plan.channels[0].clip_low, plan.channels[0].std) == (-60.0, 70.0)
        assert (configuration.patch_size, configuration.spacing) == ((1, 16, 24), (4.0, 1.1, 0.9))
        assert imported.model.load().mirror_axes == (1, 2)
        assert imported.model.labels.values == (0, 1, 2, 3)


def test_a_bundle_says_which_training_it_was_imported_from(small):
    name, bundle, imported = small
    provenance = Manifest.load(bundle / "bundle.json").provenance
    assert provenance.imported is not None
    assert provenance.imported.trainer == imported.trainer == "nnUNetTrainer"
    configuration, folds = MODELS[name].configuration, MODELS[name].folds
    assert list(provenance.imported.checkpoints) == [f"{configuration}/fold_{k}/checkpoint_final.pth" for k in folds]
    _, description = load_weights(bundle / configuration / f"fold_{folds[0]}.safetensors")
    assert description["epochs"] == 1000
    assert set(description["preparation"]) == {"orientation", "axis_order", "channels"}


@pytest.mark.slow
def test_a_folder_of_several_configurations_becomes_one_bundle(tmp_path):
    solid = dataclasses.replace(SOLID, schemes=FLAT.schemes, masked=FLAT.masked, classes=FLAT.classes)
    plans = plans_of(FLAT)
    plans["configurations"][solid.configuration] = plans_of(solid)["configurations"]["base"]
    for model in (FLAT, solid):
        folder = tmp_path / "Dataset001_Small" / f"nnUNetTrainer__nnUNetPlans__{model.configuration}"
        write_nnunet_model(folder, model, plans, dataset_of(FLAT))
    imported = import_nnunet([tmp_path / "Dataset001_Small"], tmp_path / "bundle")
    assert {name: list(folds) for name, folds in imported.model.weights.items()} == {"2d": [0], "3d_fullres": [0, 1]}
    assert imported.model.plan.default_configuration == "3d_fullres"
    for name in imported.model.weights:
        imported.model.load(name)


@pytest.mark.slow
def test_fold_all_is_full_and_a_fold_without_a_final_checkpoint_takes_the_best_and_says_so(tmp_path):
    folder = write_nnunet_model(tmp_path / "model", SOLID)
    (folder / "fold_1" / "checkpoint_final.pth").rename(folder / "fold_1" / "checkpoint_best.pth")
    weights = {f"module._orig_mod.{name}": torch.from_numpy(value) for name, value in weights_of(SOLID, 0).items()}
    save_checkpoint(folder / "fold_all" / "checkpoint_final.pth", SOLID, network_weights=weights)
    (folder / "fold_3").mkdir()
    imported = import_nnunet([folder], tmp_path / "bundle")
    assert list(imported.model.weights["3d_fullres"]) == [0, 1, "full"]
    taken, left_out = imported.remarks
    assert "checkpoint_best.pth was taken" in taken
    assert "fold_3" in left_out


class Harmful:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_harmful_checkpoint_is_named_and_runs_nothing(tmp_path):
    trace = tmp_path / "trace"
    folder = write_nnunet_model(tmp_path / "model", FLAT, logging=Harmful(f"touch {trace}"))
    with pytest.raises(CheckpointError, match=r"asks for 'posix\.system'.*nothing was executed"):
        import_nnunet([folder], tmp_path / "bundle")
    assert not trace.exists()
    assert not (tmp_path / "bundle").exists()


def test_the_harmful_checkpoint_would_have_run_if_it_were_trusted(tmp_path):
    folder = write_nnunet_model(tmp_path / "model", FLAT, logging=Harmful(f"touch {tmp_path / 'trace'}"))
    torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert (tmp_path / "trace").exists()


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(tmp_path):
    folder = write_nnunet_model(tmp_path / "model", FLAT)
    path = folder / "fold_0" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"checkpoint_final\.pth is damaged"):
        import_nnunet([folder], tmp_path / "bundle")
    path.write_bytes(b"no pickle at all")
    with pytest.raises(CheckpointError, match=r"checkpoint_final\.pth is damaged"):
        import_nnunet([folder], tmp_path / "bundle")


@pytest.mark.slow
def test_a_checkpoint_that_unfolds_into_more_memory_than_its_size_allows_is_stopped(tmp_path):
    # Four bytes on the disk that claim to be 6 GB: a stride of zero shows the same number again and again.
    endless = torch.zeros(1).expand(1_500_000_000)
    folder = write_nnunet_model(tmp_path / "model", FLAT, network_weights={"encoder.stages.0.x": endless})
    with pytest.raises(CheckpointError, match="far more memory"):
        import_nnunet([folder], tmp_path / "bundle")


def test_another_network_than_the_plans_is_refused_with_the_trainers_name(tmp_path):
    folder = write_nnunet_model(tmp_path / "model", FLAT, trainer_name="MyTrainer")
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    content["network_weights"]["encoder.stages.0.0.convs.0.norm.running_mean"] = torch.zeros(4)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"running_mean.*The trainer 'MyTrainer' builds another network"):
        import_nnunet([folder], tmp_path / "bundle")


def changed(plans: dict, **values) -> dict:
    configuration = plans["configurations"]["base"]
    for key, value in values.items():
        place = configuration
        *parents, last = key.split("__")
        for parent in parents:
            place = place[parent]
        place[last] = value
    return plans


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"architecture__network_class_name": "dynamic_network_architectures.architectures.primus.Primus"},
            "no network 'Primus' yet",
        ),
        ({"architecture__arch_kwargs__norm_op": "torch.nn.BatchNorm2d"}, "no network with norm_op=BatchNorm2d"),
        ({"architecture__arch_kwargs__norm_op_kwargs": {"eps": 1e-3, "affine": True}}, "norm_op_kwargs=.*0.001"),
        ({"architecture__arch_kwargs__nonlin": "torch.nn.ReLU"}, "nonlin=ReLU"),
        ({"architecture__arch_kwargs__nonlin_kwargs": {"negative_slope": 0.2}}, "nonlin_kwargs=.*0.2"),
        ({"architecture__arch_kwargs__dropout_op": "torch.nn.Dropout2d"}, "dropout_op=torch.nn.Dropout2d"),
        ({"architecture__arch_kwargs__squeeze": True}, "squeeze=True"),
        ({"architecture__arch_kwargs__conv_bias": False}, "conv_bias=False"),
        ({"normalization_schemes": ["CTNormalization", "Own"]}, "no normalisation 'Own'"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "no resampling 'resample_torch_fornnunet'"),
        ({"resampling_fn_data_kwargs__order": 1}, r"no resampling with order=1 \(only 3\)"),
        ({"resampling_fn_probabilities_kwargs": {"order": 1}}, "no resampling with force_separate_z=False"),
        ({"preprocessor_name": "Own"}, "no preprocessor 'Own'"),
        (
            {"previous_stage": "3d_lowres", "resampling_fn_seg": "resample_torch_fornnunet"},
            "no resampling 'resample_torch_fornnunet'",
        ),
    ],
)
def test_what_medseg_lacks_is_named_before_a_checkpoint_is_opened(tmp_path, change, named):
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__2d"
    write_nnunet_model(folder, FLAT, changed(plans_of(FLAT), **change), network_weights=None)
    with pytest.raises(PlanError, match=named):
        import_nnunet([folder], tmp_path / "bundle")


def test_everything_that_medseg_lacks_is_named_in_one_sentence(tmp_path):
    plans = plans_of(FLAT) | {"image_reader_writer": "OwnIO", "label_manager": "OwnLabels"}
    write_nnunet_model(tmp_path / "model", FLAT, plans)
    with pytest.raises(PlanError) as caught:
        import_nnunet([tmp_path / "model"], tmp_path / "bundle")
    assert "medseg has no label manager 'OwnLabels', no image reader 'OwnIO'." in str(caught.value)


def test_regions_that_no_label_map_can_hold_are_refused_before_a_checkpoint_is_opened(tmp_path):
    dataset = dataset_of(FLAT) | {"regions_class_order": [2, 1]}
    dataset["labels"] = {"background": 0, "core": 2, "whole": [1, 2]}
    write_nnunet_model(tmp_path / "model", FLAT, None, dataset, network_weights=None)
    with pytest.raises(DatasetError, match="List each region before those inside it"):
        import_nnunet([tmp_path / "model"], tmp_path / "bundle")


def test_a_folder_without_a_model_and_a_foreign_output_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        import_nnunet([tmp_path / "nowhere"], tmp_path / "bundle")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no trained nnU-Net model"):
        import_nnunet([tmp_path / "empty"], tmp_path / "bundle")
    folder = write_nnunet_model(tmp_path / "model", FLAT)
    with pytest.raises(CheckpointError, match=r"single fold.*nnunet="):
        import_nnunet([folder / "fold_0"], tmp_path / "bundle")
    with pytest.raises(CheckpointError, match="is no bundle"):
        import_nnunet([folder], folder)


@pytest.fixture(scope="module")
def real_networks(real_data, tmp_path_factory) -> Networks:
    output = tmp_path_factory.mktemp("imported") / "bundle"
    import_nnunet([real_data / "nnunet_model" / "model"], output)
    return open_model(output).load()


@pytest.mark.real
def test_a_real_model_gives_nnunets_labels_to_one_voxel_in_100000(real_data, real_networks):
    compared = different = 0
    for kind, mirror in (("mirrored", True), ("plain", False)):
        for file in sorted((real_data / "nnunet_model" / f"predictions_{kind}").glob("*.nii.gz")):
            case = Case(file.name, (real_data / "hippocampus" / "imagesTr" / file.name,))
            expected = read_labels(file).array
            compared += expected.size
            different += int((labels_of(case, real_networks, mirror) != expected).sum())
    assert compared > 1_000_000
    assert different <= compared / 100_000


@pytest.mark.real
@pytest.mark.parametrize("kind", ["mirrored", "plain"])
@pytest.mark.parametrize("name", ["hippocampus_034", "hippocampus_040"])
def test_a_real_model_gives_nnunets_probabilities(real_data, real_networks, kind, name):
    image = read_image(real_data / "hippocampus" / "imagesTr" / f"{name}.nii.gz")
    prepared, grid = prepare_image(image, real_networks.plan, real_networks.configuration)
    assert prepared.shape[1:] == grid.file_shape, "neither cropped nor resampled"
    rows = predict_rows(
        prepared,
        real_networks.networks,
        real_networks.configuration.patch_size,
        3,
        device=CPU,
        mirror_axes=real_networks.mirror_axes if kind == "mirrored" else (),
        combine="nnunet",
    )
    found = torch.cat([part.scores.clone() for part in rows], dim=1).float().softmax(dim=0).numpy()
    with np.load(real_data / "nnunet_model" / f"predictions_{kind}" / f"{name}.npz") as file:
        expected = file["probabilities"]
    assert np.abs(found - expected).max() < 1e-2
    assert np.abs(found - expected).mean() < 1e-4


@pytest.mark.real
def test_copies_stored_in_other_ways_give_what_nnunet_gives_for_the_same_file(real_data, real_networks, tmp_path):
    image = read_image(real_data / "hippocampus" / "imagesTr" / "hippocampus_040.nii.gz")
    compared = different = 0
    for name, array, affine in copies_of(image.array[0], image.affine[:, Z_FIRST]):
        write_nifti(tmp_path / f"{name}.nii.gz", array, affine)
        found = labels_of(Case(name, (tmp_path / f"{name}.nii.gz",)), real_networks)
        compared += found.size
        different += int((found != golden(f"hippocampus_040_{name}")).sum())
    assert different <= compared / 100_000
