"""Every text-to-video pipeline that the contracts know, served: the clip is the pipeline's own."""

import inspect
from dataclasses import asdict

import numpy as np
import pytest
import tiny_pipelines
import torch
from tiny_pipelines import PIPELINES

from serving.contract import Request, Settings
from serving.painter import Painter
from unlearn_export.artifact import Artifact, write_json
from unlearn_export.families.contracts import CONTRACTS, contracts_of
from unlearn_export.pipelines.call import frames_argument, needed
from unlearn_export.pipelines.load import load_pipeline
from unlearn_export.recipe import SeatRecord
from unlearn_export.weights import Weights

VIDEO = {name for contract in CONTRACTS if contract.video for name in contract.pipelines}
OF_TEXT = [
    name
    for name in PIPELINES
    if name in VIDEO and name not in ("CosmosTextToWorldPipeline", "Cosmos2_5_PredictBasePipeline")
]


@pytest.fixture(scope="module")
def built():
    """Each pipeline once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = PIPELINES[name]()
        return made[name]

    return get


def edit(encoder):
    """What an eraser does: one weight of the second layer."""
    key = next(
        k
        for k, p in encoder.named_parameters()
        if ".1." in k and p.ndim == 2 and k.endswith(("wo.weight", "fc2.weight", "down_proj.weight"))
    )
    with torch.no_grad():
        dict(encoder.named_parameters())[key].mul_(-2)
    return encoder


def artifact(folder, pipe, seats=("text_encoder",)):
    """A sealed artifact of these seats, whose encoders are edits of the pipeline's own."""
    about = {}
    for seat in seats:
        own = getattr(pipe, seat)
        twin = type(own)(own.config)
        twin.load_state_dict(own.state_dict())
        edit(twin.eval()).save_pretrained(folder / seat)
        row = next(c for c in contracts_of(type(pipe).__name__) if c.seat == seat)
        keys = tuple(Weights.open(folder / seat).files)
        about[seat] = asdict(
            SeatRecord(type(own).__name__, "", "", row.tokenizer, "", (row.pipelines[0],), (), keys, 0)
        )
    (folder / "unlearning").mkdir()
    write_json(folder / "unlearning/recipe.json", {"format": 2, "seats": about, "concepts": [{"name": "pizza"}]})
    for name in ("LICENSE", "NOTICE"):
        (folder / name).write_text("text\n")
    made = Artifact.open(folder)
    made.seal()
    return made


def request(pipe, seed=0, prompt="a photo of pizza", **changes):
    few = {**tiny_pipelines._FEW, **tiny_pipelines._CALLS.get(type(pipe).__name__, {})}
    sizes = {name: few[name] for name in ("width", "height", "num_inference_steps")}
    counted = frames_argument(pipe)
    return Request(
        id=str(seed), prompt=prompt, seed=seed, folder="", fps=8, guidance_scale=3.0,
        num_frames=few.get(counted, 1), **sizes | changes,
    )  # fmt: skip


@pytest.mark.parametrize("name", OF_TEXT)
def test_the_served_clip_is_the_pipeline_s_own(name, built, tmp_path, monkeypatch):
    pipe = built(name)
    source = artifact(tmp_path, pipe)
    monkeypatch.setattr("serving.painter.load_pipeline", lambda *a, **k: pipe)
    few = {**tiny_pipelines._FEW, **tiny_pipelines._CALLS.get(name, {})}
    inputs = {
        n: few[n]
        for n in (
            *needed(pipe),
            "mask",
            "video",
            "segment_frame_length",
            "prev_segment_conditioning_frames",
            "controlnet_frame_indices",
            "latent_window_size",
            "t0",
            "t1",
            "strength",
        )
        if n in few
    }
    monkeypatch.setattr("serving.painter.read_inputs", lambda _sources: inputs)
    painter = Painter(Settings(str(source.path), name, allow_original=True))
    asked = request(pipe)
    served = painter.draw([asked]).frames[0]
    choices = {"guidance_scale": 3.0} if "guidance_scale" in inspect.signature(pipe.__call__).parameters else {}
    edited = load_pipeline(pipe, encoder=source.path)
    if not choices and hasattr(pipe, "guider"):
        edited.guider = type(pipe.guider)(guidance_scale=3.0)
    direct, original = (tiny_pipelines.draw(p, "a photo of pizza", **choices) for p in (edited, pipe))
    direct, original = (x[0] if x.ndim == 5 else x for x in (direct, original))
    assert np.abs(served - direct).max() < 1e-5
    assert np.abs(served - original).max() > 1e-4  # the control
