"""``medseg dicom``: a folder of studies, a folder they arrive in, a port, or an archive; results as DICOM and more.

Beside a trained model: ``medseg dicom input=DIR output=results``
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medseg.commands.chosen import FoldChoice, chosen_folds
from medseg.commands.console import Bar, say
from medseg.commands.predict_uncertainty import judge_in, trust_in
from medseg.dicom.archive import Archive, Tls, archive_at
from medseg.dicom.formats import IMAGES_NOTE, Format
from medseg.errors import MedsegError, SettingsError
from medseg.files import write_text
from medseg.images.dicom import require_extra
from medseg.inference.options import DEFAULT_QUALITY, Options, Quality
from medseg.settings import Bytes, Seconds, Settings, build

if TYPE_CHECKING:
    from medseg.dicom.batch import Batch
    from medseg.dicom.study import Job
    from medseg.images.dicom.selection import SeriesRules
    from medseg.inference.model import Model, Networks
    from medseg.uncertainty.case import Trust

Allowed = Literal["gap", "variable_spacing", "tilted"]


class DicomSettings(Settings):
    """Settings of ``medseg dicom``."""

    output: Path
    """Folder for the results: one folder for each study, a report of all, no names of patients."""
    input: Path | None = None
    """A folder of studies, in whatever order and mess."""
    watch: Path | None = None
    """A folder that studies arrive in; keeps running, and processes each once it is complete."""
    listen: int | None = Field(default=None, gt=0, lt=65536)
    """A port that receives studies by C-STORE; keeps running like watch."""
    fetch: str | None = None
    """An archive to fetch studies from, AET@HOST:PORT (C-FIND, C-MOVE to the port of listen=) or a DICOMweb address."""
    query: dict[str, str] = Field(default_factory=dict)
    """Which studies to fetch, such as {"PatientID": "7", "StudyDate": "20260101-20260131"}."""
    send: str | None = None
    """An archive that gets the results, AET@HOST:PORT or a DICOMweb address."""
    model: Path | None = None
    """A bundle or a workspace; by default the workspace last used from here."""
    select: Path | None = None
    """Rules in YAML by which the series for each channel are chosen."""
    formats: tuple[Format, ...] = ("seg", "sr", "nifti", "csv", "png")
    """What is written of each study: seg, sr, rtstruct, pmap (entropy), nifti, csv, png."""
    segmentation: Literal["binary", "labelmap"] = "binary"
    """binary is read by every viewer; labelmap is smaller, and read by new ones."""
    allow: tuple[Allowed, ...] = ()
    """Irregular series that are interpolated instead of refused: gap, variable_spacing, tilted."""
    deidentify: bool = False
    """Results, and copies of their images beside them, by the basic profile of DICOM PS3.15."""
    configuration: str | None = None
    """2d, 3d_fullres, ...; by default the plan's own choice."""
    folds: FoldChoice = "all"
    """Whose networks are averaged, such as [0,1]; all takes every fold that is trained, full the one of every case."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    quality: Quality = DEFAULT_QUALITY
    """fast, balanced or best: how much work is done for a study."""
    mirror: bool | None = None
    """Average over mirror images as well (up to 8 times slower); by default as quality says."""
    step: float | None = Field(default=None, gt=0, le=1)
    """Distance of neighbouring tiles as a share of the patch; by default as quality says."""
    max_memory: Bytes | None = None
    """Memory that the program may use in all, such as 6GB; by default what the computer has free."""
    rate: float = Field(default=0.9, gt=0, lt=1)
    """After 'medseg calibrate': how often the interval that is told of a volume should hold the true one."""
    settle: Seconds = 30
    """A study is complete when nothing of it has changed for so long."""
    aet: str = Field(default="MEDSEG", min_length=1, max_length=16)
    """Our own AE title."""
    bind: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 for all, and then with callers= or tls."""
    callers: tuple[str, ...] = ()
    """AE titles that may send to us; all, if left out."""
    keep: Bytes = 20_000_000_000
    """How much of what was received stays on the disk; processed studies go first."""
    tls: Tls = Tls()


SETTINGS = (DicomSettings,)


def run(words: Mapping[str, str]) -> int:
    """Process studies; the exit code is 2 when one of them could not be processed."""
    settings = build(DicomSettings, words)
    _require_one_source(settings)
    _require_closed(settings)
    require_extra()
    from medseg.dicom.batch import Batch, locked
    from medseg.dicom.service import sending_to

    with locked(settings.output) as state:
        job = _job(settings, state)
        _note_images(settings)
        batch = Batch(settings.output, job)
        if settings.send is not None:
            batch.on_done = sending_to(_archive(settings, settings.send), settings.send)
        try:
            if settings.watch is not None or (settings.listen is not None and settings.fetch is None):
                return _keep_running(settings, batch)
            folder = settings.input if settings.input is not None else _fetched(settings)
            return _run_folder(folder, settings, batch)
        finally:
            if batch.records:
                batch.report()


def _note_images(settings: DicomSettings) -> None:
    """For 'medseg view': results do not hold the images. A path may tell a name: none with deidentify=true."""
    if not settings.deidentify:
        folder = settings.input or settings.watch or _received(settings)
        write_text(settings.output / IMAGES_NOTE, json.dumps({"folder": str(folder.resolve())}) + "\n")


def _require_closed(settings: DicomSettings) -> None:
    """Never receive from anybody who can reach the computer without having been told to."""
    is_local = settings.bind in {"127.0.0.1", "::1", "localhost"}
    if settings.listen is not None and not is_local and not settings.callers and not settings.tls.wanted:
        raise SettingsError(
            f"At bind={settings.bind} anybody in the network could send. Say who may with callers=[...], or use tls."
        )


def _require_one_source(settings: DicomSettings) -> None:
    given = [name for name in ("input", "watch", "listen", "fetch") if getattr(settings, name) is not None]
    if given in (["input"], ["watch"], ["listen"], ["fetch"], ["listen", "fetch"]):
        inside = settings.input or settings.watch
        if inside is not None and settings.output.resolve().is_relative_to(inside.resolve()):
            raise SettingsError(f"output={settings.output} lies in {inside}, so results would be taken for images.")
        return
    raise SettingsError(
        "Say where studies come from: input=DIR, watch=DIR, listen=PORT or fetch=ARCHIVE (with listen=PORT for C-MOVE)"
        + (f", but not {' and '.join(given)} together." if given else ".")
    )


def _job(settings: DicomSettings, state: Path) -> Job:
    from medseg.dicom.choosing import choose
    from medseg.dicom.deidentify import Pseudonyms
    from medseg.dicom.origin import Origin
    from medseg.dicom.study import Job
    from medseg.inference.bundle import open_model
    from medseg.inference.devices import choose_device

    model = open_model(settings.model)
    device = choose_device(settings.device)
    networks = model.load(settings.configuration, chosen_folds(settings.folds), device)
    rules = _rules(settings.select, [channel.name for channel in model.plan.channels])
    say(f"Model: {model.folder}, {networks.name}, checksum {networks.identity[:16]}")
    trust = None if model.calibration is None else _trust(model, networks, settings.rate)
    return Job(
        networks=networks,
        options=Options.of(
            settings.quality,
            device,
            settings.mirror,
            settings.step,
            max_memory=settings.max_memory,
            judge=judge_in(model, networks),
            scratch=state,
        ),
        origin=Origin(model.plan.dataset, networks.identity),
        formats=tuple(dict.fromkeys(settings.formats)),
        choose=partial(choose, rules=rules),
        rules=rules.content_hash(),
        kind="LABELMAP" if settings.segmentation == "labelmap" else "BINARY",
        pseudonyms=Pseudonyms.kept_in(state / "secret") if settings.deidentify else None,
        trust=trust,
    )


def _trust(model: Model, networks: Networks, rate: float) -> Trust:
    """The model's calibration; told where it does not reach."""
    trust = trust_in(model, networks, rate)
    short = [name for name, one in zip(trust.table.target_names, trust.limits, strict=True) if one.volume_low is None]
    if short:
        say(f"No interval for the volume of {', '.join(short)}: too few held-out cases for rate={rate:g}")
    return trust


def _rules(path: Path | None, channels: list[str]) -> SeriesRules:
    from medseg.images.dicom.selection import SeriesRules, default_rules

    if path is None:
        return default_rules(channels)
    rules = SeriesRules.load(path)
    rules.require_channels(channels)
    return rules


def _run_folder(folder: Path, settings: DicomSettings, batch: Batch) -> int:
    from medseg.dicom.study import studies_of
    from medseg.images.dicom.intake import take_in
    from medseg.images.dicom.verdict import Verdict

    with Bar() as bar:
        intake = take_in(folder, {Verdict(name) for name in settings.allow}, bar)
        if not settings.deidentify:
            intake.manifest.save(settings.output / "manifest.json")
        batch.count_files(intake.files)
        studies = studies_of(intake)
        if not studies:
            raise MedsegError(f"{folder} holds no DICOM images. What was found is in {settings.output}/manifest.json.")
        batch.run(studies, bar, alone=len(studies) == 1)
    report = batch.report()
    warnings = {line.name: one.warning for one in report.studies if one.warning for line in one.series if line.used_for}
    if warnings and not settings.deidentify:
        intake.manifest.warned(warnings).save(settings.output / "manifest.json")
    done = len(report.studies) - len(report.failed)
    earlier = f" ({len(report.earlier)} by an earlier run)" if report.earlier else ""
    say(f"{done} of {len(report.studies)} studies done{earlier}; see {settings.output / 'report.html'}")
    return 2 if report.failed else 0


def _fetched(settings: DicomSettings) -> Path:
    """Fetch what matches the query into the output folder's own store."""
    if not settings.query:
        raise SettingsError('Say which studies to fetch, such as query={"PatientID": "7"}.')
    folder = _received(settings)
    archive = _archive(settings, settings.fetch or "")
    studies = archive.find(settings.query)
    say(f"{len(studies)} studies match")
    if not studies:
        raise MedsegError(f"No study in {settings.fetch} matches {settings.query}.")
    for study in studies:
        count = archive.fetch(study, folder)
        if not count:
            raise MedsegError(f"{settings.fetch} sent nothing of a study it had found. Does it know {settings.aet}?")
    return folder


def _archive(settings: DicomSettings, address: str) -> Archive:
    return archive_at(address, settings.aet, settings.tls, (settings.bind, settings.listen or 11112))


def _received(settings: DicomSettings) -> Path:
    from medseg.dicom.batch import STATE

    return settings.output / STATE / "received"


def _keep_running(settings: DicomSettings, batch: Batch) -> int:
    """Watch a folder, or what is received, until somebody stops it."""
    from medseg.dicom.dimse import receiving
    from medseg.dicom.service import Service
    from medseg.images.dicom.verdict import Verdict

    folder = settings.watch or _received(settings)
    if settings.watch is not None and not folder.is_dir():
        raise MedsegError(f"There is no folder {folder}.")
    service = Service(
        folder,
        batch,
        settings.settle,
        {Verdict(name) for name in settings.allow},
        keep_bytes=settings.keep if settings.listen is not None else None,
        tell=say,
    )
    with ExitStack() as stack:
        if settings.listen is not None:
            where = (settings.bind, settings.listen)
            stack.enter_context(receiving(folder, settings.aet, where, settings.tls, settings.callers))
            say(f"Receiving as {settings.aet} at {settings.bind}:{settings.listen}")
        say(f"A study is processed {settings.settle:g} s after its last image. Ctrl-C ends it.")
        service.run()
    return 0
