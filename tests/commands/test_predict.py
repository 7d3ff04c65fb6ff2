import json
import shutil

import numpy as np
import pytest
import torch

from medseg.cases.labels import Label, LabelTable
from medseg.cli import main
from medseg.images.formats import read_labels, write_image
from medseg.images.volume import Volume
from medseg.inference.options import EFFORTS
from medseg.networks.build import build_network
from medseg.networks.weights import save_weights
from medseg.paths import Workspace
from medseg.planning.plan import ChannelPlan, ConfigurationPlan, Machine, NetworkPlan, Plan, TrainingPlan

from messy_dicom import CASES
from tiny_dicom import affine_of, coded_voxels, make_series, save, uid

LABELS = LabelTable(labels=(Label(name="liver", value=7), Label(name="tumour", value=300)))
AFFINE = np.array([[0, 0, -1.1, 30], [0, 1.2, 0, -5], [2.0, 0, 0, 7], [0, 0, 0, 1]])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_workspace(folder, channels=1, seed=0) -> Workspace:
    """A network with random weights, as if it were trained."""
    configuration = ConfigurationPlan(
        dimensions=3,
        spacing=(1.5, 1.0, 1.0),
        median_shape=(16, 16, 16),
        patch_size=(8, 8, 8),
        batch_size=2,
        batch_dice=False,
        network=NetworkPlan(
            features=(4, 8),
            strides=((1, 1, 1), (2, 2, 2)),
            kernels=((3, 3, 3), (3, 3, 3)),
            encoder_convolutions=(1, 1),
            decoder_convolutions=(1,),
        ),
    )
    names = ("t1", "t2")[:channels]
    plan = Plan(
        dataset="tiny",
        preset="default",
        orientation="canonical",
        axis_order=(0, 1, 2),
        channels=tuple(ChannelPlan(name=name, normalisation="zscore") for name in names),
        machine=Machine(device="cpu"),
        configurations={"3d_fullres": configuration},
        default_configuration="3d_fullres",
        training=TrainingPlan(),
        fingerprint="0" * 64,
    )
    workspace = Workspace(folder)
    plan.save(workspace.plan)
    LABELS.save(workspace.labels)
    for fold in (0, 1):
        torch.manual_seed(seed + fold)
        description = {
            "configuration_name": "3d_fullres",
            "configuration": configuration.model_dump(mode="json", exclude_none=True),
            "channels": channels,
            "classes": 3,
            "plan_hash": plan.content_hash(),
            "iterations": 1,
            "mirror_axes": [0, 1, 2],
        }
        state = build_network(configuration.network, 3, channels, 3).state_dict()
        save_weights(workspace.weights("3d_fullres", fold), state, description)
    return workspace


def make_image(path, seed=0, shape=(9, 14, 12)):
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    write_image(path, array, Volume(array, AFFINE))


def test_a_folder_is_predicted_and_three_broken_files_do_not_stop_the_others(here, capsys):
    make_workspace(here / "w")
    for index in range(16):
        make_image(here / "images" / f"good_{index:02d}.nii.gz", index, shape=(6, 9, 8))
    make_image(here / "images" / "good_16.mha", 3)
    (here / "images" / "empty.nii.gz").write_bytes(b"")
    whole = (here / "images" / "good_00.nii.gz").read_bytes()
    (here / "images" / "short.nii.gz").write_bytes(whole[: len(whole) // 2])
    broken = np.full((9, 14, 12), np.nan, np.float32)
    write_image(here / "images" / "nan.nii.gz", broken, Volume(broken, AFFINE))
    assert main(["predict", "input=images", "output=out", "model=w", "mirror=false"]) == 2
    printed = capsys.readouterr().out
    assert "17 predicted, 3 failed" in printed
    numbered = [line.split("/20 ")[1].split(":")[0] for line in printed.splitlines() if "/20 " in line]
    assert numbered == ["empty", *(f"good_{i:02d}" for i in range(17)), "nan", "short"], "reported in their order"
    assert all(f"- {name}" in printed or f"{name}.nii.gz" in printed for name in ("empty", "short", "nan"))
    assert "needs up to about" in printed
    written = sorted(path.name for path in (here / "out").iterdir())
    good = [*(f"good_{i:02d}.nii.gz" for i in range(16)), "good_16.mha"]
    assert written == [*good, "labels.yaml", "pictures", "run.json"]
    labels = read_labels(here / "out" / "good_16.mha")
    np.testing.assert_allclose(labels.affine, AFFINE, atol=1e-5)
    assert labels.shape == (9, 14, 12)
    assert set(np.unique(labels.array)) <= {0, 7, 300}
    assert len(list((here / "out" / "pictures").glob("*.png"))) == 5
    record = json.loads((here / "out" / "run.json").read_text())
    assert set(record["facts"]["cases"]) == {f"good_{i:02d}" for i in range(17)}
    assert set(record["facts"]["failed"]) == {"empty", "short", "nan"}
    assert LabelTable.load(here / "out" / "labels.yaml") == LABELS


def test_the_same_file_gives_the_same_bytes_from_workspace_bundle_and_last_used(here, capsys):
    workspace = make_workspace(here / "w")
    make_image(here / "a.nii.gz")
    assert main(["bundle", "workspace=w", "output=carried"]) == 0
    workspace.remember()
    common = ["predict", "input=a.nii.gz", "picture=false", "mirror=false"]
    assert main([*common, "output=one", "model=w"]) == 0
    assert main([*common, "output=two", "model=carried"]) == 0
    capsys.readouterr()
    assert main([*common, "output=three"]) == 0
    assert "the workspace last used from here" in capsys.readouterr().out
    assert len({(here / folder / "a.nii.gz").read_bytes() for folder in ("one", "two", "three")}) == 1
    assert main([*common, "output=four", "model=w", "folds=[0]"]) == 0
    assert (here / "four" / "a.nii.gz").read_bytes() != (here / "one" / "a.nii.gz").read_bytes()


def test_a_missing_channel_is_named_and_the_other_cases_are_predicted(here, capsys):
    make_workspace(here / "w", channels=2)
    for name in ("a_0000", "a_0001", "b_0000"):
        make_image(here / "images" / f"{name}.nii.gz")
    assert main(["predict", "input=images", "output=out", "model=w", "mirror=false", "picture=false"]) == 2
    assert "Case 'b' lacks channel 1 (t2)" in capsys.readouterr().out
    assert (here / "out" / "a.nii.gz").exists()


def test_skip_existing_keeps_what_is_done_and_refuses_to_mix_models(here, capsys):
    make_workspace(here / "w")
    make_image(here / "images" / "a.nii.gz")
    words = ["predict", "input=images", "output=out", "model=w", "mirror=false", "picture=false"]
    assert main(words) == 0
    before = (here / "out" / "a.nii.gz").stat().st_mtime_ns
    make_image(here / "images" / "b.nii.gz", 1)
    assert main([*words, "skip_existing=true"]) == 0
    assert (here / "out" / "a.nii.gz").stat().st_mtime_ns == before
    assert set(json.loads((here / "out" / "run.json").read_text())["facts"]["cases"]) == {"a", "b"}
    assert main([*words, "skip_existing=true", "step=0.7"]) == 2
    assert "would mix them" in capsys.readouterr().err
    make_workspace(here / "other", seed=5)
    assert main([*words[:3], "model=other", *words[4:], "skip_existing=true"]) == 2
    assert main(words) == 0
    assert (here / "out" / "a.nii.gz").stat().st_mtime_ns != before


def test_labels_never_overwrite_the_images(here, capsys):
    make_workspace(here / "w")
    make_image(here / "images" / "a.nii.gz")
    before = (here / "images" / "a.nii.gz").read_bytes()
    assert main(["predict", "input=images", "output=images", "model=w"]) == 2
    assert "would overwrite the image" in capsys.readouterr().err
    assert (here / "images" / "a.nii.gz").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["input=nowhere", "model=w"], "does not exist"),
        (["input=empty", "model=w"], "There is no image in empty"),
        (["input=images", "model=w", "folds=[3]"], "no trained fold 3"),
        (["input=images", "model=w", "configuration=2d"], "no trained fold of '2d'"),
        (["input=images", "model=nowhere"], "does not exist"),
        (["input=images", "model=w", "step=0"], "step"),
        (["input=images", "model=w", "mirrors=true"], "Did you mean 'mirror'?"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_output(here, capsys, words, sentence):
    make_workspace(here / "w")
    make_image(here / "images" / "a.nii.gz")
    (here / "empty").mkdir()
    assert main(["predict", "output=out", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (here / "out").exists()


def test_a_bundle_with_a_flipped_bit_predicts_nothing(here, capsys):
    make_workspace(here / "w")
    make_image(here / "a.nii.gz")
    assert main(["bundle", "workspace=w", "output=carried"]) == 0
    shutil.rmtree(here / "w")
    path = here / "carried" / "3d_fullres" / "fold_0.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    assert main(["predict", "input=a.nii.gz", "output=out", "model=carried"]) == 2
    assert "fold_0.safetensors is not the file that was bundled" in capsys.readouterr().err
    assert not (here / "out").exists()


def test_quality_sets_mirroring_and_step_and_words_replace_its_parts(here):
    make_workspace(here / "w")
    make_image(here / "a.nii.gz", shape=(6, 9, 8))
    common = ["predict", "input=a.nii.gz", "output=out", "model=w", "picture=false"]
    found = []
    for words in (["quality=fast"], ["quality=best", "step=0.7"], ["compat=nnunet"], []):
        assert main([*common, *words]) == 0
        facts = json.loads((here / "out" / "run.json").read_text())["facts"]
        found.append((facts["mirror"], facts["step"]))
    efforts = [EFFORTS["fast"], EFFORTS["best"], EFFORTS["best"], EFFORTS["balanced"]]
    assert found == [(one.mirror, 0.7 if place == 1 else one.step) for place, one in enumerate(efforts)]


def test_too_little_memory_is_said_with_the_amount_that_would_do(here, capsys):
    make_workspace(here / "w")
    make_image(here / "a.nii.gz", shape=(6, 9, 8))
    common = ["predict", "input=a.nii.gz", "output=out", "model=w", "picture=false"]
    assert main([*common, "max_memory=20MB"]) == 2
    printed = capsys.readouterr().out
    assert "6x9x8 voxels and 3 classes need at least" in printed
    named = printed.split("Give it max_memory=")[1].split()[0]
    assert main([*common, f"max_memory={named}"]) == 0


def test_a_folder_of_dicom_series_is_predicted_and_what_became_of_every_file_is_told(here, capsys):
    make_workspace(here / "w")
    for number in range(2):
        save(make_series(coded_voxels((9, 14, 12)), name=f"series {number}"), here / f"studies/{number}")
    CASES["gantry tilt 15 degrees"].write(here / "studies/tilted")
    assert main(["predict", "input=studies", "output=out", "model=w", "mirror=false", "picture=false"]) == 2
    printed = capsys.readouterr().out
    assert "2 predicted, 1 failed" in printed
    assert "slices are tilted by 15.00 degrees" in printed
    manifest = json.loads((here / "out/manifest.json").read_text())
    accepted = [entry["name"] for entry in manifest["series"] if entry["accepted"]]
    assert sorted(path.name for path in (here / "out").glob("*.nii.gz")) == sorted(f"{x}.nii.gz" for x in accepted)
    labels = read_labels(here / "out" / f"{accepted[0]}.nii.gz")
    np.testing.assert_allclose(labels.affine, affine_of(), atol=1e-4)


def test_rules_choose_the_series_of_a_study_and_need_a_folder_of_studies(here, capsys):
    make_workspace(here / "w")
    study = {"StudyInstanceUID": uid("study")}
    save(make_series(coded_voxels((9, 14, 12)), name="thick", SeriesDescription="thick", **study), here / "in/a")
    save(make_series(coded_voxels((9, 14, 12)), name="thin", SeriesDescription="thin", **study), here / "in/b")
    rules = {"kind": "series_rules", "format": 1, "channels": [{"channel": "t1", "description": "THIN"}]}
    (here / "rules.yaml").write_text(json.dumps(rules))
    words = ["output=out", "model=w", "mirror=false", "picture=false", "select=rules.yaml"]
    assert main(["predict", "input=in", *words]) == 0
    (choice,) = json.loads((here / "out/manifest.json").read_text())["choices"]
    assert choice["channels"][0]["unfit"][0]["reason"] == "'THIN' is not found in its description"
    assert len(list((here / "out").glob("*.nii.gz"))) == 1
    make_image(here / "images/a.nii.gz")
    assert main(["predict", "input=images", *words]) == 2
    assert "is no folder of studies" in capsys.readouterr().err
