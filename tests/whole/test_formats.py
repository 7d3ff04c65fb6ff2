"""The same data in four layouts: one fingerprint, one plan, the same folds, to the byte, as the command writes them."""

import json
import os
import shutil
from pathlib import Path

import pytest

from medseg.cases.dataset import Dataset
from medseg.cases.formats import read_dataset
from medseg.cli import main
from medseg.planning.measure import measure_fingerprint
from medseg.planning.plan import Machine
from medseg.planning.presets import load_preset
from medseg.planning.rules import make_plan
from medseg.progress import Silent

from tiny import TABLE, write_tiny_dataset

LABELS = {label.name: label.value for label in TABLE.labels}
NAMES = ("decathlon", "nnunet", "pair", "listing")


def _copy(dataset: Dataset, folder: Path, images: str, labels: str) -> None:
    for case in dataset.cases:
        assert case.labels is not None
        for source, pattern in ((case.images[0], images), (case.labels, labels)):
            target = folder / pattern.format(case.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny dataset, copied into folders as each of the four layouts wants them."""
    root = tmp_path_factory.mktemp("layouts")
    dataset = write_tiny_dataset(root / "source", 7)
    names = [case.name for case in dataset.cases]
    folders = {name: root / name for name in NAMES}
    _copy(dataset, folders["decathlon"], "imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz")
    content: dict = {"name": "tiny", "modality": {"0": "MR"}, "labels": {str(v): k for k, v in LABELS.items()}}
    content["training"] = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names[::-1]]
    (folders["decathlon"] / "dataset.json").write_text(json.dumps(content))
    _copy(dataset, folders["nnunet"], "imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz")
    content = {"name": "tiny", "channel_names": {"0": "MR"}, "labels": LABELS, "file_ending": ".nii.gz"}
    (folders["nnunet"] / "dataset.json").write_text(json.dumps(content))
    _copy(dataset, folders["pair"], "images/{}.nii.gz", "labels/{}.nii.gz")
    description = "name: tiny\nchannels: [MR]\nlabels: {ball: 1, box: 2}\n"
    (folders["pair"] / "dataset.yaml").write_text(description)
    _copy(dataset, folders["listing"], "{}/scan.nii.gz", "{}/truth.nii.gz")
    listed = [{"name": n, "images": f"{n}/scan.nii.gz", "labels": f"{n}/truth.nii.gz"} for n in names]
    (folders["listing"] / "dataset.yaml").write_text(f"{description}cases: {json.dumps(listed)}\n")
    return folders


def test_the_command_writes_the_same_fingerprint_plan_and_folds_for_all_four(
    layouts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, folder in layouts.items():
        assert main(["plan", f"dataset={folder}", f"workspace={tmp_path / name}", "preset=nnunet"]) == 0
    for file in ("fingerprint.json", "plan.yaml", "folds.yaml", "labels.yaml"):
        found = {(tmp_path / name / file).read_bytes() for name in NAMES}
        assert len(found) == 1, file
    assert b"case_06" in (tmp_path / "pair" / "folds.yaml").read_bytes()
    assert {os.path.relpath(read_dataset(tmp_path / n).cases[0].images[0], layouts[n]) for n in NAMES} == {
        "imagesTr/case_00.nii.gz", "imagesTr/case_00_0000.nii.gz", "images/case_00.nii.gz", "case_00/scan.nii.gz",
    }  # fmt: skip


@pytest.mark.parametrize("preset", ["default", "cpu", "small_gpu"])
def test_every_preset_plans_all_four_alike_on_one_machine(layouts: dict[str, Path], preset: str) -> None:
    machine = Machine(device="cpu", flops_per_second=70e9)
    plans = set()
    for folder in layouts.values():
        dataset, rules = read_dataset(folder), load_preset(preset)
        fingerprint = measure_fingerprint(dataset, rules.orientation, Silent(), sample=10_000)
        plan = make_plan(fingerprint, dataset.labels, rules, machine)
        plans.add(plan.to_yaml(plan.content()))
    assert len(plans) == 1
