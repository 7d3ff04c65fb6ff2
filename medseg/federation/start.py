"""The weights with which a federated run begins: random ones, or as much of a trained model as fits the common plan.

Knows no sites. Which tensors fit, and how heads and channels of other names are joined, is said by
``medseg.networks.transfer``, as for ``medseg train init_from=``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medseg.cases.labels import LabelTable
from medseg.documents import Record
from medseg.errors import CheckpointError
from medseg.federation.anchored_loss import require_no_batch_statistics
from medseg.inference.bundle import open_model
from medseg.networks.build import build_network
from medseg.planning.plan import Plan
from medseg.training.start import fitting_weights


class StartOrder(Record):
    """A trained model that a run begins with."""

    model: str
    """Folder of a bundle or workspace."""
    configuration: str
    fold: int | str
    identity: str
    """Hash of the weights, so that a run that goes on does not begin with others."""


def choose_start(folder: Path) -> StartOrder:
    """The model's own configuration, and its first fold. Raises CheckpointError where it holds none."""
    model = open_model(folder)
    name, folds = model.choose()
    return StartOrder(
        model=str(model.folder.resolve()), configuration=name, fold=folds[0], identity=model.identity(name, folds[:1])
    )


def first_weights(plan: Plan, table: LabelTable, start: StartOrder | None = None) -> dict[str, np.ndarray]:
    """The weights before the first round: random ones that follow from the plan's seed, then what the start has.

    Raises SiteError where the network counts batches; CheckpointError where the start has changed, or nothing fits.
    """
    _, configuration = plan.configuration(None)
    torch.manual_seed(plan.training.seed)
    network = build_network(configuration.network, configuration.dimensions, len(plan.channels), table.outputs)
    require_no_batch_statistics(network)
    state: dict[str, Tensor] = network.state_dict()
    if start is not None:
        model = open_model(Path(start.model))
        name, folds = model.choose(start.configuration, [start.fold if start.fold == "full" else int(start.fold)])
        if model.identity(name, folds) != start.identity:
            raise CheckpointError(
                f"{start.model} is not the model any more with which the run was to begin: its weights have changed. "
                "Put the old ones back, or begin another run."
            )
        channels = [channel.name for channel in plan.channels]
        state = fitting_weights(configuration, state, channels, table, model, name, folds[0]).state
    return {name: value.detach().numpy().copy() for name, value in state.items()}
