"""Files appear whole or not at all."""

import os
from concurrent.futures import ThreadPoolExecutor
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


def test_files_and_folders_have_the_rights_that_the_users_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "a", "of a patient")
        with folder_written_whole(tmp_path / "folder") as temporary:
            (temporary / "b").write_text("1")
    finally:
        os.umask(before)
    assert [oct(p.stat().st_mode & 0o777) for p in (tmp_path / "a", tmp_path / "folder")] == ["0o600", "0o700"]


def test_several_writers_of_one_folder_leave_a_whole_one(tmp_path: Path) -> None:
    def write(number: int) -> None:
        with folder_written_whole(tmp_path / "folder") as temporary:
            for name in ("a", "b"):
                (temporary / name).write_text(str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    first, second = ((tmp_path / "folder" / name).read_text() for name in ("a", "b"))
    assert first == second


def test_a_folder_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(MedsegError, match="Could not write"), folder_written_whole(tmp_path / "taken") as temporary:
        (temporary / "a").write_text("1")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
