"""Every text-to-video pipeline that the contracts know, in small: seated, drawn directly, served, on torch and ONNX."""

import ast
import inspect
import textwrap

import diffusers
import numpy as np
import pytest
import tiny_pipelines
from PIL import Image
from test_ort import Watched
from tiny_artifacts import artifact
from tiny_pipelines import PIPELINES, draw, save_like_hub

from serving import painter as painting
from serving.contract import Request, Settings
from serving.painter import Embeddings, Painter
from unlearn_export.errors import UsageError
from unlearn_export.families.contract_rows import CONTRACTS
from unlearn_export.pipelines.call import (
    check_frames,
    check_needed,
    frames_argument,
    needed,
    own_choices,
    read_inputs,
)
from unlearn_export.pipelines.load import load_pipeline
from unlearn_export.pipelines.ort import OrtTextEncoder
from unlearn_export.pipelines.prompts import RETURNS

pytestmark = pytest.mark.filterwarnings("ignore::unlearn_export.errors.UncoveredWarning")
VIDEO = list(dict.fromkeys(name for contract in CONTRACTS if contract.video for name in contract.pipelines))
SMALL = [name for name in VIDEO if name in PIPELINES]
NOT_TEXT = (  # of the small pipelines' arguments, those that a server has no word for
    *("image", "mask", "video", "pose_video", "face_video", "conditioning_frames", "controlnet_frame_indices"),
    *("segment_frame_length", "prev_segment_conditioning_frames", "latent_window_size", "t0", "t1", "strength"),
)
GUIDANCE = 3.0
# Read in diffusers: Latte cuts the negative prompt to the prompt's length, whatever its own; Chroma adds its mask to the
# attention scores; the others give the encoder no mask.
PADDING_IS_READ = (
    *("CogVideoXPipeline", "LTXPipeline", "LattePipeline", "Cosmos2_5_PredictBasePipeline", "Kandinsky5T2VPipeline"),
    *("AnimateDiff", "PIA", "TextToVideo", "Chroma"),
)
MASKED_STILLS = [name for name in PIPELINES if name not in SMALL and name.startswith(("PixArt", "Sana", "Hunyuan"))]


def few(name):
    """The arguments that make a small pipeline's call cheap."""
    takes = inspect.signature(getattr(diffusers, name).__call__).parameters
    cheap = {key: value for key, value in tiny_pipelines._FEW.items() if key in takes}
    return {"height": 16, "width": 16} | cheap | tiny_pipelines._CALLS.get(name, {})


def request(pipe, seed=0, prompt="a photo of pizza", **changes):
    cheap = few(type(pipe).__name__)
    return Request(
        id=str(seed),
        prompt=prompt,
        seed=seed,
        folder="",
        fps=8,
        width=cheap["width"],
        height=cheap["height"],
        num_frames=cheap.get(frames_argument(pipe), 1),
        num_inference_steps=cheap["num_inference_steps"],
        **{"guidance_scale": GUIDANCE} | changes,
    )


def serve(monkeypatch, pipe, source, **settings):
    """A painter of a pipeline in memory, which is given whatever it needs beside text."""
    cheap = few(type(pipe).__name__)
    monkeypatch.setattr(painting, "load_pipeline", lambda *args, **options: pipe)
    monkeypatch.setattr(painting, "read_inputs", lambda sources: {n: cheap[n] for n in NOT_TEXT if n in cheap})
    return Painter(Settings(str(source.path), type(pipe).__name__, **settings))


def directly(pipe, **changes):
    """The first clip of the pipeline's own call, under the guidance that the requests ask for."""
    if "guidance_scale" in inspect.signature(pipe.__call__).parameters:
        changes = {"guidance_scale": GUIDANCE} | changes
    else:
        pipe.guider = type(pipe.guider)(guidance_scale=GUIDANCE)
    return draw(pipe, "a photo of pizza", **changes)[0]


@pytest.fixture
def columns(monkeypatch):
    """Of each run of an ONNX encoder: the columns that it was called with, those that a mask leaves, those computed."""
    seen, run = [], OrtTextEncoder._states

    def watched(encoder, names, ids, mask):
        session = encoder.session = Watched(encoder.session)
        try:
            return run(encoder, names, ids, mask)
        finally:
            left = ids.shape[1] if mask is None else int(mask.bool().any(0).sum())
            seen.extend((ids.shape[1], left, computed) for computed in session.lengths)
            encoder.session = session.session

    monkeypatch.setattr(OrtTextEncoder, "_states", watched)
    return seen


def no_padding_is_computed(name, columns):
    """Nor is a word left out; where padding is read, all of it is computed. The first run is the graph's own test."""
    whole = name.startswith(PADDING_IS_READ)
    assert columns.pop(0) == (2, 2, 2)
    assert columns and all(computed == (full if whole else left) for full, left, computed in columns)
    assert whole or any(computed < full for full, _, computed in columns)
    columns.clear()


@pytest.mark.parametrize("name", SMALL)
def test_direct_served_and_onnx_clips_are_one(name, tmp_path, monkeypatch, columns):
    pipe = PIPELINES[name]()
    source = artifact(tmp_path, pipe, onnx=True)
    own = pipe.text_encoder
    near = 1.5 / 255 if name.startswith("Cosmos") else 1e-5  # which rounds its frames to bytes
    direct = directly(load_pipeline(pipe, encoder=source.path))
    onnx = load_pipeline(pipe, encoder=source.path, backend="onnx")
    assert isinstance(onnx.text_encoder, OrtTextEncoder) and pipe.text_encoder is own
    assert np.abs(directly(onnx) - direct).max() < max(near, 1e-4)
    no_padding_is_computed(name, columns)
    painter = serve(monkeypatch, pipe, source, allow_original=True)
    served, original = painter.draw([request(pipe), request(pipe, encoder="original")]).frames
    assert np.abs(served - direct).max() < near
    assert np.abs(served - original).max() > 3 * near  # the control


@pytest.mark.parametrize("name", [*MASKED_STILLS, "ChromaPipeline"])
def test_stills_leave_padding_out_alike(name, tmp_path, columns):
    pipe = PIPELINES[name]()
    source = artifact(tmp_path, pipe, onnx=True)
    torch, onnx = (draw(load_pipeline(pipe, encoder=source.path, backend=b), "pizza") for b in ("torch", "onnx"))
    assert np.abs(torch - onnx).max() < 1e-4
    no_padding_is_computed(name, columns)


@pytest.mark.parametrize("name", ["MochiPipeline", "LTXPipeline"])
def test_the_server_and_a_folder_leave_it_out_too(name, tmp_path, monkeypatch, columns):
    pipe = PIPELINES[name]()
    source = artifact(tmp_path / "artifact", pipe, onnx=True)
    serve(monkeypatch, pipe, source, backend="onnx").draw([request(pipe)])
    no_padding_is_computed(name, [columns[0], *(seen for seen in columns if seen[0] == max(columns)[0])])
    columns.clear()
    directly(load_pipeline(save_like_hub(pipe, tmp_path / "pipe"), encoder=source.path, backend="onnx"))
    no_padding_is_computed(name, columns)


@pytest.mark.parametrize("name", ["WanPipeline", "SkyReelsV2Pipeline", "HeliosPipeline", "SanaVideoPipeline"])
def test_the_server_gives_the_encoder_what_the_call_gives_it(name, tmp_path, monkeypatch):
    pipe = PIPELINES[name]()
    source, given = artifact(tmp_path, pipe), {}
    edited = load_pipeline(pipe, encoder=source.path)
    painter = serve(monkeypatch, pipe, source)
    for key, seated in (("direct", edited), ("served", painter.pipe)):
        given[key] = set()
        hook = seated.text_encoder.register_forward_pre_hook(
            lambda _module, args, kwargs, seen=given[key]: seen.add(tuple((args or [kwargs["input_ids"]])[0].shape)),
            with_kwargs=True,
        )
        draw(edited, "pizza") if key == "direct" else painter.draw([request(pipe, prompt="pizza")])
        hook.remove()
    assert {shape[1] for shape in given["served"]} == {shape[1] for shape in given["direct"]}


@pytest.mark.parametrize("name", ["LTXPipeline", "AllegroPipeline", "HunyuanVideoPipeline", "Kandinsky5T2VPipeline"])
def test_a_batch_of_texts_of_many_lengths_draws_each_as_if_alone(name, tmp_path, monkeypatch):
    pipe = PIPELINES[name]()
    painter = serve(monkeypatch, pipe, artifact(tmp_path, pipe))
    asked = [
        request(pipe, 1, "pizza"),
        request(pipe, 2, "a photo of the clown, the car and the cartoon mouse", negative_prompt="a car"),
    ]
    together = painter.draw(asked)
    for one, frames in zip(asked, together.frames, strict=True):
        again = painter.draw([one])
        assert again.misses == 0 and again.hits > 0
        assert np.abs(again.frames[0] - frames).max() < 1e-4
    assert np.abs(together.frames[0] - together.frames[1]).max() > 1e-3


def test_both_encoders_of_an_artifact_are_served(tmp_path, monkeypatch):
    pipe = PIPELINES["AnimateDiffSDXLPipeline"]()
    both = artifact(tmp_path / "both", pipe, ("text_encoder", "text_encoder_2"), onnx=True)
    one = artifact(tmp_path / "one", pipe)
    direct = directly(load_pipeline(pipe, encoder=both.path))
    for backend in ("torch", "onnx"):
        painter = serve(monkeypatch, pipe, both, backend=backend)
        about = painter.describe()
        about = about["encoders"]["edited"]
        assert set(about["seats"]) == {"text_encoder", "text_encoder_2"} and about["uncovered"] == []
        assert np.abs(painter.draw([request(pipe)]).frames[0] - direct).max() < 1e-4
    alone = serve(monkeypatch, pipe, one)
    assert alone.describe()["encoders"]["edited"]["uncovered"] == [
        "text_encoder_2 (bigG): its states and its pooled vector"
    ]
    assert np.abs(alone.draw([request(pipe)]).frames[0] - direct).max() > 1e-4


def test_an_edit_of_embedding_rows_is_served(tmp_path, monkeypatch):
    pipe = PIPELINES["WanPipeline"]()
    source = artifact(tmp_path, pipe, changed=["shared.weight"])
    direct = directly(load_pipeline(pipe, encoder=source.path))
    assert np.abs(serve(monkeypatch, pipe, source).draw([request(pipe)]).frames[0] - direct).max() < 1e-5


def test_embeddings_are_bounded_in_bytes():
    kept = Embeddings(room=3 * 4000)
    for i in range(5):
        kept.get((i,), lambda: (np.zeros(0), tiny_pipelines.torch.zeros(1000)))
    assert list(kept.texts) == [(2,), (3,), (4,)] and kept.held == 12000
    kept.get(("large",), lambda: (tiny_pipelines.torch.zeros(10**4),))
    assert list(kept.texts) == [("large",)]


def test_embeddings_lie_in_the_host_s_memory():
    class OnDevice(tiny_pipelines.torch.Tensor):
        """As if it lay on a GPU."""

        def to(self, *args, **kwargs):
            return self.as_subclass(tiny_pipelines.torch.Tensor)

    kept, made = Embeddings(), tiny_pipelines.torch.ones(3).as_subclass(OnDevice)
    assert kept.get(("a",), lambda: (made, None))[0] is made
    [[(held, where), _]] = kept.texts.values()
    assert not isinstance(held, OnDevice) and where == made.device
    again, nothing = kept.get(("a",), lambda: ())
    assert again.tolist() == [1, 1, 1] and nothing is None and kept.hits == 1


@pytest.mark.parametrize("name", VIDEO)
def test_the_names_of_what_encode_prompt_returns(name):
    """They are those of the variables in its return statement."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(diffusers, name).encode_prompt)))
    returned = [
        [element.id for element in node.value.elts]
        for node in ast.walk(tree)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple)
    ]
    names = list(RETURNS[name])
    if name.startswith("Kandinsky5"):
        names[-1] = "repeated_cu_seqlens"
    assert names in returned


def test_frames_that_do_not_fit_are_told_with_those_that_do():
    for name, frames, words in (
        ("WanPipeline", 8, r"8 frames do not fit a WanPipeline: it draws 4·n\+1, such as 5 or 9"),
        ("AllegroPipeline", 9, "it draws 4·n, such as 8 or 12"),
        ("MochiPipeline", 3, r"it draws 6·n\+1, such as 1 or 7"),
        ("LattePipeline", 16, "it draws 2"),
        ("AnimateDiffPipeline", 33, "more than the 32 that this AnimateDiffPipeline's motion adapter knows"),
    ):
        with pytest.raises(UsageError, match=words):
            check_frames(PIPELINES[name](), frames)
    for name, frames in (
        ("WanPipeline", 9),
        ("AllegroPipeline", 8),
        ("HeliosPipeline", 8),
        ("TextToVideoSDPipeline", 3),
    ):
        check_frames(PIPELINES[name](), frames)


@pytest.mark.parametrize("name", SMALL)
def test_a_pipeline_s_own_choices_are_known(name):
    pipe = PIPELINES[name]()
    chosen = own_choices(pipe)
    assert chosen["fps"] and all(isinstance(chosen[side], int) for side in ("width", "height"))
    if frames_argument(pipe) and name != "LTX2Pipeline":
        assert chosen["num_frames"] > 1
        if name != "LattePipeline":
            check_frames(pipe, chosen["num_frames"])
    assert chosen["num_inference_steps"] and chosen["guidance_scale"] is not None


def test_what_a_pipeline_needs_beside_text_is_asked_for(tmp_path):
    wanted = {
        "PIAPipeline": ("image",),
        "AnimateDiffVideoToVideoPipeline": ("video",),
        "AnimateDiffControlNetPipeline": ("conditioning_frames",),
        "WanAnimatePipeline": ("image", "pose_video", "face_video"),
        "WanVACEPipeline": (),
        "WanPipeline": (),
    }
    for name, inputs in wanted.items():
        assert needed(PIPELINES[name]()) == inputs
    with pytest.raises(UsageError, match="PIAPipeline draws from more than text: give --input image=FILE"):
        check_needed(PIPELINES["PIAPipeline"](), {})
    with pytest.raises(UsageError, match="WanPipeline takes no image"):
        check_needed(PIPELINES["WanPipeline"](), {"image": tiny_pipelines.PICTURE})
    for i in range(2):
        tiny_pipelines.PICTURE.save(tmp_path / f"{i}.png")
    read = read_inputs({"video": str(tmp_path), "image": str(tmp_path / "0.png")})
    assert len(read["video"]) == 2 and isinstance(read["image"], Image.Image)
    (tmp_path / "words.txt").write_text("no picture")
    with pytest.raises(UsageError, match="cannot read .* as pictures for image"):
        read_inputs({"image": str(tmp_path / "words.txt")})
