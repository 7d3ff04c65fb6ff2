"""``medseg compare``: train several networks or losses alike, and say which is better by more than chance.

Two networks on a CPU after ``medseg plan``: ``medseg compare networks=[unet,attention_unet] iterations=200``
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from medseg.commands.compare_trials import Comparison, Member, members_of, require_same, train_member
from medseg.commands.console import Bar, say, table
from medseg.commands.train import prepare
from medseg.commands.train_job import read_job
from medseg.errors import SettingsError
from medseg.evaluation.trials import Trials
from medseg.planning.losses import parse_loss, write_loss
from medseg.planning.plan import ConfigurationName
from medseg.settings import Seconds, Settings, build


class CompareSettings(Settings):
    """Settings of ``medseg compare``."""

    networks: tuple[str, ...] = ()
    """Which to compare ('medseg info' lists them), such as [unet,attention_unet]; all under the plan's patch, batch,
    widths and strides."""
    losses: str = ""
    """Or which losses: [dice_ce,tversky,dice_ce+0.5*boundary]."""
    reference: str | None = None
    """With which the others are compared; by default the first."""
    workspace: Path | None = None
    """A folder that 'medseg plan' has written; by default the one last used from here."""
    configuration: ConfigurationName | None = None
    """2d, 3d_fullres, ...; by default the plan's own choice."""
    fold: int = 0
    """Which fold is held out."""
    seeds: tuple[int, ...] = (1,)
    """Each is a training of every choice; cases are averaged over them."""
    iterations: PositiveInt | None = None
    """Optimizer steps of each training; wins over budget."""
    budget: Seconds | None = None
    """Or time for each training; by default what the plan says."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    restart: bool = False
    """Delete an earlier comparison; without it an interrupted one goes on, and further choices or seeds join it."""
    output: Path | None = None
    """Where it is kept; by default the workspace's folder comparison/networks or comparison/losses."""


SETTINGS = (CompareSettings,)


def run(words: Mapping[str, str]) -> None:
    """Train what is not trained yet, measure it, and write ``comparison.json``, ``.csv``, ``.md`` and a picture."""
    settings = build(CompareSettings, words)
    comparison = _read(settings)
    members = members_of(comparison)
    if settings.restart and comparison.folder.exists():
        shutil.rmtree(comparison.folder)
    require_same(comparison)
    with Bar() as bar:
        prepare(comparison.job, [settings.fold], bar)
        try:
            for place, member in enumerate(members, start=1):
                bar.note(f"[{place} of {len(members)}] {member.choice}, seed {member.seed}")
                train_member(comparison, member)
        finally:
            comparison.job.workspace.remember()  # not that of the training which ran last
        found = _measure(comparison, members, bar)
    _write(comparison, found)
    _show(comparison, found)


def _read(settings: CompareSettings) -> Comparison:
    if bool(settings.networks) == bool(settings.losses):
        raise SettingsError("Give the networks to compare or the losses: networks=[unet,light] or losses=[dice_ce,ce].")
    losses = tuple(write_loss(parse_loss(text)) for text in settings.losses.strip("[] ").split(",") if text.strip())
    choices = settings.networks or losses
    reference = settings.reference or choices[0]
    if len(set(choices)) < 2 or len(set(choices)) < len(choices):
        raise SettingsError(f"At least two different choices are compared, but given is {', '.join(choices)}.")
    if reference not in choices:
        raise SettingsError(f"reference={reference} is not among what is compared: {', '.join(choices)}.")
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise SettingsError(f"seeds should be different numbers, such as [1,2,3], not {list(settings.seeds)}.")
    named = {"workspace": settings.workspace, "configuration": settings.configuration, "fold": settings.fold}
    job = read_job({key: str(value) for key, value in named.items() if value is not None})
    if job.configuration.previous is not None:
        raise SettingsError(f"'{job.name}' is a cascade, which needs other trainings first; compare another one.")
    what: Literal["networks", "losses"] = "networks" if settings.networks else "losses"
    folder = settings.output or job.workspace.folder / "comparison" / what
    return Comparison(
        job=job,
        what=what,
        choices=choices,
        reference=reference,
        fold=settings.fold,
        seeds=settings.seeds,
        iterations=settings.iterations,
        budget=settings.budget,
        device=settings.device,
        folder=folder,
    )


def _measure(comparison: Comparison, members: list[Member], bar: Bar) -> Trials:
    from medseg.commands.compare_measure import measure

    return measure(comparison, members, bar)


def _write(comparison: Comparison, found: Trials) -> None:
    from medseg.evaluation.trial_pictures import draw_trials
    from medseg.evaluation.trials import write_table, write_trials

    found.save(comparison.folder / "comparison.json")
    write_trials(comparison.folder / "comparison.csv", found)
    write_table(comparison.folder / "comparison.md", found)
    draw_trials(comparison.folder / "comparison.png", found)


def _show(comparison: Comparison, found: Trials) -> None:
    from medseg.evaluation.trials import cost_rows, quality_rows

    seeds = f", {len(comparison.seeds)} seeds" if len(comparison.seeds) > 1 else ""
    title = f"{len(found.cases)} held-out cases of fold {found.fold}, {found.configuration}, {found.budget} each{seeds}"
    table(title, *quality_rows(found))
    table(f"What each costs ({found.device})", *cost_rows(found))
    better = [one.name for one in found.trials if one.metrics["dice"].is_better_than_chance]
    told = f"{', '.join(better)}: better than" if better else "None is better than"
    say(f"{told} {found.reference} by more than chance on these cases (Dice; p by Wilcoxon's test, Holm's correction).")
    say(f"Table, JSON and picture: {comparison.folder}")
