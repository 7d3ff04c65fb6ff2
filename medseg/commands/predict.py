"""``medseg predict``: segment new images with a trained model; a bad case is reported and does not stop the others.

A minute on a CPU after training: ``medseg predict input=DIR output=predictions``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from medseg.cases.case import Case
from medseg.cases.dicom_inputs import find_dicom_cases
from medseg.commands.chosen import FoldChoice, chosen_folds
from medseg.commands.console import Bar, say
from medseg.commands.executor import ExecutorSettings
from medseg.commands.predict_outputs import PICTURES, facts_of, write_prediction
from medseg.commands.predict_uncertainty import judge_in, with_uncertainty, write_maps, write_worklist
from medseg.errors import Complaint, DatasetError, MedsegError, SettingsError
from medseg.images.dicom import require_extra
from medseg.images.formats import find_dicom
from medseg.inference.inputs import find_cases, has_images, suffix_of
from medseg.inference.options import DEFAULT_QUALITY, Mirror, Options, Quality, flip_sets
from medseg.run_record import RunRecord, record_run
from medseg.settings import Bytes, build

if TYPE_CHECKING:
    import torch

    from medseg.images.dicom.manifest import Manifest
    from medseg.inference.memory import Memory
    from medseg.inference.model import Model, Networks
    from medseg.inference.pipeline import Outcome
    from medseg.uncertainty.summary import CaseUncertainty


class PredictSettings(ExecutorSettings):
    """Settings of ``medseg predict``."""

    input: Path
    """An image file or a folder of them, or of DICOM studies; several channels are named X_0000, X_0001, ..."""
    output: Path
    """Folder for the labels, one file for each case in the format of its image."""
    model: Path | None = None
    """A bundle or a workspace; by default the workspace last used from here."""
    select: Path | None = None
    """A YAML file with a rule for each channel: which series of a DICOM study it is (.github/dicom.md)."""
    configuration: str | None = None
    """2d, 3d_fullres, ...; by default the plan's own choice."""
    folds: FoldChoice = "all"
    """Whose networks are averaged, such as [0,1]; all takes every fold that is trained, full the one of every case."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    quality: Quality | None = None
    """fast: few tiles, no flips; balanced (default): half-turns; best (default with compat=): all flips, as nnU-Net."""
    mirror: Mirror | None = None
    """Average over mirror images as well (up to 8 times slower), or over turns only (4); by default as quality says."""
    step: float | None = Field(default=None, gt=0, le=1)
    """Distance of neighbouring tiles as a share of the patch; by default as quality says."""
    tile_batch: PositiveInt | None = None
    """Tiles that go through the network at once; by default chosen by the memory."""
    max_memory: Bytes | None = None
    """What the program may use in all, such as 4GB (then scores go to a file in output); by default what is free."""
    combine: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged over tiles, mirror images and folds."""
    compat: Literal["nnunet"] | None = None
    """nnunet: average logits in half precision, exactly as nnU-Net does, to get the labels that it gives."""
    engine: Literal["auto", "torch", "onnx"] = "auto"
    """onnx: ONNX Runtime on the CPU (needs the extra: pip install medseg[onnx]); auto: what the model was made for."""
    skip_existing: bool = False
    """Keep the labels that an earlier, interrupted run with the same model has written."""
    postprocess: bool = True
    """Apply the component rules that 'medseg select' has learned, if any."""
    uncertainty: Literal["none", "tta", "ensemble", "dropout", "snapshots", "evidential", "learned"] = "none"
    """Maps and numbers of how sure it is; tta: by mirror images of each fold (with mirror=true), ensemble: by folds,
    dropout: by samples of each (planned with network.dropout=0.2), snapshots: by those of each (trained with
    snapshots=5), evidential: by its own evidence (network.head=evidential loss=[dice,evidential]), learned: by what it
    says may be otherwise (network.head=learned loss=[dice,learned])."""
    samples: int = Field(default=10, ge=2, le=1000)
    """With uncertainty=dropout: how many of each fold's network; their mean becomes labels."""
    rate: float = Field(default=0.9, gt=0, lt=1)
    """With uncertainty and after 'medseg calibrate': how often guaranteed contours, volumes and Dice should hold."""
    picture: bool = True
    """Draw a PNG of the first few cases."""
    estimate: bool = False
    """Only say how much memory each case needs; nothing is predicted or written."""


SETTINGS = (PredictSettings,)
_MIRROR = {"tta": True, "dropout": False}
"""Where the kind of uncertainty says whether mirror images are averaged, unless the user does: they are members of one,
and would multiply the samples of the other."""
_DECISIVE = (
    "quality",
    "mirror",
    "step",
    "combine",
    "compat",
    "engine",
    "postprocess",
    "uncertainty",
    "samples",
    "rate",
)
"""Settings that change the labels, beside the model itself."""


@dataclass
class Outcomes:
    """What became of the cases, by name."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    uncertain: dict[str, CaseUncertainty] = field(default_factory=dict)
    largest_memory: int = 0


def run(words: Mapping[str, str]) -> int:
    """Predict every case; the exit code is 2 when one of them could not be predicted."""
    settings = build(PredictSettings, words)
    if settings.compat and "combine" in words:
        raise SettingsError("compat=nnunet says what is averaged (logits, in half precision). Leave combine= out.")
    if settings.executor == "ray" and settings.uncertainty != "none":
        raise SettingsError("Uncertainty is written here only. Leave executor= out, or uncertainty=.")
    from medseg.inference.bundle import open_model
    from medseg.inference.devices import choose_device

    model = open_model(settings.model)
    if settings.model is None:
        say(f"Model: {model.folder} (the workspace last used from here)")
    cases, complaints, manifest = _find(settings, [channel.name for channel in model.plan.channels])
    targets = {case.name: settings.output / _file_of(case) for case in cases}
    _require_apart(cases, targets)
    device = choose_device(settings.device)
    networks = model.load(settings.configuration, chosen_folds(settings.folds), device, settings.engine)
    options = _options(settings, device)
    if settings.uncertainty != "none":
        if settings.uncertainty == "snapshots":
            networks = model.with_snapshots(networks)
        options = with_uncertainty(options, model, networks, settings.uncertainty, settings.rate, settings.samples)
    options = replace(options, judge=judge_in(model, networks))
    if settings.estimate:
        return _estimate(cases, complaints, networks, options)
    outcome = Outcomes(failed={complaint.case: str(complaint) for complaint in complaints})
    if settings.skip_existing:
        outcome.done = _earlier(settings, networks, targets)
    networks.labels.save(settings.output / "labels.yaml")
    _say_what(networks, len(cases), outcome, options)
    try:
        _record(settings, words, model, networks, options, outcome)
        waiting = [case for case in cases if case.name not in outcome.done]
        if settings.executor == "ray":
            from medseg.commands.predict_cluster import predict_on_cluster

            predict_on_cluster(waiting, targets, model, options, settings, outcome)
        else:
            _predict_all(waiting, targets, networks, options, settings, outcome)
    finally:
        _record(settings, words, model, networks, options, outcome)
        if manifest is not None:
            warnings = {name: facts["warning"] for name, facts in outcome.done.items() if facts.get("warning")}
            manifest.warned(warnings).save(settings.output / "manifest.json")
    if options.spread is not None:
        write_worklist(settings.output, options.spread, list(outcome.uncertain.values()))
    return _conclude(settings, cases, outcome)


def _estimate(cases: Sequence[Case], complaints: Sequence[Complaint], networks: Networks, options: Options) -> int:
    """Say what each case needs, from its header alone where that tells the size."""
    from medseg.cases.case import peek_case_image, read_case_image
    from medseg.inference.memory import Bound, choose_layout

    if complaints:
        raise DatasetError(str(complaints[0]))
    bound = Bound.of(options)
    for case in cases:
        size = peek_case_image(case) or read_case_image(case, len(networks.plan.channels))
        _, memory = choose_layout(size, networks, options, bound, case.name)
        _say_memory(case, memory)
    return 0


def _say_memory(case: Case, memory: Memory) -> None:
    say(f"Case '{case.name}' needs up to about {memory} beside the program and its networks.")


def _options(settings: PredictSettings, device: torch.device) -> Options:
    return Options.of(
        settings.quality or ("best" if settings.compat else DEFAULT_QUALITY),
        device,
        _MIRROR.get(settings.uncertainty) if settings.mirror is None else settings.mirror,
        settings.step,
        tile_batch=settings.tile_batch,
        combine=settings.compat or settings.combine,
        postprocess=settings.postprocess,
        max_memory=settings.max_memory,
        scratch=settings.output,
    )


def _find(settings: PredictSettings, channels: Sequence[str]) -> tuple[list[Case], list[Complaint], Manifest | None]:
    """The Cases and what is wrong with others; of DICOM studies the manifest as well, which is written at once."""
    if not settings.input.is_dir() or has_images(settings.input) or find_dicom(settings.input) is None:
        if settings.select is not None:
            raise SettingsError(f"select= chooses among DICOM series, but {settings.input} is no folder of studies.")
        return (*find_cases(settings.input, channels), None)
    require_extra()
    from medseg.images.dicom.selection import SeriesRules

    rules = None if settings.select is None else SeriesRules.load(settings.select)
    found = find_dicom_cases(settings.input, channels, rules)
    found.manifest.save(settings.output / "manifest.json")
    return found.cases, found.complaints, found.manifest


def _file_of(case: Case) -> str:
    """The labels' file name: in the format of the image, for DICOM (which ``medseg dicom`` writes) NIfTI."""
    return f"{case.name}{suffix_of(case.images[0]) or '.nii.gz'}"


def _predict_all(
    waiting: Sequence[Case],
    targets: Mapping[str, Path],
    networks: Networks,
    options: Options,
    settings: PredictSettings,
    outcome: Outcomes,
) -> None:
    from medseg.inference.pipeline import predict_cases

    def announce(case: Case, memory: Memory) -> None:
        # Said for the first case, and again only where a case needs clearly more.
        if memory.host + memory.device > 1.1 * outcome.largest_memory:
            outcome.largest_memory = memory.host + memory.device
            _say_memory(case, memory)

    def deliver(one: Outcome) -> None:
        number, case = 1 + len(outcome.done) + len(outcome.failed) - before, one.case
        try:
            if isinstance(one.result, Exception):
                raise one.result
            picture = settings.picture and len(outcome.done) < PICTURES
            remarks = write_prediction(targets[case.name], one.result, networks.labels, picture)
            if options.spread is not None:
                outcome.uncertain[case.name] = write_maps(settings.output / "uncertainty", one.result)
        except Exception as error:
            # The others should not wait for a fault of ours either; alone, the case shows its whole traceback.
            if not isinstance(error, MedsegError) and len(waiting) == 1:
                raise
            outcome.failed[case.name] = _told(case, error)
            say(f"{number}/{len(waiting)} {case.name}: failed")
            return
        outcome.done[case.name] = facts_of(one.result, remarks, one.seconds, targets[case.name])
        say(f"{number}/{len(waiting)} {case.name}: {one.seconds:.1f} s")
        for remark in remarks:
            say(f"    {remark}")

    before = len(outcome.done) + len(outcome.failed)
    with Bar() as bar:
        predict_cases(waiting, networks, options, bar, deliver, announce)


def _told(case: Case, error: Exception) -> str:
    if isinstance(error, MedsegError):
        return str(error)
    return f"Case '{case.name}': {type(error).__name__}: {error}. Predict this file alone to see more."


def _require_apart(cases: Sequence[Case], targets: Mapping[str, Path]) -> None:
    """Never write over an image."""
    images = {image.resolve() for case in cases for image in case.images}
    for target in targets.values():
        if target.resolve() in images:
            raise SettingsError(
                f"The labels would overwrite the image {target}. Choose another folder with output=DIR."
            )


def _earlier(settings: PredictSettings, networks: Networks, targets: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """What an earlier run with the same model and settings has finished. Raises SettingsError after another one."""
    present = {name: {"file": target.name} for name, target in targets.items() if target.is_file()}
    path = settings.output / "run.json"
    if not present:
        return {}
    record = RunRecord.load(path) if path.is_file() else None
    same = record is not None and record.facts.get("model") == networks.identity
    values = settings.model_dump(mode="json")
    if record is None or not same or any(record.settings.get(key) != values[key] for key in _DECISIVE):
        raise SettingsError(
            f"{settings.output} holds labels of another model or other settings, so skip_existing=true would mix them. "
            "Choose another folder with output=DIR, or leave skip_existing out to predict all cases anew."
        )
    return {name: record.facts.get("cases", {}).get(name, found) for name, found in present.items()}


def _say_what(networks: Networks, count: int, outcome: Outcomes, options: Options) -> None:
    folds = ", ".join(str(fold) for fold in networks.folds)
    flips = len(flip_sets(networks.mirror_axes, options.mirror))
    kept = f", {len(outcome.done)} of them done already" if outcome.done else ""
    say(
        f"{count} case(s){kept}; {networks.name}, fold(s) {folds}, {flips} flip(s) each, tiles "
        f"{'x'.join(map(str, networks.configuration.patch_size))} at step {options.step:g} on {options.device}"
    )
    for other in networks.beside:
        say(f"Averaged with {other.name}, fold(s) {', '.join(map(str, other.folds))}, as 'medseg select' has chosen")
    if networks.rules and options.postprocess:
        say(f"Post-processing: {len(networks.rules)} component rule(s) (postprocess=false leaves them out)")


def _record(
    settings: PredictSettings,
    words: Mapping[str, str],
    model: Model,
    networks: Networks,
    options: Options,
    outcome: Outcomes,
) -> None:
    sources = {name: "words" if name in words else "default" for name in PredictSettings.model_fields}
    facts = {
        "model": networks.identity,
        "model_folder": str(model.folder.resolve()),
        "input": str(settings.input.resolve()),
        "configuration": networks.name,
        "folds": list(networks.folds),
        "averaged_with": {other.name: list(other.folds) for other in networks.beside},
        "device": str(options.device),
        "mirror": options.mirror,
        "step": options.step,
        "estimated_memory_bytes": outcome.largest_memory,
        "cases": outcome.done,
        "failed": outcome.failed,
    }
    record_run(settings.output / "run.json", "predict", words, settings.model_dump(mode="json"), sources, facts)


def _conclude(settings: PredictSettings, cases: Sequence[Case], outcome: Outcomes) -> int:
    say(f"{len(outcome.done)} predicted, {len(outcome.failed)} failed; labels are in {settings.output}")
    files = {case.name: _file_of(case) for case in cases}
    for name, sentence in sorted(outcome.failed.items()):
        say(f"  - {sentence if name in sentence else f'{name}: {sentence}'}")
        if name in files and (settings.output / files[name]).exists():
            say(f"    {files[name]} in the output folder is from an earlier run.")
    return 2 if outcome.failed else 0
