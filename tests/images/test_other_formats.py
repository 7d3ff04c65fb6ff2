"""MetaImage, NRRD, PNG and TIFF obey the same rules as NIfTI as far as they can hold them."""

import random

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from broken_files import nifti, voxels
from PIL import Image as Pillow

from medseg.errors import ImageFileError, MedsegError
from medseg.images.formats import SUFFIXES, peek_image, read_image, read_labels, stem_of, write_image, write_labels

ITK_SUFFIXES = [".mha", ".nrrd"]


def refusal(path, read=read_image):
    with pytest.raises(ImageFileError) as caught:
        read(path)
    assert str(path) in caught.value.sentence
    return caught.value.code


def itk_file(path, array, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), compressed=True):
    image = SimpleITK.GetImageFromArray(array, isVector=array.ndim == 4)
    image.SetSpacing((1.0, 1.2, 2.5))
    image.SetOrigin((20.0, -10.0, 30.0))
    image.SetDirection(direction)
    SimpleITK.WriteImage(image, str(path), compressed)
    return path


def test_the_stem_loses_the_whole_suffix_and_nothing_else():
    assert [stem_of(f"a.b_0000{suffix}") for suffix in SUFFIXES] == ["a.b_0000"] * len(SUFFIXES)
    assert stem_of("A_0000.NII.GZ") == "A_0000"
    assert stem_of("notes.txt") == "notes.txt"


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_voxels_and_their_place_equal_those_of_the_same_image_as_nifti(tmp_path, suffix):
    itk_file(tmp_path / f"a{suffix}", voxels("i2"), direction=(0, -1, 0, 1, 0, 0, 0, 0, -1))
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / f"a{suffix}")), str(tmp_path / "b.nii.gz"))
    itk, nii = read_image(tmp_path / f"a{suffix}"), read_image(tmp_path / "b.nii.gz")
    assert np.array_equal(itk.array, nii.array)
    assert np.allclose(itk.affine, nii.affine, atol=1e-5)
    assert itk.spacing == (2.5, 1.2, 1.0)


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_labels_go_back_to_the_same_grid_and_to_nifti(tmp_path, suffix):
    image = read_image(itk_file(tmp_path / f"a{suffix}", voxels("i2"), direction=(0.6, -0.8, 0, 0.8, 0.6, 0, 0, 0, 1)))
    for name in (f"labels{suffix}", "labels.nii.gz"):
        write_labels(tmp_path / name, voxels("u1"), image)
        labels = read_labels(tmp_path / name)
        assert np.array_equal(labels.array, voxels())
        assert np.allclose(labels.affine, image.affine, atol=1e-5)
    first, second = (SimpleITK.ReadImage(str(tmp_path / f"{name}{suffix}")) for name in ("a", "labels"))
    assert first.GetDirection() == second.GetDirection()
    assert first.GetOrigin() == second.GetOrigin()
    assert first.GetSpacing() == second.GetSpacing()


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_components_become_channels(tmp_path, suffix):
    vector = np.moveaxis(voxels("f4", (3, 6, 5, 4)), 0, -1)
    image = read_image(itk_file(tmp_path / f"a{suffix}", vector))
    assert np.array_equal(image.array, voxels("f4", (3, 6, 5, 4)))
    write_image(tmp_path / f"b{suffix}", image.array, image)
    assert np.array_equal(read_image(tmp_path / f"b{suffix}").array, image.array)
    assert refusal(tmp_path / f"a{suffix}", read_labels) == "four-dimensional"


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_damage_that_itk_does_not_notice_is_refused(tmp_path, suffix):
    original = np.random.default_rng(0).integers(0, 999, (8, 9, 10)).astype("i2")
    content = itk_file(tmp_path / f"a{suffix}", original).read_bytes()
    path, generator = tmp_path / f"b{suffix}", random.Random(3)
    path.write_bytes(content[:-40])
    assert refusal(path) == "truncated-gzip"
    start = len(content) - 1200  # within the packed voxels
    for _ in range(20):
        place = generator.randrange(start * 8, len(content) * 8)
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            assert np.array_equal(read_image(path).array[0], original)
        except ImageFileError:
            continue


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_what_nifti_refuses_is_refused_here_too(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    array = voxels("f4")
    array[1, 1, 1] = np.nan
    assert refusal(itk_file(path, array)) == "nan"
    array[1, 1, 1] = np.inf
    assert refusal(itk_file(path, array), read_labels) == "inf"
    array[1, 1, 1] = 0.5
    assert refusal(itk_file(path, array), read_labels) == "float-labels"
    if suffix == ".nrrd":  # MetaImage has no complex numbers, only two components
        assert refusal(itk_file(path, voxels("c8"))) == "unsupported-type"
    content = itk_file(path, voxels("i2"), compressed=False).read_bytes()
    path.write_bytes(content[:-1])
    assert refusal(path) == "size-lie"
    path.write_bytes(b"nothing of the kind")
    assert refusal(path) in ("unreadable-file", "bad-magic")


def test_voxels_in_another_file_are_refused(tmp_path):
    path = itk_file(tmp_path / "a.mha", voxels("i2"), compressed=False)
    content = path.read_bytes()
    (tmp_path / "secret.raw").write_bytes(bytes(240))
    path.write_bytes(content[: content.index(b"LOCAL")] + b"secret.raw\n")
    assert refusal(path) == "detached-data"


def test_a_grey_png_of_8_or_16_bits_is_one_slice(tmp_path):
    for kind, largest in (("u1", 255), ("u2", 65535)):
        array = np.arange(20).reshape(4, 5).astype(kind)
        array[0, 0] = largest
        Pillow.fromarray(array).save(tmp_path / "a.png")
        image, labels = read_image(tmp_path / "a.png"), read_labels(tmp_path / "a.png")
        assert image.array.shape == (1, 1, 4, 5)
        assert np.array_equal(image.array[0, 0], array)
        assert np.array_equal(labels.array[0], array)
        assert not image.orientation_known
        assert "1 mm" in image.remarks[0]


def test_a_colour_png_has_three_channels_and_can_not_be_labels(tmp_path):
    array = np.arange(60).reshape(4, 5, 3).astype("u1")
    Pillow.fromarray(array).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png").array[:, 0], np.moveaxis(array, -1, 0))
    assert refusal(tmp_path / "a.png", read_labels) == "unsupported-type"


def test_a_palette_png_gives_its_indices_as_labels_and_its_colours_as_an_image(tmp_path):
    array = np.array([[0, 1], [2, 3]], "u1")
    picture = Pillow.new("P", (2, 2))
    picture.putdata(array.ravel().tolist())
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png").array[0], array)
    assert read_image(tmp_path / "a.png").array[:, 0, 0, 1].tolist() == [255, 0, 0]


def test_transparent_pixels_are_refused_and_opaque_ones_are_not(tmp_path):
    array = np.full((4, 5, 4), 255, "u1")
    Pillow.fromarray(array).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").array.shape == (3, 1, 4, 5)
    array[0, 0, 3] = 0
    Pillow.fromarray(array).save(tmp_path / "a.png")
    assert refusal(tmp_path / "a.png") == "unsupported-type"


def test_a_damaged_png_is_refused(tmp_path):
    Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20)).astype("u1")).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[200] ^= 4
    (tmp_path / "a.png").write_bytes(content)
    assert refusal(tmp_path / "a.png") == "unreadable-file"


def test_pages_of_a_tiff_are_z(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", voxels("u2"), photometric="minisblack", compression="zlib")
    image, labels = read_image(tmp_path / "a.tif"), read_labels(tmp_path / "a.tif")
    assert np.array_equal(image.array[0], voxels())
    assert np.array_equal(labels.array, voxels())
    write_labels(tmp_path / "b.tif", voxels("u1"), labels)
    assert np.array_equal(read_labels(tmp_path / "b.tif").array, voxels())
    write_image(tmp_path / "c.tif", voxels("f4", (3, 6, 5, 4)), labels)
    assert np.array_equal(read_image(tmp_path / "c.tif").array, voxels("f4", (3, 6, 5, 4)))


def test_a_colour_tiff_has_three_channels(tmp_path):
    colours = np.arange(6 * 5 * 4 * 3).reshape(6, 5, 4, 3).astype("u2")
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "a.tif").array, np.moveaxis(colours, -1, 0))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_tiff_that_lost_its_last_pages_is_refused(tmp_path, part):
    array = np.random.default_rng(0).integers(0, 60000, (8, 20, 20)).astype("u2")
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", compression="zlib", metadata=None)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: int(len(content) * part)])
    assert refusal(tmp_path / "a.tif") in ("truncated-tiff", "unreadable-file")


def test_a_png_takes_one_slice_of_whole_numbers(tmp_path):
    Pillow.fromarray(np.zeros((4, 5), "u1")).save(tmp_path / "a.png")
    like = read_image(tmp_path / "a.png")
    labels = np.arange(20).reshape(1, 4, 5) * 100
    write_labels(tmp_path / "b.png", labels, like)
    assert np.array_equal(read_labels(tmp_path / "b.png").array, labels)
    write_labels(tmp_path / "b.nii.gz", labels, like)
    assert nibabel.load(tmp_path / "b.nii.gz").header["sform_code"] == 0
    with pytest.raises(MedsegError, match="PNG"):
        write_labels(tmp_path / "c.png", voxels("u1"), read_image(nifti(tmp_path / "a.nii")))
    with pytest.raises(MedsegError, match="PNG"):
        write_image(tmp_path / "c.png", labels / 2, like)


def test_a_header_without_directions_leaves_left_and_right_unknown(tmp_path):
    whole = itk_file(tmp_path / "a.mha", voxels("i2"), compressed=False)
    assert read_image(whole).orientation_known
    assert read_image(itk_file(tmp_path / "a.nrrd", voxels("i2"))).orientation_known
    head, _, tail = whole.read_bytes().partition(b"TransformMatrix")
    (tmp_path / "b.mha").write_bytes(head + tail.partition(b"\n")[2])
    nrrd = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\nspacings: 1 1.2 2.5\nencoding: raw\nendian: little\n\n"
    (tmp_path / "b.nrrd").write_bytes(nrrd.encode() + voxels("i2").tobytes())
    for suffix in ITK_SUFFIXES:
        for volume in (read_image(tmp_path / f"b{suffix}"), read_labels(tmp_path / f"b{suffix}")):
            assert not volume.orientation_known
            assert volume.spacing == (2.5, 1.2, 1.0)
            assert "left and right are unknown" in volume.remarks[0]


@pytest.mark.parametrize("suffix", [*ITK_SUFFIXES, ".nii.gz"])
@pytest.mark.parametrize("shape", [(6, 5, 4), (3, 6, 5, 4)])
def test_a_header_alone_tells_the_size_and_place_of_an_image(tmp_path, suffix, shape):
    source = read_image(itk_file(tmp_path / "source.mha", voxels("f4", shape[-3:])))
    write_image(tmp_path / f"a{suffix}", voxels("f4", shape), source)
    peeked, whole = peek_image(tmp_path / f"a{suffix}"), read_image(tmp_path / f"a{suffix}")
    assert peeked.array.shape == whole.array.shape
    assert np.array_equal(peeked.affine, whole.affine)
    assert set(peeked.array.strides) == {0}, "takes no memory"


def test_a_header_that_can_not_be_read_is_refused_and_a_picture_tells_nothing_before_it_is_read(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"nothing")
    refusal(tmp_path / "a.nii.gz", peek_image)
    Pillow.fromarray(voxels("u1", (5, 4))).save(tmp_path / "a.png")
    assert peek_image(tmp_path / "a.png") is None
