"""The painter on small random pipelines of the real classes: what is drawn, and what is refused."""

import dataclasses
import shutil

import diffusers
import numpy as np
import pytest
import tiny
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from test_encoders import hub

from serving import painter as painting
from serving.contract import Request, Settings
from serving.painter import Painter, provider_on
from serving.worker import Cancelled
from unlearn_export.artifact import Artifact, read_json, write_json
from unlearn_export.errors import ArtifactError, EncoderError, ParityError, UsageError
from unlearn_export.onnx.export import export_onnx
from unlearn_export.pipelines import encoders
from unlearn_export.pipelines.load import load_pipeline

SIZE = {"width": 16, "height": 16, "num_frames": 2, "num_inference_steps": 3, "guidance_scale": 3.0, "fps": 8}
CALL = {name: value for name, value in SIZE.items() if name != "fps"}  # as a pipeline takes it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Makes the folder of a pipeline."""

    def save(make):
        where = tmp_path_factory.mktemp("t2v")
        make(tiny.tokenizer(where / "words"), tiny.encoder()).save_pretrained(where)
        return str(where)

    return save


@pytest.fixture(scope="module", params=[tiny.animatediff, tiny.text_to_video])
def each(request, folder):
    return folder(request.param)


@pytest.fixture(scope="module")
def t2v(folder):
    return folder(tiny.text_to_video)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An artifact that has erased pizza, with its graph."""
    folder = tmp_path_factory.mktemp("artifact")
    encoder = tiny.edited(tiny.encoder())
    export_onnx(encoder, folder / "text_encoder")
    artifact = tiny.artifact(folder, encoder)
    write_json(folder / "unlearning/recipe.json", {"format": 1, "concepts": [{"name": "pizza", "anchor": "clown"}]})
    artifact.seal()
    return folder


@pytest.fixture(scope="module")
def painter(each, source):
    return Painter(Settings(str(source), each, allow_original=True))


def request(seed=0, prompt="a photo of pizza", **changes):
    return Request(id=str(seed), prompt=prompt, seed=seed, folder="", **SIZE | changes)


def clip(painter, *args, **changes):
    return painter.draw([request(*args, **changes)]).frames[0]


def test_the_clip_is_the_pipeline_s_own(painter):
    own = painter.pipe(
        "a photo of pizza",
        negative_prompt="a car",
        generator=torch.Generator().manual_seed(4),
        output_type="np",
        **CALL,
    ).frames[0]
    drawn = clip(painter, 4, negative_prompt="a car")
    assert np.abs(drawn - own).max() < 1e-5
    assert np.abs(drawn - clip(painter, 4)).max() > 1e-3  # the control


def test_a_batch_draws_each_clip_as_if_alone(painter):
    prompts = ("a photo of pizza", "a car", "the clown")
    together = painter.draw([request(i, prompt) for i, prompt in enumerate(prompts)]).frames
    for i, prompt in enumerate(prompts):
        assert np.abs(together[i] - clip(painter, i, prompt)).max() < 1e-4
    assert np.abs(together[0] - together[1]).max() > 1e-2


def test_layers_before_the_text_run_once_for_both_halves_of_guidance(t2v, source):
    painter, plain = Painter(Settings(str(source), t2v)), load_pipeline(t2v, encoder=source)
    rows = {painter: [], plain: []}
    for key, pipe in ((painter, painter.pipe), (plain, plain)):
        norm = pipe.unet.transformer_in.norm
        norm.register_forward_hook(lambda module, inputs, output, seen=rows[key]: seen.append(len(inputs[0])))
    own = plain("a photo of pizza", generator=torch.Generator().manual_seed(4), output_type="np", **CALL).frames[0]
    assert np.abs(clip(painter, 4) - own).max() < 1e-5
    assert (rows[painter], rows[plain]) == ([1] * 3, [2] * 3)
    rows[painter].clear()
    painter.draw([request(4, guidance_scale=1.0)])
    assert rows[painter] == [1] * 3


def test_only_whole_samples_that_are_alike_are_run_once():
    seen = []
    shared = painting.once_for_both(lambda x, num_frames: (seen.append(len(x)), (x + 1,))[1])
    alike, apart = torch.ones(4, 1), torch.arange(4.0)[:, None]
    for samples, frames, run in ((alike, 2, 2), (apart, 2, 4), (alike, 4, 4)):
        assert torch.equal(*shared(samples, num_frames=frames), samples + 1)
        assert seen.pop() == run


def test_it_computes_with_the_threads_that_it_is_told(painter):
    before = torch.get_num_threads()
    for count in (3, before):
        painter.use_threads(count)
        assert torch.get_num_threads() == count


def test_the_original_encoder_draws_otherwise_even_within_a_batch(painter):
    edited, original = painter.draw([request(1), request(1, encoder="original")]).frames
    assert np.abs(edited - original).max() > 1e-3
    assert np.abs(original - clip(painter, 1, encoder="original")).max() < 1e-4


def test_the_original_encoder_is_there_only_where_it_is_allowed(t2v, source):
    closed = Painter(Settings(str(source), t2v))
    assert list(closed.describe()["encoders"]) == ["edited"]
    with pytest.raises(UsageError, match="no original encoder here"):
        clip(closed, 1, encoder="original")


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Another artifact for the same pipeline, which has erased something else."""
    folder, encoder = tmp_path_factory.mktemp("second"), tiny.edited(tiny.encoder())
    tiny.weight(encoder, "layers.0.mlp.fc2.weight").data.mul_(3)
    artifact = tiny.artifact(folder, encoder)
    write_json(folder / "unlearning/recipe.json", {"format": 1, "concepts": [{"name": "car", "anchor": "clown"}]})
    artifact.seal()
    return folder


def test_several_artifacts_share_a_pipeline_and_a_batch(each, source, second):
    painter = Painter(Settings(str(source), each, more={"second": str(second)}, allow_original=True))
    names, alone = ("edited", "second", "original"), Painter(Settings(str(second), each))
    assert list(painter.seats) == [*names]
    assert len({id(painting.denoiser_of(seated.pipe)) for seated in painter.seats.values()}) == 1
    told = painter.describe()["encoders"]
    assert [[c["name"] for c in told[name]["erased"]] for name in names] == [["pizza"], ["car"], []]
    assert len({told[name]["fingerprint"] for name in names}) == 3
    assert told["second"] == alone.describe()["encoders"]["edited"]
    together = painter.draw([request(1, encoder=name) for name in names]).frames
    assert np.abs(together[1] - clip(alone, 1)).max() < 1e-4
    assert np.abs(together[0] - clip(painter, 1)).max() < 1e-4
    assert min(np.abs(together[i] - together[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-3


def test_one_of_several_artifacts_that_erased_nothing_is_refused(t2v, source, tmp_path):
    encoder = tiny.artifact(tmp_path, tiny.encoder())
    write_json(tmp_path / "unlearning/recipe.json", {"format": 1, "concepts": [{"name": "pizza", "anchor": "clown"}]})
    encoder.seal()
    with pytest.raises(EncoderError, match="still has 'pizza'"):
        Painter(Settings(str(source), t2v, more={"second": str(tmp_path)}))


def test_texts_are_encoded_once(t2v, source):
    painter = Painter(Settings(str(source), t2v, cached_bytes=3 * tiny.TOKENS * tiny.WIDTH * 4))
    counts = []
    for prompt in ("a car", "a car", "the clown", "a photo", "a car"):
        done = painter.draw([request(prompt=prompt, num_inference_steps=1)])
        counts.append((done.hits, done.misses))
    assert counts == [(0, 2), (2, 0), (1, 1), (1, 1), (1, 1)]  # the negative prompt is kept, "a car" went out
    assert np.array_equal(clip(painter, prompt="a car"), clip(painter, prompt="a car"))


def test_a_graph_is_computed_where_its_worker_is():
    assert provider_on("CUDAExecutionProvider", "cuda:1") == "CUDAExecutionProvider:1"
    for provider, device in (
        ("CUDAExecutionProvider:0", "cuda:1"),
        ("CUDAExecutionProvider", "cuda"),
        ("CPUExecutionProvider", "cuda:1"),
        (None, "cuda:1"),
    ):
        assert provider_on(provider, device) == provider


def test_a_clip_after_a_cancelled_one_is_a_fresh_painter_s(each, source):
    painter, fresh = (Painter(Settings(str(source), each)) for _ in range(2))
    steps = []

    def on_step(step, of):
        steps.append((step, of))
        if step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        painter.draw([request(9)], on_step)
    assert steps == [(1, 3), (2, 3)]
    assert np.array_equal(clip(painter, 1), clip(fresh, 1))


def wan(tokens, text_encoder):
    """A random Wan: a denoiser of transformer blocks, which step caches are for."""
    torch.manual_seed(3)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=tiny.WIDTH,
        freq_dim=16,
        ffn_dim=16,
        num_layers=3,
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    parts = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokens, "transformer": transformer}
    return WanPipeline(**parts, scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0))


@pytest.fixture(scope="module")
def wan_settings(tmp_path_factory):
    """A Wan pipeline, and an edit of its UMT5."""
    folder = tmp_path_factory.mktemp("wan")
    original, edited = (tiny.encoder("UMT5EncoderModel") for _ in range(2))
    wan(tiny.tokenizer(folder / "words"), original).save_pretrained(folder / "t2v")
    tiny.weight(edited, "block.1.layer.1.DenseReluDense.wo.weight").data.mul_(-2)
    tiny.artifact(folder / "artifact", edited)
    return Settings(str(folder / "artifact"), str(folder / "t2v"))


WAN_SIZE = {"width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 6}


def test_a_step_cache_leaves_no_trace_of_a_cancelled_clip(wan_settings, monkeypatch):
    kind = diffusers.FirstBlockCacheConfig
    monkeypatch.setattr(diffusers, "FirstBlockCacheConfig", lambda: kind(threshold=1e3))  # skips whatever it may
    painter = Painter(dataclasses.replace(wan_settings, step_cache="FirstBlockCacheConfig"))
    uncached, before = clip(Painter(wan_settings), 1, **WAN_SIZE), clip(painter, 1, **WAN_SIZE)
    assert np.abs(before - uncached).max() > 1e-2

    def after_a_cancelled_one():
        with pytest.raises(Cancelled):
            painter.draw([request(9, **WAN_SIZE)], cancel)
        return clip(painter, 1, **WAN_SIZE)

    def cancel(step, of):
        if step == 2:
            raise Cancelled

    assert np.array_equal(after_a_cancelled_one(), before)
    reset = painter.pipe.maybe_free_model_hooks
    painter.pipe.maybe_free_model_hooks = lambda: setattr(painter.pipe, "maybe_free_model_hooks", reset)
    assert np.abs(after_a_cancelled_one() - before).max() > 1e-2  # the control


def test_a_step_cache_that_would_do_nothing_is_refused(wan_settings):
    for name, words in (
        ("FasterCacheConfig", "choose FirstBlockCacheConfig or TaylorSeerCacheConfig"),
        ("Fast", "step_cache is 'Fast'"),
        ("TaylorSeerCacheConfig", "finds nothing to keep in WanTransformer3DModel"),
    ):
        with pytest.raises(UsageError, match=words):
            Painter(dataclasses.replace(wan_settings, step_cache=name))


def test_sides_fill_the_patches_of_a_denoiser(wan_settings):
    about = Painter(wan_settings).describe()
    assert (about["multiple_of"], about["max_frames"]) == (16, None)


def test_onnx_draws_the_same(painter, each, source):
    onnx = Painter(Settings(str(source), each, backend="onnx"))
    about = onnx.describe()["encoders"]["edited"]
    assert (about["backend"], about["provider"]) == ("onnx", "CPUExecutionProvider")
    assert np.abs(clip(onnx, 5) - clip(painter, 5)).max() < 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_graph_is_held_to_float32_whatever_the_pipeline_s_dtype(t2v, source, dtype):
    about = Painter(Settings(str(source), t2v, backend="onnx", dtype=dtype)).describe()
    assert (about["encoders"]["edited"]["backend"], about["dtype"]) == ("onnx", dtype)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_an_encoder_from_the_hub_is_fetched_once(t2v, source, tmp_path, monkeypatch, backend):
    asked = []
    shutil.copytree(source, tmp_path / "hub")
    hub(monkeypatch, Artifact.open(tmp_path / "hub"), asked)
    about = Painter(Settings("owner/name", t2v, backend=backend, encoder_revision="v1")).describe()["encoders"][
        "edited"
    ]
    assert [call[:2] for call in asked] == [("owner/name", "v1")]
    assert about["backend"] == backend and [c["name"] for c in about["erased"]] == ["pizza"]


def test_an_artifact_is_verified_once(t2v, source, monkeypatch):
    opened = []
    monkeypatch.setattr(encoders.Artifact, "verify", lambda artifact: opened.append(artifact.path))
    Painter(Settings(str(source), t2v, backend="onnx"))
    assert opened == [source]


def test_it_tells_what_is_at_work(painter, source):
    about = painter.describe()
    about |= about["encoders"]["edited"]
    assert [c["name"] for c in about["erased"]] == ["pizza"] and about["states_moved"] > 0.01
    assert (
        about["fingerprint"]
        == read_json(source / "unlearning/manifest.json")["files"]["text_encoder/model.safetensors"]
    )
    assert (about["backend"], about["provider"]) == ("torch", "cpu")
    assert about["defaults"]["width"] == 16 and about["defaults"]["num_frames"] == 16 and about["multiple_of"] == 8
    assert about["max_frames"] == (32 if about["pipeline"] == "AnimateDiffPipeline" else None)


def test_each_encoder_is_told_apart(t2v, source):
    both, again = (
        Painter(Settings(str(source), t2v, backend=backend, allow_original=True)).describe()["encoders"]
        for backend in ("onnx", "torch")
    )
    assert (both["edited"]["backend"], both["edited"]["provider"]) == ("onnx", "CPUExecutionProvider")
    assert (both["original"]["backend"], both["original"]["provider"]) == ("torch", "cpu")
    assert both["original"] == again["original"] and len(both["original"]["fingerprint"]) == 64
    assert painting.state_hash(tiny.encoder()) != painting.state_hash(tiny.edited(tiny.encoder()))


def test_it_runs_the_encoder_alone(painter):
    shape, data = painter.infer([[205, 158, 206]])["last_hidden_state"]
    expected = painter.pipe.text_encoder(torch.tensor([[205, 158, 206]])).last_hidden_state
    states = np.frombuffer(data, np.float32).reshape(shape)
    np.testing.assert_allclose(states, expected.detach(), rtol=1e-5, atol=1e-5)


def test_ids_that_the_encoder_does_not_know_are_refused(painter, monkeypatch):
    painter.infer([[tiny.VOCAB - 1] * tiny.TOKENS])
    monkeypatch.setattr(painting, "VALUES", 2 * tiny.TOKENS * tiny.WIDTH)
    painter.infer([[0] * tiny.TOKENS] * 2)
    for ids, words in (
        ([[0, tiny.VOCAB]], f"input_ids has {tiny.VOCAB}: ids are below {tiny.VOCAB}"),
        ([[0] * (tiny.TOKENS + 1)], f"at most {tiny.TOKENS} a row"),
        ([[0] * tiny.TOKENS] * 3, f"{2 * tiny.TOKENS} in all"),
    ):
        with pytest.raises(UsageError, match=words):
            painter.infer(ids)


def altered(source, tmp_path, change):
    shutil.copytree(source, tmp_path / "copy")
    change(tmp_path / "copy")
    return str(tmp_path / "copy")


def test_a_tampered_encoder_is_refused(t2v, source, tmp_path):
    def flip(folder):
        file = folder / "text_encoder/model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")

    with pytest.raises(ArtifactError, match="was altered"):
        Painter(Settings(altered(source, tmp_path, flip), t2v))


def test_a_graph_that_is_not_its_safetensors_is_refused(t2v, source, tmp_path):
    def foreign(folder):
        other = tiny.edited(tiny.edited(tiny.encoder()))
        other.save_pretrained(folder / "text_encoder")
        Artifact.open(folder).seal()

    with pytest.raises(ParityError, match=r"model.onnx is .* from its safetensors"):
        Painter(Settings(altered(source, tmp_path, foreign), t2v, backend="onnx"))


def test_an_encoder_that_erased_nothing_is_refused(t2v, source, tmp_path):
    def original(folder):
        tiny.encoder().save_pretrained(folder / "text_encoder")
        Artifact.open(folder).seal()

    assert Painter(Settings(str(source), t2v)).seats["edited"].told["states_moved"] > 0.01
    with pytest.raises(EncoderError, match="still has 'pizza'"):
        Painter(Settings(altered(source, tmp_path, original), t2v))


def test_one_concept_of_several_that_is_not_erased_is_refused(t2v, source, tmp_path, monkeypatch):
    def second(folder):
        concepts = [{"name": name, "anchor": "car"} for name in ("pizza", "clown")]
        write_json(folder / "unlearning/recipe.json", {"format": 1, "concepts": concepts})
        Artifact.open(folder).seal()

    settings, real = Settings(altered(source, tmp_path, second), t2v), painting.states
    assert Painter(settings).seats["edited"].told["states_moved"] > 0.01
    same = torch.ones(1, 3)
    monkeypatch.setattr(painting, "states", lambda *a: same if a[-1] == "clown" else real(*a))
    with pytest.raises(EncoderError, match="still has 'clown'"):
        Painter(settings)


def test_an_encoder_of_another_base_is_refused(t2v, tmp_path):
    tiny.artifact(tmp_path / "other", tiny.encoder(seed=1))
    with pytest.raises(EncoderError, match="of another base"):
        Painter(Settings(str(tmp_path / "other"), t2v))


def test_options_that_the_pipeline_does_not_take_are_refused(t2v, source):
    settings = Settings(str(source), t2v)
    with pytest.raises(UsageError, match="diffusers has no FastScheduler"):
        Painter(dataclasses.replace(settings, scheduler="FastScheduler"))
    with pytest.raises(UsageError, match="takes no step_cache"):
        Painter(dataclasses.replace(settings, step_cache="FirstBlockCacheConfig"))


def test_another_scheduler_can_be_put_in(t2v, source):
    painter = Painter(Settings(str(source), t2v, scheduler="LCMScheduler", threads=1))
    assert painter.describe()["scheduler"] == "LCMScheduler"
    assert np.isfinite(clip(painter, num_inference_steps=2)).all()
