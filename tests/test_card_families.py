"""The card of an edited encoder of any family: its snippets load what it speaks of, as the classes that they are."""

import contextlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import tiny_pipelines as tiny
import torch
from PIL import Image

from unlearn_export.base import load_base
from unlearn_export.card import render
from unlearn_export.concept import Concept
from unlearn_export.erasers import Anchor
from unlearn_export.stages import build

QUICK = Anchor(pool=16, batch=4, steps=2, keep=0.0)
PIPELINES = {  # → the encoders' classes, whether a graph is exported
    "WanPipeline": (["UMT5EncoderModel"], True),
    "CogVideoXPipeline": (["T5EncoderModel"], False),
    "StableDiffusionXLPipeline": (["CLIPTextModel", "CLIPTextModelWithProjection"], False),
    "HunyuanVideo15Pipeline": (["Qwen2_5_VLTextModel"], False),
    "SanaVideoPipeline": (["Gemma2Model"], False),
}


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


@pytest.mark.parametrize("name", PIPELINES)
def test_every_snippet_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes, onnx = PIPELINES[name]
    tiny.save_like_hub(tiny.PIPELINES[name](), tmp_path / "base")
    artifact = build(load_base(tmp_path / "base"), [Concept("pizza", anchor="cat")], QUICK, tmp_path / "out", onnx=onnx)
    card = render(artifact)
    assert f"({', '.join(classes)}) of **base**" in card and name in card
    assert "CLIP" not in card or "CLIPTextModel" in classes

    drawn = [Image.new("RGB", (16, 16))] * 3
    monkeypatch.setattr(
        getattr(diffusers, name), "__call__", lambda *_a, **_k: SimpleNamespace(frames=[drawn], images=drawn)
    )
    codes = snippets(card)
    assert len(codes) == (4 if onnx else 3)
    spaces: list[dict[str, Any]] = []
    with contextlib.chdir(tmp_path):
        for code in codes:
            spaces.append({})
            exec(code, spaces[-1])
        assert Path("clip.mp4").exists() or Path("picture.png").exists()
    by_diffusers, by_us, alone, *graph = spaces
    for seat in artifact.recipe.seats:
        assert type(getattr(by_diffusers["pipe"], seat)).__name__ in classes
        states = [by["pipe"] for by in (by_diffusers, by_us)]
        one, other = (getattr(pipe, seat).state_dict() for pipe in states)
        if not onnx:  # where there is a graph, the loader of ours takes that
            assert all(torch.equal(one[key], other[key]) for key in one)
    original = tiny.PIPELINES[name]().text_encoder.state_dict()
    edited = by_diffusers["pipe"].text_encoder.state_dict()
    assert any(not torch.equal(edited[key], original[key]) for key in edited)
    states = alone["states"]
    assert (states[0] if isinstance(states, (list, tuple)) else states).isfinite().all()
    for space in graph:
        assert abs(torch.from_numpy(space["found"]["last_hidden_state"]) - alone["states"]).max() < 1e-4


def test_the_second_of_two_encoders_alone(tmp_path: Path) -> None:
    tiny.save_like_hub(tiny.PIPELINES["StableDiffusionXLPipeline"](), tmp_path / "base")
    concepts = [Concept("pizza", anchor="cat")]
    base = load_base(tmp_path / "base")
    artifact = build(base, concepts, QUICK, tmp_path / "out", onnx=False, seats=["text_encoder_2"])
    assert not (tmp_path / "out" / "text_encoder").exists()
    assert artifact.verify() > 0
    card = render(artifact)
    assert "(CLIPTextModelWithProjection) of **base**" in card and "`text_encoder_2=`" in card
    with contextlib.chdir(tmp_path):
        space: dict[str, Any] = {}
        exec(snippets(card)[1], space)  # by the loader that checks what it loads
    edited, original = space["pipe"].text_encoder_2.state_dict(), base.encoders["text_encoder_2"].state_dict()
    assert any(not torch.equal(edited[key], original[key]) for key in original)
    assert torch.equal(
        space["pipe"].text_encoder.get_input_embeddings().weight,
        base.encoders["text_encoder"].get_input_embeddings().weight,
    )
