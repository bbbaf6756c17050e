"""What stands near a concept, and what it may become, on a base that may be asked for any word."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_pipelines as tiny
import torch

from unlearn_export.base import Base, load_base
from unlearn_export.bench import Bench
from unlearn_export.concept import Concept
from unlearn_export.erasers import Anchor
from unlearn_export.lexicon import lexicon
from unlearn_export.neighbours import anchors, candidates, neighbours
from unlearn_export.spelling import mentions
from unlearn_export.vocabulary import GENERAL

FAMILIES = {
    "clip": (tiny.clip, tiny.clip_tokenizer),
    "t5": (tiny.t5, tiny.t5_tokenizer),
    "umt5": (lambda: tiny.t5(multilingual=True), tiny.t5_tokenizer),
    "llama": (tiny.llama, tiny.llama_tokenizer),
    "qwen": (tiny.qwen, tiny.qwen_tokenizer),
    "gemma3": (tiny.gemma3, tiny.gemma_tokenizer),
}
MOUSE = Concept("Mickey Mouse", "character", aliases=("Mickey",), anchor="Donald Duck")


def opened(folder: Path, family: str) -> Base:
    encoder, tokenizer = FAMILIES[family]
    encoder().save_pretrained(folder / "text_encoder")
    tokenizer().save_pretrained(folder / "tokenizer")
    return load_base(folder / "text_encoder")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return opened(tmp_path_factory.mktemp("clip"), "clip")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_finds_what_stands_near_any_concept(tmp_path: Path, family: str) -> None:
    base = opened(tmp_path, family)
    for concept in (MOUSE, Concept("Van Gogh", "style"), Concept("chainsaw"))[: 3 if family == "clip" else 1]:
        [resolved] = Anchor().resolve(Bench(base, torch.Generator()), [replace(concept, anchor="")])
        listed = {w.name for w in lexicon().words if w.kind == concept.kind} | set(GENERAL.concepts)
        near = [name for name, _ in neighbours(base, resolved, candidates(base, resolved))]
        assert resolved.anchor in listed and len(near) >= 24
        assert set(near) <= listed
        assert not any(mentions(word, name) for word in (resolved.anchor, *near) for name in resolved.names)


def test_what_shares_a_token_with_the_concept_is_among_the_candidates(base: Base) -> None:
    """The tokenizer has "cartoon" as one token: edits of it move all that is written with it."""
    listed = set(lexicon().near("cartoon", "object", 48))
    found = candidates(base, Concept("cartoon"))
    assert len(set(found) - listed) >= 12
    assert len(found) == len(set(found)) < 200


def test_an_anchor_never_names_the_concept(base: Base) -> None:
    for concept in (Concept("car"), Concept("man"), Concept("saw"), Concept("Van Gogh", "style")):
        assert not any(mentions(name, concept.name) for name in anchors(base, concept, set()))
