"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from medseg.errors import MedsegError
from medseg.files import folder_written_whole, hash_content, hash_file, require_free_space, write_text, written_whole


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), written_whole(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_temporary_file_keeps_the_suffix_that_writers_look_at(tmp_path: Path) -> None:
    with written_whole(tmp_path / "case.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"x")
    assert (tmp_path / "case.nii.gz").read_bytes() == b"x"


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with folder_written_whole(target) as temporary:
        (temporary / "a").write_text("1")
    with folder_written_whole(target) as temporary:
        (temporary / "b").write_text("2")
    assert [p.name for p in target.iterdir()] == ["b"]
    with pytest.raises(RuntimeError), folder_written_whole(target) as temporary:
        (temporary / "c").write_text("3")
        raise RuntimeError
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_full_disk_is_a_sentence_before_the_work_starts(tmp_path: Path) -> None:
    with pytest.raises(MedsegError, match=r"needs about .* GB"):
        require_free_space(tmp_path / "not" / "there", 10**18, "Preparing")


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedsegError, match="Could not write"):
        write_text(tmp_path / "file" / "below.txt", "x")


def test_hashes_do_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    assert hash_content({"a": 1, "b": [1, 2]}) == hash_content({"b": [1, 2], "a": 1})
    write_text(tmp_path / "a", "abc")
    assert hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
