"""A trained model's weights as the start of another training (``init_from``): which fold, and what fits.

Knows nothing of words or workspaces. How tensors are matched is ``medseg.networks.transfer``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from medseg.cases.labels import LabelTable
from medseg.errors import CheckpointError
from medseg.inference.model import Fold, Model, described_weights
from medseg.networks.transfer import Ends, Transferred, transfer
from medseg.planning.plan import ConfigurationPlan
from medseg.training.fold import new_network
from medseg.training.recipe import Recipe


def choose_source(
    model: Model, recipe: Recipe, configuration: str | None = None, fold: Fold | None = None
) -> tuple[str, Fold]:
    """The asked configuration and fold of a model, else those that are called as the Recipe's, else its own choice.

    Raises CheckpointError that names what there is.
    """
    if configuration is None and recipe.configuration_name in model.weights:
        configuration = recipe.configuration_name
    name, folds = model.choose(configuration, None if fold is None else [fold])
    return name, recipe.fold if fold is None and recipe.fold in folds else folds[0]


def transferred_weights(
    recipe: Recipe, channels: Sequence[str], labels: LabelTable, model: Model, configuration: str, fold: Fold
) -> Transferred:
    """The first weights of a Recipe's network, taken from a fold of a model as far as they fit.

    ``channels`` are the names of the Plan's channels. Raises CheckpointError when nothing fits.
    """
    fresh = new_network(recipe).state_dict()
    return fitting_weights(recipe.configuration, fresh, channels, labels, model, configuration, fold)


def fitting_weights(
    planned: ConfigurationPlan,
    fresh: Mapping[str, Tensor],
    channels: Sequence[str],
    labels: LabelTable,
    model: Model,
    configuration: str,
    fold: Fold,
) -> Transferred:
    """The ``fresh`` weights of a planned network with all that a fold of a model has for it.

    Raises CheckpointError when nothing fits.
    """
    path = model.weights[configuration][fold]
    if path.suffix == ".onnx":
        raise CheckpointError(
            f"{path} is an exported graph, which can't be trained on. Give the bundle or workspace it was made from."
        )
    state, description = described_weights(path)
    known = _ends([channel.name for channel in model.plan.channels], model.labels, description.configuration)
    if description.restores:
        known = Ends(known.channels, tuple(f"restored {name}" for name in description.restores))
    wanted = _ends(channels, labels, planned)
    found = transfer(state, known, fresh, wanted)
    if not found.fits:
        theirs, ours = description.configuration.network, planned.network
        raise CheckpointError(
            f"Nothing of {path} fits the network to be trained: its stages have {list(theirs.features)} features and "
            f"kernels {[list(kernel) for kernel in theirs.kernels]}, those of the plan {list(ours.features)} and "
            f"{[list(kernel) for kernel in ours.kernels]}. Set network.features and network.kernels to the model's, or "
            "train without init_from."
        )
    return found


def _ends(channels: Sequence[str], labels: LabelTable, configuration: ConfigurationPlan) -> Ends:
    """In a cascade every structure of the configuration before is a channel as well."""
    before = configuration.previous
    masks = tuple(f"{before}: {name}" for name in labels.names) if before else ()
    regions = tuple(region.name for region in labels.regions)
    return Ends(channels=(*channels, *masks), outputs=regions or ("background", *labels.names))
