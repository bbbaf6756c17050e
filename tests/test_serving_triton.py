import re

import numpy as np
import onnxruntime
import pytest
import tiny
from click.testing import CliRunner

from unlearn_export.artifact import ONNX
from unlearn_export.cli import main
from unlearn_export.errors import ArtifactError, UsageError
from unlearn_export.onnx.export import export_onnx
from unlearn_export.onnx.triton import write_repository


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact")
    encoder = tiny.encoder()
    export_onnx(encoder, folder / "text_encoder")
    return tiny.artifact(folder, encoder)


def test_the_graph_is_unchanged_and_the_config_tells_its_tensors(artifact, tmp_path):
    model = write_repository(artifact, tmp_path / "models", "encoder")
    assert {p.relative_to(model).as_posix() for p in model.rglob("*")} == {"1", "1/model.onnx", "config.pbtxt"}
    assert (model / "1/model.onnx").read_bytes() == (artifact.path / ONNX).read_bytes()
    config = (model / "config.pbtxt").read_text()
    assert 'name: "encoder"' in config and 'platform: "onnxruntime_onnx"' in config
    said = re.findall(r'name: "([\w.]+)" data_type: (\w+) dims: \[ ([-\d, ]+) \]', config)
    session = onnxruntime.InferenceSession(model / "1/model.onnx", providers=["CPUExecutionProvider"])
    states = session.run(None, {"input_ids": np.ones((2, 5), np.int64)})
    assert said[0] == ("input_ids", "TYPE_INT64", "-1, -1")
    for (name, kind, dims), output, state in zip(said[1:], session.get_outputs(), states, strict=True):
        assert (name, kind) == (output.name, "TYPE_FP32") and state.dtype == np.float32
        assert all(int(d) in (-1, side) for d, side in zip(dims.split(","), state.shape, strict=True))


def test_mistakes_are_told(artifact, tmp_path):
    write_repository(artifact, tmp_path)
    with pytest.raises(ArtifactError, match="exists already"):
        write_repository(artifact, tmp_path)
    with pytest.raises(UsageError, match="cannot be called"):
        write_repository(artifact, tmp_path, "../up")
    bare = tiny.artifact(tmp_path / "bare", tiny.encoder())
    with pytest.raises(ArtifactError, match="has no text_encoder/model.onnx"):
        write_repository(bare, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_command(artifact, tmp_path):
    run = CliRunner().invoke(main, ["export", str(artifact.path), "--layout", "triton", "-o", str(tmp_path / "models")])
    assert run.exit_code == 0, run.output
    assert run.stdout.strip() == str(tmp_path / "models" / "text_encoder")
    alone = CliRunner().invoke(main, ["export", str(artifact.path), "--layout", "triton"])
    assert alone.exit_code == 2 and "--out" in alone.stderr
