import copy
import re
import sys

import onnx
import onnx_ir
import onnxruntime
import pytest
import tiny
import torch
from transformers import UMT5Config, UMT5EncoderModel

from unlearn_export.errors import DependencyError, EncoderError, ParityError
from unlearn_export.onnx import export as onnx_export
from unlearn_export.onnx.export import export_onnx
from unlearn_export.onnx.graph import float32_copy


@pytest.fixture(params=tiny.FAMILIES)
def exported(request):
    return tiny.exported(request.param)


def run(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    states = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip(names, map(torch.from_numpy, states), strict=True))


def masked(encoder):
    return not type(encoder).__name__.startswith("CLIP")


def decoder(encoder):
    return type(encoder).__name__ in tiny.DECODERS


def test_the_graph_computes_every_state_at_untraced_shapes(exported):
    encoder, export = exported
    generator = torch.Generator().manual_seed(7)
    for batch, length, left in ((1, 77, False), (4, 5, False), (3, 21, True)):
        inputs = {"input_ids": torch.randint(tiny.VOCAB, (batch, length), generator=generator)}
        kept = torch.ones(batch, length, 1)
        if masked(encoder):
            mask = (torch.arange(length) < 3).long().repeat(batch, 1)
            inputs["attention_mask"] = mask.flip(1) if left else mask
            kept = inputs["attention_mask"][..., None]
        with torch.no_grad():
            expected = encoder(**inputs, output_hidden_states=True)
        states = run(export.path, **inputs)
        for name, state in states.items():
            kind, _, index = name.partition(".")
            if kind not in expected:  # a vision-language model's head stands before its last state
                kind, index = "hidden_states", "-1"
            reference = expected[kind][int(index)] if index else expected[kind]
            if decoder(encoder):  # where a row's every key is masked, sdpa and eager attention differ
                state, reference = state * kept, reference * kept
            torch.testing.assert_close(state, reference, atol=5e-5, rtol=5e-5)
        if masked(encoder) and (left or not decoder(encoder)):  # the control: the mask matters
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            unmasked = run(export.path, **inputs)
            assert ((unmasked["last_hidden_state"] - states["last_hidden_state"]) * kept).abs().max() > 1e-2


def moved(export, name, changed):
    """Which of 12 positions of a state another token at ``changed`` moves."""
    ids = torch.arange(12)[None] + 3
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    other = inputs | {"input_ids": ids.index_fill(1, torch.tensor(changed), 100)}
    before, after = (run(export.path, **i)[name] for i in (inputs, other))
    return ((before - after).abs().amax(-1)[0] > 1e-4).tolist()


@pytest.mark.parametrize("family", tiny.FAMILIES[2:])
def test_decoders_look_back_and_gemma_s_sliding_layers_not_further_than_their_window(family):
    encoder, export = tiny.exported(family)
    assert all(moved(export, "last_hidden_state", 0))  # every encoder looks back
    forward = [False] * 11 + [True] if decoder(encoder) else [True] * 12
    assert moved(export, "last_hidden_state", 11) == forward
    reach = tiny.WINDOW if family.startswith("Gemma") else 12  # the first layer slides, the second does not
    assert moved(export, "hidden_states.1", 0) == [i < reach for i in range(12)]


def test_gemma_2_s_soft_cap_is_in_the_graph():
    encoder, export = tiny.exported("Gemma2Model")
    ids = torch.arange(40)[None]
    uncapped = copy.deepcopy(encoder)
    uncapped.set_attn_implementation("eager")
    for layer in uncapped.layers:
        layer.self_attn.attn_logit_softcapping = None
    with torch.no_grad():
        capped, other = (model(ids).last_hidden_state for model in (encoder, uncapped))
    got = run(export.path, input_ids=ids, attention_mask=torch.ones_like(ids))["last_hidden_state"]
    assert (got - capped).abs().max() < 5e-5 < 1e-2 < (got - other).abs().max()


def test_the_record_matches_the_file(exported):
    encoder, export = exported
    graph = onnx.load(export.path)
    onnx.checker.check_model(graph)
    pooled = {"CLIPTextModel": ["pooler_output"], "CLIPTextModelWithProjection": ["text_embeds"]}
    assert [node.name for node in graph.graph.output] == [
        "last_hidden_state",
        *pooled.get(type(encoder).__name__, []),
        *(f"hidden_states.{i}" for i in export.layers),
    ]
    mask = ["attention_mask"] if masked(encoder) else []
    assert [node.name for node in graph.graph.input] == ["input_ids", *mask]
    assert [opset.version for opset in graph.opset_import if not opset.domain] == [export.opset] == [20]
    assert 0 < export.max_abs_diff < 5e-5
    assert export.hidden_states == tiny.LAYERS + 1 and export.layers == (0, 1, 2)
    assert {prop.key: prop.value for prop in graph.metadata_props} == {"hidden_states": "3"}
    assert export.size == export.path.stat().st_size
    assert "model.onnx_data" not in {file.name for file in export.path.parent.iterdir()}


def test_a_graph_holds_only_the_layers_that_are_read(tmp_path):
    encoder, whole = tiny.exported("Gemma2Model")
    ids = torch.arange(10)[None]
    with torch.no_grad():
        states = encoder(ids, output_hidden_states=True)
    export = export_onnx(encoder, tmp_path, layers=[-2, 1])
    got = run(export.path, input_ids=ids, attention_mask=torch.ones_like(ids))
    assert list(got) == ["hidden_states.1"] and (export.layers, export.hidden_states) == ((1,), 3)
    torch.testing.assert_close(got["hidden_states.1"], states.hidden_states[1], atol=5e-5, rtol=5e-5)
    assert whole.size - export.size > 0.9 * 4 * sum(weight.numel() for weight in encoder.layers[1].parameters())
    assert 0 < export.max_abs_diff < 5e-5


def test_a_reader_of_the_last_state_needs_no_other(tmp_path):
    encoder, _ = tiny.exported("UMT5EncoderModel")
    export = export_onnx(encoder, tmp_path, layers=[])
    assert [node.name for node in onnx.load(export.path).graph.output] == ["last_hidden_state"]
    assert export.layers == () and export.hidden_states == 3


def test_clip_s_pooled_state_needs_every_layer(tmp_path):
    encoder, whole = tiny.exported("CLIPTextModelWithProjection")
    export = export_onnx(encoder, tmp_path, layers=[-2])  # what SDXL reads
    names = [node.name for node in onnx.load(export.path).graph.output]
    assert names == ["last_hidden_state", "text_embeds", "hidden_states.1"]
    assert abs(whole.size - export.size) < 2000


def test_a_layer_that_does_not_exist_is_refused(tmp_path):
    for layer in (3, -4):
        with pytest.raises(EncoderError, match=f"hidden state {layer} does not exist: choose from -3 to 2"):
            export_onnx(tiny.encoder(), tmp_path, layers=[0, layer])
    assert not list(tmp_path.iterdir())


def test_what_is_too_large_is_refused_before_any_work(tmp_path):
    encoder = tiny.encoder("Qwen2_5_VLForConditionalGeneration")
    text = encoder.model.language_model
    whole = 4 * sum(weight.numel() for weight in text.parameters())
    lower = whole - 4 * sum(w.numel() for part in (text.layers[1],) for w in part.parameters())
    assert whole < 4 * sum(weight.numel() for weight in encoder.parameters())  # no vision, no head
    words = (
        "the float32 graph of this Qwen2_5_VLForConditionalGeneration takes 0.0 GB, the limit is 0.0 GB: pass limit="
    )
    for layers, needed in ((None, whole), ([], whole), ([-2], lower)):
        with pytest.raises(EncoderError, match=f"{words}{needed}, or") as caught:
            export_onnx(encoder, tmp_path / "new", layers=layers, limit=needed - 1)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()
    with torch.device("meta"):
        xxl = UMT5EncoderModel(UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24))
    with pytest.raises(EncoderError, match=r"UMT5EncoderModel takes [12]\d.\d GB, the limit is 12.0 GB"):
        export_onnx(xxl, tmp_path / "new")


@torch.no_grad()
@pytest.mark.parametrize("family", ["LlamaModel", "Gemma2Model", "Gemma3TextModel"])
def test_a_cast_to_half_does_not_round_what_is_no_weight(family):
    weights = {name: weight.bfloat16().float() for name, weight in tiny.encoder(family).state_dict().items()}
    rounded = tiny.encoder(family)
    rounded.load_state_dict(weights)
    rounded.set_attn_implementation("eager")
    ids = torch.arange(40)[None]
    expected = rounded(ids).last_hidden_state
    assert torch.equal(float32_copy(tiny.encoder(family).bfloat16())(ids).last_hidden_state, expected)
    cast = tiny.encoder(family).bfloat16().float()
    assert (cast(ids).last_hidden_state - expected).abs().max() > 1e-3  # the control


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
    monkeypatch.setattr(onnx_export, "_trace", lambda encoder, layers: onnx_ir.load(graph))
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


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DependencyError, match=r"needs onnxscript: pip install 'unlearn-export\[cpu\]', or \[gpu\]"):
        export_onnx(tiny.encoder(), tmp_path)


def test_another_class_is_refused(tmp_path):
    class Other(type(tiny.encoder())):
        pass

    with pytest.raises(EncoderError, match="Other cannot be exported: expected CLIPTextModel, "):
        export_onnx(Other(tiny.encoder().config), tmp_path)
