"""A hospital's file decides, is read strictly, and every answer is logged before and after."""

import re
from pathlib import Path

import pytest

from medseg.cases.formats import save_dataset
from medseg.errors import SettingsError, SiteError
from medseg.federation.audited import answer_audited, note_refusal
from medseg.federation.messages import Request
from medseg.federation.site_file import SiteFile, write_site_file

from tiny import write_tiny_dataset

APP = "a" * 64
CHECK = Request("check", "run-1", 0, "")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_dataset(write_tiny_dataset(tmp_path / "data"), tmp_path / "data/dataset.yaml")
    write_site_file(tmp_path / "site.toml", "north", "fl.example.org:8443", APP)
    _edit(tmp_path / "site.toml", "dataset", '"data/dataset.yaml"')
    return tmp_path / "site.toml"


def _edit(path: Path, key: str, value: str) -> None:
    text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", path.read_text())
    assert count == 1
    path.write_text(text)


def test_what_init_writes_is_read_with_paths_beside_it(path: Path) -> None:
    site_file = SiteFile.load(path)
    assert (site_file.name, site_file.coordinator, site_file.apps) == ("north", "fl.example.org:8443", (APP,))
    assert site_file.folder == path.parent / "work"
    assert site_file.dataset == path.parent / "data/dataset.yaml"
    assert "# Fewest patients" in path.read_text()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", '"St. Mary"', "name"),
        ("coordinator", '"https://fl.example.org"', "coordinator"),
        ("apps", '["not a hash"]', "apps"),
        ("min_count", "0", "policy.min_count"),
        ("min_count", "5\nmincount = 3", "policy.mincount"),
        ("kind", '"plan"', "kind: site"),
        ("name", "north", "not readable as TOML"),
    ],
)
def test_a_mistake_in_it_is_named(path: Path, key: str, value: str, said: str) -> None:
    _edit(path, key, value)
    with pytest.raises(SettingsError, match=re.escape(said)):
        SiteFile.load(path)


def test_a_private_key_that_others_can_read_is_refused(path: Path) -> None:
    site_file = SiteFile.load(path)
    with pytest.raises(SettingsError, match="no private key"):
        site_file.require_safe_key()
    site_file.key.touch(0o600)
    site_file.require_safe_key()
    site_file.key.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        site_file.require_safe_key()


def test_every_answer_is_logged_before_and_after_and_without_names(path: Path) -> None:
    site_file = SiteFile.load(path)
    (path.parent / "data/images/0.nii.gz").write_bytes(b"DOE^JANE")
    reply = answer_audited(site_file, CHECK, app=APP)
    assert reply.header["cases"] == 6
    asked, answered = site_file.audit().read()
    assert (asked["what"], asked["action"], asked["run"], asked["app"]) == ("asked", "check", "run-1", APP)
    assert (answered["what"], answered["bytes"], answered["error"]) == ("answered", len(reply.to_bytes()), "")
    assert answered["fields"] == ["cases", "codes", "passes"]
    assert site_file.audit().verify().complaint is None
    assert "DOE" not in site_file.audit().path.read_text()


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [("max_gigabytes", "1e-9", "bytes-used-up"), ("max_hours", "1e-9", "hours-used-up")],
)
def test_a_site_that_has_given_enough_answers_no_more(path: Path, key: str, value: str, code: str) -> None:
    _edit(path, key, value)
    site_file = SiteFile.load(path)
    assert answer_audited(site_file, CHECK).error is None
    assert answer_audited(site_file, CHECK).error == code
    _edit(path, key, "100")
    assert answer_audited(SiteFile.load(path), CHECK).error is None


def test_a_site_whose_log_was_changed_answers_nothing(path: Path) -> None:
    site_file = SiteFile.load(path)
    note_refusal(site_file, "app-not-approved", app=APP)
    log = site_file.audit().path
    log.write_text(log.read_text().replace("not-approved", "wasapproved"))
    with pytest.raises(SiteError, match="audit-log-damaged"):
        answer_audited(site_file, CHECK)
