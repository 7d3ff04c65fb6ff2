"""Weights come back as they were written, and damage is noticed."""

import subprocess
import sys

import pytest
import torch

from medseg.errors import CheckpointError, MedsegError
from medseg.networks.weights import load_weights, save_weights

DESCRIPTION = {"fold": 0, "classes": ["liver", "Milz ü"], "nested": {"b": 1.5, "a": None}}


def some_state():
    generator = torch.Generator().manual_seed(0)
    return {
        "b.weight": torch.randn(3, 4, generator=generator),
        "a.count": torch.tensor(7),
        "c.half": torch.randn(5, generator=generator).bfloat16(),
        "d.empty": torch.zeros(0, 3),
    }


def test_others_may_read_weights_where_they_may_read_any_new_file(tmp_path):
    save_weights(tmp_path / "w.safetensors", some_state(), DESCRIPTION)
    (tmp_path / "other").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_tensors_and_description_come_back_unchanged(tmp_path):
    save_weights(tmp_path / "w.safetensors", some_state(), DESCRIPTION)
    state, description = load_weights(tmp_path / "w.safetensors")
    assert description == DESCRIPTION
    assert list(state) == sorted(state)
    for key, value in some_state().items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value)


def test_equal_content_gives_equal_bytes_whatever_its_order(tmp_path):
    save_weights(tmp_path / "1.safetensors", some_state(), DESCRIPTION)
    save_weights(tmp_path / "2.safetensors", dict(reversed(some_state().items())), dict(reversed(DESCRIPTION.items())))
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_equal_content_gives_equal_bytes_in_another_process(tmp_path):
    program = (
        "import sys, torch; from pathlib import Path; from medseg.networks.weights import save_weights;"
        "save_weights(Path(sys.argv[1]), {'b': torch.arange(3.0), 'a': torch.ones(2)}, {'x': 1, 'y': [2]})"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "1.safetensors")], check=True)
    save_weights(tmp_path / "2.safetensors", {"b": torch.arange(3.0), "a": torch.ones(2)}, {"y": [2], "x": 1})
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_views_and_shared_tensors_are_written_as_copies(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    save_weights(tmp_path / "w.safetensors", {"t": whole.T, "row": whole[1], "again": whole}, {})
    state, _ = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(state["t"], whole.T)
    assert torch.equal(state["row"], whole[1])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no file .*gone\.safetensors"):
        load_weights(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_truncated_file_is_noticed(tmp_path, kept):
    path = tmp_path / "w.safetensors"
    save_weights(path, some_state(), DESCRIPTION)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"w\.safetensors is damaged"):
        load_weights(path)


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, some_state(), DESCRIPTION)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[position] ^= 4
        path.write_bytes(flipped)
        try:
            state, _ = load_weights(path)
        except CheckpointError:
            continue
        # Only the description can have changed unnoticed by the tensors' checksum.
        assert all(torch.equal(state[key], value) for key, value in some_state().items())


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "w.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="not written by medseg"):
        load_weights(tmp_path / "w.safetensors")


def test_a_pickle_is_never_opened(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load_weights(tmp_path / "w.safetensors")


def test_a_folder_that_can_not_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MedsegError, match="Could not write"):
        save_weights(tmp_path / "file" / "w.safetensors", some_state(), {})
