"""The command line: fast, helpful, and one sentence for every mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from medseg.cli import COMMANDS, VERBS, main
from medseg.errors import MedsegError
from medseg.paths import Workspace, last_used

_WHOLE = [
    *(command for command in COMMANDS if command not in VERBS),
    *(f"{command} {verb}" for command, verbs in VERBS.items() for verb in verbs),
]
"""Every command as it is written, with its verb where it has verbs."""
_SLOW = {"torch", "monai", "nibabel", "pydicom", "highdicom", "SimpleITK", "matplotlib", "scipy", "flwr", "streamlit"}
"""Libraries that take tenths of a second to import, or seconds."""


def test_no_help_waits_for_a_library_that_is_slow_to_import() -> None:
    asked = [["help"], ["info"], *([*command.split(), "help"] for command in _WHOLE)]
    code = (
        "import sys\nfrom medseg.cli import main\n"
        f"for words in {asked!r}:\n"
        f"    main(words); print(' '.join(words), {_SLOW!r} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = done.stderr.splitlines()
    assert len(told) == len(asked)
    assert [line for line in told if not line.endswith(" set()")] == []


@pytest.mark.parametrize("command", _WHOLE)
@pytest.mark.parametrize("word", ["help", "--help"])
def test_every_command_lists_its_settings(command: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), word]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"medseg {command}: ")
    assert "type" in shown
    assert "default" in shown


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"medseg {name}" in shown for name in COMMANDS)


@pytest.mark.parametrize("words", [[], ["help"], ["--help"]])
@pytest.mark.parametrize("command", VERBS)
def test_a_command_with_verbs_lists_them(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, *words]) == 0
    shown = capsys.readouterr().out
    assert all(f"medseg {command} {verb}" in shown and meaning in shown for verb, meaning in VERBS[command].items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tarin"], "Did you mean 'medseg train'?"),
        (["federated", "check-sit"], "Did you mean 'medseg federated check-site'?"),
        (["train", "flod=0"], "Did you mean 'fold'?"),
        (["train", "optimizer.learning_rte=1"], "Did you mean 'optimizer.learning_rate'?"),
        (["plan", "preset"], "key=value"),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr_and_exit_code_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


def test_what_the_system_refuses_is_one_sentence_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "dataset=" + "x" * 5000]) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert len((shown.err + shown.out).strip()) > 20


def test_a_folder_where_nothing_can_be_noted_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file where the note would go")
    Workspace(tmp_path / "W").remember()
    with pytest.raises(MedsegError, match="No workspace has been used"):
        last_used()
