"""The rows of the catalogue of silent failures that concern NIfTI files: each file is made by hand, and refused."""

import gzip
import random

import numpy as np
import pytest
from broken_files import nifti, nifti_bytes, voxels

from medseg.errors import ImageFileError
from medseg.images.formats import read_image, read_labels


def refusal(path, read=read_image):
    with pytest.raises(ImageFileError) as caught:
        read(path)
    assert str(path) in caught.value.sentence, "the sentence should name the file"
    assert caught.value.remedy, "there should be a next step"
    return caught.value.code


@pytest.mark.parametrize("part", [0.2, 0.6, 0.97])
def test_a_truncated_gzip_is_refused(tmp_path, part):
    path = nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype("i2"))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    assert refusal(path) == "truncated-gzip"


def test_a_truncated_gzip_of_zeros_is_called_truncated_although_its_size_seems_impossible(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", np.zeros((64, 64, 64), "i2"))
    path.write_bytes(path.read_bytes()[:150])
    assert refusal(path) == "truncated-gzip"


def test_a_truncated_plain_file_is_refused(tmp_path):
    path = nifti(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(path) == "size-lie"


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"")
    assert refusal(tmp_path / "a.nii.gz") in ("bad-magic", "truncated-gzip")


def test_sixty_single_bit_flips_of_a_gzip_never_change_a_voxel_unnoticed(tmp_path):
    original = np.random.default_rng(1).integers(0, 999, (8, 9, 10)).astype("i2")
    content = nifti(tmp_path / "a.nii.gz", original).read_bytes()
    path, generator = tmp_path / "b.nii.gz", random.Random(7)
    refused = 0
    for _ in range(60):
        place = generator.randrange(len(content) * 8)
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            volume = read_image(path)
        except ImageFileError:
            refused += 1
            continue
        assert np.array_equal(volume.array[0], original), f"bit {place} changed voxels silently"
    assert refused > 50


@pytest.mark.parametrize("tail", [b"junk", b"\x1f\x8b\x08\x00"])
def test_rubbish_after_the_gzip_stream_is_refused(tmp_path, tail):
    path = nifti(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes() + tail)
    assert refusal(path) in ("corrupt-gzip", "truncated-gzip")


def test_a_plain_file_that_is_called_gz_is_refused(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(nifti_bytes())
    assert refusal(tmp_path / "a.nii.gz") == "corrupt-gzip"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "lie",
    [
        {"dim": {1: 30000}},
        {"dim": {1: 30000, 2: 30000, 3: 30000}},
        {"dim": {2: -5}},
        {"dim": {3: 0}},
        {"dim": {0: 9}},
        {"vox_offset": 1e9},
        {"vox_offset": 0},
        {"vox_offset": 352.5},
        {"vox_offset": float("nan")},
        {"bitpix": 64},
    ],
    ids=str,
)
def test_a_header_that_lies_about_its_size_is_refused_before_memory_is_asked_for(tmp_path, suffix, lie):
    assert refusal(nifti(tmp_path / f"a{suffix}", **lie)) == "size-lie"


def test_bytes_after_the_voxels_are_a_remark(tmp_path):
    volume = read_image(nifti(tmp_path / "a.nii.gz", tail=b"1234567"))
    assert np.array_equal(volume.array[0], voxels())
    assert "7 bytes" in volume.remarks[0]


@pytest.mark.parametrize("magic", [b"", b"ni1", b"n+9"])
def test_a_wrong_signature_is_refused(tmp_path, magic):
    assert refusal(nifti(tmp_path / "a.nii", magic=magic)) == "bad-magic"


def test_a_text_file_called_nifti_is_refused(tmp_path):
    (tmp_path / "a.nii").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert refusal(tmp_path / "a.nii") == "bad-magic"


@pytest.mark.parametrize("asked", ["a.nii", "a.nii.gz"])
def test_a_plain_and_a_gzipped_file_of_the_same_name_are_refused(tmp_path, asked):
    nifti(tmp_path / "a.nii")
    nifti(tmp_path / "a.nii.gz")
    assert refusal(tmp_path / asked) == "ambiguous-sibling"


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize(("value", "code"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "inf")])
def test_voxels_that_are_not_finite_are_refused(tmp_path, read, kind, value, code):
    array = voxels(kind)
    array[2, 1, 1] = value
    assert refusal(nifti(tmp_path / "a.nii.gz", array), read) == code


def test_qform_and_sform_that_disagree_are_refused(tmp_path):
    for difference in ({"qoffset_z": 30.01}, {"quatern_d": 1.0}, {"quatern_b": 0.01}, {"pixdim": {0: -1}}):
        assert refusal(nifti(tmp_path / "a.nii", qform_code=1, **difference)) == "qform-sform"


def test_qform_and_sform_that_agree_are_read(tmp_path):
    assert read_image(nifti(tmp_path / "a.nii", qform_code=1)).spacing == (2.5, 1.2, 1.0)


def test_an_impossible_qform_is_refused(tmp_path):
    for fields in ({"quatern_b": 2.0}, {"quatern_c": np.nan}, {"qoffset_z": np.inf}):
        assert refusal(nifti(tmp_path / "a.nii", qform_code=1, sform_code=0, **fields)) == "bad-qform"


def test_voxel_sizes_that_contradict_the_sform_are_refused(tmp_path):
    assert refusal(nifti(tmp_path / "a.nii", pixdim={1: 1, 2: 1, 3: 1})) == "pixdim-affine"


def test_without_qform_and_sform_the_orientation_is_unknown_and_a_remark_says_so(tmp_path):
    volume = read_image(nifti(tmp_path / "a.nii", sform_code=0))
    assert not volume.orientation_known
    assert volume.spacing == (2.5, 1.2, 1.0)
    assert "left and right" in volume.remarks[0]


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("sform_code", [0, 1])
def test_impossible_voxel_sizes_are_refused(tmp_path, size, sform_code):
    assert refusal(nifti(tmp_path / "a.nii", pixdim={2: size}, sform_code=sform_code)) == "bad-pixdim"


def test_a_slope_of_zero_means_unscaled_whatever_the_intercept(tmp_path):
    volume = read_image(nifti(tmp_path / "a.nii", scl_slope=0, scl_inter=5))
    assert np.array_equal(volume.array[0], voxels())


def test_slope_and_intercept_are_applied(tmp_path):
    path = nifti(tmp_path / "a.nii", scl_slope=2, scl_inter=-1024)
    assert np.array_equal(read_image(path).array[0], voxels() * 2.0 - 1024)
    assert np.array_equal(read_labels(path).array, voxels("i4") * 2 - 1024)


@pytest.mark.parametrize("fields", [{"scl_slope": np.nan}, {"scl_inter": np.nan}, {"scl_slope": np.inf}], ids=str)
def test_a_scaling_that_is_not_finite_is_refused(tmp_path, fields):
    assert refusal(nifti(tmp_path / "a.nii", **fields)) == "bad-scaling"


def test_a_scaling_that_leaves_single_precision_is_refused(tmp_path):
    assert refusal(nifti(tmp_path / "a.nii", scl_slope=3e38)) == "float-range"


def test_an_sform_with_nan_is_refused(tmp_path):
    assert refusal(nifti(tmp_path / "a.nii", srow_y=[0, np.nan, 0, 0])) == "sform-nan"


def test_an_sform_that_flattens_the_image_is_refused(tmp_path):
    assert refusal(nifti(tmp_path / "a.nii", srow_z=[0, 0, 0, 0])) in ("singular-affine", "pixdim-affine")


def test_a_sheared_affine_is_refused(tmp_path):
    assert refusal(nifti(tmp_path / "a.nii", srow_x=[1, 0.1, 0, 0])) == "sheared"


def test_a_fourth_axis_becomes_channels_of_an_image(tmp_path):
    array = voxels(shape=(3, 6, 5, 4))
    volume = read_image(nifti(tmp_path / "a.nii", array))
    assert volume.array.shape == (3, 6, 5, 4)
    assert np.array_equal(volume.array, array)


def test_a_fourth_axis_of_one_is_dropped_from_labels_and_a_longer_one_refused(tmp_path):
    assert read_labels(nifti(tmp_path / "a.nii", voxels(shape=(1, 6, 5, 4)))).array.shape == (6, 5, 4)
    assert refusal(nifti(tmp_path / "b.nii", voxels(shape=(2, 6, 5, 4))), read_labels) == "four-dimensional"


def test_a_fifth_axis_becomes_channels_when_the_fourth_is_one_and_is_refused_otherwise(tmp_path):
    assert read_image(nifti(tmp_path / "a.nii", voxels(shape=(3, 1, 6, 5, 4)))).array.shape == (3, 6, 5, 4)
    assert refusal(nifti(tmp_path / "b.nii", voxels(shape=(3, 2, 6, 5, 4)))) == "four-dimensional"


@pytest.mark.parametrize("code", [1, 32, 128, 1536, 1792, 2048, 2304, 999])
def test_types_outside_the_allow_list_are_refused(tmp_path, code):
    assert refusal(nifti(tmp_path / "a.nii", datatype=code)) == "unsupported-type"


def test_doubles_beyond_single_precision_are_refused(tmp_path):
    array = voxels("f8")
    array[0, 0, 0] = -1e300
    assert refusal(nifti(tmp_path / "a.nii", array)) == "float-range"


@pytest.mark.parametrize("value", [1.5, 0.9999])
def test_labels_with_fractions_are_refused(tmp_path, value):
    array = np.zeros((6, 5, 4), "f4")
    array[1, 1, 1] = value
    assert refusal(nifti(tmp_path / "a.nii", array), read_labels) == "float-labels"


def test_labels_stored_as_whole_floats_are_read_as_integers(tmp_path):
    array = voxels("f8") + 1e-9
    labels = read_labels(nifti(tmp_path / "a.nii", array)).array
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, voxels())


def test_integers_that_single_precision_rounds_are_a_remark(tmp_path):
    array = voxels("i4")
    array[0, 0, 0] = 2**24 + 1
    assert "2**24" in read_image(nifti(tmp_path / "a.nii", array)).remarks[0]
    assert read_labels(nifti(tmp_path / "b.nii", array)).array[0, 0, 0] == 2**24 + 1


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("big_endian", [False, True])
def test_every_allowed_type_in_both_byte_orders_is_read(tmp_path, kind, big_endian):
    path = nifti(tmp_path / "a.nii.gz", voxels(kind), big_endian=big_endian)
    image, labels = read_image(path), read_labels(path)
    assert image.array.dtype == np.float32
    assert np.array_equal(image.array[0], voxels())
    assert np.array_equal(labels.array, voxels())
    assert labels.array.dtype.isnative
    assert image.spacing == (2.5, 1.2, 1.0)


def test_three_distinct_spacings_keep_their_axes(tmp_path):
    volume = read_image(nifti(tmp_path / "a.nii"))
    assert volume.array.shape == (1, 6, 5, 4)
    assert volume.spacing == (2.5, 1.2, 1.0)
    assert np.allclose(volume.affine @ [1, 2, 3, 1], [-20 + 3 * 1.0, 10 + 2 * 1.2, 30 + 1 * 2.5, 1])


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000), (2, 1), (3, 0.001), (0, 1)])
def test_metres_and_micrometres_become_millimetres(tmp_path, unit, factor):
    spacing = read_image(nifti(tmp_path / "a.nii", xyzt_units=unit)).spacing
    assert spacing == pytest.approx((2.5 * factor, 1.2 * factor, 1.0 * factor), rel=1e-6, abs=1e-6)


def test_a_flat_file_has_one_slice(tmp_path):
    volume = read_image(nifti(tmp_path / "a.nii", voxels(shape=(1, 5, 4)), dim={0: 2}, pixdim={3: 0}, sform_code=0))
    assert volume.array.shape == (1, 1, 5, 4)
    assert volume.spacing == (1.0, 1.2, 1.0)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert refusal(tmp_path / "a.nii.gz") == "missing-file"
    (tmp_path / "b.nii").mkdir()
    assert refusal(tmp_path / "b.nii") == "missing-file"


def test_an_unknown_suffix_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert refusal(tmp_path / "a.jpg") == "unknown-suffix"


def test_a_damaged_header_inside_a_gzip_is_called_damage(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", dim={1: 30000})
    path.write_bytes(path.read_bytes()[:-5])
    assert refusal(path) == "truncated-gzip"


def test_several_gzip_members_are_one_file(tmp_path):
    content = nifti_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:200]) + gzip.compress(content[200:]))
    assert np.array_equal(read_image(tmp_path / "a.nii.gz").array[0], voxels())
