"""Histograms that add up over sites give the planner what all cases in one place would."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.cases.dataset import Dataset
from medseg.cases.formats import read_dataset
from medseg.cases.labels import LabelTable
from medseg.cases.phantoms import load_recipe, make_phantom
from medseg.errors import PlanError, SiteError
from medseg.federation.coordinator import begin_run, plan_sites
from medseg.federation.histograms import LinearGrid, LogGrid, count_on, quantile
from medseg.federation.in_process import InProcess
from medseg.federation.messages import Request
from medseg.federation.planning import (
    DRAWS,
    EXTENT,
    HOUNSFIELD,
    SPACING,
    count_cases,
    pool_fingerprints,
    smallest_machine,
)
from medseg.federation.policy import SitePolicy
from medseg.federation.privacy.accounting import epsilon_rdp
from medseg.federation.privacy.certificate import Certificate
from medseg.federation.privacy.ledger import LEDGER, Ledger
from medseg.federation.privacy.settings import PrivacySettings
from medseg.federation.rounds import run_rounds
from medseg.federation.run_settings import RunSettings
from medseg.federation.site import Site
from medseg.images.formats import write_image, write_labels
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.intensities import merge_samples
from medseg.planning.measure import Measured, _channel, measure_case
from medseg.planning.plan import Machine, Plan
from medseg.planning.presets import load_preset
from medseg.planning.rules import make_plan

from tiny import TABLE, table_named, tiny_plan, write_tiny_dataset

CPU = Machine(device="cpu", memory_bytes=8_000_000_000, flops_per_second=4e10)


@pytest.mark.parametrize("grid", [SPACING, EXTENT, LinearGrid(0.01, 0.0, 1.0)])
@given(st.lists(st.floats(0.1, 1.0), min_size=1, max_size=40), st.sampled_from([0.5, 10, 50, 99.5]))
@settings(max_examples=30, deadline=None)
def test_quantiles_of_a_histogram_are_numpys_to_within_a_bin(grid, values, percent) -> None:
    true = np.percentile(values, percent)
    found = quantile(grid, count_on(grid, values), percent)
    width = grid.width if isinstance(grid, LinearGrid) else true * (grid.ratio - 1)
    assert abs(found - true) <= 1.01 * width


@pytest.mark.parametrize("value", [1.0, 0.75, 2.5, 0.5, 5.0, 1.25, 0.625, 1.0004])
def test_a_bin_stands_for_the_roundest_number_in_it(value: float) -> None:
    grid = LogGrid(1.01, 0.01, 10_000.0)
    assert grid.value_of(grid.bin_of(value)) == pytest.approx(round(value, 3))


def _central(measured: list[Measured], table: LabelTable, channels: tuple[str, ...]) -> Fingerprint:
    return Fingerprint(
        dataset="all",
        orientation="canonical",
        labels=("background", *table.names),
        channels=tuple(
            _channel(name, merge_samples([one.samples[i] for one in measured]), "all")
            for i, name in enumerate(channels)
        ),
        cases=tuple(one.case for one in measured),
        median_relative_volume=float(np.median([one.relative_volume for one in measured])),
    )


def _pooled(measured: list[Measured], table: LabelTable, channels: tuple[str, ...], random: np.random.Generator):
    """The same through four sites of random sizes."""
    parts = np.split(random.permutation(len(measured)), np.sort(random.integers(1, len(measured), 3)))
    counts = [
        count_cases([measured[i] for i in part], table, channels, [1.0] * len(part)) for part in parts if len(part)
    ]
    return pool_fingerprints("all", "canonical", channels, table, len(measured), counts)


def _is_equal(ours: Plan, central: Plan) -> bool:
    """Whether networks and preparation are the same, and measured numbers within their bins."""
    if (ours.axis_order, ours.default_configuration) != (central.axis_order, central.default_configuration):
        return False
    if set(ours.configurations) != set(central.configurations):
        return False
    for name, one in ours.configurations.items():
        other = central.configurations[name]
        same = ("dimensions", "patch_size", "batch_size", "batch_dice", "network")
        if any(getattr(one, key) != getattr(other, key) for key in same):
            return False
        if not np.allclose(one.spacing, other.spacing, rtol=0.011):
            return False
        if not np.allclose(one.median_shape, other.median_shape, rtol=0.021, atol=0.51):
            return False
    for one, other in zip(ours.channels, central.channels, strict=True):
        if (one.normalisation, one.masked) != (other.normalisation, other.masked):
            return False
        numbers = ("clip_low", "clip_high", "mean", "std")
        if one.normalisation == "ct" and not np.allclose(
            [getattr(one, key) for key in numbers], [getattr(other, key) for key in numbers], atol=1.5
        ):
            return False
    return ours.training == central.training


def _equal_plans(measured: list[Measured], table: LabelTable, channels: tuple[str, ...], take: int) -> int:
    """On how many of ten random draws of the cases, dealt to four sites, the plans are equal."""
    preset, equal = load_preset("default"), 0
    for seed in range(10):
        random = np.random.default_rng(seed)
        drawn = [measured[i] for i in random.choice(len(measured), take, replace=False)]
        central = make_plan(_central(drawn, table, channels), table, preset, CPU, 600)
        ours = make_plan(_pooled(drawn, table, channels, random), table, preset, CPU, 600)
        equal += _is_equal(ours, central)
    return equal


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Measured], Dataset]:
    """Sixteen small abdomens from scanners of many spacings, measured."""
    from medseg.cases.case import Case

    folder, random = tmp_path_factory.mktemp("phantoms"), np.random.default_rng(0)
    recipe = load_recipe()
    cases = []
    for number in range(16):
        spacing = tuple(float(round(s, 2)) for s in np.array([10, 9, 9]) * random.uniform(0.8, 1.4, 3))
        image, labels = make_phantom(recipe.model_copy(update={"spacing": spacing}), number)
        case = Case(f"case_{number:02d}", (folder / f"images/{number}.nii.gz",), folder / f"labels/{number}.nii.gz")
        write_image(case.images[0], image.array, image)
        write_labels(folder / f"labels/{number}.nii.gz", labels.array, labels)
        cases.append(case)
    dataset = Dataset("all", recipe.channels, recipe.table, tuple(cases))
    return [measure_case(case, dataset, "canonical", DRAWS) for case in cases], dataset


def test_the_plan_is_that_of_all_cases_in_one_place_on_nine_of_ten_random_splits(phantoms) -> None:
    measured, dataset = phantoms
    assert _equal_plans(measured, dataset.labels, dataset.channels, 12) >= 9


def test_the_pooled_fingerprint_does_not_depend_on_how_cases_are_dealt_and_agrees_with_the_central_one(
    phantoms,
) -> None:
    measured, dataset = phantoms
    one, two = (_pooled(measured, dataset.labels, dataset.channels, np.random.default_rng(seed)) for seed in (1, 2))
    for name, counts in one.histograms.items():
        assert counts == pytest.approx(two.histograms[name]), name
    central = _central(measured, dataset.labels, dataset.channels)
    for percent in (10, 50):
        np.testing.assert_allclose(one.spacing_percentile(percent), central.spacing_percentile(percent), rtol=0.011)
        np.testing.assert_allclose(one.size_percentile(percent), central.size_percentile(percent), rtol=0.011, atol=0.5)
    for key in ("mean", "median", "std", "percentile_00_5", "percentile_99_5"):
        width = HOUNSFIELD.width
        assert getattr(one.channels[0], key) == pytest.approx(getattr(central.channels[0], key), abs=1.5 * width)
    for number, target in enumerate(dataset.labels.targets):
        share, holders = central.share_of(target, number)
        assert one.share_of(target, number) == (pytest.approx(share, rel=0.051), holders)


@pytest.mark.real
def test_the_plan_for_the_hippocampus_is_that_of_all_cases_in_one_place(real_data: Path) -> None:
    dataset = read_dataset(real_data / "hippocampus")
    measured = [measure_case(case, dataset, "canonical", 1000) for case in dataset.cases]
    assert _equal_plans(measured, dataset.labels, dataset.channels, 100) >= 9


def _site(folder: Path, name: str, first: int, machine: Machine | None = None, **policy: object) -> Site:
    from medseg.cases.formats import save_dataset

    save_dataset(write_tiny_dataset(folder / name, 5, first), folder / name / "dataset.yaml")
    rules = SitePolicy.model_validate({"min_count": 2, **policy})
    return Site(name, folder / name / "dataset.yaml", folder / "W" / name, rules, machine=machine)


def test_sites_are_planned_for_without_a_value_of_any_case_leaving_them(tmp_path: Path) -> None:
    small = Machine(device="cpu", memory_bytes=2_000_000_000, flops_per_second=1e10)
    transport = InProcess([_site(tmp_path, "east", 0, CPU), _site(tmp_path, "west", 10, small)])
    planned, pooled = plan_sites(transport, transport.sites(), "run", ("MR",), TABLE, load_preset("default"), 60, 10)
    assert pooled.count == 8  # four of five cases at each train
    assert planned.plan.machine.flops_per_second == 1e10
    assert planned.plan.machine.memory_bytes == 2_000_000_000
    assert planned.plan.configurations["3d_fullres"].spacing == (1.0, 1.0, 1.0)
    asked = Request("fingerprint", "run", 0, "", {"orientation": "canonical", "channels": ["MR"],
                    "labels": ["ball", "box"], "targets": ["ball", "box"]})  # fmt: skip
    reply = transport.members[0].answer(asked)
    assert b"case_" not in reply.to_bytes()
    assert all(set(np.unique(array)) <= {0.0, 1.0, 2.0, 3.0, 4.0} for array in reply.arrays.values())


def test_a_site_guards_what_it_counts(tmp_path: Path) -> None:
    site = _site(tmp_path, "east", 0)
    asked = Request("fingerprint", "run", 0, "", {"orientation": "canonical", "channels": ["MR"],
                    "labels": ["ball", "box"], "targets": ["ball", "box"]})  # fmt: skip
    few = replace(site, policy=SitePolicy(min_count=5)).answer(asked)
    assert (few.error, few.arrays) == ("too-few-cases", {})
    hidden = replace(site, policy=SitePolicy(min_count=2, suppress_below=3)).answer(asked)
    assert all(held in (0, 4) or held >= 3 for array in hidden.arrays.values() for held in np.unique(array))
    noisy = replace(site, policy=SitePolicy(min_count=2, fingerprint_noise=2.0))
    runs = (replace(asked, run=run) for run in ("run", "other"))
    first, second = (noisy.answer(one).arrays["spacing.z"] for one in runs)
    assert not np.array_equal(first, second)  # from the operating system, not from a seed
    assert (first - second).std() == pytest.approx(2 * np.sqrt(2), rel=0.15)
    other = replace(asked, header={**asked.header, "labels": ["box", "ball"]})
    assert site.answer(other).error == "other-labels"


def test_noised_histograms_are_paid_for_once_and_stand_in_the_certificate(tmp_path: Path) -> None:
    rules = {"fingerprint_noise": 6.0, "epsilon_budget": 10.0}
    site = _site(tmp_path, "east", 0, **rules)
    asked = Request("fingerprint", "run", 0, "", {"orientation": "canonical", "channels": ["MR"],
                    "labels": ["ball", "box"], "targets": ["ball", "box"]})  # fmt: skip
    reply = site.answer(asked)
    assert site.answer(asked).to_bytes() == reply.to_bytes()  # other noise would have to be paid for
    (entry,) = Ledger(site.folder / LEDGER).entries()
    # One patient has a mass of 1 in each of the histograms: they move by at most the root of their number.
    assert entry.charge.mechanism.noise_multiplier == pytest.approx(6 / np.sqrt(len(reply.arrays)))
    assert (entry.charge.purpose, entry.charge.mechanism.sample_rate) == ("fingerprint", 1.0)
    poor = replace(site, policy=site.policy.model_copy(update={"epsilon_budget": entry.epsilon * 1.1}))
    assert poor.answer(replace(asked, run="other")).error == "privacy-budget-spent"
    private = RunSettings(rounds=1, steps=1, privacy=PrivacySettings(mode="patient", noise_multiplier=3.0))
    transport = InProcess([site])
    begin_run(transport, tmp_path / "R", "run", tiny_plan(), TABLE, ["east"], "fedavg", private)
    assert run_rounds(transport, tmp_path / "R").status == "completed"
    certificate = Certificate.load(tmp_path / "R" / "privacy.json")
    (account,) = (one.account for one in certificate.sites)
    assert account.planning == entry.charge.mechanism
    assert certificate.epsilon == pytest.approx(account.epsilon_ever)
    assert certificate.epsilon > epsilon_rdp([account.mechanism], account.delta)
    assert not [text for text in certificate.outside if text.startswith("the plan")]


def test_histograms_of_another_form_and_of_nothing_are_refused(phantoms) -> None:
    measured, dataset = phantoms
    counts = count_cases(measured[:2], dataset.labels, dataset.channels, [1.0, 1.0])
    for bad in (
        {},
        counts | {"more": np.zeros(1)},
        counts | {"size.z": np.zeros(3)},
        counts | {"size.z": counts["size.z"] * np.nan},
    ):
        with pytest.raises(SiteError, match="bad-histograms"):
            pool_fingerprints("all", "canonical", dataset.channels, dataset.labels, 2, [bad])
    empty = {name: np.zeros_like(held) for name, held in counts.items()}
    with pytest.raises(PlanError, match="counted nothing"):
        pool_fingerprints("all", "canonical", dataset.channels, dataset.labels, 2, [empty])
    with pytest.raises(SiteError, match="bad-histograms"):
        pool_fingerprints("all", "canonical", ("MR",), table_named("a"), 2, [counts])


def test_the_smallest_machine_is_no_larger_than_any() -> None:
    gpu = Machine(device="cuda", memory_bytes=24_000_000_000, flops_per_second=1e13)
    assert smallest_machine([gpu, CPU]) == CPU
    assert smallest_machine([gpu, gpu.model_copy(update={"memory_bytes": 8})]).memory_bytes == 8
