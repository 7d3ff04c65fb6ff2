"""``medseg check`` names everything that is wrong, in one run, without torch."""

import gzip
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.cases.check import CheckReport, check_dataset
from medseg.commands.check import run
from medseg.errors import Complaint
from medseg.images.formats import write_image, write_labels
from medseg.images.volume import Volume

AFFINE = np.array([[0, 0, 2.0, -9], [0, 2.0, 0, 7], [3.0, 0, 0, 5], [0, 0, 0, 1]])
SHAPE = (8, 9, 10)


def write_case(folder: Path, name: str, affine: np.ndarray = AFFINE, channels: int = 1) -> None:
    random = np.random.default_rng(sum(name.encode()))
    image = Volume(random.normal(size=(1, *SHAPE)).astype(np.float32), affine)
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:5, 2:5, 2:5], labels[2:5, 2:5, 6:9] = 1, 2
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for channel in range(channels):
        write_image(folder / f"imagesTr/{name}_{channel:04d}.nii.gz", image.array, image)
    write_labels(folder / f"labelsTr/{name}.nii.gz", labels, image)


def write_dataset(folder: Path, names: list[str], labels: dict | None = None, channels: int = 1) -> Path:
    for name in names:
        write_case(folder, name, channels=channels)
    labels = labels or {"background": 0, "left kidney": 1, "right kidney": 2}
    content = {
        "channel_names": {str(i): f"MRI {i}" for i in range(channels)},
        "labels": labels,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def header(path: Path, *changes: tuple[int, str, float | int]) -> None:
    """Change fields of a NIfTI header: (offset, struct format, value)."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for offset, kind, value in changes:
        struct.pack_into("<" + kind, content, offset, value)
    path.write_bytes(gzip.compress(bytes(content), mtime=0))


def voxels(path: Path, change: Callable[[np.ndarray], None], dtype: type = np.float32) -> None:
    """Change the voxels of a file."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    change(np.frombuffer(content, dtype, offset=352))
    path.write_bytes(gzip.compress(bytes(content), mtime=0))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def to_float(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    fractions = np.frombuffer(content, np.uint8, offset=352).astype(np.float32) * 1.5
    struct.pack_into("<hh", content, 70, 16, 32)
    path.write_bytes(gzip.compress(bytes(content[:352]) + fractions.tobytes(), mtime=0))


def mirror(path: Path) -> None:
    """The labels' affine runs the other way, as if the patient were mirrored."""
    header(path, (252, "h", 0), (280, "f", -2.0), (292, "f", 9.0))


def nan(array: np.ndarray) -> None:
    array[7] = np.nan


def seven(array: np.ndarray) -> None:
    array[7] = 77


def nothing(array: np.ndarray) -> None:
    array[:] = 0


# name of the case -> (which file, what is done to it, the code that is expected)
BROKEN: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "truncated": ("image", cut, "truncated-gzip"),
    "flipped": ("image", flip_bit, "corrupt-gzip"),
    "size": ("image", lambda p: header(p, (42, "h", 30000)), "size-lie"),
    "magic": ("image", lambda p: header(p, (344, "4s", b"abcd")), "bad-magic"),
    "nan": ("image", lambda p: voxels(p, nan), "nan"),
    "qform": ("image", lambda p: header(p, (252, "h", 1), (268, "f", 33.0)), "qform-sform"),
    "pixdim": ("image", lambda p: header(p, (252, "h", 0), (80, "f", 1.0)), "pixdim-affine"),
    "zero": ("image", lambda p: header(p, (80, "f", 0.0)), "bad-pixdim"),
    "sheared": ("image", lambda p: header(p, (252, "h", 0), (284, "f", 1.5)), "sheared"),
    "sform": ("image", lambda p: header(p, (280, "f", float("nan"))), "sform-nan"),
    "complex": ("image", lambda p: header(p, (70, "h", 32), (72, "h", 64)), "unsupported-type"),
    "sideless": ("image", lambda p: header(p, (252, "h", 0), (254, "h", 0)), "unknown-orientation"),
    "fractions": ("labels", to_float, "float-labels"),
    "mirrored": ("labels", mirror, "grid-mismatch"),
    "unknown": ("labels", lambda p: voxels(p, seven, np.uint8), "unknown-label-value"),
    "orphan": ("labels", lambda p: p.with_name("nobody.nii.gz").write_bytes(p.read_bytes()), "missing-file"),
    "misnamed": ("image", lambda p: p.with_name("loose.nii.gz").write_bytes(p.read_bytes()), "bad-file-name"),
}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    folder = write_dataset(tmp_path / "broken", [*BROKEN, "fine_a", "fine_b"])
    for name, (which, damage, _) in BROKEN.items():
        damage(folder / (f"imagesTr/{name}_0000.nii.gz" if which == "image" else f"labelsTr/{name}.nii.gz"))
    return folder


def by_case(complaints: list[Complaint]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for complaint in complaints:
        found.setdefault(complaint.case, set()).add(complaint.code)
    return found


def test_every_kind_of_broken_file_is_named_in_one_run(broken):
    found = by_case(check_dataset(broken))
    for name, (_, _, code) in BROKEN.items():
        place = {"orphan": "nobody", "misnamed": "loose"}.get(name, name)
        assert any(code in x for x in found.get(place, ())), f"{name}: expected {code}, found {found.get(place)}"
    assert len({code for _, _, code in BROKEN.values()}) >= 12
    assert "fine_a" not in found
    assert "fine_b" not in found


def test_every_error_says_which_file_and_what_to_do(broken):
    for complaint in check_dataset(broken):
        assert complaint.file
        assert len(str(complaint)) > 40
        if complaint.severity == "error":
            assert complaint.sentence.endswith((".", ")"))


def test_threads_find_the_same(broken):
    assert check_dataset(broken, workers=3) == check_dataset(broken)


def test_the_command_prints_every_error_writes_json_and_gives_2(broken, tmp_path, capsys):
    assert run({"dataset": str(broken), "output": str(tmp_path / "report.json")}) == 2
    printed = capsys.readouterr().out
    for name, (_, _, code) in BROKEN.items():
        assert code in printed
        assert {"orphan": "nobody", "misnamed": "loose"}.get(name, name) in printed
    report = CheckReport.load(tmp_path / "report.json")
    assert (report.cases, len(report.errors)) == (len(BROKEN) + 2, len(report.complaints) - len(report.warnings))
    assert run({"dataset": str(broken), "format": "json"}) == 2
    assert json.loads(capsys.readouterr().out) == report.content()


def test_a_clean_dataset_gives_0(tmp_path, capsys):
    assert run({"dataset": str(write_dataset(tmp_path / "d", ["a", "b"]))}) == 0
    assert "Nothing is wrong" in capsys.readouterr().out


def test_something_that_is_no_dataset_gives_2(tmp_path, capsys):
    assert run({"dataset": str(tmp_path)}) == 2
    assert "Understood are" in capsys.readouterr().out
    assert run({"dataset": str(tmp_path / "nowhere")}) == 2


def test_warnings_do_not_fail_a_dataset(tmp_path):
    folder = write_dataset(
        tmp_path / "d", ["a", "b", "c", "d", "e", "f"], {"background": 0, "x": 1, "y": 2, "never": 9}
    )
    voxels(folder / "labelsTr/a.nii.gz", nothing, np.uint8)
    (folder / "imagesTr/b_0000.nii.gz").write_bytes((folder / "imagesTr/c_0000.nii.gz").read_bytes())
    (folder / "labelsTr/d.nii.gz").unlink()
    write_case(folder, "e", AFFINE * np.array([[10, 10, 10, 1]]).clip(1))
    voxels(folder / "imagesTr/f_0000.nii.gz", nothing)
    complaints = check_dataset(folder)
    assert {x.severity for x in complaints} == {"warning"}
    found = {x.code: x for x in complaints}
    assert set(found) == {
        "empty-labels", "duplicate-voxels", "labels-absent", "spacing-outlier", "constant-image",
        "label-never-occurs-9",
    }  # fmt: skip
    assert "'b', 'c'" in found["duplicate-voxels"].sentence
    assert "kept in one fold" in found["duplicate-voxels"].remedy
    assert found["spacing-outlier"].case == "e"
    assert run({"dataset": str(folder)}) == 0


def test_labels_of_nothing_are_told_apart_from_labels_that_nobody_made(tmp_path):
    folder = write_dataset(tmp_path / "d", ["a", "b", "c", "d"], {"background": 0, "x": 1, "y": 2, "ignore": 5})
    assert {x.code for x in check_dataset(folder)} == {"ignore-never-occurs"}

    def half(array: np.ndarray) -> None:
        array[array.size // 2 :] = 5

    def all_of_it(array: np.ndarray) -> None:
        array[:] = 5

    def empty_half(array: np.ndarray) -> None:
        nothing(array)
        half(array)

    for name, change in (("a", half), ("b", all_of_it), ("c", empty_half)):
        voxels(folder / f"labelsTr/{name}.nii.gz", change, np.uint8)
    found = by_case(check_dataset(folder))
    assert found == {"b": {"nothing-annotated"}, "c": {"empty-labels"}}
    assert run({"dataset": str(folder)}) == 0


def test_a_label_that_no_region_joins_is_told(tmp_path):
    folder = write_dataset(tmp_path / "d", ["a", "b"])
    content = json.loads((folder / "dataset.json").read_text())
    content |= {"labels": {"background": 0, "left and right": [1, 2], "right": 2}, "regions_class_order": [1, 2]}
    (folder / "dataset.json").write_text(json.dumps(content))
    assert check_dataset(folder) == []
    (folder / "dataset.json").unlink()
    (folder / "labels.yaml").write_text("labels: {x: 1, y: 2}\nregions: {all of x: [x]}\n")
    (complaint,) = check_dataset(folder)
    assert (complaint.code, complaint.severity) == ("label-in-no-region-y", "warning")


def test_a_mirrored_copy_of_another_case_is_noticed(tmp_path):
    folder = write_dataset(tmp_path / "d", ["a", "b", "c"])

    def mirrored(array: np.ndarray) -> None:
        array[:] = array.reshape(SHAPE)[:, :, ::-1].ravel()

    (folder / "imagesTr/b_0000.nii.gz").write_bytes((folder / "imagesTr/a_0000.nii.gz").read_bytes())
    voxels(folder / "imagesTr/b_0000.nii.gz", mirrored)
    (complaint,) = check_dataset(folder)
    assert "'a', 'b' hold the same voxels, mirrored or turned" in complaint.sentence


def test_channels_that_lie_elsewhere_or_are_too_many_are_errors(tmp_path):
    folder = write_dataset(tmp_path / "d", ["a", "b", "c"], channels=2)
    header(folder / "imagesTr/a_0001.nii.gz", (252, "h", 0), (292, "f", 40.0))
    (folder / "imagesTr/b_0002.nii.gz").write_bytes((folder / "imagesTr/b_0001.nii.gz").read_bytes())
    found = by_case(check_dataset(folder))
    assert found["a"] == {"grid-mismatch"}
    assert "wrong-channels" in found["b"]


def test_orientation_matters_only_where_labels_have_a_side(tmp_path):
    folder = write_dataset(tmp_path / "d", ["a", "b"], {"background": 0, "liver": 1, "spleen": 2})
    header(folder / "imagesTr/a_0000.nii.gz", (252, "h", 0), (254, "h", 0))
    header(folder / "labelsTr/a.nii.gz", (252, "h", 0), (254, "h", 0))
    assert {x.severity for x in check_dataset(folder)} == {"warning"}


def test_pictures_can_not_tell_their_orientation_so_sides_are_a_warning(tmp_path):
    labels = np.zeros((1, 8, 9), np.uint8)
    labels[0, 2:5, 1:3], labels[0, 2:5, 6:8] = 1, 2
    for name in ("a", "b"):
        for sub, scale in (("images", len(name) * 50), ("labels", 1)):
            write_labels(tmp_path / f"{sub}/{name}.png", labels * scale, Volume(labels, AFFINE))
    (tmp_path / "labels.yaml").write_text("labels: {left lung: 1, right lung: 2}\n")
    complaints = check_dataset(tmp_path)
    assert {x.severity for x in complaints} == {"warning"}
    assert "same way round" in next(x.remedy for x in complaints if x.code == "unknown-orientation")


def test_broken_labels_of_a_plain_pair_are_named_once(tmp_path):
    folder = write_dataset(tmp_path / "d", ["a", "b", "c"])
    (folder / "dataset.json").unlink()
    cut(folder / "labelsTr/b.nii.gz")
    assert [(x.case, x.code) for x in check_dataset(folder)] == [("b", "truncated-gzip")]


def test_the_command_imports_neither_torch_nor_monai(tmp_path):
    folder = write_dataset(tmp_path / "d", ["a"])
    program = (
        "import sys; from medseg.cli import main; code = main(sys.argv[1:]);"
        "print([x for x in ('torch', 'monai', 'lightning_fabric') if x in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "check", f"dataset={folder}"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
