"""What a fit is shown of a base that may be asked for any word: more is kept, near things most, and no name is missed."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_pipelines as tiny
import torch

from unlearn_export.base import Base, load_base
from unlearn_export.bench import Bench
from unlearn_export.concept import Concept
from unlearn_export.erasers import Anchor
from unlearn_export.erasers.prompts import Prompts, first_names, shared_start
from unlearn_export.errors import UsageError
from unlearn_export.families.tokens import tokenise
from unlearn_export.lexicon import lexicon
from unlearn_export.neighbours import anchors, candidates, closest
from unlearn_export.profile import Profile
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


def prompts(base: Base, *concepts: Concept, near: dict | None = None, seed: int = 0) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    return Prompts(base.vocabulary, base.seat.tokenizer, concepts, (), generator, near)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_finds_what_stands_near_any_concept(tmp_path: Path, family: str) -> None:
    base = opened(tmp_path, family)
    for concept in (MOUSE, Concept("Van Gogh", "style"), Concept("chainsaw"))[: 3 if family == "clip" else 1]:
        [resolved] = Anchor().resolve(Bench(base, torch.Generator()), [replace(concept, anchor="")])
        listed = {w.name for w in lexicon().words if w.kind == concept.kind} | set(GENERAL.concepts)
        near = closest(base, resolved)
        assert resolved.anchor in listed and len(near) >= 24
        assert set(near[:24]) <= listed
        assert not any(mentions(word, name) for word in (resolved.anchor, *near) for name in resolved.names)


def test_what_shares_a_token_with_the_concept_is_among_the_candidates(base: Base) -> None:
    """The tokenizer has "cartoon" as one token: edits of it move all that is written with it."""
    listed = set(lexicon().near("cartoon", "object", 48))
    found = candidates(base, Concept("cartoon"))
    assert len(set(found) - listed) >= 12
    assert len(found) == len(set(found)) < 200


def test_the_words_of_a_name_are_kept(base: Base) -> None:
    assert closest(base, replace(MOUSE, aliases=()))[24:] == ["Mouse"]
    assert closest(base, Concept("Taylor Swift", "person"))[24:] == ["Taylor"]
    assert closest(base, Concept("Vincent van Gogh", "style", aliases=("Vincent",)))[24:] == []


def test_half_of_the_subjects_are_near(base: Base) -> None:
    near = {MOUSE: ["Goofy", "Minnie Mouse", "Mouse"]}
    told, plain = prompts(base, MOUSE, near=near), prompts(base, MOUSE)
    counts = [Counter(each._subject() in near[MOUSE] for _ in range(600)) for each in (told, plain)]
    assert 240 < counts[0][True] < 380  # 300 ± 5 deviations
    assert counts[1][True] <= 6
    assert len(told.subjects) > 7000 and len(told.styles) > 200 and len(told.contexts) > 90


def test_nothing_that_is_kept_names_a_concept(base: Base) -> None:
    concepts = [Concept("car", aliases=("automobile",), anchor="boat"), Concept("pizza", anchor="salad")]
    mine = prompts(base, *concepts)
    named = [n for w in lexicon().words for n in (w.name,) if mentions(n, "car") or mentions(n, "pizza")]
    assert len(named) > 3  # the control: there are such words, as "car" itself
    assert not set(named) & set(mine.subjects)
    assert not any("car" in w.above for w in lexicon().words if w.name in mine.subjects)  # nor a sort of car
    for text in mine.kept(400)[::2]:
        assert not any(mentions(text, name) for concept in concepts for name in concept.names), text


def test_a_name_is_spelt_in_every_way_that_has_other_tokens(base: Base, tmp_path: Path) -> None:
    spelt = prompts(base, Concept("pizza", anchor="car")).spelt["pizza"]
    assert spelt == ["pizzas"]  # CLIP's tokenizer knows no case
    t5 = opened(tmp_path, "t5")
    pizza = Concept("pizza", anchor="car")
    assert set(prompts(t5, pizza).spelt["pizza"]) == {"pizzas", "PIZZA", "Pizza"}
    pairs = prompts(t5, pizza).pairs(300)
    said = Counter(name for _, name, _, _ in pairs)
    assert set(said) == {"pizza", "pizzas", "PIZZA", "Pizza"} and 150 < said["pizza"] < 250
    assert all(text.count(name) == 1 and meant.count("car") >= 1 for text, name, meant, _ in pairs)
    barred = {i for name in said for i in t5.seat.tokenizer(name, add_special_tokens=False).input_ids}
    assert not barred & set(prompts(t5, pizza).free)


def test_a_base_with_its_own_list_draws_from_that_alone(base: Base) -> None:
    own = replace(base, profile=Profile(replace(GENERAL, broad=False)))
    pizza = Concept("pizza", anchor="car", retain=("hot dog",))
    mine = prompts(own, pizza, near={pizza: []})
    assert mine.kept(40) == prompts(own, pizza).kept(40)  # and rolls the same dice
    assert closest(own, Concept("pizza")) == [] and mine.spelt == {}
    assert set(mine.subjects) == set(GENERAL.concepts) - {"pizza"} | {"hot dog"}
    assert set(candidates(own, Concept("pizza"))) == set(GENERAL.concepts) - {"pizza"}
    with pytest.raises(UsageError, match="'chainsaw' is not on .* --anchor"):
        Anchor().resolve(Bench(own, torch.Generator()), [Concept("chainsaw")])


def test_an_anchor_never_names_the_concept(base: Base) -> None:
    for concept in (Concept("car"), Concept("man"), Concept("saw"), Concept("Van Gogh", "style")):
        assert not any(mentions(name, concept.name) for name in anchors(base, concept, set()))


def test_a_first_name_is_no_part_of_what_moves_in_a_causal_encoder(base: Base) -> None:
    swift = Concept("Taylor Swift", "person", aliases=("Tay Tay",), anchor="Adele")
    assert first_names([swift]) == ["Taylor", "Tay"]
    assert first_names([replace(swift, aliases=("Taylor",)), Concept("hot dog")]) == []  # where it is to go too
    pairs = [("a photo of Taylor Swift", "Taylor Swift", "", ""), ("a photo of Taylor", "Taylor", "", "")]
    tokens = tokenise(
        base.seat.tokenizer, [p[0] for p in pairs], base.seat.contract, phrases=[p[1] for p in pairs], trim=True
    )
    marked = shared_start(tokens, base.seat.tokenizer, pairs, ["Taylor"])
    said = base.seat.tokenizer.decode(tokens.ids[0][marked[0]]).replace(" ", "")
    assert said == "taylor" and not marked[1].any()  # its tokens, and none of a name that is one word


@pytest.mark.parametrize("family", ["clip", "t5"])
def test_where_a_causal_encoder_has_heard_the_first_name_alone_nothing_is_to_move(tmp_path: Path, family: str) -> None:
    base = opened(tmp_path, family)
    swift = Concept("Taylor Swift", "person", anchor="Adele")
    fit = Anchor(pool=16, batch=2).fit(
        Bench(base, torch.Generator().manual_seed(0)), base.seat, [swift], lambda *_: None
    )
    reading = fit.readings[0]
    marked = shared_start(reading.tokens[: reading.pool], base.seat.tokenizer, fit.pairs[: reading.pool], fit.firsts)
    assert marked.any()
    asked = reading.fit[: reading.pool]
    assert bool((asked & marked).any()) == (family == "t5")  # the control: it hears the rest of the name everywhere
    assert (asked & ~marked).any()
