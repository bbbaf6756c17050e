"""A streamed encoder gives the states of the loaded one, of every family, and holds nothing between passes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from torch import nn

from unlearn_export.base import load_base
from unlearn_export.edit import Edit
from unlearn_export.errors import EncoderError
from unlearn_export.families.tokens import final_states, tokenise
from unlearn_export.seat import Seat
from unlearn_export.streaming import streamed

PROMPTS = ["", "a photo of the pizza", "mickey mouse and a car, a cartoon"]
ENCODERS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "clip": (tiny.clip, tiny.clip_tokenizer),
    "clip with projection": (lambda: tiny.clip(projected=True), tiny.clip_tokenizer),
    "t5": (tiny.t5, tiny.t5_tokenizer),
    "umt5": (lambda: tiny.t5(multilingual=True), tiny.t5_tokenizer),
    "llama": (tiny.llama, tiny.llama_tokenizer),
    "qwen alone": (tiny.qwen_text, tiny.qwen_tokenizer),
    "qwen in a vision-language model": (tiny.qwen, tiny.qwen_tokenizer),
    "gemma2": (tiny.gemma2, tiny.gemma_tokenizer),
    "gemma3 in a vision-language model": (tiny.gemma3, tiny.gemma_tokenizer),
}


def saved(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Seat:
    encoder, tokenizer = (make() for make in ENCODERS[kind])
    encoder.to(dtype).save_pretrained(folder / "text_encoder", max_shard_size="60KB")
    tokenizer.save_pretrained(folder / "tokenizer")
    return load_base(folder / "text_encoder").seat


def held(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if not p.is_meta}


@torch.no_grad()
def states(seat: Seat, model: nn.Module) -> dict[str, Any]:
    """Every hidden state under each covered reader, on the positions that it reads, and the pooled one."""
    found = {}
    for contract in seat.contracts:
        tokens = tokenise(seat.tokenizer, PROMPTS, contract)
        out = seat.family.call(model, tokens, contract.mask)
        for k, layer in enumerate(final_states(out)):
            found[f"{contract.pipelines[0]} {k}"] = layer[tokens.read]
        for name in ("pooler_output", "text_embeds"):
            if out.get(name) is not None:
                found[name] = out[name]
    return found


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_states_are_the_loaded_encoder_s(tmp_path: Path, kind: str) -> None:
    seat = saved(tmp_path, kind)
    whole, read = states(seat, seat.load()), states(seat, streamed(seat))
    assert len(whole) >= tiny.LAYERS + 1 and whole.keys() <= read.keys()
    for name, expected in whole.items():
        assert expected.std() > 0.1  # the control: there is something to get wrong
        assert (read[name] - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1), name


@pytest.mark.parametrize("kind", ["t5", "gemma3 in a vision-language model"])
def test_half_precision_is_computed_in_float32(tmp_path: Path, kind: str) -> None:
    seat = saved(tmp_path, kind, torch.bfloat16)
    whole, read = states(seat, seat.load()), states(seat, streamed(seat))
    assert all(read[name].dtype == torch.float32 for name in read)
    assert all((read[k] - whole[k]).abs().max() <= 1e-5 * whole[k].abs().max().clamp(min=1) for k in whole)


@pytest.mark.parametrize("kind", ENCODERS)
def test_one_layer_is_held_at_a_time_and_nothing_afterwards(tmp_path: Path, kind: str) -> None:
    seat = saved(tmp_path, kind)
    model, most = streamed(seat), set[str]()
    layers = seat.family.layers(model)
    names = [
        {f"{path}.{n}" for n, _ in layer.named_parameters()}
        for path, layer in model.named_modules()
        if layer in list(layers)
    ]
    for layer, own in zip(layers, names, strict=True):
        layer.register_forward_pre_hook(lambda _m, _a, own=own: most.update(held(model)) or check(model, own))

    def check(model: nn.Module, own: set[str]) -> None:
        assert held(model) == own

    assert held(model) == set()
    states(seat, model)
    assert most == set().union(*names) and held(model) == set()


def test_nothing_stays_after_an_error(tmp_path: Path) -> None:
    seat = saved(tmp_path, "t5")
    model = streamed(seat)

    def stop(*_: object) -> None:
        raise RuntimeError("stopped")

    seat.family.layers(model)[1].layer[-1].register_forward_hook(stop)
    with pytest.raises(RuntimeError, match="stopped"):
        states(seat, model)
    assert held(model) == set()


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_edit_is_read_in_place_of_the_files(tmp_path: Path, kind: str) -> None:
    seat = saved(tmp_path, kind)
    names = seat.family.linears(seat.family.skeleton(seat.config), ["mlp"], 1)
    keys = [seat.stored[f"{name}.weight"] for name in names] + [seat.stored[seat.family.embedding]]
    changed = {key: seat.weights.get(key) * 1.5 for key in keys}
    edited = seat.load()
    Edit({"text_encoder": ""}, {"text_encoder": changed}).apply({"text_encoder": edited})
    expected, read, before = states(seat, edited), states(seat, streamed(seat, changed)), states(seat, seat.load())
    assert any((expected[k] - before[k]).abs().max() > 0.1 for k in expected)  # the control: it changes something
    assert all((read[k] - expected[k]).abs().max() <= 1e-5 * expected[k].abs().max().clamp(min=1) for k in expected)


def test_an_edit_of_another_encoder_is_refused(tmp_path: Path) -> None:
    seat = saved(tmp_path, "umt5")
    key = seat.stored["encoder.final_layer_norm.weight"]
    for changed in ({"lm_head.weight": torch.zeros(1)}, {key: torch.zeros(1)}):
        with pytest.raises(EncoderError, match="finds no place in this UMT5EncoderModel"):
            streamed(seat, changed)


def test_rows_of_an_embedding_without_its_padding(tmp_path: Path) -> None:
    encoder, tokenizer = tiny.llama(), tiny.llama_tokenizer()
    encoder.config.pad_token_id = 5  # a row that may be none of those in use
    encoder.save_pretrained(tmp_path / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    seat = load_base(tmp_path / "text_encoder").seat
    ids = torch.tensor([[0, 1, 2]])
    with torch.no_grad():
        few = seat.skeleton(seat.depth, used=ids)(input_ids=ids).last_hidden_state
        assert torch.allclose(few, seat.load()(input_ids=ids).last_hidden_state, atol=1e-5)
