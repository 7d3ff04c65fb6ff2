"""Passwords are hashed with a salt of their own, kept for the owner's eyes, and told from wrong ones."""

import json

import pytest

from medseg.access.passwords import PasswordFile, set_password
from medseg.errors import MedsegError, SettingsError


def test_a_user_is_added_and_only_the_right_password_is_accepted(tmp_path):
    file = tmp_path / "passwords.json"
    assert set_password(file, "Dr. Čapková", "correct horse battery")
    listed = PasswordFile.load(file)
    assert listed.accepts("Dr. Čapková", "correct horse battery")
    assert not listed.accepts("Dr. Čapková", "correct horse batterz")
    assert not listed.accepts("nobody", "correct horse battery")


def test_the_file_holds_no_password_and_only_its_owner_reads_it(tmp_path):
    file = tmp_path / "passwords.json"
    set_password(file, "anna", "correct horse battery")
    assert "correct" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_new_password_replaces_the_old_one_and_leaves_other_users_alone(tmp_path):
    file = tmp_path / "passwords.json"
    set_password(file, "anna", "correct horse battery")
    set_password(file, "ben", "another long password")
    assert not set_password(file, "anna", "a quite different one")
    listed = PasswordFile.load(file)
    assert listed.accepts("anna", "a quite different one")
    assert not listed.accepts("anna", "correct horse battery")
    assert listed.accepts("ben", "another long password")


def test_the_same_password_of_two_users_has_two_digests(tmp_path):
    file = tmp_path / "passwords.json"
    for user in ("anna", "ben"):
        set_password(file, user, "correct horse battery")
    users = PasswordFile.load(file).users
    assert users["anna"].digest != users["ben"].digest


@pytest.mark.parametrize(
    ("user", "password", "said"),
    [
        ("anna", "short", "at least 12"),
        ("", "long enough indeed", "usable name"),
        ("a\nb", "long enough indeed", "name"),
    ],
)
def test_what_will_not_do_is_refused_and_nothing_is_written(tmp_path, user, password, said):
    with pytest.raises(SettingsError, match=said):
        set_password(tmp_path / "passwords.json", user, password)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_something_else_is_named_as_such(tmp_path):
    file = tmp_path / "passwords.json"
    file.write_text(json.dumps({"kind": "plan", "format": 1}))
    with pytest.raises(MedsegError, match="should open with 'kind: passwords'"):
        set_password(file, "anna", "correct horse battery")
