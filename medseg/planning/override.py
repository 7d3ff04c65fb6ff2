"""Changes to a Plan by ``key=value`` words, checked like the Plan itself.

Knows nothing of why a value was planned; a changed value's reason says that the user set it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from medseg.documents import Record
from medseg.errors import SettingsError
from medseg.planning.architectures import architecture, require_possible
from medseg.planning.plan import ConfigurationPlan, Plan, TrainingPlan
from medseg.settings import build, read_value, require_known, setting_names

_BASE_FEATURES = "network.base_features"


_R = TypeVar("_R", bound=Record)


class NetworkShorthands(Record):
    """Words about the network that stand for others."""

    base_features: int
    """Channels of the first stage; the other stages keep their proportion to it."""


class Shorthands(Record):
    """Words that stand for several of the others."""

    network: NetworkShorthands


def override_plan(plan: Plan, configuration: str | None, words: Mapping[str, str]) -> Plan:
    """The Plan with dotted words (``patch_size``, ``network.features``, ``seed``) applied.

    Each goes to the configuration or to training, wherever its key belongs.

    ``configuration`` None is the Plan's default. ``network.base_features=16`` sets all features in proportion. Raises
    SettingsError naming the nearest key, or what does not fit; PlanError for an unknown configuration or network.
    """
    name, configured = plan.configuration(configuration)
    for key in words:
        require_known(key, [ConfigurationPlan, TrainingPlan, Shorthands])
    of_training = set(setting_names(TrainingPlan))
    for_training = {key: text for key, text in words.items() if key in of_training}
    for_network = {key: text for key, text in words.items() if key not in of_training and key != _BASE_FEATURES}
    if _BASE_FEATURES in words:
        if "network.features" in words:
            raise SettingsError("network.features and network.base_features set the same thing. Leave one out.")
        for_network["network.features"] = _features_in_proportion(configured, words[_BASE_FEATURES])
    changed = _apply(ConfigurationPlan, configured, for_network)
    require_possible(changed.network)
    reasons = dict(plan.reasons)
    reasons |= {f"configurations.{name}.{key}": f"set by the user: {key}={text}" for key, text in for_network.items()}
    reasons |= {f"training.{key}": f"set by the user: {key}={text}" for key, text in for_training.items()}
    if _BASE_FEATURES in words:
        word = f"{_BASE_FEATURES}={words[_BASE_FEATURES]}"
        reasons[f"configurations.{name}.network.features"] = f"set by the user: {word}"
    return plan.model_copy(
        update={
            "configurations": {**plan.configurations, name: changed},
            "training": _apply(TrainingPlan, plan.training, for_training),
            "reasons": reasons,
        }
    )


def with_network(plan: Plan, configuration: str, name: str) -> Plan:
    """The Plan with another network in one configuration: same patch, batch, widths, strides and kernels, and as many
    convolutions or blocks per stage as that network has. Raises PlanError for a network that can't be so."""
    configured = plan.configurations[configuration]
    encoder, decoder = architecture(name).counts(len(configured.network.features))
    changes = {"name": name, "encoder_convolutions": encoder, "decoder_convolutions": decoder}
    if name == configured.network.name:
        return plan
    network = configured.network.model_copy(update=changes)
    require_possible(network)
    reasons = {f"configurations.{configuration}.network.{key}": "chosen to be compared" for key in changes}
    changed = configured.model_copy(update={"network": network})
    return plan.model_copy(
        update={
            "configurations": {**plan.configurations, configuration: changed},
            "reasons": {**plan.reasons, **reasons},
        }
    )


def _apply(model: type[_R], now: _R, words: Mapping[str, str]) -> _R:
    return build(model, words, now.model_dump(mode="json")) if words else now


def _features_in_proportion(configured: ConfigurationPlan, text: str) -> str:
    width = read_value(text)
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise SettingsError(f"The setting '{_BASE_FEATURES}' (type int): give a whole number above 0, not {text!r}.")
    first = configured.network.features[0]
    return "[" + ",".join(str(round(f * width / first)) for f in configured.network.features) + "]"
