"""Edits: applied, chained, undone, and refused where they do not belong."""

from pathlib import Path

import pytest
import tiny
import torch

from unlearn_export.edit import Edit
from unlearn_export.errors import EncoderError
from unlearn_export.weights import Weights

KEY, OTHER = "layers.0.mlp.fc1.weight", "layers.1.mlp.fc2.bias"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    folder = tmp_path_factory.mktemp("edit")
    tiny.encoder().save_pretrained(folder)
    return Weights.open(folder)


def named(weights: Weights, ending: str) -> str:
    return next(key for key in weights.files if key.endswith(ending))


def change(weights: Weights, ending: str, factor: float, parent: str = "") -> Edit:
    key = named(weights, ending)
    value = weights.get(key) * factor + 1
    return Edit({"text_encoder": parent or weights.fingerprint}, {"text_encoder": {key: value}})


def test_apply_changes_what_it_names_and_nothing_else(weights: Weights) -> None:
    encoder, original = tiny.encoder(), tiny.encoder()
    edit = change(weights, KEY, -2)
    edit.apply({"text_encoder": encoder})
    differ = [k for k, v in encoder.state_dict().items() if not torch.equal(v, original.state_dict()[k])]
    assert len(differ) == 1 and differ[0].endswith(KEY)
    assert torch.equal(tiny.weight(encoder, KEY), edit.tensors["text_encoder"][named(weights, KEY)])
    assert edit.parameters == tiny.weight(encoder, KEY).numel() and edit.finite


def test_then_needs_the_result_it_was_made_on(weights: Weights) -> None:
    first = change(weights, KEY, -2)
    second = change(weights, OTHER, 3, parent=first.result["text_encoder"])
    both = first.then(second)
    step, once = tiny.encoder(), tiny.encoder()
    for edit in (first, second):
        edit.apply({"text_encoder": step})
    both.apply({"text_encoder": once})
    assert all(torch.equal(v, once.state_dict()[k]) for k, v in step.state_dict().items())
    assert both.parent == first.parent
    with pytest.raises(EncoderError, match="the later edit applies to"):
        first.then(change(weights, OTHER, 3))


def test_undo_brings_the_parent_back(weights: Weights) -> None:
    encoder = tiny.encoder()
    edit = change(weights, KEY, -2)
    edit.apply({"text_encoder": encoder})
    back = edit.undo({"text_encoder": weights})
    assert back.parent == edit.result
    back.apply({"text_encoder": encoder})
    assert all(torch.equal(v, tiny.encoder().state_dict()[k]) for k, v in encoder.state_dict().items())
    strange = Edit({"text_encoder": "0" * 64}, edit.tensors)
    with pytest.raises(EncoderError, match="not the weights that the edit was made of"):
        strange.undo({"text_encoder": weights})


def test_an_edit_of_another_encoder_finds_no_place(weights: Weights, tmp_path: Path) -> None:
    edit = Edit({"text_encoder": "x"}, {"text_encoder": {"layers.7.mlp.fc1.weight": torch.zeros(1)}})
    with pytest.raises(EncoderError, match="finds no place in this CLIPTextModel"):
        edit.apply({"text_encoder": tiny.encoder()})
    wide = Edit({"text_encoder": "x"}, {"text_encoder": {named(weights, KEY): torch.zeros(1)}})
    with pytest.raises(EncoderError, match="finds no place"):
        wide.apply({"text_encoder": tiny.encoder()})
