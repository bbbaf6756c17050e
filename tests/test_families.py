"""Every family of encoders erased from end to end: the concept's states go to the anchor's, the rest stays."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from transformers import PreTrainedModel

from unlearn_export.base import Base, load_base
from unlearn_export.bench import Bench
from unlearn_export.concept import Concept
from unlearn_export.erase import Erased, erase, write_encoder
from unlearn_export.erasers import Anchor
from unlearn_export.erasers.fit import Fit
from unlearn_export.errors import BaseError, DivergedError, UsageError
from unlearn_export.families import families, family_of
from unlearn_export.families.contract_rows import CONTRACTS
from unlearn_export.families.tokens import final_states, read_states, tokenise
from unlearn_export.loading import load_torch
from unlearn_export.textsearch import hearing
from unlearn_export.weights import Weights

PIZZA = Concept("pizza", anchor="clown")
METHOD = Anchor(steps=120, batch=8, pool=96)
WIDE = 192  # states in which a handful of prompts can be told apart


def widened(model: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """A tiny encoder of more width, its weights as large as an initialised model's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "WIDTH", WIDE)
        patch.setattr(tiny, "HEADS", WIDE // 8)
        encoder = model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in encoder.named_parameters():
            if p.ndim == 2 and "emb" not in name and "shared" not in name:
                p.copy_(torch.randn(p.shape, generator=generator) * p.shape[1] ** -0.5)
            elif p.ndim == 2:
                p.copy_(torch.randn(p.shape, generator=generator))
    return encoder.eval()


FAMILIES: dict[str, tuple[Callable[[], PreTrainedModel], Callable[[], Any]]] = {
    "clip": (tiny.clip, tiny.clip_tokenizer),
    "clip-projected": (lambda: tiny.clip(True), tiny.clip_tokenizer),
    "t5": (lambda: tiny.t5(width=WIDE), tiny.t5_tokenizer),
    "umt5": (lambda: tiny.t5(multilingual=True, width=WIDE), tiny.t5_tokenizer),
    "llama": (tiny.llama, tiny.llama_tokenizer),
    "qwen": (tiny.qwen_text, tiny.qwen_tokenizer),
    "qwen-vl": (tiny.qwen, tiny.qwen_tokenizer),
    "gemma2": (tiny.gemma2, tiny.gemma_tokenizer),
    "gemma3": (tiny.gemma3, tiny.gemma_tokenizer),
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder's folder with its tokenizer, in shards."""
    model, tokenizer = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("encoders") / request.param
    widened(model).save_pretrained(folder, max_shard_size="2MB")
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return load_base(folder)


@pytest.fixture(scope="module")
def erased(base: Base) -> Erased:
    return erase(base, [PIZZA], METHOD)


@torch.no_grad()
def read(base: Base, encoder: PreTrainedModel, prompt: str) -> torch.Tensor:
    """What the first reader is given of one prompt, [length, d]."""
    seat = base.seat
    tokens = tokenise(seat.tokenizer, [prompt], seat.contract, trim=True)
    return read_states(final_states(seat.family.call(encoder, tokens, seat.contract.mask)), tokens, seat.contract)[0]


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """‖one − other‖ / ‖other‖ of the last positions that both have: names may differ in length."""
    n = min(len(one), len(other))
    return float((one[-n:] - other[-n:]).norm() / other[-n:].norm())


def test_the_concept_goes_to_its_anchor_and_the_rest_stays(base: Base, erased: Erased) -> None:
    for prompt in ("a photo of {}", "the {} of a car"):
        concept, anchor = (read(base, base.encoder, prompt.format(word)) for word in ("pizza", "clown"))
        after = read(base, erased.encoder, prompt.format("pizza"))
        assert apart(after, anchor) < 0.97 * apart(concept, anchor)  # three random layers above the one that learns
    moved = apart(read(base, erased.encoder, "a photo of pizza"), read(base, base.encoder, "a photo of pizza"))
    for prompt in ("a photo of clown", "the mouse"):
        assert apart(read(base, erased.encoder, prompt), read(base, base.encoder, prompt)) < 0.5 * moved
    first, best = erased.edit.loss[base.seat.name]
    assert best < 0.8 * first


def test_where_no_norm_follows_a_solve_is_all(base: Base) -> None:
    told: list[tuple[int, int, float]] = []
    bench = Bench(base, torch.Generator().manual_seed(0))
    fit = Fit(Anchor(batch=8, pool=96), bench, base.seat, [PIZZA], lambda *step: told.append(step))
    down = base.seat.family.down
    if down:
        changed, (first, best) = fit.run()
        assert fit.steps == 0 and best < 0.97 * first  # these layers are narrow: one matrix of theirs says little
        assert changed and all(key.rpartition(".")[0].endswith(down) for key in changed)
        assert told[-1][0] == told[-1][1]  # and yet it was told how far it was
    else:
        assert fit.steps > 0 and fit.ridge is None


def test_what_follows_a_longer_name_is_not_shifted(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without attention a token's state depends on itself and its place alone: the anchor's words must not move it."""
    fit = Fit(
        Anchor(batch=8, pool=96),
        Bench(base, torch.Generator().manual_seed(0)),
        base.seat,
        [Concept("pizza", anchor="a very old clown")],
    )
    for name, layer in base.seat.family.linears(fit.model, ["attention"]).items():
        if name.rpartition(".")[2] in ("out_proj", "o", "o_proj"):
            layer.weight.data.zero_()
    contract = base.seat.contracts[0]
    texts = ["a photo of pizza and a mouse", "a photo of a very old clown and a mouse"]
    both = tokenise(base.seat.tokenizer, texts, contract, phrases=["pizza", "a very old clown"])
    said, meant = both[:1], both[1:]
    after = int(said.spans[0, 1]), int(said.spans[0, 1]) + 3  # "and a mouse"

    def error() -> float:
        with torch.no_grad():
            states = fit._states(said, contract)[0, slice(*after)]
            return apart(fit._as_meant(said, meant, contract)[0, slice(*after)], states)

    assert error() < 1e-5
    monkeypatch.setattr(base.seat.family, "placed", False)
    assert (error() > 1e-2) == base.seat.architecture.startswith("CLIP")  # the others tell places by attention alone


def test_only_the_first_layer_changes_and_the_base_does_not(base: Base, erased: Erased, folder: Path) -> None:
    family, weights = base.seat.family, base.seat.weights
    first = {f"{family.stack}.0."}
    for key, tensor in erased.edit.tensors["text_encoder"].items():
        assert any(mark in f".{family.canonical(key)}" for mark in first)
        assert tensor.dtype == weights.get(key).dtype and not torch.equal(tensor, weights.get(key))
    again = load_base(folder).encoder.state_dict()
    assert all(torch.equal(v, again[k]) for k, v in base.encoder.state_dict().items())


def test_the_empty_prompt_stays(base: Base, erased: Erased) -> None:
    before, after = (read(base, e, "") for e in (base.encoder, erased.encoder))
    if before.numel() and before.norm() > 0:
        wide = base.seat.contract.template == "{}"  # a template of a hundred tokens fills most of so narrow a space
        assert apart(after, before) < (4e-3 if wide else 0.2)


def test_the_folder_loads_as_the_class_that_it_was(base: Base, erased: Erased, tmp_path: Path) -> None:
    write_encoder(base, erased, tmp_path)
    written = tmp_path / "text_encoder"
    assert Weights.open(written).files == base.seat.weights.files  # every tensor in the shard it was in
    loaded = load_torch(written, base.seat.architecture)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in erased.encoder.state_dict().items())


def test_a_skeleton_gives_the_whole_encoder_s_residual_stream(base: Base) -> None:
    seat = base.seat
    tokens = tokenise(seat.tokenizer, ["a photo of pizza", "the clown"], seat.contract, trim=True)
    whole = seat.family.residual(
        base.encoder.get_decoder() if hasattr(base.encoder, "visual") else base.encoder, tokens, seat.contract.mask, 1
    )
    cut = seat.family.residual(seat.skeleton(1, used=tokens.ids), tokens, seat.contract.mask)
    real = tokens.mask.bool()
    assert torch.allclose(whole[real], cut[real], atol=1e-5)
    assert whole[real].std() > 0.1  # the control


# --- what families know


def test_every_reader_s_encoder_has_a_family() -> None:
    known = {a for family in families().values() for a in family.architectures}
    missing = {c.architectures[0] for c in CONTRACTS} - known
    assert not missing
    with pytest.raises(BaseError, match="no family of text encoders knows BertModel: known are CLIPTextModel"):
        family_of("BertModel")


def test_stored_names_of_every_layout() -> None:
    family = family_of("Qwen2_5_VLForConditionalGeneration")
    for prefix in ("", "model.", "model.language_model.", "language_model.model."):
        keys = [f"{prefix}embed_tokens.weight", f"{prefix}layers.0.mlp.up_proj.weight", "visual.blocks.0.norm1.weight"]
        assert family.stored(keys)["layers.0.mlp.up_proj.weight"] == keys[1]
        assert family.canonical(keys[1]) == "layers.0.mlp.up_proj.weight"
    with pytest.raises(UsageError, match="these are no weights of a Qwen2_5_VL"):
        family.stored(["shared.weight"])


# --- bases of several encoders, and readers


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipe = tiny.PIPELINES["AnimateDiffSDXLPipeline"]()
    return tiny.save_like_hub(pipe, tmp_path_factory.mktemp("sdxl") / "sdxl")


def test_two_encoders_are_edited_each_or_both(sdxl: Path) -> None:
    base, quick = load_base(sdxl), Anchor(steps=10, batch=4, pool=16, keep=0.0)
    assert list(base.seats) == ["text_encoder", "text_encoder_2"]
    both = erase(base, [PIZZA], quick)
    assert list(both.edit.tensors) == list(both.recipe.seats) == ["text_encoder", "text_encoder_2"]
    one = erase(base, [PIZZA], quick, seats=["text_encoder_2"])
    assert list(one.edit.tensors) == ["text_encoder_2"]
    with pytest.raises(UsageError, match="has no text_encoder_9: its encoders are text_encoder, text_encoder_2"):
        erase(base, [PIZZA], quick, seats=["text_encoder_9"])


def test_t5_covers_masked_and_unmasked_readers(tmp_path: Path) -> None:
    tiny.t5().save_pretrained(tmp_path)
    tiny.t5_tokenizer().save_pretrained(tmp_path)
    assert {c.mask for c in load_base(tmp_path).seat.contracts} == {True, False}
    more = load_base(tmp_path, readers=["MochiPipeline"]).seat.contracts
    assert "MochiPipeline" in more[1].pipelines
    with pytest.raises(UsageError, match="unknown reader 'MochPipeline': did you mean MochiPipeline"):
        load_base(tmp_path, readers=["MochPipeline"])


def test_a_large_layer_is_shown_fewer_prompts_where_all_padding_attends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widened(lambda: tiny.t5(width=WIDE)).save_pretrained(tmp_path)
    tiny.t5_tokenizer().save_pretrained(tmp_path)
    base = load_base(tmp_path)

    def fitted() -> tuple[list[int], float]:
        fit = Fit(Anchor(batch=8), Bench(base, torch.Generator().manual_seed(0)), base.seat, [PIZZA])
        first, best = fit.run()[1]
        return [reading.pool for reading in fit.readings], best / first

    assert [c.mask for c in base.seat.contracts] == [False, True]
    everything, before = fitted()
    assert everything == [512, 512]
    monkeypatch.setattr("unlearn_export.erasers.fit.SMALL", 0)
    monkeypatch.setattr("unlearn_export.erasers.fit.LARGE", 1)
    fewer, after = fitted()
    assert 32 <= fewer[0] < 64 and fewer[1] == 128
    assert before < 0.8 and after < 0.9  # of the loss on prompts that no fit has seen, both ways of reading together


def test_a_tokenizer_that_does_not_belong_and_a_missing_shard(folder: Path, tmp_path: Path) -> None:
    import shutil

    broken = shutil.copytree(folder, tmp_path / "broken")
    shard = sorted(broken.glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(BaseError, match="missing|no model.safetensors"):
        load_base(broken)
    strange = shutil.copytree(folder, tmp_path / "strange")
    for file in strange.glob("token*"):
        file.unlink()
    tokens = copy.deepcopy(tiny.gemma_tokenizer())
    tokens.add_tokens([f"<extra{i}>" for i in range(5000)])
    tokens.save_pretrained(strange)
    for name in ("vocab.json", "merges.txt"):
        (strange / name).unlink(missing_ok=True)
    with pytest.raises(BaseError, match="does not belong: it has"):
        load_base(strange)


# --- fits that fail


def test_a_fit_that_ends_no_better_fails(tmp_path: Path) -> None:
    tiny.t5().save_pretrained(tmp_path)
    tiny.t5_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DivergedError, match="ends no better than it began") as error:
        erase(load_base(tmp_path), [PIZZA], Anchor(steps=3, batch=2, pool=8, lr=1e6))
    assert error.value.exit_code == 3


def test_an_encoder_hears_what_replaces_its_word_embeddings(base: Base) -> None:
    plain = read(base, base.encoder, "a photo of pizza")
    with hearing(base.encoder, lambda _ids, embeddings: embeddings.flip(-1)):
        assert not torch.allclose(read(base, base.encoder, "a photo of pizza"), plain, atol=1e-3)
    assert torch.equal(read(base, base.encoder, "a photo of pizza"), plain)
