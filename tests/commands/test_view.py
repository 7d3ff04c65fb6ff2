"""``medseg view`` says what is wrong before anything is served, keeps users, and checks its log."""

import io
import socket

import pytest
from tiny_review import write_read_workspace

from medseg.access.passwords import PasswordFile
from medseg.chained_log import ChainedLog
from medseg.cli import main

pytest.importorskip("streamlit")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["host=0.0.0.0"], "would let everybody on the network"),
        (["host=::"], "would let everybody on the network"),
        (["passwords=nowhere.json"], "There is no file nowhere.json"),
        (["certificate=a.pem"], "belong together"),
        (["input=/nowhere"], "There is no folder /nowhere"),
        (["user=anna"], "needs passwords=FILE"),
        (["colour=red"], "no setting 'colour'"),
        (["check_audit=nowhere.jsonl"], "there is no such file"),
    ],
)
def test_what_can_not_be_served_is_a_sentence(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["view", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_port_in_use_is_a_sentence(tmp_path, capsys):
    workspace = write_read_workspace(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["view", f"workspace={workspace}", f"port={port}"]) == 2
    assert "port=0 takes any free port" in capsys.readouterr().err


def test_a_user_is_added_with_the_password_from_standard_input(tmp_path, monkeypatch, capsys):
    file = tmp_path / "passwords.json"
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse battery\n"))
    assert main(["view", "user=anna", f"passwords={file}"]) == 0
    assert "anna was added" in capsys.readouterr().out
    assert PasswordFile.load(file).accepts("anna", "correct horse battery")


def test_a_file_without_users_lets_nobody_in_and_says_so(tmp_path, capsys):
    file = tmp_path / "passwords.json"
    PasswordFile().save(file)
    assert main(["view", f"workspace={write_read_workspace(tmp_path)}", f"passwords={file}"]) == 2
    assert "names no user" in capsys.readouterr().err


def test_the_audit_log_is_checked_from_the_command_line(tmp_path, capsys):
    log = ChainedLog(tmp_path / "audit.jsonl")
    for user in ("anna", "ben", "carla"):
        log.append("signed in", user=user)
    assert main(["view", f"check_audit={log.path}"]) == 0
    assert "3 entries, unbroken" in capsys.readouterr().out
    log.path.write_text(log.path.read_text().replace("anna", "otto"))
    assert main(["view", f"check_audit={log.path}"]) == 2
    assert "line 1 was changed" in capsys.readouterr().err
