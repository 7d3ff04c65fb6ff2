"""How much a federated model gives away of who was trained on: each site attacks the model with its own cases.

For simulations and for a site's own eyes: losses of training patients are outside of every epsilon and leave no site.
Knows nothing of how the model was protected. The attack is ``medseg.federation.privacy.membership``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning_fabric
import numpy as np
import torch

from medseg.federation.coordinator import final_weights
from medseg.federation.privacy.membership import Membership, membership_auc
from medseg.federation.run_state import RunState
from medseg.federation.site import Site
from medseg.federation.site_run import SiteRun
from medseg.federation.site_train import merged_weights
from medseg.planning.plan import AugmentationPlan, Plan
from medseg.training.augment import augment_batch
from medseg.training.fold import new_loss, new_network
from medseg.training.patches import PatchDataset
from medseg.training.recipe import Recipe

_PATCHES = 4
"""Of each case; a mean over more would tell members apart a little better."""


def attack_run(sites: Sequence[Site], folder: Path) -> Membership:
    """Training cases against held-out ones of the same sites, by the final model of the run in ``folder``.

    Raises MedsegError where no site holds a case out.
    """
    state, _ = RunState.found(folder)
    weights, inside, outside = final_weights(folder), list[float](), list[float]()
    plan = Plan.load(folder / "plan.yaml")
    for site in sites:
        run = SiteRun(site, state.run, plan)
        recipe = run.recipe(state.settings)
        known = merged_weights(recipe, state.settings, weights, run.state_before(state.settings.rounds + 1))
        fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
        members, strangers = (
            _losses(fabric, recipe, run.prepared, known, names)
            for names in (recipe.training_cases, recipe.validation_cases)
        )
        # Sites are unlike each other: what counts is who has the smaller loss at the same one.
        middle = float(np.median([*members, *strangers]))
        inside += [loss - middle for loss in members]
        outside += [loss - middle for loss in strangers]
    return membership_auc(inside, outside)


@torch.no_grad()
def _losses(
    fabric: lightning_fabric.Fabric,
    recipe: Recipe,
    prepared: Path,
    weights: Mapping[str, torch.Tensor],
    cases: Sequence[str],
) -> list[float]:
    """Mean loss of each case over some of its patches, as they are."""
    switches = {name: False for name, field in AugmentationPlan.model_fields.items() if field.annotation is bool}
    training = recipe.training.model_copy(
        update={"augmentation": recipe.training.augmentation.model_copy(update=switches)}
    )
    configuration = recipe.configuration.model_copy(update={"batch_size": _PATCHES})
    plain = recipe.model_copy(update={"training": training, "configuration": configuration})
    network, loss = new_network(plain), new_loss(plain)
    network.load_state_dict(weights)
    network.to(fabric.device).eval()
    found = []
    for case in cases:
        images, labels = fabric.to_device(PatchDataset(prepared, [case], plain)[0])
        images, labels = augment_batch(
            images, labels, configuration, training, 0, outside=plain.labels.outside_index, rgb=plain.rgb
        )
        found.append(float(loss(network(images), labels)))
    return found
