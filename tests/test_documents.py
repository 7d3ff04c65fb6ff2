"""Documents are typed, versioned, and say which field is wrong."""

from pathlib import Path
from typing import ClassVar

import pytest

from medseg.documents import Document
from medseg.errors import MedsegError, PlanError


class Example(Document):
    kind: ClassVar[str] = "example"
    error: ClassVar[type[MedsegError]] = PlanError

    size: tuple[int, int, int]
    ratio: float = 1.0
    note: str | None = None


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_document_comes_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    document = Example(size=(1, 2, 3), ratio=0.1)
    document.save(path)
    assert Example.load(path) == document
    assert Example.load(path).content_hash() == document.content_hash()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: other\nformat: 1\n", "should open with 'kind: example'"),
        ("kind: example\nformat: 9\n", "format 9"),
        ("kind: example\nformat: 1\nsize: [1, 2]\n", "size"),
        ("kind: example\nformat: 1\nsize: [1, 2, 3]\nration: 2\n", "ration"),
        ("kind: example\nformat: 1\nsize: [1, 2, 3]\nratio: .nan\n", "ratio"),
        ("- 1\n", "should hold a document of kind example"),
        ("a: [", "not readable"),
        ("!!python/object/apply:os.system ['true']", "not readable"),
    ],
)
def test_a_wrong_file_is_named_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        Example.load(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="There is no file"):
        Example.load(tmp_path / "none.yaml")
