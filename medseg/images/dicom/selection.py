"""Which series of a study is which channel of a model: rules in YAML, and the choice with its runners-up.

Knows no pixels and no model. A rule that is left out allows everything; of several series that fit, the first by
``prefer`` is taken. Localizers, projections and pictures of a screen are taken only where a rule allows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from medseg.documents import Document, Record
from medseg.errors import DatasetError, MedsegError
from medseg.images.dicom.manifest import ChannelChoice, Passed
from medseg.images.dicom.series import Series

Plane = Literal["axial", "coronal", "sagittal", "oblique"]
Preference = Literal["most_slices", "fewest_slices", "thinnest_slices", "thickest_slices", "first", "last"]
_DOUBTFUL = ("localizer", "projection", "secondary_capture", "burned_in")
_PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")
_OBLIQUE_DEGREES = 30.0
"""A normal further than this from every axis of the patient is oblique."""


class ChannelRule(Record):
    """What the series for one channel has to be."""

    channel: str
    """The model's name for it."""
    modality: str | None = None
    """As in the header, such as CT, MR or PT."""
    description: str | None = None
    """A regular expression that is found in SeriesDescription (ProtocolName without one), whatever the case."""
    not_description: str | None = None
    """One that is not found there."""
    image_type: tuple[str, ...] = ()
    """Values that ImageType has to hold, such as ORIGINAL."""
    orientation: tuple[Plane, ...] = ()
    """Of the slices; any of these."""
    slices: tuple[int, int] | None = None
    """Fewest and most."""
    slice_spacing_mm: tuple[float, float] | None = None
    """Least and largest distance of slices."""
    pixel_spacing_mm: tuple[float, float] | None = None
    """Least and largest distance of rows and of columns."""
    contrast: bool | None = None
    """Whether the header names a contrast agent."""
    allow_flags: tuple[str, ...] = ()
    """Of localizer, projection, secondary_capture, burned_in: what is taken nevertheless."""
    prefer: tuple[Preference, ...] = Field(default=("most_slices", "thinnest_slices", "first"), min_length=1)
    """Which of several is taken; first and last are by SeriesNumber."""

    @field_validator("description", "not_description")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return pattern


class SeriesRules(Document):
    """A rule for each channel, in the model's order."""

    kind: ClassVar[str] = "series_rules"
    error: ClassVar[type[MedsegError]] = DatasetError

    channels: tuple[ChannelRule, ...] = Field(min_length=1)

    def require_channels(self, names: Sequence[str]) -> None:
        """Raise DatasetError unless there is a rule for each of a model's channels, in their order."""
        own = [rule.channel for rule in self.channels]
        if own != list(names):
            raise DatasetError(
                f"The rules name the channels {', '.join(own)}, but the model takes, in this order, {', '.join(names)}."
            )


def default_rules(channels: Sequence[str]) -> SeriesRules:
    """What is asked of a series where the user has no rules: nothing, so that a single channel takes what there is."""
    return SeriesRules(channels=tuple(ChannelRule(channel=name) for name in channels))


def choose_series(series: Sequence[Series], rules: SeriesRules) -> tuple[list[Series], tuple[ChannelChoice, ...]]:
    """A series of one study for each channel, in the order of the rules; and what was passed over, for the manifest.

    No series serves two channels: a rule that comes earlier chooses first. Raises DatasetError where a channel has no
    series, saying of each why it does not fit.
    """
    chosen: list[Series] = []
    choices: list[ChannelChoice] = []
    for rule in rules.channels:
        left = [one for one in series if one not in chosen]
        reasons = {one.name: misfit(one, rule) for one in left}
        fitting = sorted((one for one in left if not reasons[one.name]), key=lambda one: _rank(one, rule))
        unfit = tuple(Passed(series=one.name, reason=reasons[one.name]) for one in left if reasons[one.name])
        if not fitting:
            # By hashed names: what a description says may name the patient, and this sentence goes into logs.
            told = "; ".join(f"{one.name} ({one.modality}): {reasons[one.name]}" for one in left[:8])
            raise DatasetError(f"No series fits the channel '{rule.channel}'. {told or 'There is none left'}.")
        chosen.append(fitting[0])
        runners_up = tuple(Passed(series=one.name, reason=_behind(fitting[0], one, rule)) for one in fitting[1:])
        choices.append(ChannelChoice(channel=rule.channel, series=fitting[0].name, runners_up=runners_up, unfit=unfit))
    return chosen, tuple(choices)


def misfit(series: Series, rule: ChannelRule) -> str:
    """Why a series is not what the rule asks for; empty where it is."""
    z, y, x = series.spacing or (0.0, 0.0, 0.0)
    shown = series.description
    checks: tuple[tuple[bool, str], ...] = (
        (rule.modality in (None, series.modality), f"its modality is {series.modality}, not {rule.modality}"),
        (_found(rule.description, shown), f"'{rule.description}' is not found in its description"),
        (not rule.not_description or not _found(rule.not_description, shown), f"'{rule.not_description}' is found"),
        (set(rule.image_type) <= set(series.image_type), f"its ImageType is {'/'.join(series.image_type)}"),
        (not rule.orientation or plane_of(series) in rule.orientation, f"it is {plane_of(series)}"),
        (_within(float(len(series.slices)), rule.slices), f"it has {len(series.slices)} slices"),
        (_within(z, rule.slice_spacing_mm), f"its slices are {z:g} mm apart"),
        (_within(y, rule.pixel_spacing_mm) and _within(x, rule.pixel_spacing_mm), f"its pixels are {y:g} x {x:g} mm"),
        (rule.contrast in (None, series.has_contrast), "with contrast" if series.has_contrast else "without contrast"),
    )
    return next((why for is_so, why in checks if not is_so), doubts_about(series, rule.allow_flags))


def doubts_about(series: Series, allowed: Collection[str] = ()) -> str:
    """Why nobody should take a series for an examination without saying so; empty where nothing speaks against it."""
    return ", ".join(flag for flag in _DOUBTFUL if flag in series.flags and flag not in allowed)


def plane_of(series: Series) -> Plane:
    """By the normal of its slices."""
    if series.geometry.affine is None:
        return "oblique"
    _, column, row = series.geometry.affine[:3, :3].T
    normal = np.abs(np.cross(row, column))
    nearest = int(normal.argmax())
    cosine = float(normal[nearest] / np.linalg.norm(normal))
    return _PLANES[nearest] if cosine >= np.cos(np.radians(_OBLIQUE_DEGREES)) else "oblique"


def _within(value: float, limits: Sequence[Any] | None) -> bool:
    return limits is None or limits[0] <= value <= limits[1]


def _found(pattern: str | None, text: str) -> bool:
    return pattern is None or re.search(pattern, text, re.IGNORECASE) is not None


_KEYS: dict[Preference, Callable[[Series], float]] = {
    "most_slices": lambda one: -len(one.slices),
    "fewest_slices": lambda one: len(one.slices),
    "thinnest_slices": lambda one: (one.spacing or (0.0,))[0],
    "thickest_slices": lambda one: -(one.spacing or (0.0,))[0],
    "first": lambda one: one.number or 0,
    "last": lambda one: -(one.number or 0),
}


def _rank(series: Series, rule: ChannelRule) -> tuple[Any, ...]:
    return (*(_KEYS[preference](series) for preference in rule.prefer), series.uid, series.part)


def _behind(best: Series, other: Series, rule: ChannelRule) -> str:
    decisive = (preference for preference in rule.prefer if _KEYS[preference](best) != _KEYS[preference](other))
    return f"prefer: {next(decisive, 'alike, and behind in the order of UIDs')}"
