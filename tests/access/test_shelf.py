"""Files and drawings are reached by random names only."""

from medseg.access.shelf import Shelf


def test_a_file_keeps_its_random_name_and_is_found_by_it_alone(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"a")
    shelf = Shelf()
    name = shelf.offer(tmp_path / "a.nii.gz")
    assert shelf.offer(tmp_path / "." / "a.nii.gz") == name
    assert shelf.find(name) == (tmp_path / "a.nii.gz").resolve()
    for asked in ("a.nii.gz", str(tmp_path / "a.nii.gz"), "../a.nii.gz", "..%2fa.nii.gz", "", name + "/.."):
        assert shelf.find(asked) is None


def test_the_oldest_files_are_forgotten(tmp_path):
    shelf = Shelf()
    first = shelf.offer(tmp_path / "first")
    for number in range(4096):
        shelf.offer(tmp_path / str(number))
    assert shelf.find(first) is None
    assert shelf.offer(tmp_path / "first") != first


def test_a_drawing_is_taken_once_and_by_its_own_user_only():
    shelf = Shelf()
    name = shelf.receive("anna", b"labels")
    assert shelf.take("ben", name) is None
    assert shelf.take("anna", name) == b"labels"
    assert shelf.take("anna", name) is None


def test_only_the_last_drawings_are_kept():
    shelf = Shelf()
    names = [shelf.receive("anna", b"%d" % number) for number in range(20)]
    assert shelf.take("anna", names[0]) is None
    assert shelf.take("anna", names[-1]) == b"19"
