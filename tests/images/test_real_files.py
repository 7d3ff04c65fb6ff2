"""Real scans give the voxels and the place that nibabel and SimpleITK give."""

import nibabel
import numpy as np
import pytest
import SimpleITK

from medseg.images.formats import read_image, read_labels, write_labels

pytestmark = pytest.mark.real
LPS_TO_RAS = np.diag([-1, -1, 1, 1])


def some_files(folder):
    return [*sorted((folder / "ct").glob("*.nii.gz")), *sorted((folder / "hippocampus").rglob("*_00*.nii.gz"))[:20]]


def test_voxels_and_affine_equal_those_of_nibabel_and_simpleitk(real_data):
    files = some_files(real_data)
    assert files
    for path in files:
        volume, other = read_image(path), nibabel.load(path)
        assert np.allclose(volume.affine, other.affine[:, [2, 1, 0, 3]], atol=1e-6)
        assert np.array_equal(volume.array[0], np.asarray(other.dataobj, dtype="f4").T)
        itk = SimpleITK.ReadImage(str(path))
        assert np.array_equal(volume.array[0], SimpleITK.GetArrayFromImage(itk).astype("f4"))
        last = [size - 1 for size in itk.GetSize()]
        world = LPS_TO_RAS[:3, :3] @ itk.TransformIndexToPhysicalPoint(last)
        assert np.allclose((volume.affine @ [*reversed(last), 1])[:3], world, atol=1e-2)


def test_labels_written_on_a_real_grid_lie_where_every_other_tool_finds_the_image(real_data, tmp_path):
    for name, labels_name in (("example_ct_sm", "example_seg"), ("example_mr_sm", None)):
        image = read_image(real_data / "ct" / f"{name}.nii.gz")
        if labels_name:
            labels = read_labels(real_data / "ct" / f"{labels_name}.nii.gz").array
        else:
            labels = np.zeros(image.shape, "u1")
        write_labels(tmp_path / f"{name}.nii.gz", labels, image)
        ours, theirs = (nibabel.load(f / f"{name}.nii.gz") for f in (tmp_path, real_data / "ct"))
        assert np.array_equal(ours.affine, theirs.affine)
        for field in ("qform_code", "sform_code", "xyzt_units"):
            assert ours.header[field] == theirs.header[field]
        assert np.array_equal(np.asarray(ours.dataobj).T, labels)
