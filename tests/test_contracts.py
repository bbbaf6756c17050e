"""What ``contracts`` says of a pipeline is what the real pipeline class does, row by row, in tiny configurations."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import PIPELINES, WIDTH, draw, fix_text, save_like_hub
from torch import Tensor, nn
from transformers import ByT5Tokenizer

from unlearn_export.errors import UsageError
from unlearn_export.families.contract import ReaderContract
from unlearn_export.families.contract_rows import CONTRACTS
from unlearn_export.families.contracts import contracts_of, nearest, readers_of
from unlearn_export.families.tokens import Tokens, final_states, read_states, tokenise

SHORT = "a photo of mickey mouse"
LONG = "the cartoon car of a clown, " * 250
EMPTY = ""
NOT_BUILT: dict[str, str] = {}  # the first pipeline of a row, and why there is no tiny one
NOT_DRAWN = {"ChromaInpaintPipeline": "its call asks the transformer's config for a field that Chroma's has not"}
NO_LISTS = ("WanVACEPipeline", "AnimateDiffVideoToVideoPipeline")
NOT_DRAWN_TOGETHER = (  # their calls, or their tiny parts, draw one prompt at a time
    "AllegroPipeline",
    "AnimateDiffControlNetPipeline",
    "HunyuanVideoFramepackPipeline",
    "HunyuanVideo15Pipeline",
    "TextToVideoZeroPipeline",
)
ZEROED = ("UMT5EncoderModel", "google-t5/t5-11b")  # padding arrives as zeros; elsewhere a mask goes along


class Encoded(Exception):
    """Ends a pipeline's call when its prompt is encoded. result: what ``encode_prompt`` returned."""

    def __init__(self, result: Any) -> None:
        self.result = result if isinstance(result, tuple) else (result,)


@functools.cache
def built(name: str) -> Any:
    return PIPELINES[name]()


def spy(encoder: nn.Module) -> tuple[list[tuple[Tensor, Tensor | None]], Callable[[], None]]:
    """Every call's ids and mask, as they are given, and what ends the watch."""
    seen: list[tuple[Tensor, Tensor | None]] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(zip(("input_ids", "attention_mask"), args, strict=False)) | kwargs
        seen.append((given["input_ids"], given.get("attention_mask")))

    return seen, encoder.register_forward_pre_hook(look, with_kwargs=True).remove


def encoded(pipe: DiffusionPipeline, prompt: str | list[str]) -> tuple[Any, ...]:
    """What ``encode_prompt`` returns inside the pipeline's own call, with the arguments that the call gives it."""
    encode = pipe.encode_prompt

    def stop(*args: Any, **kwargs: Any) -> None:
        raise Encoded(encode(*args, **kwargs))

    pipe.encode_prompt = stop
    try:
        draw(pipe, prompt)
    except Encoded as end:
        return end.result
    finally:
        del pipe.encode_prompt
    raise AssertionError("the pipeline encoded no prompt")


@torch.no_grad()
def borrowed(name: str, pipe: DiffusionPipeline, prompt: list[str]) -> tuple[Any, ...]:
    """``encode_prompt`` of another class with this pipeline's components, and the defaults of that class's call."""
    kind = getattr(diffusers, name)
    other = object.__new__(kind)
    other.__dict__.update(pipe.__dict__)
    fix_text(kind)
    wanted = inspect.signature(other.encode_prompt).parameters
    given = {key: value.default for key, value in inspect.signature(kind.__call__).parameters.items() if key in wanted}
    fixed = {"device": torch.device("cpu"), "do_classifier_free_guidance": False, "prompt": prompt}
    fixed |= dict.fromkeys(("num_images_per_prompt", "num_videos_per_prompt"), 1)
    fixed["prompt_2"] = fixed["prompt_3"] = None
    return Encoded(other.encode_prompt(**given | {k: v for k, v in fixed.items() if k in wanted})).result


def part(embeddings: Tensor, contract: ReaderContract) -> Tensor:
    """One seat's states among what a pipeline of several seats concatenates."""
    seats = [other for other in contracts_of(contract.pipelines[0]) if other.layers]
    if len(seats) == 1:
        return embeddings
    if contract.seat == "text_encoder_3":
        return embeddings[:, 77:]
    first = 0 if contract.seat == "text_encoder" else WIDTH
    return embeddings[:, :77, first : first + WIDTH]


@torch.no_grad()
def outputs(encoder: nn.Module, tokens: Tokens, contract: ReaderContract) -> Any:
    mask = tokens.mask if contract.mask else None
    return encoder(input_ids=tokens.ids, attention_mask=mask, output_hidden_states=True)


def check(result: tuple[Any, ...], pipe: DiffusionPipeline, tokens: Tokens, contract: ReaderContract) -> None:
    """The pipeline's embeddings are the states that the contract names; those of another layer would not be."""
    output = outputs(getattr(pipe, contract.seat), tokens, contract)
    if contract.pooled:
        pooled = output.text_embeds if "text_embeds" in output else output.pooler_output
        vectors = [vector for vector in result if isinstance(vector, Tensor) and vector.ndim == 2]
        pieces = [piece for vector in vectors for piece in (vector[:, :WIDTH], vector[:, -WIDTH:])]
        assert any(piece.shape == pooled.shape and torch.allclose(piece, pooled, atol=1e-5) for piece in pieces)
    if not contract.layers:
        with pytest.raises(ValueError, match="only the pooled vector"):
            read_states(final_states(output), tokens, contract)
        return
    found, states = part(result[0], contract), final_states(output)
    read = read_states(states, tokens, contract)
    other = replace(contract, layers=(-2,) if contract.layers != (-2,) else (-1,))
    if contract.pipelines[0] == "LattePipeline" and len(found) == 1:  # it cuts a single prompt, and zeroes in a batch
        assert not read[:, found.shape[1] :].any()
        read = read[:, : found.shape[1]]
    elif contract.architectures[0] not in ZEROED and contract.weights[0] not in ZEROED:
        found = found * tokens.read[:, tokens.taken, None]
    torch.testing.assert_close(found, read, atol=1e-5, rtol=1e-4)
    wrong = read_states(states, tokens, other)[:, : found.shape[1]]
    assert wrong.shape != found.shape or (wrong - found).abs().max() > 0.1


BUILT = [(name, contract) for name in PIPELINES for contract in contracts_of(name)]
SISTERS = [
    (name, contract)
    for contract in CONTRACTS
    for name in contract.pipelines
    if name not in PIPELINES and hasattr(diffusers, name)
]


def identify(value: object) -> str:
    return value.seat if isinstance(value, ReaderContract) else str(value)


@pytest.mark.parametrize(("name", "contract"), BUILT, ids=identify)
@pytest.mark.parametrize(
    "prompt", [[SHORT], [LONG], [EMPTY], [SHORT, "a pizza"]], ids=["short", "long", "empty", "two"]
)
def test_pipeline_gives_these_tokens_and_reads_these_states(name, contract, prompt):
    if len(prompt) > 1 and name in NO_LISTS:
        pytest.skip("this pipeline takes one prompt")
    pipe = built(name)
    seen, end = spy(getattr(pipe, contract.seat))
    result = encoded(pipe, prompt if len(prompt) > 1 else prompt[0])
    end()
    tokens = tokenise(getattr(pipe, contract.tokenizer), prompt, contract)
    ids, mask = seen[0]
    assert ids.tolist() == tokens.ids.tolist()
    assert (mask is not None) == contract.mask
    if contract.mask:
        assert mask.long().tolist() == tokens.mask.tolist()
    check(result, pipe, tokens, contract)


@pytest.mark.parametrize(("name", "contract"), BUILT, ids=identify)
def test_denoiser_heeds_padding_where_the_contract_says_so(name, contract):
    """Padded states are shifted on their way: what is drawn changes where they are read, and only there."""
    zeroed = contract.architectures[0] in ZEROED or contract.weights[0] in ZEROED or name == "LattePipeline"
    if zeroed or not contract.layers or name in NOT_DRAWN:
        pytest.skip("padding is zeros, as seen above, or only the pooled vector is read, or nothing can be drawn")
    pipe = built(name)
    prompts = [SHORT] if name in NO_LISTS + NOT_DRAWN_TOGETHER else [SHORT, "a pizza"]
    tokens = tokenise(getattr(pipe, contract.tokenizer), prompts, contract)
    unread = (tokens.mask == 0)[:, tokens.taken, None]
    plain, encode, first = draw(pipe, prompts), pipe.encode_prompt, []

    def shifted(*args: Any, **kwargs: Any) -> Any:
        result = encode(*args, **kwargs)
        if not first:  # the prompt's; the negative prompt may come in a call of its own
            first.append(result)
            part(result[0], contract).add_(3 * unread)
        return result

    pipe.encode_prompt = shifted
    try:
        moved = np.abs(draw(pipe, prompts) - plain).max()
    finally:
        del pipe.encode_prompt
    assert unread.any()
    assert (moved > 1e-4) == (contract.reads == "all"), moved


@pytest.mark.parametrize(("name", "contract"), SISTERS, ids=identify)
def test_other_pipelines_of_a_row_read_like_its_first(name, contract):
    first = next(pipeline for pipeline in contract.pipelines if pipeline in PIPELINES)
    pipe = built(first)
    seen, end = spy(getattr(pipe, contract.seat))
    result = borrowed(name, pipe, [SHORT])
    end()
    tokens = tokenise(getattr(pipe, contract.tokenizer), [SHORT], contract)
    ids, mask = seen[0]
    assert ids.tolist() == tokens.ids.tolist()
    assert (mask is not None) == contract.mask
    check(result, pipe, tokens, contract)


def test_every_row_is_tried_or_says_why_not():
    for contract in CONTRACTS:
        assert any(name in PIPELINES for name in contract.pipelines) != (contract.pipelines[0] in NOT_BUILT)


def test_a_seat_has_one_contract_and_the_length_of_the_call():
    for name in {name for contract in CONTRACTS for name in contract.pipelines}:
        seats = [contract.seat for contract in contracts_of(name)]
        assert len(seats) == len(set(seats)), name
        call = inspect.signature(getattr(diffusers, name).__call__).parameters
        if "max_sequence_length" in call:
            lengths = [contract.window or contract.length for contract in contracts_of(name)]
            assert call["max_sequence_length"].default in lengths, name


@pytest.mark.parametrize("name", PIPELINES)
def test_last_state_is_the_one_after_the_final_norm(name):
    pipe = built(name)
    for contract in contracts_of(name):
        encoder, after = getattr(pipe, contract.seat), []
        norms = ("language_model.norm", "encoder.final_layer_norm", "text_model.final_layer_norm", "norm")
        found = [(path, part) for path, part in encoder.named_modules() if path in norms or path == "final_layer_norm"]
        found = found or [(path, part) for path, part in encoder.named_modules() if path.endswith(norms[0])]
        [(_, norm)] = found
        end = norm.register_forward_hook(lambda *seen, after=after: after.append(seen[-1]))
        output = outputs(encoder, tokenise(getattr(pipe, contract.tokenizer), [SHORT], contract), contract)
        end.remove()
        torch.testing.assert_close(final_states(output)[-1], after[0])
        given_raw = not torch.equal(output.hidden_states[-1], after[0])
        assert given_raw == contract.architectures[0].startswith("CLIP")


@pytest.mark.parametrize("name", PIPELINES)
def test_span_holds_the_phrase(name):
    pipe = built(name)
    texts = [SHORT, "the cartoon of a  mickey mouse and a mouse", "scary, a car", EMPTY]
    phrases = ["mickey mouse", "mickey mouse" if contracts_of(name)[0].clean == "spaces" else "mouse", "car", None]
    for contract in contracts_of(name):
        tokenizer = getattr(pipe, contract.tokenizer)
        tokens = tokenise(tokenizer, texts, contract, phrases=phrases)
        for ids, (first, last), phrase in zip(tokens.ids, tokens.spans.tolist(), phrases, strict=True):
            if phrase is None:
                assert (first, last) == (-1, -1)
            else:
                assert tokenizer.decode(ids[first:last]).strip() == phrase
        assert "scary" in tokenizer.decode(tokens.ids[2, : tokens.spans[2, 0]]).replace(" ", "")  # not its "car"


@pytest.mark.parametrize(("name", "contract"), BUILT, ids=identify)
def test_trimming_changes_nothing_that_is_read(name, contract):
    pipe = built(name)
    tokenizer, encoder = getattr(pipe, contract.tokenizer), getattr(pipe, contract.seat)
    texts, phrases = [SHORT, "a pizza"], ["mickey mouse", "pizza"]
    whole = tokenise(tokenizer, texts, contract, phrases=phrases)
    trimmed = tokenise(tokenizer, texts, contract, phrases=phrases, trim=True)
    if contract.reads == "all" or not contract.mask:
        assert trimmed.ids.shape == whole.ids.shape
        return
    assert trimmed.ids.shape[1] < whole.ids.shape[1] or contract.fill == "longest"
    for rows, (first, last), (before, after) in zip(
        zip(trimmed.ids, whole.ids, strict=True), trimmed.spans, whole.spans, strict=True
    ):
        assert rows[0][first:last].tolist() == rows[1][before:after].tolist()
    if contract.layers:
        states = [
            read_states(final_states(outputs(encoder, tokens, contract)), tokens, contract)
            for tokens in (trimmed, whole)
        ]
        kept = [tokens.read[:, tokens.taken] for tokens in (trimmed, whole)]
        torch.testing.assert_close(states[0][kept[0]], states[1][kept[1]], atol=1e-4, rtol=1e-3)


def test_phrase_that_is_cut_off_absent_or_not_to_be_located_is_told():
    pipe = built("WanPipeline")
    [contract] = contracts_of("WanPipeline")
    with pytest.raises(UsageError, match='the phrase "pizza" was cut off: WanPipeline reads 512'):
        tokenise(pipe.tokenizer, [LONG + "pizza"], contract, phrases=["pizza"])
    with pytest.raises(UsageError, match='the phrase "pizza" is not in the prompt "a clown"'):
        tokenise(pipe.tokenizer, ["a clown"], contract, phrases=["pizza"])
    with pytest.raises(UsageError, match='the phrase "clown" cannot be found in tokens: ByT5Tokenizer'):
        tokenise(ByT5Tokenizer(), ["a clown"], contract, phrases=["clown"])


def test_lookups():
    assert {contract.seat for contract in contracts_of("StableDiffusion3Pipeline")} == {
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
    }
    assert contracts_of("NoPipeline") == ()
    assert all("UMT5EncoderModel" in contract.architectures for contract in readers_of("UMT5EncoderModel"))
    assert readers_of("BertModel") == ()
    for name, like in (("WanVideoPipeline", "WanPipeline"), ("StableDifusionPipeline", "StableDiffusionPipeline")):
        assert nearest(name) == like


@pytest.mark.parametrize("name", PIPELINES)
def test_tiny_pipeline_draws_what_its_words_say(name):
    if name in NOT_DRAWN:
        pytest.skip(NOT_DRAWN[name])
    pipe = built(name)
    drawn, other = draw(pipe, SHORT), draw(pipe, "a pizza")
    assert drawn.shape[-1] == 3
    assert drawn.ndim == (5 if contracts_of(name)[0].video else 4)
    assert np.isfinite(drawn).all() and np.abs(drawn - other).max() > 1e-5


def test_saved_folder_is_sharded_and_loads(tmp_path):
    pipe = PIPELINES["WanPipeline"](boundary_ratio=0.875)
    folder = save_like_hub(pipe, tmp_path / "wan", shards=3)
    assert len(list(folder.glob("text_encoder/*.safetensors"))) == 3
    assert (folder / "text_encoder/model.safetensors.index.json").is_file()
    again = DiffusionPipeline.from_pretrained(folder)
    assert again.config.boundary_ratio == 0.875
    assert np.abs(draw(again, SHORT) - draw(pipe, SHORT)).max() < 1e-5
