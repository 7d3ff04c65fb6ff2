"""The house keeps its own rules."""

import ast
import re
from pathlib import Path

import pytest

from medseg.cli import COMMANDS
from medseg.paths import shipped, shipped_names

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "medseg").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_no_pickle_eval_or_shell_in_the_package() -> None:
    forbidden = re.compile(r"\b(import pickle|from pickle|eval\(|exec\(|shell=True|allow_pickle=True|yaml\.unsafe)")
    for path in MODULES:
        code = path.read_text().replace(".eval(", "")
        assert not forbidden.search(code), path


def test_what_a_document_may_lack_can_be_read_again_without_it() -> None:
    """Documents are written without what is None, so a field that may be None has a default."""
    lacking = []
    for path in MODULES:
        for place in ast.walk(ast.parse(path.read_text())):
            bases = {ast.unparse(base) for base in place.bases} if isinstance(place, ast.ClassDef) else set()
            if not isinstance(place, ast.ClassDef) or not bases & {"Record", "Document"}:
                continue
            fields = [one for one in place.body if isinstance(one, ast.AnnAssign) and one.value is None]
            lacking += [
                f"{path.relative_to(ROOT)}: {place.name}.{ast.unparse(one.target)}"
                for one in fields
                if ast.unparse(one.annotation).endswith("| None")
            ]
    assert lacking == []


def test_leaf_rooms_are_no_import_packages() -> None:
    for room in ("apps", "plans", "federated", "datasets"):
        assert not (ROOT / room / "__init__.py").exists()


def test_every_command_of_the_readme_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\bmedseg (\w+)", "\n".join(re.findall(r"```\w*\n(.*?)```", readme, re.DOTALL))))
    assert named
    assert named <= {*COMMANDS, "help", "COMMAND"}


def test_the_two_lines_of_the_readme_are_there_to_the_letter() -> None:
    readme = (ROOT / "README.md").read_text()
    install = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e"
    assert f"{install} . && .venv/bin/medseg plan && .venv/bin/medseg train fold=0\n" in readme
    assert f'{install} ".[dev]" && .venv/bin/pytest -n auto\n' in readme


def test_shipped_rooms_are_found_beside_the_package() -> None:
    assert "default" in shipped_names("plans")
    assert "nnunet" in shipped_names("plans")
    assert (shipped("datasets") / "phantom_abdomen.yaml").is_file()


def test_everything_required_is_pinned_in_the_constraints() -> None:
    pinned = {
        re.split(r"==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    text = (ROOT / "pyproject.toml").read_text()
    dependencies = re.findall(r'^\s+"([A-Za-z0-9_-]+)[>=\[]', text, re.MULTILINE)
    assert {d.lower().replace("_", "-") for d in dependencies} - {"medseg"} <= pinned
