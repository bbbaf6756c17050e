"""An artifact's graph, unchanged, in the folder layout that Triton and KServe load models from."""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..artifact import ONNX, Artifact
from ..errors import ArtifactError, UsageError
from ..extras import need

TYPES = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16"}


def write_repository(artifact: Artifact, out: Path, name: str = "text_encoder") -> Path:
    """Make ``out/name`` with config.pbtxt and the graph as version 1, and return it.

    The artifact is verified first; the files are copies. Raises ArtifactError where the artifact has no graph or the
    model is there already.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(f"a model cannot be called {name!r}: use letters, digits, '.', '_' and '-'")
    artifact.verify()
    if not artifact.has_onnx:
        raise ArtifactError(f"{artifact.path} has no {ONNX}: run `unlearn-export export {artifact.path}` first")
    model = out / name
    if model.exists():
        raise ArtifactError(f"{model} exists already: choose another folder or remove it")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".triton-", dir=out) as temp:
        part = Path(temp) / name
        (part / "1").mkdir(parents=True)
        for file in sorted((artifact.path / ONNX).parent.glob("model.onnx*")):
            shutil.copyfile(file, part / "1" / file.name)
        (part / "config.pbtxt").write_text(_config(part / "1" / "model.onnx", name))
        os.replace(part, model)
    return model


def _config(graph: Path, name: str) -> str:
    """What the server must know of the graph; batch and length are free, so it does no batching of its own."""
    need("the layout for Triton", "cpu", "onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    lines = [f'name: "{name}"', 'platform: "onnxruntime_onnx"', "max_batch_size: 0"]
    for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
        lines += [f"{kind} [", ",\n".join(_tensor(tensor) for tensor in tensors), "]"]
    return "\n".join(lines) + "\n"


def _tensor(tensor: Any) -> str:
    dims = ", ".join(str(side) if isinstance(side, int) else "-1" for side in tensor.shape)
    return f'  {{ name: "{tensor.name}" data_type: {TYPES[tensor.type]} dims: [ {dims} ] }}'
