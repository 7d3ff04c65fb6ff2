import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medseg.cases.case import Case
from medseg.cases.labels import Label, LabelTable
from medseg.errors import CheckpointError, DatasetError, MedsegError
from medseg.images.formats import read_labels, write_image, write_labels
from medseg.images.volume import Volume
from medseg.inference.bundle import open_model, write_bundle
from medseg.inference.memory import estimate_memory
from medseg.inference.model import preparation_of
from medseg.inference.options import Options
from medseg.inference.predict import predict_case
from medseg.networks.build import build_network
from medseg.networks.weights import save_weights
from medseg.paths import Workspace
from medseg.planning.plan import ChannelPlan, ConfigurationPlan, Machine, NetworkPlan, Plan, TrainingPlan
from medseg.progress import Silent

NETWORK = NetworkPlan(
    features=(4, 8),
    strides=((1, 1, 1), (2, 2, 2)),
    kernels=((3, 3, 3), (3, 3, 3)),
    encoder_convolutions=(1, 1),
    decoder_convolutions=(1,),
)
CONFIGURATION = ConfigurationPlan(
    dimensions=3,
    spacing=(1.5, 1.0, 1.0),
    median_shape=(16, 16, 16),
    patch_size=(8, 8, 8),
    batch_size=2,
    batch_dice=False,
    network=NETWORK,
)
LABELS = LabelTable(
    labels=(Label(name="background", value=0), Label(name="liver", value=7), Label(name="tumour", value=300))
)
CPU = Options(torch.device("cpu"))


def plan_of(**changes) -> Plan:
    values = {
        "dataset": "tiny",
        "preset": "default",
        "orientation": "canonical",
        "axis_order": (0, 1, 2),
        "channels": (ChannelPlan(name="ct", normalisation="zscore"),),
        "machine": Machine(device="cpu"),
        "configurations": {"3d_fullres": CONFIGURATION},
        "default_configuration": "3d_fullres",
        "training": TrainingPlan(mirror_axes=(0, 1)),
        "fingerprint": "0" * 64,
    }
    return Plan(**(values | changes))


def workspace_in(folder: Path, folds=(0, 1), configuration=CONFIGURATION, **description) -> Workspace:
    workspace, plan = Workspace(folder), plan_of()
    plan.save(workspace.plan)
    LABELS.save(workspace.labels)
    for fold in folds:
        torch.manual_seed(fold if isinstance(fold, int) else 99)
        network = build_network(configuration.network, 3, 1, len(LABELS))
        content = {
            "configuration_name": "3d_fullres",
            "configuration": configuration.model_dump(mode="json", exclude_none=True),
            "channels": 1,
            "classes": len(LABELS),
            "plan_hash": plan.content_hash(),
            "iterations": 1,
            "mirror_axes": [0, 1],
        }
        save_weights(workspace.weights("3d_fullres", fold), network.state_dict(), content | description)
    return workspace


def image_in(folder: Path, name="a", shape=(9, 14, 12)) -> Case:
    affine = np.array([[0, 0, -1.1, 30], [0, 1.2, 0, -5], [2.0, 0, 0, 7], [0, 0, 0, 1]])
    array = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    path = folder / f"{name}.nii.gz"
    write_image(path, array[0], Volume(array, affine))
    return Case(name, (path,))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return workspace_in(tmp_path / "workspace")


def test_a_workspace_and_its_bundle_predict_the_same_bytes(tmp_path, workspace):
    case = image_in(tmp_path)
    bundled = write_bundle(workspace, tmp_path / "bundle")
    shutil.move(tmp_path / "bundle", tmp_path / "carried_away")
    files = []
    for folder in (workspace.folder, tmp_path / "carried_away", tmp_path / "carried_away" / "bundle.json"):
        networks = open_model(folder).load()
        assert networks.folds == (0, 1)
        prediction = predict_case(case, networks, CPU, Silent())
        files.append(tmp_path / f"{len(files)}.nii.gz")
        write_labels(files[-1], LABELS.to_values(prediction.indices), prediction.image)
    assert len({file.read_bytes() for file in files}) == 1
    found = read_labels(files[0])
    assert found.shape == (9, 14, 12)
    assert set(np.unique(found.array)) <= {0, 7, 300}
    assert bundled.weights["3d_fullres"].keys() == {0, 1}
    assert open_model(workspace.folder).load().identity == open_model(tmp_path / "carried_away").load().identity


def test_one_fold_predicts_other_labels_than_two(tmp_path, workspace):
    case, model = image_in(tmp_path), open_model(workspace.folder)
    results = [predict_case(case, model.load(folds=folds), CPU, Silent()).indices for folds in ([0], [1], [0, 1])]
    assert not np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


@pytest.mark.parametrize("name", ["3d_fullres/fold_1.safetensors", "plan.yaml", "labels.yaml"])
def test_one_flipped_bit_in_a_bundle_is_refused_by_name(tmp_path, workspace, name):
    write_bundle(workspace, tmp_path / "bundle")
    path = tmp_path / "bundle" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{path.name} is not the file that was bundled"):
        open_model(tmp_path / "bundle")


def test_a_missing_file_of_a_bundle_is_named(tmp_path, workspace):
    write_bundle(workspace, tmp_path / "bundle")
    (tmp_path / "bundle" / "3d_fullres" / "fold_0.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 3d_fullres/fold_0\.safetensors"):
        open_model(tmp_path / "bundle")


@pytest.mark.parametrize("name", ["../plan.yaml", "/etc/passwd", "a/../../b", "a\\b", "c:/b", "./plan.yaml", ""])
def test_paths_that_leave_the_bundle_are_refused(tmp_path, workspace, name):
    write_bundle(workspace, tmp_path / "bundle")
    manifest = tmp_path / "bundle" / "bundle.json"
    content = json.loads(manifest.read_text())
    content["files"][name] = "0" * 64
    manifest.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="not a plain path"):
        open_model(tmp_path / "bundle")


def test_a_link_out_of_the_bundle_is_refused(tmp_path, workspace):
    write_bundle(workspace, tmp_path / "bundle")
    plan = tmp_path / "bundle" / "plan.yaml"
    shutil.move(plan, tmp_path / "elsewhere.yaml")
    plan.symlink_to(tmp_path / "elsewhere.yaml")
    with pytest.raises(CheckpointError, match="a link to another place"):
        open_model(tmp_path / "bundle")


def test_a_workspace_without_trained_folds_is_not_bundled(tmp_path):
    with pytest.raises(CheckpointError, match="no trained fold"):
        write_bundle(workspace_in(tmp_path / "w", folds=()), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_never_replaces_a_folder_that_is_no_bundle(tmp_path, workspace):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("all my work")
    for output in (tmp_path / "precious", workspace.folder, tmp_path):
        with pytest.raises(CheckpointError):
            write_bundle(workspace, output)
    assert (tmp_path / "precious" / "thesis.txt").exists()
    write_bundle(workspace, tmp_path / "bundle")
    write_bundle(workspace, tmp_path / "bundle")


def test_damaged_weights_stop_the_bundle_and_leave_nothing(tmp_path, workspace):
    path = workspace.weights("3d_fullres", 0)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        write_bundle(workspace, tmp_path / "bundle")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["workspace"]


def test_the_network_is_built_from_what_the_weights_say_and_not_from_the_plan(tmp_path):
    smaller = CONFIGURATION.model_copy(update={"patch_size": (4, 8, 8)})
    model = open_model(workspace_in(tmp_path / "w", configuration=smaller).folder)
    assert model.plan.configurations["3d_fullres"].patch_size == (8, 8, 8)
    assert model.load().configuration.patch_size == (4, 8, 8)


def test_folds_that_do_not_belong_together_are_refused(tmp_path):
    workspace_in(tmp_path / "w", folds=(0,))
    smaller = CONFIGURATION.model_copy(update={"patch_size": (4, 8, 8)})
    workspace_in(tmp_path / "w", folds=(1,), configuration=smaller)
    model = open_model(tmp_path / "w")
    with pytest.raises(CheckpointError, match="another patch size"):
        model.load()
    assert model.load(folds=[1]).folds == (1,)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"classes": 4}, "number of classes of 4, but 3"),
        ({"activation": "sigmoid"}, "targets that are regions, but single labels"),
        ({"channels": 2}, "number of channels of 2, but 1"),
        ({"configuration_name": "2d"}, "configuration 2d, but 3d_fullres"),
        ({"preparation": preparation_of(plan_of(orientation="stored"))}, "another orientation"),
        ({"preparation": preparation_of(plan_of(axis_order=(1, 0, 2)))}, "another axis_order"),
        ({"classes": "many"}, "does not describe its network"),
    ],
)
def test_weights_of_another_plan_are_refused(tmp_path, description, message):
    model = open_model(workspace_in(tmp_path / "w", **description).folder)
    with pytest.raises(CheckpointError, match=message):
        model.load()


def test_the_preparation_of_the_same_plan_is_accepted(tmp_path):
    workspace = workspace_in(tmp_path / "w", preparation=preparation_of(plan_of()))
    assert open_model(workspace.folder).load().folds == (0, 1)


def test_numbered_folds_come_first_and_full_stands_for_itself(tmp_path):
    model = open_model(workspace_in(tmp_path / "w", folds=(10, 2, "full")).folder)
    assert list(model.weights["3d_fullres"]) == [2, 10, "full"]
    assert model.choose() == ("3d_fullres", (2, 10))
    assert model.choose(folds=["full"]) == ("3d_fullres", ("full",))
    with pytest.raises(CheckpointError, match=r"no trained fold 0 of '3d_fullres', only 2, 10, full"):
        model.choose(folds=[0, 2])
    with pytest.raises(CheckpointError, match="no trained fold of '2d'; trained is: 3d_fullres"):
        model.choose("2d")


def test_a_folder_that_is_no_model_is_said_to_be_none(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="neither a bundle nor a workspace"):
        open_model(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        open_model(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MedsegError, match="No workspace has been used"):
        open_model(None)


def test_without_a_name_the_workspace_last_used_serves(tmp_path, workspace, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workspace.remember()
    assert open_model(None).folder == workspace.folder.resolve()


def test_a_picture_that_can_not_say_how_it_lies_is_remarked_where_structures_have_a_side(tmp_path, workspace):
    sided = LabelTable(labels=(Label(name="left kidney", value=1), Label(name="right kidney", value=2)))
    path = tmp_path / "slice.png"
    write_labels(path, np.arange(256, dtype=np.uint8).reshape(1, 16, 16), Volume(np.zeros((1, 16, 16)), np.eye(4)))
    for labels, expected in ((LABELS, 0), (sided, 1)):
        labels.save(workspace.labels)
        prediction = predict_case(Case("slice", (path,)), open_model(workspace.folder).load(), CPU, Silent())
        assert sum("has a side" in remark for remark in prediction.remarks) == expected


def test_a_nifti_that_does_not_say_how_it_lies_is_refused_where_structures_have_a_side(tmp_path, workspace):
    path = tmp_path / "case.nii.gz"
    bare = nibabel.Nifti1Image(np.arange(4096, dtype=np.float32).reshape(16, 16, 16), None)
    bare.header.set_sform(None, 0)
    bare.header.set_qform(None, 0)
    nibabel.save(bare, path)
    case = Case("case", (path,))
    predict_case(case, open_model(workspace.folder).load(), CPU, Silent())
    sided = LabelTable(labels=(Label(name="left kidney", value=1), Label(name="right kidney", value=2)))
    sided.save(workspace.labels)
    with pytest.raises(DatasetError, match=r"'case'.*does not say how it lies.*Write its orientation"):
        predict_case(case, open_model(workspace.folder).load(), CPU, Silent())


def test_the_estimate_of_memory_counts_classes_with_a_slab_and_not_with_the_volume(workspace):
    networks = open_model(workspace.folder).load()

    def estimate(depth: int) -> int:
        return estimate_memory(Volume(np.zeros((1, depth, 64, 64), np.float32), np.eye(4)), networks, CPU).host

    per_voxel = (estimate(2000) - estimate(1000)) / (1000 * 64 * 64)
    assert per_voxel < 40
    assert "GB" in str(estimate_memory(Volume(np.zeros((1, 4, 4, 4), np.float32), np.eye(4)), networks, CPU))
