"""A site answers what its policy allows, and nothing else leaves."""

from pathlib import Path

import numpy as np
import pytest

from medseg.cases.formats import save_dataset
from medseg.cli import main
from medseg.errors import SiteError
from medseg.federation.egress import Answer, release
from medseg.federation.messages import Request
from medseg.federation.policy import SitePolicy
from medseg.federation.site import Site
from medseg.federation.site_file import write_site_file

from tiny import write_tiny_dataset

CHECK = Request("check", "run", 0, "")


def _site(folder: Path, **policy: object) -> Site:
    save_dataset(write_tiny_dataset(folder / "data"), folder / "data/dataset.yaml")
    return Site("north", folder / "data/dataset.yaml", folder / "W", SitePolicy.model_validate(policy))


def test_a_check_tells_codes_and_counts_and_no_name(tmp_path: Path) -> None:
    site = _site(tmp_path)
    reply = site.answer(CHECK)
    assert reply.error is None
    assert reply.header == {"cases": 6, "passes": True, "codes": {}}
    (tmp_path / "data/images/2.nii.gz").write_bytes(b"DOE^JANE was here")
    damaged = site.answer(CHECK)
    assert damaged.header["passes"] is False
    assert damaged.header["codes"]
    assert set(damaged.header["codes"].values()) == {None}  # one case of six is too few to be counted
    assert b"case_0" not in damaged.to_bytes()


def test_a_check_compares_with_what_the_sites_agreed_on(tmp_path: Path) -> None:
    site = _site(tmp_path, min_count=1)
    agreed = Request("check", "run", 0, "", {"channels": ["MR"], "labels": ["ball", "box"]})
    assert site.answer(agreed).header["passes"] is True
    other = Request("check", "run", 0, "", {"channels": ["CT"], "labels": ["box", "ball"]})
    assert site.answer(other).header == {"cases": 6, "passes": False, "codes": {"other-channels": 1, "other-labels": 1}}
    few = _site(tmp_path / "few", min_count=7).answer(CHECK)
    assert few.header["codes"] == {"too-few-cases": None}


@pytest.mark.parametrize(
    ("policy", "request_", "code"),
    [
        ({}, Request("steal", "run", 0, ""), "unknown-action"),
        ({"actions": ["train"]}, CHECK, "not-allowed"),
        ({"max_rounds": 3}, Request("check", "run", 4, ""), "too-many-rounds"),
    ],
)
def test_what_the_policy_does_not_allow_is_answered_by_a_code(
    tmp_path: Path, policy: dict, request_: Request, code: str
) -> None:
    reply = _site(tmp_path, **policy).answer(request_)
    assert (reply.error, reply.header, reply.arrays) == (code, {}, {})


def test_an_error_leaves_as_a_code_and_its_text_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = _site(tmp_path)

    def fail(*_: object) -> None:
        raise FileNotFoundError("/data/DOE_JANE_1950/ct.nii.gz")

    monkeypatch.setattr("medseg.federation.site_check.report_on", fail)
    reply = site.answer(CHECK)
    assert reply.error == "failed"
    assert b"DOE" not in reply.to_bytes()
    kept = (site.folder / "errors.log").read_text()
    assert "DOE_JANE_1950" in kept
    assert "'check' in round 0 of the run 'run'" in kept


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer({"patient": "DOE"}), "not-released"),
        (Answer({"cases": -1}), "not-released"),
        (Answer({"codes": {"DOE^JANE": 1}}), "not-released"),
        (Answer({}, {"image": np.zeros(3)}), "not-released"),
    ],
)
def test_what_is_not_on_the_list_does_not_pass_the_door(answer: Answer, code: str) -> None:
    with pytest.raises(SiteError, match=f"^{code}$"):
        release("north", SitePolicy(), CHECK, answer)


def test_a_site_may_withhold_what_it_measured() -> None:
    train = Request("train", "run", 1, "")
    answer = Answer({"cases": 6, "loss": 0.123456, "dice": 0.87654321})
    assert release("north", SitePolicy(), train, answer).header == {"cases": 6, "loss": 0.1235, "dice": 0.8765}
    quiet = release("north", SitePolicy(metrics=("dice",), decimals=2), train, answer)
    assert quiet.header == {"cases": 6, "loss": None, "dice": 0.88}


def test_the_command_shows_what_would_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = _site(tmp_path).dataset
    assert main(["federated", "check-site", f"dataset={dataset}", "channels=[CT]"]) == 2
    shown = capsys.readouterr().out
    assert "other-channels" in shown
    assert "channels are MR; agreed on are CT" in shown
    assert main(["federated", "check-site", f"dataset={dataset}"]) == 0


def test_the_command_takes_data_and_rules_from_a_site_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _site(tmp_path)
    path = tmp_path / "site.toml"
    write_site_file(path, "north", "fl.example.org:8443", "0" * 64)
    words = ["federated", "check-site", f"site={path}"]
    path.write_text(path.read_text().replace("/path/to/dataset", "data/dataset.yaml"))
    assert main(words) == 0
    assert (tmp_path / "work/check.json").is_file()
    path.write_text(path.read_text().replace("min_count = 5", "min_count = 7"))
    assert main(words) == 2
    assert "There are 6 cases" in capsys.readouterr().out
    assert main([*words, "dataset=data"]) == 2
    assert "Write site=site.toml, or dataset=DIR" in capsys.readouterr().err


def test_the_command_reads_labels_as_people_write_them_and_compares_regions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, labels = _site(tmp_path).dataset, tmp_path / "labels.yaml"
    words = ["federated", "check-site", f"dataset={dataset}", f"workspace={tmp_path / 'W'}", f"labels={labels}"]
    labels.write_text("labels: {ball: 1, box: 2}\n")
    assert main(words) == 0
    labels.write_text("labels: {ball: 1, box: 2}\nregions: {both: [ball, box]}\n")
    assert main(words) == 2
    assert "other-labels" in capsys.readouterr().out


def test_what_is_unlike_the_agreed_stands_in_the_sites_own_log(tmp_path: Path) -> None:
    site = _site(tmp_path)
    asked = {"orientation": "canonical", "labels": ["ball", "box"], "targets": ["ball", "box"], "channels": ["T2"]}
    reply = site.answer(Request("fingerprint", "run", 0, "", asked))
    assert reply.error == "other-channels"
    assert "channels are MR; agreed on are T2" in (site.folder / "errors.log").read_text()
