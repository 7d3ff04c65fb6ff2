"""A site's training is that of ``medseg train``, pulled where FedProx and SCAFFOLD say so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from medseg.errors import SiteError
from medseg.federation.anchored_loss import AnchoredLoss, require_no_batch_statistics
from medseg.federation.coordinator import evaluate_at, final_weights, prepare_sites
from medseg.federation.in_process import InProcess
from medseg.federation.messages import Request, hash_arrays
from medseg.federation.policy import SitePolicy
from medseg.federation.rounds import run_rounds
from medseg.federation.run_settings import RunSettings
from medseg.federation.run_state import RunState
from medseg.federation.site import Site
from medseg.federation.site_run import SiteRun
from medseg.federation.start import first_weights
from medseg.training.fold import new_network
from medseg.training.portion import train_portion

from .conftest import NAMES, begun, make_site
from tiny import TABLE, tiny_plan, tiny_recipe


class _Plain(nn.Module):
    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (logits - labels).square().mean()


def _gradient(loss: nn.Module, weights: nn.Parameter) -> torch.Tensor:
    weights.grad = None
    loss(weights * 2, torch.ones(3)).backward()
    assert weights.grad is not None
    return weights.grad.clone()


def test_fedprox_adds_mu_times_the_distance_to_the_gradient() -> None:
    weights = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    loss = AnchoredLoss(_Plain(), {"w": weights}, 0.3, {})
    moved = torch.tensor([0.5, 0.0, -1.0])
    with torch.no_grad():
        weights += moved
    torch.testing.assert_close(_gradient(loss, weights), _gradient(_Plain(), weights) + 0.3 * moved)
    distance = loss(weights * 2, torch.ones(3)) - _Plain()(weights * 2, torch.ones(3))
    torch.testing.assert_close(distance, 0.3 / 2 * moved.square().sum())  # squared, once over all tensors


def test_scaffold_adds_its_correction_to_the_gradient() -> None:
    weights, slope = nn.Parameter(torch.tensor([1.0, -2.0, 3.0])), torch.tensor([0.1, 0.2, -0.3])
    loss = AnchoredLoss(_Plain(), {"w": weights}, 0.0, {"w": slope})
    torch.testing.assert_close(_gradient(loss, weights), _gradient(_Plain(), weights) + slope)


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm3d(4),
        nn.BatchNorm3d(4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.InstanceNorm3d(4, track_running_stats=True),
        nn.SyncBatchNorm(4),
    ],
)
def test_a_network_that_counts_batches_is_refused(layer: nn.Module) -> None:
    with pytest.raises(SiteError, match="batch-statistics"):
        require_no_batch_statistics(nn.Sequential(nn.Conv3d(1, 4, 3), nn.Sequential(layer)))
    require_no_batch_statistics(nn.Sequential(nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4), nn.GroupNorm(2, 4)))


def test_a_training_in_portions_ends_in_the_bytes_of_one_in_a_piece(sites: list[Site], tmp_path: Path) -> None:
    begun(InProcess(sites[:1]), tmp_path / "R")
    state, _ = RunState.found(tmp_path / "R")
    run = SiteRun.begun(sites[0], Request("train", "run", 1, state.plan_sha256))
    recipe, fabric = run.recipe(RunSettings(rounds=2, steps=2)), Fabric(accelerator="cpu", devices=1)
    start = new_network(recipe).state_dict()
    whole = train_portion(fabric, recipe, run.prepared, start, {}, 0, 4)
    first = train_portion(fabric, recipe, run.prepared, start, {}, 0, 2)
    second = train_portion(fabric, recipe, run.prepared, first.weights, first.optimizer, 2, 4)
    for name, value in whole.weights.items():
        assert torch.equal(second.weights[name], value), name


def test_one_site_alone_learns_what_it_would_without_a_federation(sites: list[Site], tmp_path: Path) -> None:
    begun(InProcess(sites[:1]), tmp_path / "R", steps=2)
    first = final_weights(tmp_path / "R")
    state = run_rounds(InProcess(sites[:1]), tmp_path / "R")
    run = SiteRun.begun(sites[0], Request("train", "run", 1, state.plan_sha256))
    start = {name: torch.from_numpy(array) for name, array in first.items()}
    fabric = Fabric(accelerator="cpu", devices=1)
    alone = train_portion(fabric, run.recipe(state.settings), run.prepared, start, {}, 0, 4)
    for name, array in final_weights(tmp_path / "R").items():
        if not name.endswith(
            "conv.bias"
        ):  # taken away by the norm behind it: its gradient is rounding, and Adam's step
            np.testing.assert_allclose(array, alone.weights[name].numpy(), atol=1e-5, err_msg=name)


def test_several_equal_sites_learn_what_one_does(hospitals: dict[str, Path], tmp_path: Path) -> None:
    ends = []
    for count in (1, 3):
        # Patches follow from a site's name, so equal sites are called alike to themselves and not to the coordinator.
        same = [make_site("same", hospitals["east"], tmp_path / f"{count}-{number}") for number in range(count)]
        transport = _Renamed(same)
        begun(transport, tmp_path / f"R{count}", steps=1)
        run_rounds(transport, tmp_path / f"R{count}")
        ends.append(final_weights(tmp_path / f"R{count}"))
    for name in (name for name in ends[0] if not name.endswith("conv.bias")):
        np.testing.assert_allclose(ends[1][name], ends[0][name], atol=1e-6)


class _Renamed(InProcess):
    def sites(self) -> tuple[str, ...]:
        return tuple(f"site-{number}" for number in range(len(self.members)))

    def exchange(self, requests, deadline_s, enough=None):
        found = {name: self.members[int(name[5:])].answer(request) for name, request in requests.items()}
        return {name: replace(reply, site=name) for name, reply in found.items()}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"plan_sha256": "0" * 64}, "other-plan"),
        ({"run": "other"}, "not-prepared"),
        ({"round": 9}, "bad-round"),
        ({"header": {"settings": {"rounds": "many"}}}, "bad-settings"),
        ({"arrays": {}}, "bad-weights"),
    ],
)
def test_a_site_refuses_by_a_code_what_does_not_fit_its_run(
    sites: list[Site], tmp_path: Path, change: dict, code: str
) -> None:
    state = begun(InProcess(sites[:1]), tmp_path / "R")
    arrays = {f"weights.{name}": array for name, array in first_weights(tiny_plan(), TABLE).items()}
    header = {"settings": state.settings.model_dump(mode="json")}
    request = replace(Request("train", "run", 1, state.plan_sha256, header, arrays), **change)
    reply = sites[0].answer(request)
    assert (reply.error, reply.arrays) == (code, {})


def test_a_model_is_scored_where_enough_is_held_out_and_nowhere_else(
    hospitals: dict[str, Path], sites: list[Site], tmp_path: Path
) -> None:
    few = replace(sites[1], policy=SitePolicy(min_count=2))  # one case of five is held out
    outside = make_site("west", hospitals["west"], tmp_path / "outside", actions=("prepare", "evaluate"))
    transport = InProcess([sites[0], few, outside])
    state = begun(InProcess(sites[:1]), tmp_path / "R")
    prepare_sites(transport, transport.sites(), "run", tiny_plan(), TABLE, 1)
    weights = final_weights(tmp_path / "R")
    replies = evaluate_at(transport, transport.sites(), state, [weights], 1)
    assert {name: reply.header["cases"] for name, reply in replies.items()} == {"east": 1, "north": 1, "west": 5}
    assert replies["north"].header["dice"] is None
    assert isinstance(replies["west"].header["dice_low"], float)
    both = evaluate_at(transport, ["east"], state, [weights, weights], 1)
    assert both["east"].header == replies["east"].header  # the average of a network and itself
    assert b"case_" not in replies["west"].to_bytes()


def test_what_is_kept_local_never_leaves_and_is_used_at_its_site(sites: list[Site], tmp_path: Path) -> None:
    seen: list[str] = []

    class Listening(InProcess):
        def exchange(self, requests, deadline_s, enough=None):
            replies = super().exchange(requests, deadline_s, enough)
            seen.extend(name for message in (*requests.values(), *replies.values()) for name in message.arrays)
            return replies

    transport = Listening(sites[:2])
    begun(transport, tmp_path / "R", "personalised", keep_local="head")
    state = run_rounds(transport, tmp_path / "R")
    assert seen
    assert not [name for name in seen if "heads" in name]
    kept = [SiteRun.begun(site, Request("train", "run", 1, state.plan_sha256)).state_before(9) for site in sites[:2]]
    heads = [{n: t.numpy() for n, t in one.items() if n.startswith("private.")} for one in kept]
    assert all(heads)
    assert hash_arrays(heads[0]) != hash_arrays(heads[1])
    replies = evaluate_at(transport, ["east", "north"], state, [final_weights(tmp_path / "R")], 1)
    assert {reply.error for reply in replies.values()} == {None}


def test_the_recipes_of_two_sites_draw_other_patches(sites: list[Site], tmp_path: Path) -> None:
    state = begun(InProcess(sites), tmp_path / "R")
    asked = Request("train", "run", 1, state.plan_sha256)
    seeds = {SiteRun.begun(site, asked).recipe(state.settings).training.seed for site in sites}
    assert len(seeds) == len(NAMES)
    assert tiny_recipe().training.seed not in seeds


def test_a_run_of_the_same_name_under_another_plan_begins_anew(sites: list[Site], tmp_path: Path) -> None:
    transport = InProcess(sites[:1])
    begun(transport, tmp_path / "R", "personalised", rounds=1)
    run_rounds(transport, tmp_path / "R")
    folder = sites[0].folder / "runs" / "run"
    assert [*folder.glob("state_*")] and [*folder.glob("reply_*")]
    prepare_sites(transport, ["east"], "run", tiny_plan(), TABLE, 1)
    assert [*folder.glob("state_*")]  # the same plan: what stays at the site is kept
    prepare_sites(transport, ["east"], "run", tiny_plan(batch_size=1), TABLE, 1)
    assert not [*folder.glob("state_*"), *folder.glob("reply_*")]
