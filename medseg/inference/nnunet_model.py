"""A trained nnU-Net v2 model folder becomes a bundle that medseg predicts with as nnU-Net does.

Knows nothing of how a checkpoint is opened (``medseg.inference.nnunet_checkpoint``) or plans are translated
(``medseg.planning.from_nnunet``). Layout: nnU-Net's ``Trainer__Plans__Configuration/`` with ``plans.json``,
``dataset.json`` and ``fold_*/checkpoint_final.pth``; TotalSegmentator's models lie in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.cases.labels import LabelTable
from medseg.errors import CheckpointError, PlanError
from medseg.files import hash_content, hash_file
from medseg.inference.bundle import Imported, bundle_written_whole, open_model, require_replaceable, weights_name
from medseg.inference.model import Fold, Model, preparation_of
from medseg.inference.nnunet_checkpoint import Checkpoint, read_checkpoints
from medseg.networks.build import build_network
from medseg.networks.weights import save_weights
from medseg.planning.from_nnunet import plan_from_nnunet, require_importable
from medseg.planning.nnunet_plans import NnunetPlans, read_json
from medseg.planning.plan import ConfigurationPlan, Plan

_FILES = ("checkpoint_final.pth", "checkpoint_best.pth")
_FOLD = re.compile(r"fold_(\d+|all)")
_ALL_AXES = frozenset(range(3))


@dataclass(frozen=True)
class _Trained:
    """One configuration's folder with the checkpoints of its folds."""

    folder: Path
    name: str
    trainer: str
    folds: Mapping[Fold, Checkpoint]


@dataclass(frozen=True)
class ImportedModel:
    """The bundle, and what the user should know of it."""

    model: Model
    trainer: str
    remarks: tuple[str, ...]


def import_nnunet(folders: Sequence[Path], output: Path) -> ImportedModel:
    """Write the model of one or several nnU-Net folders (one each for a configuration, or a parent) as a bundle.

    Raises PlanError naming what medseg can't do as nnU-Net does, and CheckpointError for checkpoints that are
    missing, unsafe or of another network, or when ``output`` holds something else.
    """
    require_replaceable(output)
    found = list(dict.fromkeys(model for folder in folders for model in find_model_folders(folder)))
    plans, dataset = _shared_documents(found)
    remarks: list[str] = []
    # What can't be imported is said before any large file is read, where the folder's name tells the configuration.
    told = [name for folder in found if (name := _name_of(folder)) in plans.configurations]
    require_importable(plans, dataset, told, found[0])
    trained = _read_folders(found, remarks)
    _require_distinct(trained)
    plan, labels = _plan(plans, dataset, trained)
    trainer = ", ".join(dict.fromkeys(one.trainer for one in trained))
    checkpoints = {
        f"{one.name}/fold_{fold}/{checkpoint.path.name}": hash_file(checkpoint.path)
        for one in trained
        for fold, checkpoint in one.folds.items()
    }
    imported = Imported(tool="nnU-Net v2", trainer=trainer, checkpoints=checkpoints)
    with bundle_written_whole(output, plan, imported=imported) as folder:
        plan.save(folder / "plan.yaml")
        labels.save(folder / "labels.yaml")
        for one in trained:
            for fold, checkpoint in one.folds.items():
                _save_fold(folder / weights_name(one.name, fold), checkpoint, one, plan, labels)
    return ImportedModel(open_model(output), trainer, tuple(remarks))


def find_model_folders(folder: Path) -> list[Path]:
    """The folder itself when it holds a trained model, else those directly inside it that do.

    Raises CheckpointError when there is none.
    """
    if _is_model(folder):
        return [folder]
    inside = sorted(child for child in folder.iterdir() if _is_model(child)) if folder.is_dir() else []
    if inside:
        return inside
    if _is_model(folder.parent) and _FOLD.fullmatch(folder.name):
        raise CheckpointError(f"{folder} is a single fold. Name the folder around it: nnunet={folder.parent}.")
    what = "holds no trained nnU-Net model" if folder.is_dir() else "does not exist"
    raise CheckpointError(
        f"{folder} {what}. Name a folder with plans.json, dataset.json and fold_*/checkpoint_final.pth, such as "
        "nnUNet_results/Dataset001_X/nnUNetTrainer__nnUNetPlans__3d_fullres."
    )


def _is_model(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("plans.json", "dataset.json")) and bool(_fold_folders(folder))


def _fold_folders(folder: Path) -> dict[Fold, Path]:
    """nnU-Net's fold_all is trained on every Case: medseg's ``full``."""
    found: dict[Fold, Path] = {}
    for path in sorted(folder.glob("fold_*")):
        match = _FOLD.fullmatch(path.name)
        if match and path.is_dir():
            found["full" if match[1] == "all" else int(match[1])] = path
    return found


def _name_of(folder: Path) -> str:
    """The configuration in ``Trainer__Plans__Configuration``."""
    return folder.name.split("__")[-1]


def _shared_documents(folders: Sequence[Path]) -> tuple[NnunetPlans, dict[str, Any]]:
    """plans.json and dataset.json, which all the folders must share."""
    first = folders[0]
    for other in folders[1:]:
        for name in ("plans.json", "dataset.json"):
            if read_json(other / name) != read_json(first / name):
                raise PlanError(
                    f"{first} and {other} have different {name}s, so they are not configurations of one model. Import "
                    "them one by one, each into a bundle of its own."
                )
    return NnunetPlans.load(first / "plans.json"), read_json(first / "dataset.json")


def _read_folders(folders: Sequence[Path], remarks: list[str]) -> list[_Trained]:
    """Every trained fold. Raises CheckpointError for a folder with none, or whose folds differ in their training."""
    files = {folder: _checkpoint_files(folder, remarks) for folder in folders}
    read = iter(read_checkpoints([path for folds in files.values() for path in folds.values()]))
    trained = []
    for folder, paths in files.items():
        folds = {fold: next(read) for fold in paths}
        name = _agreed(folder, "the configuration", [one.description.configuration for one in folds.values()])
        trainer = _agreed(folder, "the trainer", [one.description.trainer for one in folds.values()])
        trained.append(_Trained(folder, name or _name_of(folder), trainer or "unknown", folds))
    return trained


def _checkpoint_files(folder: Path, remarks: list[str]) -> dict[Fold, Path]:
    files: dict[Fold, Path] = {}
    for fold, path in _fold_folders(folder).items():
        file = next((path / name for name in _FILES if (path / name).is_file()), None)
        if file is None:
            remarks.append(f"{path} holds no finished training ({' or '.join(_FILES)}); this fold is left out.")
            continue
        if file.name != _FILES[0]:
            remarks.append(f"{path} holds no {_FILES[0]}; {file.name} was taken, from before the end of the training.")
        files[fold] = file
    if not files:
        raise CheckpointError(f"{folder} holds no {' or '.join(_FILES)} in any fold. Train it with nnU-Net first.")
    return files


def _agreed(folder: Path, what: str, values: Iterable[str | None]) -> str | None:
    distinct = list(dict.fromkeys(values))
    if len(distinct) > 1:
        raise CheckpointError(
            f"The folds in {folder} differ in {what}: {', '.join(map(str, distinct))}. Give each its own folder."
        )
    return distinct[0]


def _require_distinct(trained: Sequence[_Trained]) -> None:
    for first, second in combinations(trained, 2):
        if first.name == second.name:
            raise CheckpointError(
                f"{first.folder} and {second.folder} both hold the configuration '{first.name}'. Import one of them: "
                f"nnunet={second.folder}."
            )


def _plan(plans: NnunetPlans, dataset: Mapping[str, Any], trained: Sequence[_Trained]) -> tuple[Plan, LabelTable]:
    folder = trained[0].folder
    axes = [_mirror_axes(one, plans.configuration(one.name, folder / "plans.json").dimensions) for one in trained]
    fingerprint = folder / "dataset_fingerprint.json"
    measured = hash_content(read_json(fingerprint)) if fingerprint.is_file() else "unknown"
    shared = tuple(sorted(_ALL_AXES.intersection(*axes)))
    return plan_from_nnunet(plans, dataset, [one.name for one in trained], folder, shared, measured)


def _mirror_axes(trained: _Trained, dimensions: int) -> set[int]:
    """Network axes (z, y, x) on which every fold may be mirrored; nnU-Net counts from y in 2D."""
    allowed = [set(one.description.mirror_axes) for one in trained.folds.values()]
    return {axis + 3 - dimensions for axis in set.intersection(*allowed)}


def _save_fold(path: Path, checkpoint: Checkpoint, trained: _Trained, plan: Plan, labels: LabelTable) -> None:
    configuration = plan.configurations[trained.name]
    channels = len(plan.channels) + (len(labels) - 1 if configuration.previous else 0)
    state = _fitting(checkpoint, configuration, trained, channels, labels.outputs)
    description = {
        "configuration_name": trained.name,
        "configuration": configuration.model_dump(mode="json", exclude_none=True),
        "channels": channels,
        "classes": labels.outputs,
        "activation": labels.activation,
        "mirror_axes": sorted(_mirror_axes(trained, configuration.dimensions)),
        "preparation": preparation_of(plan),
        "trainer": trained.trainer,
        "epochs": checkpoint.description.epochs,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, state, description)


def _fitting(
    checkpoint: Checkpoint, configuration: ConfigurationPlan, trained: _Trained, channels: int, classes: int
) -> dict[str, Tensor]:
    """The tensors under medseg's names. Raises CheckpointError unless they are exactly those of the plan's network."""
    state = {medseg_name(name): tensor.float() for name, tensor in checkpoint.weights.items()}
    with torch.device("meta"):
        network = build_network(configuration.network, configuration.dimensions, channels, classes)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if got == expected:
        return state
    name = next(name for name in [*expected, *got] if got.get(name) != expected.get(name))
    raise CheckpointError(
        f"{checkpoint.path} is not the network that plans.json describes: '{name}' should have the shape "
        f"{expected.get(name, 'of nothing')}, but has {got.get(name, 'none')}. The trainer '{trained.trainer}' builds "
        "another network, which medseg does not have; predict with nnU-Net itself."
    )


def medseg_name(name: str) -> str:
    """A layer's name in medseg's network, which has the same layers in the same order."""
    name = name.replace("transpconvs", "transposed").replace("seg_layers", "heads")
    return name.replace(".0.convs.", ".convs.") if name.startswith("encoder.") else name
