"""Networks as ONNX graphs: written from a torch network, and run by ONNX Runtime in its place.

Knows nothing of Cases or bundles. A graph takes ``image`` (B, C, *patch) and gives ``logits`` (B, K, *patch), float32;
only the batch may vary. What the weights say of themselves stands in the graph's metadata, as it does in safetensors.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medseg.arrays import Triple
from medseg.errors import CheckpointError, SettingsError
from medseg.files import written_whole

if TYPE_CHECKING:
    import onnxruntime

_KEY = "medseg"
INPUT, OUTPUT = "image", "logits"


class OnnxNetwork(nn.Module):
    """An ONNX graph that is called like the network it was made of, on the CPU."""

    def __init__(self, graph: bytes, where: str) -> None:
        super().__init__()
        # Kept as a buffer, so that its size counts with the memory of the model.
        self.register_buffer("graph", torch.frombuffer(bytearray(graph), dtype=torch.uint8), persistent=False)
        self.session = _session(graph, where)

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, C, *patch) -> logits (B, K, *patch), float32."""
        (logits,) = self.session.run([OUTPUT], {INPUT: tiles.cpu().float().contiguous().numpy()})
        return torch.from_numpy(logits).to(tiles.device)


def to_onnx(network: nn.Module, channels: int, patch: Triple, description: Mapping[str, Any]) -> bytes:
    """The network (on the CPU, in eval mode) as a graph with a description. Raises SettingsError without the extra."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise _missing() from None
    example = torch.zeros(2, channels, *patch)  # two, because a batch of one would be taken for a fixed size
    log = logging.getLogger("torch.onnx")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own notes about its exporter
        log.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        finally:
            log.setLevel(level)
    assert program is not None  # given with dynamo=True
    return _with_description(program.model_proto, description)


def described(graph: bytes, description: Mapping[str, Any]) -> bytes:
    """A graph that another tool has changed, with a description."""
    import onnx

    return _with_description(onnx.load_from_string(graph), description)


def _with_description(proto: Any, description: Mapping[str, Any]) -> bytes:
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = _KEY, json.dumps(dict(description), sort_keys=True, allow_nan=False)
    return proto.SerializeToString()


def save_graph(path: Path, graph: bytes) -> None:
    """Write a graph whole."""
    with written_whole(Path(path)) as temporary:
        temporary.write_bytes(graph)


def load_graph(path: Path) -> tuple[OnnxNetwork, dict[str, Any]]:
    """A graph that ``save_graph`` wrote, and its description.

    Read from bytes, so that it can't name other files. Raises CheckpointError for a damaged or foreign file,
    SettingsError without the extra.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"There is no file {path}. Export the model again.")
    network = OnnxNetwork(Path(path).read_bytes(), str(path))
    try:
        description = json.loads(network.session.get_modelmeta().custom_metadata_map[_KEY])
    except (KeyError, ValueError):
        raise CheckpointError(f"{path} was not exported by medseg: it lacks the description.") from None
    return network, description


def _session(graph: bytes, where: str) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError:
        raise _missing() from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common base of its errors
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{where} is damaged or no ONNX graph ({detail}). Export the model again.") from None


def _missing() -> SettingsError:
    return SettingsError("ONNX needs an extra: pip install 'medseg[onnx]'.")
