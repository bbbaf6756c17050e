import json
import shutil
import subprocess
import sys

import onnxruntime
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

import serving
from unlearn_export.errors import ArtifactError, DependencyError, EncoderError, HubError, UnlearnExportError, UsageError
from unlearn_export.pipelines import encoders
from unlearn_export.pipelines.encoders import OrtTextEncoder, check_drop_in, load_encoder

IDS = torch.tensor([[205, 158, 196, 206, 206], [205, 191, 192, 196, 206]])
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def refused(error: type[UnlearnExportError], words: str, call, *args, **kwargs):
    """The call raises one line with these words in it."""
    with pytest.raises(error, match=words) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


def rewrite(folder, change):
    """Save the encoder's tensors again after ``change`` has altered the dict."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors) or tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def folder(tmp_path):
    """A ``text_encoder`` folder of its own, with the safetensors that its graph was made from."""
    model, export = tiny.exported()
    model.save_pretrained(tmp_path / "text_encoder")
    shutil.copy(export.path, tmp_path / "text_encoder")
    return tmp_path / "text_encoder"


@pytest.fixture(params=tiny.FAMILIES)
def both(request, tmp_path):
    """One family's encoder, as loaded by torch and by ONNX Runtime."""
    model, export = tiny.exported(request.param)
    model.save_pretrained(tmp_path)
    shutil.copy(export.path, tmp_path)
    return load_encoder(tmp_path), load_encoder(tmp_path, backend="onnx")


def test_every_family_comes_back_bit_equal(both):
    encoder, _ = both
    original = tiny.exported(type(encoder).__name__)[0]
    assert not encoder.training
    for name, weight in original.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], weight)


@torch.no_grad()
def test_onnx_answers_like_torch(both):
    encoder, ort = both
    masks = [None, torch.ones_like(IDS)] + ([] if type(encoder).__name__.startswith("CLIP") else [MASK])
    for mask in masks:
        expected = encoder(IDS, attention_mask=mask, output_hidden_states=True)
        got = ort(IDS, attention_mask=mask, output_hidden_states=True)
        assert list(got) == [name for name in expected if name != "past_key_values"]
        for name, state in expected.items():
            if name in ("logits", "past_key_values"):
                continue
            if name == "hidden_states":
                assert len(got.hidden_states) == len(state) == tiny.LAYERS + 1
                torch.testing.assert_close(got.hidden_states, state, atol=5e-5, rtol=5e-5)
            else:
                torch.testing.assert_close(got[name], state, atol=5e-5, rtol=5e-5)
    plain = ort(IDS)
    assert plain.hidden_states is None and list(plain) == [name for name in encoder(IDS) if name != "past_key_values"]
    if "logits" not in plain:
        torch.testing.assert_close(ort(IDS, return_dict=False)[0], plain[0])


def named(tensors, prefix):
    """The tensors under CLIP's names with ``prefix``, whichever way transformers wrote them."""
    return {prefix + key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}


def test_the_flat_and_the_prefixed_form_load_whole_or_not_at_all(folder):
    rewrite(folder, lambda tensors: named(tensors, "text_model."))
    prefixed = load_encoder(folder)
    ids = {"text_model.embeddings.position_ids": torch.arange(tiny.TOKENS)[None]}  # a buffer of old checkpoints
    rewrite(folder, lambda tensors: named(tensors, "text_model.") | ids)
    old = load_encoder(folder)
    rewrite(folder, lambda tensors: named({key: t for key, t in tensors.items() if key not in ids}, ""))
    if transformers.__version__ < "5":  # which would leave every tensor random
        refused(EncoderError, "36 missing tensors", load_encoder, folder)
    flat = prefixed if transformers.__version__ < "5" else load_encoder(folder)
    for name, weight in tiny.encoder().state_dict().items():
        for loaded in (flat, prefixed, old):
            assert torch.equal(loaded.state_dict()[name], weight)


def test_a_loaded_model_is_returned_as_it_is():
    encoder = tiny.encoder()
    assert load_encoder(encoder) is encoder


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("1 missing tensors, the first is {}", lambda t, key: {k: v for k, v in t.items() if k != key}),
        ("1 unexpected tensors, the first is .*extra", lambda t, key: t | {key.replace("final", "extra"): t[key] + 1}),
        ("1 mismatched tensors, the first is {}", lambda t, key: t | {key: torch.ones(31)}),
        ("{} in .* not finite", lambda t, key: t | {key: t[key] * float("nan")}),
        ("{} in .* not finite", lambda t, key: t | {key: t[key] * float("inf")}),
    ],
    ids=["missing", "unexpected", "mismatched", "nan", "inf"],
)
def test_an_incomplete_or_damaged_encoder_is_refused(folder, capfd, words, change):
    load_encoder(folder)
    [key] = [key for key in load_file(folder / "model.safetensors") if key.endswith("final_layer_norm.weight")]
    capfd.readouterr()
    rewrite(folder, lambda tensors: change(tensors, key))
    refused(EncoderError, words.format(key), load_encoder, folder)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_file_and_a_pickle_are_refused(folder):
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    refused(EncoderError, "cannot load", load_encoder, folder)
    weights.unlink()
    torch.save(tiny.encoder().state_dict(), folder / "pytorch_model.bin")
    refused(EncoderError, "no .safetensors in", load_encoder, folder)


def test_a_folder_without_an_encoder_is_refused(tmp_path, folder):
    refused(EncoderError, "config.json is missing", load_encoder, tmp_path / "..")
    refused(EncoderError, "no text encoder at", load_encoder, tmp_path / "absent")
    refused(UsageError, "backend is 'jax'", load_encoder, folder, backend="jax")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    refused(EncoderError, "names BertModel: expected CLIPTextModel", load_encoder, folder)


@pytest.mark.parametrize("inner", ["", "text_encoder"])
def test_a_flipped_bit_in_an_artifact_is_refused(tmp_path, inner):
    artifact = tiny.artifact(tmp_path / "artifact", tiny.encoder())
    source = artifact.path / inner
    load_encoder(source)
    weights = artifact.path / "text_encoder/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1000] ^= 1
    weights.write_bytes(data)
    refused(ArtifactError, "model.safetensors in .* was altered", load_encoder, source)
    artifact.seal()
    load_encoder(source)  # the control: without the hash nobody notices


def hub(monkeypatch, artifact, asked):
    """A Hub that holds one artifact; what it was asked for is noted."""

    def download(repo_id, revision, allow_patterns):
        asked.append((repo_id, revision, allow_patterns))
        snapshot = artifact.path.parent / "snapshot"
        for name in artifact.files():
            if any(snapshot.joinpath(name).match(pattern) for pattern in allow_patterns):
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(artifact.path / name, snapshot / name)
        return str(snapshot)

    monkeypatch.setattr(encoders, "snapshot_download", download)


def test_a_hub_id_is_fetched_at_its_revision_and_verified(tmp_path, monkeypatch):
    artifact, asked = tiny.artifact(tmp_path / "artifact", tiny.encoder()), []
    hub(monkeypatch, artifact, asked)
    encoder = load_encoder("owner/name", revision="v1")
    assert torch.equal(*(tiny.weight(e, "layers.0.mlp.fc1.weight") for e in (encoder, tiny.encoder())))
    assert asked[0][:2] == ("owner/name", "v1")
    assert not any("onnx" in pattern or pattern.startswith("tokenizer") for pattern in asked[0][2])
    weights = artifact.path / "text_encoder/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    refused(ArtifactError, "text_encoder/model.safetensors of", load_encoder, "owner/name")


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    def download(*args, **kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr(encoders, "snapshot_download", download)
    refused(HubError, "cannot fetch owner/name@main: no route to host", load_encoder, "owner/name")


def test_onnx_follows_the_dtype_and_keeps_real_parts(folder):
    ort = load_encoder(folder, backend="onnx")
    assert isinstance(ort, OrtTextEncoder) and next(ort.parameters()).device == ort.device
    full = ort(IDS).last_hidden_state
    half = ort.to("cpu", torch.float16)(IDS).last_hidden_state
    assert (full.dtype, half.dtype, ort.dtype) == (torch.float32, torch.float16, torch.float16)
    assert torch.equal(full.half(), half)
    assert ort.config.hidden_size == tiny.WIDTH and not ort.training
    refused(EncoderError, "an ONNX session cannot be saved", ort.save_pretrained, folder / "x")


def test_what_the_graph_cannot_compute_is_refused(folder):
    ort = load_encoder(folder, backend="onnx")
    refused(EncoderError, "takes no attention mask", ort, IDS, attention_mask=MASK)
    refused(EncoderError, "has no output_attentions", ort, IDS, output_attentions=True)
    refused(EncoderError, "has no position_ids", ort, IDS, position_ids=torch.arange(5)[None])
    ort(IDS, output_attentions=False)


def test_a_damaged_or_foreign_graph_is_refused(folder):
    graph = folder / "model.onnx"
    data = graph.read_bytes()
    graph.write_bytes(data[: len(data) // 2])
    refused(EncoderError, "cannot load .*model.onnx", load_encoder, folder, backend="onnx")
    bias = tiny.weight(tiny.encoder(), "final_layer_norm.weight").detach().numpy().tobytes()
    graph.write_bytes(data.replace(bias, b"\x00\x00\xc0\x7f" * tiny.WIDTH))
    refused(EncoderError, "model.onnx computes values that are not finite", load_encoder, folder, backend="onnx")
    graph.write_bytes(data)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    refused(EncoderError, "32 wide with 2 layers, its config.json says 32 and 3", load_encoder, folder, backend="onnx")
    graph.unlink()
    refused(EncoderError, "no model.onnx in", load_encoder, folder, backend="onnx")


def test_a_provider_that_cannot_be_had_is_refused(folder, monkeypatch):
    load_encoder(folder, backend="onnx", provider="CPUExecutionProvider")
    load_cuda = {"backend": "onnx", "provider": "CUDAExecutionProvider"}
    refused(DependencyError, "no CUDAExecutionProvider: pip ", load_encoder, folder, **load_cuda)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    real = onnxruntime.InferenceSession  # stands in for a build with CUDA on a machine without: it takes the CPU
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *a, **k: real(*a, **k | {"providers": ["CPUExecutionProvider"]})
    )
    refused(DependencyError, "asked for CUDA.*gave CPUExecutionProvider", load_encoder, folder, **load_cuda)


def test_an_edit_of_the_same_base_drops_in(folder):
    original = tiny.encoder()
    check_drop_in(tiny.edited(original), original)
    check_drop_in(tiny.edited(original).half(), original)
    check_drop_in(tiny.edited(original), tiny.encoder().bfloat16())
    rounded = tiny.encoder().half().float()
    check_drop_in(tiny.edited(original), rounded)
    check_drop_in(tiny.edited(original).half(), tiny.encoder().bfloat16())  # each rounded on its own
    load_encoder(folder, like=original)
    load_encoder(folder, backend="onnx", like=original)


def test_an_encoder_that_was_trained_by_one_small_step_is_another_base():
    original, changed = tiny.encoder("T5EncoderModel"), ["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    twin, tuned = tiny.encoder("T5EncoderModel"), tiny.encoder("T5EncoderModel")
    tiny.weight(twin, changed[0]).data.mul_(-2)
    weight = tiny.weight(tuned, "encoder.block.1.layer.0.SelfAttention.q.weight")
    weight.data += 1e-4 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).sign()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        check_drop_in(twin, original.to(dtype), changed)
        check_drop_in(twin, tuned.to(dtype))  # the control: its table is the same
        refused(EncoderError, r"another base: its [\w.]+SelfAttention.q.weight", check_drop_in, twin, tuned, changed)
    refused(EncoderError, r"another base: its [\w.]+wo.weight", check_drop_in, twin, original, [])


@pytest.mark.parametrize(
    ("words", "encoder"),
    [
        ("its class is T5EncoderModel, its own has CLIPTextModel", tiny.encoder("T5EncoderModel")),
        ("its class is CLIPTextModelWithProjection", tiny.encoder("CLIPTextModelWithProjection")),
        ("its hidden_size is 64, its own has 32", tiny.encoder(hidden_size=64)),
        ("its num_hidden_layers is 3, its own has 2", tiny.encoder(num_hidden_layers=3)),
        ("its vocab_size is 300, its own has 207", tiny.encoder(vocab_size=300)),
        ("its max_position_embeddings is 64, its own has 77", tiny.encoder(max_position_embeddings=64)),
        ("its hidden_act is gelu, its own has quick_gelu", tiny.encoder(hidden_act="gelu")),
        ("of another base: its token_embedding differs|its position_embedding differs", tiny.encoder(seed=1)),
    ],
)
def test_a_foreign_encoder_does_not_drop_in(words, encoder):
    refused(EncoderError, words, check_drop_in, encoder, tiny.encoder())


def test_t5_and_umt5_of_one_size_are_told_apart():
    t5, umt5 = tiny.encoder("T5EncoderModel"), tiny.encoder("UMT5EncoderModel")
    assert t5.config.hidden_size == umt5.config.hidden_size
    refused(EncoderError, "its class is UMT5EncoderModel", check_drop_in, umt5, t5)
    check_drop_in(tiny.encoder("T5EncoderModel"), t5)
    other = tiny.encoder("T5EncoderModel", seed=1)
    refused(EncoderError, "another base: its token_embedding", check_drop_in, other, t5)


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_a_decoder_of_another_base_does_not_drop_in(family, tmp_path):
    original, same = tiny.encoder(family), tiny.encoder(family)
    tiny.weight(same, "layers.1.mlp.down_proj.weight").data.mul_(-2)
    check_drop_in(same, original)
    check_drop_in(same.bfloat16(), original)
    refused(EncoderError, "another base: its token_embedding", check_drop_in, tiny.encoder(family, seed=1), original)
    for field, value in (("vocab_size", 300), ("num_hidden_layers", 3), ("num_key_value_heads", 4)):
        other = tiny.encoder(family, **{field: value})
        refused(EncoderError, f"its {field} is {value}, its own has", check_drop_in, other, original)
    if family.startswith("Gemma"):
        wide = tiny.encoder(family, sliding_window=8)
        refused(EncoderError, "its sliding_window is 8, its own has 4", check_drop_in, wide, original)
    model, export = tiny.exported(family)
    model.save_pretrained(tmp_path)
    shutil.copy(export.path, tmp_path)
    load_encoder(tmp_path, backend="onnx", like=original)
    other = tiny.encoder(family, seed=1)
    refused(EncoderError, "another base: its token", load_encoder, tmp_path, backend="onnx", like=other)


def test_the_two_layouts_of_one_language_model_are_told_apart():
    text, whole = (tiny.encoder(f) for f in ("Qwen2_5_VLTextModel", "Qwen2_5_VLForConditionalGeneration"))
    refused(EncoderError, "its class is Qwen2_5_VLTextModel, its own has Qwen2_5_VLFor", check_drop_in, text, whole)


def test_an_onnx_encoder_of_another_base_does_not_drop_in(folder):
    refused(EncoderError, "of another base", load_encoder, folder, backend="onnx", like=tiny.encoder(seed=1))
    (folder / "model.safetensors").unlink()
    refused(EncoderError, "no model.safetensors beside", load_encoder, folder, backend="onnx", like=tiny.encoder())
    load_encoder(folder, backend="onnx")


def test_importing_the_package_imports_no_torch():
    code = "import serving, sys; print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
    assert serving.load_encoder is load_encoder
    with pytest.raises(AttributeError):
        serving.nothing  # noqa: B018
