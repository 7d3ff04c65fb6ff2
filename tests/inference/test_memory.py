import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.errors import MedsegError
from medseg.images.volume import Volume
from medseg.inference.memory import Bound, Layout, choose_layout, estimate_memory, resident_bytes
from medseg.inference.model import Networks
from medseg.inference.options import Options
from medseg.inference.passes import Passes, PreparedImage
from medseg.inference.restore import restore_scores
from medseg.inference.slab import Rows
from medseg.inference.storage import OnDisk

from tiny_networks import CPU, image_of, model_of


def labels_of(image: Volume, model: Networks, options: Options, layout: Layout) -> np.ndarray:
    return Passes(PreparedImage(image, [model]), [model], options, layout).labels(model)


def everything_then_argmax(image: Volume, model: Networks, options: Options) -> np.ndarray:
    """Every score of the whole image is kept and brought to the file's grid, and only then the largest is taken."""
    grid, rows = Passes(PreparedImage(image, [model]), [model], options, Layout()).scores(model)
    kept = torch.cat([part.scores.clone() for part in rows], dim=1)
    whole = torch.stack(list(restore_scores([Rows(0, kept)], grid)), dim=1)
    assert whole.shape[1:] == image.shape, "not cropped"
    return whole.numpy().argmax(0).astype(np.uint8)


@pytest.mark.parametrize("layout", [Layout("disk"), Layout("disk", single_tiles=True), Layout(single_tiles=True)])
@pytest.mark.parametrize("combine", ["probabilities", "nnunet"])
def test_labels_do_not_depend_on_where_scores_are_added_up(tmp_path, layout, combine):
    image, model = image_of((40, 30, 34)), model_of(7, spacing=(1.5, 1.2, 1.3))
    options = Options(CPU, combine=combine, scratch=tmp_path / "new", tile_batch=3)
    expected = labels_of(image, model, options, Layout())
    assert len(np.unique(expected)) > 3
    if combine == "probabilities":
        np.testing.assert_array_equal(expected, everything_then_argmax(image, model, options))
    np.testing.assert_array_equal(labels_of(image, model, options, layout), expected)
    assert not list(tmp_path.rglob("*.*")), "nothing is left on the disk"


def test_scores_go_to_the_disk_when_the_memory_is_short_and_the_smallest_amount_is_named(tmp_path):
    image, model = image_of((40, 64, 64)), model_of(100)
    options = Options(CPU, scratch=tmp_path, tile_batch=1)
    wanted = estimate_memory(image, model, options).host
    assert choose_layout(image, model, options, Bound(wanted, 0))[0].scores == "device"
    layout, memory = choose_layout(image, model, options, Bound(wanted - 1, 0))
    assert layout.scores == "disk"
    assert memory.disk == 100 * 16 * 64 * 64 * 4
    program = 300_000_000
    with pytest.raises(MedsegError, match=r"Case 'big': 40x64x64 voxels and 100 classes need at least") as caught:
        choose_layout(image, model, options, Bound(50_000_000, program), "big")
    named = float(str(caught.value).split("max_memory=")[1].split("GB")[0]) * 1e9
    choose_layout(image, model, options, Bound(int(named) - program, program))
    with pytest.raises(MedsegError, match="max_memory="):
        choose_layout(image, model, options, Bound(int(named) - 100_000_000 - program, program))
    with pytest.raises(MedsegError, match=r"GB on a computer that has as much, or free space on the disk"):
        choose_layout(image, model, replace(options, scratch=None), Bound(50_000_000, program))


def test_the_bound_is_what_max_memory_leaves_beside_the_program():
    bound = Bound.of(Options(CPU, max_memory=100_000_000_000))
    assert bound.host == 100_000_000_000 - bound.program
    assert 50_000_000 < bound.program <= 2 * resident_bytes()
    assert Bound.of(Options(CPU)).allows(1000)


def test_a_folder_that_can_not_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MedsegError, match=r"could not be made in .*max_memory="):
        OnDisk(tmp_path / "file" / "inside").zeros((4, 4), torch.float32)


@pytest.mark.slow
def test_no_voxel_differs_from_keeping_every_score_of_a_large_image(tmp_path):
    image, model = image_of((200, 256, 256)), model_of(20, (64, 96, 96), (1.5, 1.5, 1.5))
    options = Options(CPU, step=0.8, scratch=tmp_path)
    found = labels_of(image, model, options, Layout("disk"))
    expected = everything_then_argmax(image, model, options)
    assert (found != expected).sum() == 0


_LIMITED = """
import resource, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import torch
from tiny_networks import CPU, image_of, model_of
from test_memory import labels_of
from medseg.inference.memory import Bound, Layout, choose_layout, resident_bytes
from medseg.inference.options import Options

torch.set_num_threads(1)
image, model = image_of((40, 240, 240)), model_of(64, (32, 48, 48))
labels_of(image_of((32, 48, 48)), model, Options(CPU), Layout(single_tiles=True))  # libraries load what they need
options = Options(CPU, step=1.0, max_memory=resident_bytes() + 340_000_000, scratch=Path(sys.argv[1]))
allocated = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (allocated + 340_000_000,) * 2)
try:
    labels_of(image, model, options, Layout())
except (RuntimeError, MemoryError):
    print("too much for the memory")
layout, memory = choose_layout(image, model, options, Bound.of(options))
print(layout.scores, memory.disk)
print(labels_of(image, model, options, layout).shape)
"""


@pytest.mark.slow
def test_a_process_with_too_little_memory_for_the_scores_predicts_by_the_disk(tmp_path):
    here = Path(__file__)
    words = [
        sys.executable,
        "-c",
        _LIMITED,
        str(tmp_path),
        str(here.parent),
        str(here.parents[1]),
        str(here.parents[2]),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "too much for the memory",
        f"disk {64 * 32 * 240 * 240 * 4}",
        "(40, 240, 240)",
    ], done.stderr
    assert not list(tmp_path.iterdir())
