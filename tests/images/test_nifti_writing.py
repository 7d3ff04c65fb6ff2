"""What is written goes back to the very grid it came from, whole, and as the same bytes every time."""

import gzip
from itertools import permutations, product

import nibabel
import nibabel.eulerangles
import numpy as np
import pytest
from broken_files import nifti, voxels

from medseg.errors import GeometryError, MedsegError
from medseg.images.formats import read_image, read_labels, write_image, write_labels
from medseg.images.orientation import axis_codes, to_canonical
from medseg.images.volume import Volume

KEPT = ("srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
KEPT += ("qform_code", "sform_code", "xyzt_units", "descrip")


def header_fields(path):
    header = nibabel.load(path).header
    return {name: header[name].tobytes() for name in KEPT} | {"pixdim": header["pixdim"][:4].tobytes()}


def test_the_header_of_the_image_is_kept_bit_by_bit(tmp_path):
    fields = {"descrip": b"scanner 7", "cal_max": 500, "scl_slope": 2, "scl_inter": -1024, "qform_code": 1}
    path = nifti(tmp_path / "image.nii.gz", sform_code=2, **fields)
    image = read_image(path)
    write_labels(tmp_path / "labels.nii.gz", voxels("i8"), image)
    assert header_fields(tmp_path / "labels.nii.gz") == header_fields(path)
    written = nibabel.load(tmp_path / "labels.nii.gz")
    assert written.header["cal_max"] == 0
    assert (written.dataobj.slope, written.dataobj.inter) == (1, 0)
    assert written.get_data_dtype() == np.uint8
    labels = read_labels(tmp_path / "labels.nii.gz")
    assert np.array_equal(labels.array, voxels())
    assert np.array_equal(labels.affine, image.affine)


def test_a_big_endian_image_gives_labels_in_the_same_place(tmp_path):
    image = read_image(nifti(tmp_path / "image.nii", big_endian=True))
    write_labels(tmp_path / "labels.nii", voxels("u2"), image)
    labels = read_labels(tmp_path / "labels.nii")
    assert np.array_equal(labels.affine, image.affine)
    assert np.array_equal(labels.array, voxels())


def test_labels_of_a_series_are_three_dimensional(tmp_path):
    image = read_image(nifti(tmp_path / "image.nii", voxels(shape=(3, 6, 5, 4)), intent_code=1007))
    write_labels(tmp_path / "labels.nii", voxels("u1"), image)
    written = nibabel.load(tmp_path / "labels.nii")
    assert written.shape == (4, 5, 6)
    assert written.header["intent_code"] == 0


def test_a_nifti_2_image_gives_nifti_2_labels(tmp_path):
    nibabel.save(nibabel.Nifti2Image(voxels("f4").T, np.diag([-1.0, 1.2, 2.5, 1])), tmp_path / "image.nii.gz")
    image = read_image(tmp_path / "image.nii.gz")
    write_labels(tmp_path / "labels.nii.gz", voxels("u1"), image)
    assert isinstance(nibabel.load(tmp_path / "labels.nii.gz"), nibabel.Nifti2Image)
    assert np.array_equal(read_labels(tmp_path / "labels.nii.gz").array, voxels())


def test_an_unknown_orientation_stays_unknown(tmp_path):
    image = read_image(nifti(tmp_path / "image.nii", sform_code=0))
    write_labels(tmp_path / "labels.nii", voxels("u1"), image)
    assert not read_labels(tmp_path / "labels.nii").orientation_known


@pytest.mark.parametrize(
    ("largest", "smallest", "expected"),
    [(255, 0, "u1"), (256, 0, "u2"), (65535, 0, "u2"), (65536, 0, "u4"), (300, -1, "i4")],
)
def test_the_type_follows_the_largest_value_and_never_their_number(tmp_path, largest, smallest, expected):
    like = read_image(nifti(tmp_path / "image.nii"))
    labels = np.zeros(like.shape, "i8")
    labels[0, 0, :2] = largest, smallest
    write_labels(tmp_path / "labels.nii.gz", labels, like)
    written = read_labels(tmp_path / "labels.nii.gz").array
    assert written.dtype == np.dtype(expected)
    assert np.array_equal(written, labels)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd", ".tif"])
def test_the_same_labels_give_the_same_bytes(tmp_path, suffix):
    like = read_image(nifti(tmp_path / "image.nii"))
    for name in ("first", "second_with_another_name"):
        write_labels(tmp_path / f"{name}{suffix}", voxels("u1"), like)
    first, second = (tmp_path / f"{name}{suffix}" for name in ("first", "second_with_another_name"))
    assert first.read_bytes() == second.read_bytes()


def test_the_gzip_header_holds_no_time_and_no_name(tmp_path):
    like = read_image(nifti(tmp_path / "image.nii"))
    write_labels(tmp_path / "labels.nii.gz", voxels("u1"), like)
    content = (tmp_path / "labels.nii.gz").read_bytes()
    assert content[3:8] == bytes(5)
    assert len(gzip.decompress(content)) == 352 + 120


def test_maps_with_channels_are_written_and_read(tmp_path):
    like = read_image(nifti(tmp_path / "image.nii"))
    probabilities = np.random.default_rng(0).random((3, *like.shape))
    write_image(tmp_path / "map.nii.gz", probabilities, like)
    assert np.array_equal(read_image(tmp_path / "map.nii.gz").array, probabilities.astype("f4"))
    write_image(tmp_path / "one.nii.gz", probabilities[0], like)
    assert nibabel.load(tmp_path / "one.nii.gz").shape == (4, 5, 6)


def test_another_shape_is_refused(tmp_path):
    like = read_image(nifti(tmp_path / "image.nii"))
    with pytest.raises(GeometryError, match="own grid"):
        write_labels(tmp_path / "labels.nii", voxels("u1", (4, 5, 6)), like)
    with pytest.raises(MedsegError, match="whole numbers"):
        write_labels(tmp_path / "labels.nii", voxels("f4"), like)
    with pytest.raises(MedsegError, match="suffix"):
        write_labels(tmp_path / "labels.gif", voxels("u1"), like)


def test_a_file_is_never_written_where_it_could_be_mistaken_for_another(tmp_path):
    like = read_image(nifti(tmp_path / "a.nii"))
    with pytest.raises(MedsegError, match="beside"):
        write_labels(tmp_path / "a.nii.gz", voxels("u1"), like)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    like = read_image(nifti(tmp_path / "image.nii"))
    write_labels(tmp_path / "labels.nii.gz", voxels("u1"), like)
    before = (tmp_path / "labels.nii.gz").read_bytes()
    with pytest.raises(MedsegError):
        write_labels(tmp_path / "labels.nii.gz" / "inside.nii.gz", voxels("u1"), like)
    assert (tmp_path / "labels.nii.gz").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.nii", "labels.nii.gz"]


ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS, ids=str)
def test_all_48_orientations_come_to_the_same_patient_and_back_to_the_same_file(tmp_path, order, signs):
    """One asymmetric phantom stored in every way: canonical it is always the same, and written it is where it was."""
    canonical = voxels("i2")  # (S, A, R), spacing 2.5, 1.2, 1.0
    spacing = np.array([2.5, 1.2, 1.0])
    stored = canonical.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (kind, sign) in enumerate(zip(order, signs, strict=True)):
        affine[2 - kind, 2 - axis] = sign * spacing[kind]  # nibabel's x first
        affine[2 - kind, 3] = 7.0 if sign > 0 else 7.0 + spacing[kind] * (canonical.shape[kind] - 1)
    header = nibabel.Nifti1Image(stored.T, affine)
    header.header.set_xyzt_units("mm")
    nibabel.save(header, tmp_path / "image.nii.gz")

    volume = read_image(tmp_path / "image.nii.gz")
    permutation, flips = to_canonical(volume.affine)
    turned = volume.array[0].transpose(permutation)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    assert np.array_equal(turned, canonical)
    assert axis_codes(volume.affine) == "".join(
        ("SI", "AP", "RL")[kind][sign < 0] for kind, sign in zip(order, signs, strict=True)
    )

    unflipped = turned[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    labels = unflipped.transpose(np.argsort(permutation)).astype("i2")
    write_labels(tmp_path / "labels.nii.gz", labels, volume)
    written = nibabel.load(tmp_path / "labels.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), stored.T)
    assert header_fields(tmp_path / "labels.nii.gz") == header_fields(tmp_path / "image.nii.gz")


def test_a_volume_without_a_file_can_be_written(tmp_path):
    affine = np.array([[0, 0, -0.7, 30.0], [0, 0.7, 0, -5], [3.0, 0, 0, 12], [0, 0, 0, 1]])
    write_labels(tmp_path / "labels.nii.gz", voxels("u1"), Volume(voxels(), affine))
    written = read_labels(tmp_path / "labels.nii.gz")
    assert np.allclose(written.affine, affine, atol=1e-5)
    assert written.orientation_known


def test_oblique_scans_of_careful_writers_are_never_called_contradictory(tmp_path):
    """A qform holds its rotation in three float32 numbers, and loses most of them near a half turn."""
    generator = np.random.default_rng(0)
    for number in range(60):
        half_turn = nibabel.quaternions.quat2mat([(1, 0, 0, 0), (0, 0, 0, 1), (0, 1, 0, 0)][number % 3])
        tilt = nibabel.eulerangles.euler2mat(*(generator.normal(size=3) * 10 ** generator.uniform(-5, -0.5)))
        affine = np.eye(4)
        affine[:3, :3] = half_turn @ tilt * generator.uniform(0.3, 6, 3)
        affine[:3, 3] = generator.uniform(-500, 500, 3)
        image = nibabel.Nifti1Image(voxels().T, affine)
        image.set_qform(affine, 1)
        image.set_sform(affine, 1)
        nibabel.save(image, tmp_path / "a.nii")
        assert np.allclose(read_image(tmp_path / "a.nii").affine, affine[:, [2, 1, 0, 3]], atol=1e-4)
