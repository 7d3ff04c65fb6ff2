import json
import os
import signal
import subprocess
import sys

import pytest

from medseg.errors import SiteError
from medseg.federation.privacy.accounting import Mechanism, epsilon_rdp
from medseg.federation.privacy.ledger import Charge, Ledger

DELTA = 1e-3


def charge(run="run-1", round_number=1, sigma=4.0, steps=5):
    mechanism = Mechanism(sample_rate=0.5, noise_multiplier=sigma, steps=steps)
    return Charge(run=run, round=round_number, purpose="train", dataset="d", patients=20, mechanism=mechanism)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "privacy_ledger.jsonl")


def test_rounds_and_runs_on_the_same_patients_add_up(ledger):
    spent = [ledger.charge(charge(run, number), 100, DELTA).epsilon for run in ("a", "b") for number in (1, 2)]
    assert spent == sorted(spent)
    assert spent[-1] == ledger.spent(DELTA) == epsilon_rdp([charge().mechanism] * 4, DELTA)
    assert ledger.spent(DELTA, "a") == epsilon_rdp([charge().mechanism] * 2, DELTA)


def test_an_empty_ledger_has_spent_nothing(ledger):
    assert ledger.entries() == [] and ledger.spent(DELTA) == 0


def test_a_charge_beyond_the_budget_is_refused_and_not_written(ledger):
    ledger.charge(charge(), 100, DELTA)
    before = ledger.path.read_bytes()
    with pytest.raises(SiteError, match="privacy-budget-spent"):
        ledger.charge(charge(steps=10_000), ledger.spent(DELTA) + 1, DELTA)
    assert ledger.path.read_bytes() == before


def test_the_charge_is_on_the_disk_when_the_process_is_killed_before_it_trains(tmp_path):
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from medseg.federation.privacy.accounting import Mechanism\n"
        "from medseg.federation.privacy.ledger import Charge, Ledger\n"
        "m = Mechanism(sample_rate=0.5, noise_multiplier=4.0, steps=5)\n"
        "c = Charge(run='r', round=1, purpose='train', dataset='d', patients=20, mechanism=m)\n"
        "Ledger(Path(sys.argv[1])).charge(c, 100, 1e-3)\n"
        "print('charged', flush=True)\n"
        "time.sleep(60)  # where training would be\n"
    )
    path = tmp_path / "ledger.jsonl"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "charged\n"
    process.stdout.close()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(Ledger(path).entries()) == 1
    assert Ledger(path).charge(charge(), 100, DELTA).epsilon == epsilon_rdp([charge().mechanism] * 2, DELTA)


def test_a_line_cut_short_by_a_kill_is_dropped_since_its_round_never_began(ledger):
    ledger.charge(charge(), 100, DELTA)
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + b'{"number": 2, "ch')
    assert len(ledger.entries()) == 1
    ledger.charge(charge(round_number=2), 100, DELTA)
    assert [entry.charge.round for entry in ledger.entries()] == [1, 2]


def test_a_line_written_before_its_head_was_noted_still_counts(ledger):
    ledger.charge(charge(), 100, DELTA)
    head = ledger.path.with_name(ledger.path.name + ".head")
    noted = head.read_text()
    ledger.charge(charge(round_number=2), 100, DELTA)
    head.write_text(noted)  # as if the process had died in between
    assert len(ledger.entries()) == 2


def edited(lines):
    content = json.loads(lines[1])
    content["charge"]["mechanism"]["steps"] = 1
    return [lines[0], json.dumps(content, sort_keys=True, separators=(",", ":")), lines[2]]


@pytest.mark.parametrize(
    "tamper",
    [
        edited,
        lambda lines: lines[1:],
        lambda lines: [lines[0], lines[2]],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: lines[:1],
        lambda lines: [],
        lambda lines: [*lines, "{}"],
        lambda lines: [line.replace("train", "TRAIN") for line in lines],
    ],
    ids=["edited", "first cut", "middle cut", "swapped", "end cut", "emptied", "rubbish", "all edited"],
)
def test_a_tampered_ledger_is_refused(ledger, tamper):
    for number in (1, 2, 3):
        ledger.charge(charge(round_number=number), 100, DELTA)
    lines = ledger.path.read_text().splitlines()
    ledger.path.write_text("".join(line + "\n" for line in tamper(lines)))
    with pytest.raises(SiteError, match="privacy-ledger-damaged"):
        ledger.charge(charge(round_number=4), 100, DELTA)


def test_a_ledger_whose_file_is_gone_is_refused(ledger):
    ledger.charge(charge(), 100, DELTA)
    ledger.charge(charge(), 100, DELTA)
    ledger.path.unlink()
    with pytest.raises(SiteError, match="privacy-ledger-damaged"):
        ledger.entries()
