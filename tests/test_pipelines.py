import shutil

import numpy as np
import pytest
import tiny
import torch
from accelerate import cpu_offload_with_hook
from diffusers import AnimateDiffPipeline, TextToVideoSDPipeline

from unlearn_export import demo
from unlearn_export.errors import ArtifactError, EncoderError, UnlearnExportError, UsageError
from unlearn_export.onnx.export import export_onnx
from unlearn_export.pipelines.encoders import OrtTextEncoder, load_encoder
from unlearn_export.pipelines.load import load_pipeline


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    tokenizer = tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))
    assert len(tokenizer) == tiny.VOCAB
    return tokenizer


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """An edit of ``tiny.encoder()``, with its graph."""
    folder = tmp_path_factory.mktemp("artifact")
    encoder = tiny.edited(tiny.encoder())
    export_onnx(encoder, folder / "text_encoder")
    return tiny.artifact(folder, encoder)


@pytest.fixture(params=[tiny.animatediff, tiny.text_to_video])
def pipe(request, tokens):
    return request.param(tokens, tiny.encoder())


def clip(pipe, **options):
    """Two 16-pixel frames [f, h, w, 3], the same noise every time; both prompts pass through the encoder."""
    generator = torch.Generator().manual_seed(0)
    size = {"num_frames": 2, "height": 16, "width": 16, "num_inference_steps": 2, "output_type": "np"}
    prompts = {"prompt": "a photo of pizza", "negative_prompt": "a car"}
    return pipe(**prompts, **size, generator=generator, **options).frames[0]


def test_the_edit_reaches_the_clip_alike_on_both_backends(pipe, artifact):
    original = clip(pipe)
    edited = clip(load_pipeline(pipe, encoder=artifact.path))
    onnx = load_pipeline(pipe, encoder=artifact.path, backend="onnx")
    assert isinstance(onnx.text_encoder, OrtTextEncoder)
    assert abs(original - edited).max() > 1e-2  # the control
    assert abs(edited - clip(onnx)).max() < 1e-4
    assert np.array_equal(edited, clip(load_pipeline(pipe, encoder=tiny.edited(tiny.encoder()))))


def test_the_caller_s_pipeline_stays_as_it_was(pipe, artifact):
    own, before, config = pipe.text_encoder, clip(pipe), dict(pipe.config)
    other = load_pipeline(pipe, encoder=artifact.path, backend="onnx")
    assert pipe.text_encoder is own and dict(pipe.config) == config
    assert other.unet is pipe.unet and other.components.keys() == pipe.components.keys()
    clip(other)
    assert np.array_equal(clip(pipe), before)


def test_an_encoder_in_memory_is_copied_to_the_pipeline_s_dtype(pipe):
    encoder = tiny.edited(tiny.encoder())
    pipe.to(torch.float64)
    loaded = load_pipeline(pipe, encoder=encoder)
    assert loaded.text_encoder.dtype == torch.float64 and encoder.dtype == torch.float32


def test_onnx_states_take_the_pipeline_s_dtype(pipe, artifact):
    loaded = load_pipeline(pipe.to(torch.float64), encoder=artifact.path, backend="onnx")
    embeddings, _ = loaded.encode_prompt("a photo of pizza", "cpu", 1, False)
    assert embeddings.dtype == loaded.text_encoder.dtype == torch.float64
    loaded.to(torch.float32)
    assert loaded.encode_prompt("a photo of pizza", "cpu", 1, False)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("words", "encoder"),
    [
        ("its class is T5EncoderModel", tiny.encoder("T5EncoderModel")),
        ("its hidden_size is 64, its own has 32", tiny.encoder(hidden_size=64)),
        ("of another base", tiny.encoder(seed=1)),
    ],
)
def test_a_foreign_encoder_is_refused(pipe, words, encoder):
    with pytest.raises(EncoderError, match=words):
        load_pipeline(pipe, encoder=encoder)


def test_an_altered_artifact_is_refused(pipe, artifact, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(artifact.path, folder)
    load_pipeline(pipe, encoder=folder, backend="onnx")
    graph = folder / "text_encoder/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\x01")
    for backend in ("torch", "onnx"):
        with pytest.raises(ArtifactError, match=r"model.onnx in .* was altered"):
            load_pipeline(pipe, encoder=folder, backend=backend)


def test_a_folder_loads_in_silence(pipe, artifact, tmp_path, capfd):
    pipe.save_pretrained(tmp_path)
    expected = clip(load_pipeline(pipe, encoder=artifact.path))
    capfd.readouterr()
    loaded = load_pipeline(tmp_path, encoder=artifact.path)
    assert capfd.readouterr() == ("", "")
    assert type(loaded) is type(pipe)
    assert np.array_equal(clip(loaded), expected)
    assert capfd.readouterr() == ("", "")
    assert np.array_equal(clip(load_pipeline(tmp_path)), clip(pipe))
    half = load_pipeline(tmp_path, encoder=artifact.path, dtype=torch.bfloat16)
    assert half.text_encoder.dtype == half.unet.dtype == torch.bfloat16


@torch.no_grad()
def test_accelerate_s_offload_hooks_carry_an_onnx_encoder(pipe, artifact):
    loaded = load_pipeline(pipe, encoder=artifact.path, backend="onnx")
    expected = clip(loaded)
    _, hook = cpu_offload_with_hook(loaded.text_encoder, "cpu")
    assert np.array_equal(clip(loaded), expected)
    hook.offload()
    assert np.array_equal(clip(loaded), expected)


def test_a_loaded_onnx_encoder_is_shared_but_not_altered(pipe, artifact):
    encoder = load_encoder(artifact.path, backend="onnx")
    loaded = load_pipeline(pipe.to(torch.float64), encoder=encoder)
    assert loaded.text_encoder.session is encoder.session
    assert loaded.text_encoder.dtype == torch.float64 and encoder.dtype == torch.float32


def test_what_is_no_pipeline_is_refused(tmp_path, monkeypatch, tokens):
    with pytest.raises(UsageError, match=r"model_index.json is missing"):
        load_pipeline(tmp_path)
    with pytest.raises(UsageError, match="give a diffusers folder, a Hub id owner/name or demo:NAME"):
        load_pipeline("nothing here")
    (tmp_path / "model_index.json").write_text('{"_class_name": "AnimateDiffPipeline", "vae": ["diffusers", "Absent"]}')
    with pytest.raises(UnlearnExportError, match="cannot load the pipeline") as caught:
        load_pipeline(tmp_path)
    assert "\n" not in str(caught.value)
    pipe = tiny.animatediff(tokens, tiny.encoder())
    pipe.text_encoder = None
    with pytest.raises(EncoderError, match="AnimateDiffPipeline has no text encoder"):
        load_pipeline(pipe, encoder=tiny.encoder())


def test_a_demo_name_is_the_demo_s(monkeypatch, tokens, artifact):
    asked = []

    def load(name):
        asked.append(name)
        return tiny.text_to_video(tokens, tiny.encoder())

    monkeypatch.setattr(demo, "load", load)
    loaded = load_pipeline("demo:t2v-unet3d", encoder=artifact.path)
    assert asked == ["t2v-unet3d"] and isinstance(loaded, TextToVideoSDPipeline)
    assert not isinstance(loaded, AnimateDiffPipeline) and loaded._progress_bar_config == {"disable": True}
