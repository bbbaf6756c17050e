import builtins
import copy
import re

import onnx
import onnx_ir
import onnxruntime
import pytest
import tiny
import torch

from unlearn_export.errors import DependencyError, EncoderError, ParityError
from unlearn_export.onnx import export as onnx_export
from unlearn_export.onnx.export import export_onnx


@pytest.fixture(params=tiny.FAMILIES)
def exported(request):
    return tiny.exported(request.param)


def run(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    states = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip(names, map(torch.from_numpy, states), strict=True))


def test_the_graph_computes_every_state_at_untraced_shapes(exported):
    encoder, export = exported
    generator = torch.Generator().manual_seed(7)
    for batch, length in ((1, 77), (4, 5)):
        inputs = {"input_ids": torch.randint(tiny.VOCAB, (batch, length), generator=generator)}
        if not type(encoder).__name__.startswith("CLIP"):
            inputs["attention_mask"] = (torch.arange(length) < 3).long().repeat(batch, 1)
        with torch.no_grad():
            expected = encoder(**inputs, output_hidden_states=True)
        states = run(export.path, **inputs)
        for name, state in states.items():
            kind, _, index = name.partition(".")
            reference = expected[kind][int(index)] if index else expected[kind]
            torch.testing.assert_close(state, reference, atol=5e-5, rtol=5e-5)
        if "attention_mask" in inputs:  # the control: the mask matters
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            unmasked = run(export.path, **inputs)
            assert (unmasked["last_hidden_state"] - states["last_hidden_state"])[:, :3].abs().max() > 1e-2


def test_the_record_matches_the_file(exported):
    encoder, export = exported
    graph = onnx.load(export.path)
    onnx.checker.check_model(graph)
    pooled = {"CLIPTextModel": ["pooler_output"], "CLIPTextModelWithProjection": ["text_embeds"]}
    assert [node.name for node in graph.graph.output] == [
        "last_hidden_state",
        *pooled.get(type(encoder).__name__, []),
        *(f"hidden_states.{i}" for i in range(export.hidden_states)),
    ]
    masked = [] if type(encoder).__name__ in pooled else ["attention_mask"]
    assert [node.name for node in graph.graph.input] == ["input_ids", *masked]
    assert [opset.version for opset in graph.opset_import if not opset.domain] == [export.opset] == [20]
    assert 0 < export.max_abs_diff < 5e-5
    assert export.hidden_states == tiny.LAYERS + 1
    assert export.size == export.path.stat().st_size
    assert [file.name for file in export.path.parent.iterdir()] == ["model.onnx"]


def test_nothing_of_this_machine_is_in_the_file(exported):
    _, export = exported
    data = export.path.read_bytes()
    assert not re.search(rb"site-packages|stack_trace|\.py\b|/home|/root|/usr|/tmp", data)


def test_the_encoder_is_not_altered_and_the_bytes_repeat(tmp_path):
    encoder = tiny.encoder().train()
    before = copy.deepcopy(encoder.state_dict())
    again = export_onnx(encoder, tmp_path)
    assert again.path.read_bytes() == tiny.exported()[1].path.read_bytes()
    assert encoder.training and encoder.config._attn_implementation == "sdpa"
    assert all(weight.requires_grad for weight in encoder.parameters())
    for name, weight in encoder.state_dict().items():
        assert torch.equal(weight, before[name])


def test_half_precision_is_exported_in_float32_and_in_silence(tmp_path, capfd):
    encoder = tiny.encoder().half()
    (tmp_path / "model.onnx_data").write_bytes(b"of an earlier export")
    export = export_onnx(encoder, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert encoder.dtype == torch.float16
    assert run(export.path, input_ids=torch.ones(1, 4, dtype=torch.int64))["last_hidden_state"].dtype == torch.float32
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_large_weights_go_beside_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "EXTERNAL_BYTES", 0)
    encoder, inside = tiny.exported()
    beside = export_onnx(encoder, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx_data"}
    assert beside.size == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert beside.path.stat().st_size < inside.path.stat().st_size / 2
    ids = torch.ones(1, 4, dtype=torch.int64)
    assert torch.equal(*(run(e.path, input_ids=ids)["last_hidden_state"] for e in (inside, beside)))


def damaged():
    encoder = tiny.encoder()
    tiny.weight(encoder, "final_layer_norm.bias").data[0] = float("nan")
    return encoder


@pytest.mark.parametrize(
    ("encoder", "tolerance"),
    [
        (tiny.edited(tiny.encoder()), 1e-4),
        (tiny.encoder(hidden_size=16), 1e-4),
        (damaged(), 1e-4),
        (tiny.encoder(), 1e-12),
    ],
    ids=["weights", "shape", "nan", "tolerance"],
)
def test_a_failed_gate_leaves_the_folder_as_it_was(tmp_path, monkeypatch, encoder, tolerance):
    graph = tiny.exported()[1].path
    monkeypatch.setattr(onnx_export, "_trace", lambda encoder: onnx_ir.load(graph))
    export_onnx(tiny.encoder(), tmp_path / "control")  # the graph is that of this encoder, and of no other
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"the one before")
    with pytest.raises(ParityError, match=f"tolerance is {tolerance:.0e}: nothing was written") as caught:
        export_onnx(encoder, folder, tolerance=tolerance)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert [file.name for file in folder.iterdir()] == ["model.onnx"]
    assert (folder / "model.onnx").read_bytes() == b"the one before"


def test_a_missing_package_names_the_pip_command(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxscript":
            raise ImportError("no", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DependencyError, match="needs onnxscript: pip install onnx onnxscript onnxruntime"):
        export_onnx(tiny.encoder(), tmp_path)


def test_another_class_is_refused(tmp_path):
    class Other(type(tiny.encoder())):
        pass

    with pytest.raises(EncoderError, match="Other cannot be exported: expected CLIPTextModel, "):
        export_onnx(Other(tiny.encoder().config), tmp_path)
