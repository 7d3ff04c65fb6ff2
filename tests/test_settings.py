"""Words become settings, and mistakes become sentences."""

from pathlib import Path

import pytest
from pydantic import Field

from medseg.documents import Record
from medseg.errors import SettingsError
from medseg.settings import Bytes, Seconds, Settings, build, describe, read_value, read_words, require_known


class Part(Record):
    """A part."""

    learning_rate: float = 0.1
    """Step size."""


class Example(Settings):
    """Settings of an example."""

    fold: int = 0
    """Which fold."""
    patch_size: tuple[int, int, int] = (1, 2, 3)
    """Voxels."""
    dataset: Path | None = None
    """Folder."""
    budget: Seconds | None = None
    """Time."""
    memory: Bytes | None = None
    """Bytes."""
    optimizer: Part = Field(default_factory=Part)


def test_values_are_json_or_text_and_reach_into_parts() -> None:
    words = ["fold=2", "patch_size=[64,64,32]", "optimizer.learning_rate=1e-3", "dataset=a b=c", "--budget=15min"]
    settings = build(Example, read_words(words))
    assert settings.fold == 2
    assert settings.patch_size == (64, 64, 32)
    assert settings.optimizer.learning_rate == 1e-3
    assert settings.dataset == Path("a b=c")
    assert settings.budget == 900


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8_000_000_000), ("800MB", 800_000_000), ("1GiB", 2**30), ("12", 12)]
)
def test_memory_has_units(text: str, size: int) -> None:
    assert build(Example, {"memory": text}).memory == size


def test_a_folder_named_like_a_number_stays_a_folder() -> None:
    assert build(Example, {"dataset": "123"}).dataset == Path("123")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["flod=1"], "Did you mean 'fold'?"),
        (["optimizer.learning_rat=1"], "Did you mean 'optimizer.learning_rate'?"),
        (["fold=one"], "'fold' (type int)"),
        (["patch_size=[1,2]"], "'patch_size'"),
        (["budget=soon"], "90s, 15min or 2h"),
        (["fold"], "key=value"),
        (["fold=1", "fold=2"], "given twice"),
    ],
)
def test_a_mistake_is_named_in_one_sentence(words: list[str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(Example, read_words(words))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_setting_is_described() -> None:
    rows = {key: (kind, default, meaning) for key, kind, default, meaning in describe(Example)}
    assert rows["fold"] == ("int", "0", "Which fold.")
    assert rows["patch_size"][:2] == ("[int,int,int]", "[1,2,3]")
    assert rows["budget"][0] == "time"
    assert rows["memory"][0] == "memory"
    assert rows["dataset"][0] == "path"
    assert rows["optimizer.learning_rate"] == ("number", "0.1", "Step size.")


def test_a_key_is_known_if_any_model_has_it() -> None:
    require_known("learning_rate", [Example, Part])
    with pytest.raises(SettingsError):
        require_known("learning", [Example, Part])


@pytest.mark.parametrize("word", ["budget=-5", "budget=-1e3", "memory=0", "memory=-8"])
def test_less_than_no_time_or_memory_is_refused(word: str) -> None:
    key, _, value = word.partition("=")
    with pytest.raises(SettingsError, match=f"'{key}'"):
        build(Example, {key: value})


def test_a_list_of_words_needs_no_quotes() -> None:
    assert read_value("[seg, sr,nifti]") == ["seg", "sr", "nifti"]
    assert read_value("[1,a]") == [1, "a"]
    assert read_value("[/data/A, ../B_2]") == ["/data/A", "../B_2"]
    assert read_value("[a b]") == "[a b]"
