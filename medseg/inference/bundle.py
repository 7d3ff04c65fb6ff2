"""A Model on disk: a bundle to carry away, or a workspace as it stands after training; one resolver for both.

A bundle is a folder with ``bundle.json`` (format, checksum of every file, provenance, metrics), ``plan.yaml``,
``labels.yaml``, ``selection.json``, ``calibration.json`` and ``familiarity.json`` where they were made, a model card
(``README.md``) and ``<configuration>/fold_<k>.safetensors``. It holds no names of cases. Nothing in it is executed or
unpickled, and every file is compared with its checksum before it is read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from medseg import __version__
from medseg.cases.labels import LabelTable
from medseg.documents import Document, Record
from medseg.errors import CheckpointError, MedsegError
from medseg.evaluation.scores import Scores
from medseg.files import folder_written_whole, hash_file, write_text
from medseg.inference.card import describe_model
from medseg.inference.model import Fold, Model
from medseg.inference.selection import Selection
from medseg.networks.weights import load_weights
from medseg.paths import Workspace, last_used
from medseg.planning.plan import Plan

_MANIFEST, _PLAN, _LABELS, _SELECTION, _CARD = "bundle.json", "plan.yaml", "labels.yaml", "selection.json", "README.md"
_CALIBRATION, _FAMILIARITY = "calibration.json", "familiarity.json"
_SNAPSHOT = re.compile(r"(?P<configuration>[\w-]+)/fold_(?P<fold>\d+|full)\.snapshot_\d+\.safetensors")
_WEIGHTS = re.compile(r"(?P<configuration>[\w-]+)/fold_(?P<fold>\d+|full)\.(safetensors|onnx)")


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or name != str(path):
        raise ValueError(f"'{name}' is not a plain path inside the bundle")
    return name


InsidePath = Annotated[str, AfterValidator(_inside)]
"""A relative path with forward slashes that stays inside the bundle."""


class Imported(Record):
    """Which other tool's training a bundle was made from."""

    tool: str
    trainer: str
    """The tool's own name for the recipe."""
    checkpoints: dict[str, str]
    """SHA-256 of every file that was read, by ``configuration/fold_k/file``."""


class Provenance(Record):
    """Where a bundle comes from."""

    medseg: str
    """Version that wrote it."""
    dataset: str
    preset: str
    plan: str
    """Content hash of the plan."""
    fingerprint: str
    """Content hash of the Fingerprint of the dataset."""
    made: str
    """Date, UTC."""
    imported: Imported | None = None
    """Only of models that medseg did not train itself."""
    begun_from: dict[str, str] = Field(default_factory=dict)
    """Identity of the model whose weights a fold's training began with, by ``configuration/fold_k``."""


class Manifest(Document):
    """``bundle.json``."""

    kind: ClassVar[str] = "bundle"
    error: ClassVar[type[MedsegError]] = CheckpointError

    files: dict[InsidePath, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    """SHA-256 of every file."""
    provenance: Provenance
    metrics: dict[str, Any] = Field(default_factory=dict)
    """Scores of the held-out cases, by ``configuration/fold_k``; no single case."""
    seal: str = ""
    """Hash of everything else in this document."""

    def sealed(self) -> Manifest:
        """The same with its seal."""
        return self.model_copy(update={"seal": self._own_hash()})

    def require_sealed(self, path: Path) -> Manifest:
        """The same. Raises CheckpointError where anything was changed after it was sealed."""
        if self.seal != self._own_hash():
            raise CheckpointError(
                f"{path} is not as it was written: its own checksum differs. It was damaged or changed; copy the "
                "bundle again from where it was made."
            )
        return self

    def _own_hash(self) -> str:
        return self.model_copy(update={"seal": ""}).content_hash()


def open_model(path: Path | None) -> Model:
    """The model in a bundle or workspace; None takes the workspace last used from the current folder.

    Raises CheckpointError when there is none, when nothing is trained, or when a bundle's file is missing or altered.
    """
    folder = last_used().folder if path is None else Path(path)
    if folder.name == _MANIFEST:
        folder = folder.parent
    if (folder / _MANIFEST).is_file():
        return _open_bundle(folder)
    if (folder / _PLAN).is_file():
        return _open_workspace(Workspace(folder))
    what = "is neither a bundle nor a workspace" if folder.is_dir() else "does not exist"
    raise CheckpointError(
        f"{folder} {what}. Name a folder that 'medseg train' or 'medseg bundle' has written with model=DIR."
    )


def _open_workspace(workspace: Workspace) -> Model:
    plan = Plan.load(workspace.plan)
    weights: dict[str, dict[Fold, Path]] = {}
    for configuration in plan.configurations:
        found: dict[Fold, Path] = {}
        for path in (workspace.folder / configuration).glob("fold_*/weights.safetensors"):
            found[_fold(path.parent.name.removeprefix("fold_"))] = path
        if found:
            weights[configuration] = _in_order(found)
    selection = Selection.load(workspace.selection) if workspace.selection.is_file() else None
    calibration = workspace.calibration if workspace.calibration.is_file() else None
    familiarity = workspace.familiarity if workspace.familiarity.is_file() else None
    snapshots = {
        name: {fold: _snapshots_of(workspace, name, fold) for fold in folds} for name, folds in weights.items()
    }
    labels = LabelTable.load(workspace.labels)
    return Model(workspace.folder, plan, labels, weights, selection, calibration, familiarity, snapshots)


def _snapshots_of(workspace: Workspace, configuration: str, fold: Fold) -> tuple[Path, ...]:
    """In the order in which they were kept."""
    found = workspace.fold(configuration, fold).glob("snapshot_*.safetensors")
    return tuple(sorted(found, key=lambda path: int(path.stem.removeprefix("snapshot_"))))


def _open_bundle(folder: Path) -> Model:
    manifest = Manifest.load(folder / _MANIFEST).require_sealed(folder / _MANIFEST)
    for name in (_PLAN, _LABELS):
        if name not in manifest.files:
            raise CheckpointError(f"{folder / _MANIFEST} lists no {name}: the bundle is not whole. Bundle it again.")
    for name, expected in manifest.files.items():
        _require_unaltered(folder, name, expected)
    weights: dict[str, dict[Fold, Path]] = {}
    for name in manifest.files:
        match = _WEIGHTS.fullmatch(name)
        if match:
            weights.setdefault(match["configuration"], {})[_fold(match["fold"])] = folder / name
    snapshots: dict[str, dict[Fold, tuple[Path, ...]]] = {}
    for name in sorted(manifest.files, key=lambda name: (len(name), name)):
        if match := _SNAPSHOT.fullmatch(name):
            of_fold = snapshots.setdefault(match["configuration"], {})
            of_fold[_fold(match["fold"])] = (*of_fold.get(_fold(match["fold"]), ()), folder / name)
    ordered = {configuration: _in_order(folds) for configuration, folds in weights.items()}
    selection = Selection.load(folder / _SELECTION) if _SELECTION in manifest.files else None
    calibration = folder / _CALIBRATION if _CALIBRATION in manifest.files else None
    familiarity = folder / _FAMILIARITY if _FAMILIARITY in manifest.files else None
    plan, labels = Plan.load(folder / _PLAN), LabelTable.load(folder / _LABELS)
    return Model(folder, plan, labels, ordered, selection, calibration, familiarity, snapshots)


def _require_unaltered(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"The bundle {folder} lacks {name}. Copy it again from where it was made.")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"The bundle {folder} has {name} as a link to another place. Copy it again.")
    if hash_file(path) != expected:
        raise CheckpointError(
            f"{path} is not the file that was bundled: its checksum differs from {_MANIFEST}. It was damaged or "
            "changed; copy the bundle again from where it was made."
        )


def write_bundle(workspace: Workspace, output: Path, everything: bool = False) -> Model:
    """Collect the trained folds of a workspace in the folder ``output``, whole or not at all; returns it opened.

    Where ``medseg select`` has chosen, only what it chose, unless ``everything``. An older bundle there is replaced.
    Raises CheckpointError when nothing is trained, when weights are damaged, when the selection was made for other
    weights, or when ``output`` holds something else.
    """
    model = _open_workspace(workspace)
    if not model.weights:
        raise CheckpointError(f"{workspace.folder} holds no trained fold yet. Run 'medseg train' first.")
    if workspace.folder.resolve().is_relative_to(output.resolve()):
        raise CheckpointError(f"output={output} is, or holds, the workspace itself. Choose a new folder.")
    sources = {_PLAN: workspace.plan, _LABELS: workspace.labels}
    metrics: dict[str, Any] = {}
    begun_from: dict[str, str] = {}
    if model.selection is not None:
        model.load()  # a selection that is stale is found now and not at the hospital
        sources[_SELECTION] = workspace.selection
        metrics["selection"] = model.selection.averages()
    if model.calibration is not None:
        sources[_CALIBRATION] = model.calibration
    if model.familiarity is not None:
        sources[_FAMILIARITY] = model.familiarity
    for configuration, folds in model.weights.items():
        if model.plan.configurations[configuration].previous is not None:
            model.load(configuration)  # so is a cascade without the networks before it
        for fold in _carried(model, configuration, everything):
            _, description = load_weights(folds[fold])  # a damaged file is found now as well
            if description.get("start"):
                begun_from[f"{configuration}/fold_{fold}"] = description["start"]["identity"]
            sources[weights_name(configuration, fold)] = folds[fold]
            for number, path in enumerate(model.snapshots[configuration][fold], start=1):
                load_weights(path)
                sources[f"{configuration}/fold_{fold}.snapshot_{number}.safetensors"] = path
            metrics |= _metrics(workspace, configuration, fold)
    with bundle_written_whole(output, model.plan, metrics, begun_from=begun_from) as folder:
        for name, source in sources.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
        write_text(folder / _CARD, describe_model(model, workspace, sorted(sources)))
    return open_model(output)


def _carried(model: Model, configuration: str, everything: bool) -> tuple[Fold, ...]:
    """The folds of a configuration that a bundle takes along."""
    trained = tuple(model.weights[configuration])
    if everything or model.selection is None:
        return trained
    needed = {model.plan.configurations[name].previous or name for name in model.selection.chosen}
    if configuration not in needed | set(model.selection.chosen):
        return ()
    chosen = {fold for folds in model.selection.folds.values() for fold in folds}
    return tuple(fold for fold in trained if fold in chosen or fold == "full")


@contextmanager
def bundle_written_whole(
    output: Path,
    plan: Plan,
    metrics: Mapping[str, Any] | None = None,
    imported: Imported | None = None,
    begun_from: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """Give an empty folder to be filled; with its manifest added it becomes the bundle ``output``, or vanishes.

    A whole folder is replaced, so ``output`` must be new, empty or an older bundle; otherwise CheckpointError.
    """
    require_replaceable(output)
    with folder_written_whole(output) as folder:
        yield folder
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        Manifest(
            files={name: hash_file(folder / name) for name in names},
            provenance=_provenance(plan, imported, begun_from or {}),
            metrics=dict(metrics or {}),
        ).sealed().save(folder / _MANIFEST)


def require_replaceable(output: Path) -> None:
    """Raise CheckpointError when ``output`` holds anything but a bundle."""
    if output.exists() and not (output / _MANIFEST).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"output={output} exists and is no bundle; nothing was replaced. Choose a new folder.")


def weights_name(configuration: str, fold: Fold) -> str:
    """The path of a fold's weights within a bundle."""
    return f"{configuration}/fold_{fold}.safetensors"


def _provenance(plan: Plan, imported: Imported | None, begun_from: Mapping[str, str]) -> Provenance:
    return Provenance(
        medseg=__version__,
        dataset=plan.dataset,
        preset=plan.preset,
        plan=plan.content_hash(),
        fingerprint=plan.fingerprint,
        made=datetime.now(UTC).date().isoformat(),
        imported=imported,
        begun_from=dict(begun_from),
    )


def _metrics(workspace: Workspace, configuration: str, fold: Fold) -> dict[str, Any]:
    """Averages and structures of a fold's scores, where it was scored; the cases and their names stay behind."""
    path = workspace.fold(configuration, fold) / "scores.json"
    if not path.is_file():
        return {}
    content = Scores.load(path).content()
    return {f"{configuration}/fold_{fold}": {key: content[key] for key in ("tolerance_mm", "average", "structures")}}


def _fold(text: str) -> Fold:
    return int(text) if text.isdigit() else text


def _in_order(folds: Mapping[Fold, Path]) -> dict[Fold, Path]:
    """Numbers first, ascending."""
    return {fold: folds[fold] for fold in sorted(folds, key=lambda fold: (isinstance(fold, str), fold))}
