"""What patient-level privacy costs in Dice, and what it takes from an attacker, on the real hippocampus images.

Run from the project's folder, with the images of the Medical Segmentation Decathlon's Task04 in ``data=DIR``:
``python tests/benchmarks/federated_privacy.py data=/data/hippocampus output=federated_privacy_results``. Four sites of
unequal size have images of four imagined scanners; 40 further cases, of a fifth scanner, are public: the network's
first weights were trained on them, and the plan is fixed, so nothing outside of epsilon touches a private image. For
every seed (other cases at each site) the sites train on from these weights without privacy and with each epsilon, all
of the network or its norms and head; and with one noise for all sites under secure aggregation (``together=``). The
table has Dice of held-out cases, mean and spread over seeds, epsilon by both accountants, and the AUC with which losses
tell members from others. It writes ``results.json`` and ``results.md``; a seed that a killed run has finished is not
trained again. Words: ``seeds=3``, ``rounds=4``, ``steps=8``, ``public=60`` (iterations on public cases),
``epsilon=4,8,16``, ``together=8``, ``rate=0.25``, ``learning_rate=0.01``, ``server_rate=0.05``, ``processes=2``,
``scale=1`` (share of the sites' cases; less for a trial).
"""

import sys
import time
from pathlib import Path

import numpy as np

from trials import run_seeds

WORDS = {
    "data": "",
    "output": "federated_privacy_results",
    "seeds": "3",
    "rounds": "4",
    "steps": "8",
    "public": "60",
    "epsilon": "4,8,16",
    "together": "8",
    "server_rate": "0.05",
    "rate": "0.25",
    "learning_rate": "0.01",
    "processes": "2",
    "scale": "1",
}
SITES = {"north": (50, 6), "east": (35, 6), "south": (25, 6), "west": (18, 6)}
"""Cases for training and for testing."""
PUBLIC = 40


def dealt(dataset, words: dict[str, str], folder: Path, seed: int) -> dict[str, Path]:
    """The dataset.yaml of every site, and of the public cases; each as another scanner would show them."""
    from federated import write_site  # the benchmark beside this one

    order, found = [dataset.cases[i].name for i in np.random.default_rng(seed).permutation(len(dataset.cases))], {}
    for site, (trained, tested) in {**SITES, "elsewhere": (PUBLIC, 0)}.items():
        count = max(round(trained * float(words["scale"])), 6)
        own, order = order[: count + tested], order[count + tested :]
        found[site] = write_site(dataset, own, tested, site, "shifted", folder / "data" / site, seed)
    found["public"] = found.pop("elsewhere")
    return found


def plan_of(dataset, rate: float, seed: int):
    """A network of 7,000 parameters, trained as ``plans/federated_dp.yaml`` has it."""
    from federated import plan_of as small_plan  # the benchmark beside this one
    from medseg.planning.plan import AugmentationPlan, OptimizerPlan

    off = {name: False for name, field in AugmentationPlan.model_fields.items() if field.annotation is bool}
    training = {
        "seed": seed,
        "augmentation": AugmentationPlan(**off),
        "optimizer": OptimizerPlan(name="adamw", learning_rate=rate, weight_decay=0.0),
    }
    # A patient's gradient is his own: Dice over a batch would join patients.
    return small_plan(dataset, {"name": "light"}, 4, False, training)


def arms_of(words: dict[str, str]) -> dict[str, dict]:
    """Settings of the run by the name of the arm; every arm takes as many steps."""
    rounds, steps = int(words["rounds"]), int(words["steps"])
    common = {"sample_rate": float(words["rate"]), "patches": 2}
    arms: dict[str, dict] = {"no privacy": {"rounds": rounds, "steps": steps}}
    for trained in ("all", "norm_head"):
        for epsilon in words["epsilon"].split(","):
            private = {"mode": "patient", "epsilon": float(epsilon), "trained": trained, **common}
            arms[f"epsilon {epsilon}, {trained}"] = {"rounds": rounds, "steps": steps, "privacy": private}
    for epsilon in (one for one in words["together"].split(",") if one):
        # One noise for all sites together: a round is one step, and the server's rate is that of plain descent.
        private = {"mode": "secure_patient", "epsilon": float(epsilon), "trained": "norm_head", **common}
        rate = {"server_rate": float(words["server_rate"])}
        arms[f"epsilon {epsilon}, norm_head, one noise"] = {
            "rounds": rounds * steps,
            "steps": 1,
            "privacy": private,
            **rate,
        }
    return arms


def one_seed(words: dict[str, str], place: str, seed: int) -> tuple[list[dict], float]:
    """A row of plain data for each arm, and the processor seconds the seed took."""
    import torch

    from medseg.cases.formats import read_dataset
    from medseg.federation.comparison import cells_of
    from medseg.federation.coordinator import begin_run, evaluate_at, final_weights
    from medseg.federation.in_process import InProcess
    from medseg.federation.leakage import attack_run
    from medseg.federation.policy import SitePolicy
    from medseg.federation.privacy.certificate import Certificate
    from medseg.federation.rounds import run_rounds
    from medseg.federation.run_settings import RunSettings
    from medseg.federation.secure_site import exchange_keys
    from medseg.federation.site import Site

    torch.set_num_threads(1)
    started, folder = time.process_time(), Path(place) / f"seed-{seed}"
    dataset = read_dataset(Path(words["data"]))
    datasets = dealt(dataset, words, folder, seed)
    policy = SitePolicy(epsilon_budget=1000.0)  # every arm is a run on the same patients
    sites = {name: Site(name, path, folder / "sites" / name, policy, "cpu") for name, path in datasets.items()}
    training, names = [sites[name] for name in SITES], list(SITES)
    exchange_keys({site.name: site.folder for site in training})

    def trained(arm: str, where: list, settings, rate: float, weights=None):
        transport, run = InProcess(where), arm.replace(" ", "-").replace(",", "")
        plan = plan_of(dataset, rate, seed)
        begin_run(
            transport,
            folder / run,
            run,
            plan,
            dataset.labels,
            [s.name for s in where],
            "fedavg",
            settings,
            None,
            weights,
        )
        state = run_rounds(transport, folder / run)
        assert state.status == "completed", state.reason
        return folder / run, state

    def scored(arm: str, place: Path, state) -> dict:
        cells = cells_of(evaluate_at(InProcess(training), names, state, [final_weights(place)], 1e6))
        told = place / "privacy.json"
        certificate = Certificate.load(told) if told.is_file() else None
        attack = attack_run(training, place)
        return {
            "arm": arm,
            "dice": {name: cell.dice for name, cell in cells.items()},
            "auc": attack.auc,
            "epsilon_rdp": certificate and certificate.epsilon,
            "epsilon_tight": certificate and certificate.epsilon_tight,
            "noise": certificate and certificate.sites[0].account.mechanism.noise_multiplier,
        }

    rate = float(words["learning_rate"])
    begun, _ = trained("public", [sites["public"]], RunSettings(rounds=1, steps=int(words["public"])), 0.02)
    start, rows = final_weights(begun), []
    for arm, asked in arms_of(words).items():
        settings = RunSettings.model_validate(asked)
        rows.append(scored(arm, *trained(arm, training, settings, rate, start)))
        if arm == "no privacy":  # the sites have the plan by now, and can score what they were given
            cells = cells_of(evaluate_at(InProcess(training), names, _state(folder / "no-privacy"), [start], 1e6))
            rows.insert(0, {"arm": "public start", "dice": {n: c.dice for n, c in cells.items()}})
    return rows, time.process_time() - started


def _state(folder: Path):
    from medseg.federation.run_state import RunState

    return RunState.found(folder)[0]


def as_markdown(words: dict[str, str], found: list[list[dict]], seconds: list[float]) -> str:
    """The table with what it is of."""
    cases = ", ".join(f"{s} {max(round(n * float(words['scale'])), 6)}+{t}" for s, (n, t) in SITES.items())
    lines = [
        "# What privacy costs: hippocampus in four hospitals",
        "",
        f"Mean over sites of the Dice of held-out cases, mean ± standard deviation of {len(found)} seed(s); "
        f"{words['rounds']} rounds of {words['steps']} steps from weights trained on {PUBLIC} public cases. Cases to "
        f"train + to test: {cases}; every site has images of another scanner. AUC: how well the loss tells members "
        "from others, 0.5 is chance.",
        f"Processor seconds for each seed: {', '.join(f'{one:.0f}' for one in seconds)}.",
        "Made by: python tests/benchmarks/federated_privacy.py "
        + " ".join(f"{k}={v}" for k, v in words.items() if k != "data"),
        "",
        "| arm | Dice | worst site | epsilon RDP | epsilon tight | noise multiplier | AUC |",
        "|---|---|---|---|---|---|---|",
    ]
    for same in zip(*found, strict=True):
        dice = [np.mean(list(row["dice"].values())) for row in same]
        worst = [min(row["dice"].values()) for row in same]
        numbers = [
            _spread([row.get(key) for row in same], digits)
            for key, digits in (("epsilon_rdp", 2), ("epsilon_tight", 2), ("noise", 2), ("auc", 3))
        ]
        lines.append("| " + " | ".join([same[0]["arm"], _spread(dice, 3), _spread(worst, 3), *numbers]) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: list, digits: int) -> str:
    if any(value is None for value in values):
        return "-"
    more = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{more}"


if __name__ == "__main__":
    run_seeds(WORDS | dict(argument.split("=", 1) for argument in sys.argv[1:]), one_seed, as_markdown)
