"""What a coordinator or a hospital gets wrong is one sentence; nothing is started or written."""

import shutil
from pathlib import Path

import pytest

from medseg.chained_log import ChainedLog
from medseg.cli import main
from medseg.federation.federation_file import Place
from medseg.federation.kit import Kit, write_kit
from medseg.federation.privacy.accounting import Mechanism
from medseg.federation.privacy.ledger import LEDGER, Charge, Ledger
from medseg.federation.processes import free_port
from medseg.paths import Workspace

from tiny import TABLE, tiny_plan


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federations") / "fed"
    write_kit(Kit("fed", "localhost", free_port(), free_port(), ["north", "south"], {}, b"an app"), folder)
    workspace = Workspace(folder / "W")
    tiny_plan().save(workspace.plan)
    TABLE.save(workspace.labels)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Place:
    shutil.copytree(made, tmp_path / "fed")
    return Place(tmp_path / "fed")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("serve folder=nowhere", "holds no federation"),
        ("serve folder={0} networks=[here]", "networks="),
        ("run folder={0} plan={0}/W sites=[east]", "no sites ['east']"),
        ("run folder={0} plan=nowhere", "no file nowhere"),
        ("run folder={0}", "labels=labels.yaml and channels="),
        ("run folder={0} plan={0}/W channels=[CT]", "Leave labels= and channels= out"),
        ("run folder={0} labels={0}/W/labels.yaml channels=[CT] preset=fast", "preset"),
        ("run folder={0} plan={0}/W strategy=fedsgd", "strategy"),
        ("run folder={0} plan={0}/W strategy=median", "at least"),
        ("run folder={0} plan={0}/W secure_aggregation=true", "at least 3 sites"),
        ("run folder={0} plan={0}/W privacy=client strategy=median", "at least"),
        ("resume folder={0} name=other", "no run 'other'"),
        ("join site={0}/sites/north/site.toml", "no dataset"),
        ("status", "folder=DIR on the coordinator"),
        ("status folder={0} site=x", "folder=DIR on the coordinator"),
    ],
)
def test_a_mistake_is_one_sentence(place: Place, capsys: pytest.CaptureFixture[str], words: str, said: str) -> None:
    assert main(["federated", *words.format(place.folder).split()]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown
    assert not place.run("run-1").exists()


def test_a_run_without_a_superlink_says_how_to_start_one(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"folder={place.folder}", f"plan={place.folder}/W", "rounds=3"]
    assert main(["federated", "run", *words]) == 2
    assert "medseg federated serve" in capsys.readouterr().err
    # Nothing is left of it, so that the same words start it once the server runs.
    assert not place.run("run-1").exists()
    assert main(["federated", "run", *words]) == 2
    assert "medseg federated serve" in capsys.readouterr().err


def test_another_app_than_the_approved_one_is_not_sent(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.app.write_bytes(b"another app")
    assert main(["federated", "run", f"folder={place.folder}", f"plan={place.folder}/W"]) == 2
    assert "not the app that the sites approved" in capsys.readouterr().err
    assert not place.run("run-1").exists()


def test_a_changed_log_is_told_at_both_ends(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    site = place.site("north") / "site.toml"
    for log, words in (
        (place.audit, f"folder={place.folder}"),
        (ChainedLog(place.site("north") / "work/audit.jsonl"), f"site={site}"),
    ):
        log.append("answered", action="train", run="run-1", round=1, bytes=10, seconds=1.0, error="")
        log.append("answered", action="train", run="run-1", round=2, bytes=20, seconds=1.0, error="")
        assert main(["federated", "status", words]) == 0
        assert "2 entries, unbroken" in capsys.readouterr().out
        log.path.write_text(log.path.read_text().replace('"bytes": 10', '"bytes": 11'))
        assert main(["federated", "status", words]) == 2
        assert "line 1 was changed" in capsys.readouterr().out


def test_a_hospital_with_a_changed_log_does_not_join(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    site = place.site("north") / "site.toml"
    site.write_text(site.read_text().replace("/path/to/dataset", str(place.folder)))
    log = ChainedLog(place.site("north") / "work/audit.jsonl")
    log.append("answered", bytes=1)
    log.path.write_text("")
    assert main(["federated", "join", f"site={site}"]) == 2
    assert "shortened" in capsys.readouterr().err


def test_a_hospital_that_can_not_reach_its_coordinator_is_told_what_to_check(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    site = place.site("north") / "site.toml"
    site.write_text(site.read_text().replace("/path/to/dataset", str(place.folder)))
    assert main(["federated", "join", f"site={site}"]) == 2
    shown = capsys.readouterr().err
    assert "can't be reached" in shown
    assert "ca.crt" in shown


def test_a_hospital_sees_whether_it_approves_the_app_it_can_read(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    site = place.site("north") / "site.toml"
    assert main(["federated", "status", f"site={site}"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1; that of the medseg installed here, " in shown
    own = shown.split("installed here, ")[1][:64]
    site.write_text(site.read_text().replace('apps = ["', f'apps = ["{own}", "'))
    assert main(["federated", "status", f"site={site}"]) == 0
    assert "2; that of the medseg installed here is among them" in capsys.readouterr().out


def test_a_site_shows_what_was_spent_on_its_patients(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    site = place.site("north")
    charge = Charge(
        run="run-1",
        round=1,
        purpose="train",
        dataset="d",
        patients=20,
        mechanism=Mechanism(sample_rate=0.5, noise_multiplier=2.0, steps=10),
    )
    entry = Ledger(site / "work" / LEDGER).charge(charge, 10.0, 1e-3)
    assert main(["federated", "status", f"site={site / 'site.toml'}"]) == 0
    assert f"epsilon {entry.epsilon:.2f} of 10 allowed" in capsys.readouterr().out
