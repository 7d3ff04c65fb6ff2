"""The held-out Cases of a workspace: which fold held each one out, and the networks that have not seen it.

Knows nothing of what they are used for ('medseg select' compares configurations on them, 'medseg calibrate' learns how
far probabilities can be trusted).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.cases.case import Case
from medseg.cases.formats import read_dataset
from medseg.commands.console import say
from medseg.errors import CheckpointError
from medseg.paths import Workspace

if TYPE_CHECKING:
    import torch

    from medseg.inference.model import Model, Networks


@dataclass(frozen=True)
class HeldOut:
    """Cases that every one of some configurations has held out."""

    workspace: Workspace
    model: Model
    cases: Mapping[str, Case]
    """By name, in ascending order."""
    folds: Mapping[str, Mapping[str, int]]
    """For each configuration the fold that held each Case out."""
    identities: Mapping[str, str]
    """What the networks of each configuration are."""

    def by_folds(
        self, names: Sequence[str], device: torch.device | str
    ) -> Iterator[tuple[list[Networks], tuple[int, ...], list[str]]]:
        """The named Cases in groups of the same folds, with the networks of every configuration that held them out."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for name in names:
            groups.setdefault(tuple(found[name] for found in self.folds.values()), []).append(name)
        for folds, members in groups.items():
            networks = [self.model.load(name, [fold], device) for name, fold in zip(self.folds, folds, strict=True)]
            yield networks, folds, members


def read_held_out(workspace: Workspace, configurations: Sequence[str] | None = None) -> HeldOut:
    """The Cases that all named (or all trained) configurations have held out.

    Raises CheckpointError where there are none; a configuration without any is left aside, which is said.
    """
    from medseg.inference.bundle import open_model
    from medseg.training.recipe import Recipe

    if not workspace.plan.is_file():
        raise CheckpointError(f"{workspace.folder} is no workspace; a bundle has no held-out cases.")
    model, dataset = open_model(workspace.folder), read_dataset(workspace.dataset)
    held_out: dict[str, dict[str, int]] = {}
    identities: dict[str, str] = {}
    for name in configurations or model.weights:
        numbered = [fold for fold in model.choose(name)[1] if isinstance(fold, int)]
        recipes = {fold: Recipe.load(workspace.fold(name, fold) / "recipe.json") for fold in numbered}
        if not any(recipe.validation_cases for recipe in recipes.values()):
            say(f"{name} has no fold that holds cases out; it is left aside.")
            continue
        held_out[name] = {case: fold for fold, recipe in recipes.items() for case in recipe.validation_cases}
        identities[name] = model.load(name, numbered).identity
    if not held_out:
        raise CheckpointError(
            f"{workspace.folder} has no trained fold with held-out cases. Run 'medseg train fold=all'."
        )
    known = {case.name: case for case in dataset.cases}
    shared = set(known).intersection(*held_out.values())
    if not shared:
        raise CheckpointError(
            f"No case is held out by all of {', '.join(held_out)}, so they can't be used together. Train the same "
            "folds of each, or name some with configurations=."
        )
    for name, found in held_out.items():
        say(f"{name}: fold(s) {', '.join(map(str, sorted(set(found.values()))))}, {len(found)} held-out cases")
    if shared < set(known):
        say(f"Used are the {len(shared)} of {len(known)} cases that every configuration has held out.")
    return HeldOut(workspace, model, {name: known[name] for name in sorted(shared)}, held_out, identities)
