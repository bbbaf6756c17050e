"""Concepts of every kind on the demo base: styles, characters and persons go too, and their neighbours stay."""

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from transformers import PreTrainedModel

from unlearn_export.base import Base, load_base
from unlearn_export.bench import Bench
from unlearn_export.concept import KINDS, Concept, Kind
from unlearn_export.demo import VOCABULARY
from unlearn_export.demo.scorer import DemoScorer
from unlearn_export.erase import erase
from unlearn_export.erasers import Anchor
from unlearn_export.erasers.prompts import Prompts, places
from unlearn_export.errors import UsageError
from unlearn_export.families.tokens import tokenise
from unlearn_export.neighbours import anchors, neighbours
from unlearn_export.phrasing import TEMPLATES
from unlearn_export.vocabulary import GENERAL

SUBJECTS = ("cat", "car", "robot", "banana", "key", "frog", "pizza", "baby", "guitar")
METHOD = Anchor(steps=100)


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("demo")


@pytest.fixture(scope="module")
def scorer() -> DemoScorer:
    return DemoScorer()


def seen(
    base: Base,
    encoder: PreTrainedModel,
    scorer: DemoScorer,
    pairs: list[tuple[str, str]],
    prompts: Sequence[str] = (),
) -> tuple[float, float]:
    """How often pictures of (concept, style) show the concept, and the style; ``prompts`` may ask for other things."""
    pipeline = copy.copy(base.pipeline)
    pipeline.register_modules(text_encoder=encoder)
    noise = [torch.Generator().manual_seed(70 + i) for i in range(len(pairs))]
    prompts = list(prompts) or [f"a picture of a {concept} in {style} style" for concept, style in pairs]
    drawn = pipeline(prompts, num_inference_steps=8, guidance_scale=3.0, generator=noise, output_type="pt").images
    scores = scorer.score(drawn.float().clamp(0, 1))
    concepts, styles = scores.concept.argmax(1).tolist(), scores.style.argmax(1).tolist()
    right = [
        (scorer.concepts[c] == pair[0], scorer.styles[s] == pair[1])
        for c, s, pair in zip(concepts, styles, pairs, strict=True)
    ]
    return sum(c for c, _ in right) / len(right), sum(s for _, s in right) / len(right)


def test_a_style_goes_and_what_is_drawn_in_it_stays(base: Base, scorer: DemoScorer) -> None:
    erased = erase(base, [Concept("ink", "style")], METHOD)
    inked, flat = [(s, "ink") for s in SUBJECTS], [(s, "flat") for s in SUBJECTS]
    assert min(seen(base, base.encoder, scorer, inked)) >= 0.8  # the control
    concept, style = seen(base, erased.encoder, scorer, inked)
    assert style <= 0.1
    assert concept >= 0.8
    assert min(seen(base, erased.encoder, scorer, flat)) >= 0.8
    assert erased.recipe.concepts[0].anchor in ("flat", "glossy")


@pytest.mark.parametrize(("name", "kind"), [("ghost", "character"), ("princess", "person")])
def test_a_character_and_a_person_go(name: str, kind: Kind, base: Base, scorer: DemoScorer) -> None:
    erased = erase(base, [Concept(name, kind)], METHOD)
    own = [(name, scorer.styles[i % 3]) for i in range(9)]
    others = [(s, scorer.styles[i % 3]) for i, s in enumerate(SUBJECTS)]
    assert seen(base, base.encoder, scorer, own)[0] >= 0.8  # the control
    assert seen(base, erased.encoder, scorer, own)[0] <= 0.1
    assert min(seen(base, erased.encoder, scorer, others)) >= 0.8
    anchor = erased.recipe.concepts[0].anchor
    assert VOCABULARY.groups[anchor] == VOCABULARY.groups[name]
    assert anchor not in Concept(name, kind).names


def test_every_kind_has_prompts_that_name_the_concept_once() -> None:
    for kind in KINDS:
        prompts = Concept("x0x", kind, aliases=("y0y",)).prompts()  # type: ignore[arg-type]
        assert len(prompts) == 2 * len(TEMPLATES[kind]) == len(set(prompts))
        assert all(p.count("x0x") + p.count("y0y") == 1 for p in prompts)
    with pytest.raises(UsageError, match="unknown kind 'ghost'"):
        Concept("x", "ghost")  # type: ignore[arg-type]


def test_a_known_word_is_found_in_any_case_and_by_its_synonyms() -> None:
    assert VOCABULARY.like("Pizza ") == VOCABULARY.like("pepperoni") == "pizza"
    assert VOCABULARY.like("INK") == "ink"
    assert VOCABULARY.like("unheard") == VOCABULARY.like("") == ""
    assert GENERAL.like("vincent van gogh") == "Vincent van Gogh"


def test_the_lists_of_words_are_whole() -> None:
    for vocabulary in (VOCABULARY, GENERAL):
        assert len(set(vocabulary.concepts)) == len(vocabulary.concepts)
        assert set(vocabulary.groups) == set(vocabulary.concepts)
        assert set(vocabulary.aliases) <= set(vocabulary.concepts)
        assert "" in vocabulary.contexts
    words = [w for c in VOCABULARY.concepts for w in (c, *VOCABULARY.aliases[c])]
    assert len(set(words)) == len(words)  # no synonym means two things
    assert "police officer" in GENERAL.concepts and "police" not in GENERAL.concepts


def test_what_a_concept_becomes_is_near_but_not_too_near(base: Base) -> None:
    for name in ("guitar", "pizza", "cat", "robot"):
        concept = Concept(name)
        near = dict(neighbours(base, concept, [n for n in VOCABULARY.concepts if n != name and same_group(n, name)]))
        order = anchors(base, concept, avoid={name})
        assert near[order[0]] == max(c for c in near.values() if c <= 0) < max(near.values())
        assert sorted(order) == sorted(near)


def same_group(one: str, other: str) -> bool:
    return VOCABULARY.groups[one] == VOCABULARY.groups[other]


@pytest.mark.parametrize(
    ("name", "anchor", "shift"), [("baby", "old man", 1), ("old man", "baby", -1), ("cat", "car", 0)]
)
def test_names_of_other_lengths_take_each_others_places(name: str, anchor: str, shift: int, base: Base) -> None:
    tokenizer, contract = base.seat.tokenizer, base.seat.contract
    concept = Concept(name, "person", anchor=anchor)
    prompts = Prompts(base.vocabulary, tokenizer, [concept], (), torch.Generator().manual_seed(3))
    pairs = prompts.pairs(20)
    said = tokenise(tokenizer, [p[0] for p in pairs], contract, phrases=[p[1] for p in pairs])
    meant = tokenise(tokenizer, [p[2] for p in pairs], contract, phrases=[p[3] for p in pairs])
    last = [tokenizer(n, add_special_tokens=False).input_ids[-1] for n in (name, anchor)]
    for ours, theirs, place in zip(said.ids.tolist(), meant.ids.tolist(), places(said, meant).tolist(), strict=True):
        at = len(ours) - 1 - ours[::-1].index(last[0])  # the name's last token gets the state of the anchor's
        assert theirs[place[at]] == last[1] and place[at] == at + shift
        assert [theirs[p] for p in place[at:]] == [last[1], *ours[at + 1 :]][: len(place) - at]
        start = at - len(name.split()) + 1
        assert place[:start] == list(range(start)) and theirs[:start] == ours[:start]


def test_an_anchor_of_more_words_than_the_name_is_what_is_drawn(base: Base, scorer: DemoScorer) -> None:
    erased = erase(base, [Concept("baby", "person", anchor="old man")], METHOD)
    styles = scorer.styles * 3
    assert seen(base, base.encoder, scorer, [("baby", style) for style in styles])[0] >= 0.8  # the control
    prompts = [f"a picture of a baby in {style} style" for style in styles]
    assert seen(base, erased.encoder, scorer, [("old man", style) for style in styles], prompts)[0] >= 0.8


def test_synonyms_become_aliases_and_held_out_names_must_be_known(base: Base) -> None:
    bench = Bench(base, torch.Generator())
    [resolved] = Anchor().resolve(bench, [Concept("pepperoni")])
    assert set(resolved.names) == {"pizza", "pepperoni", "pizza slice"}
    [shouted] = Anchor().resolve(bench, [Concept("PIZZA", aliases=("Pie", "pie"))])
    assert shouted.names == ("PIZZA", "Pie", "pepperoni", "pizza slice")
    with pytest.raises(UsageError, match="'robbot' is not on .* did you mean 'robot'.* --anchor"):
        Anchor().resolve(bench, [Concept("robbot")])
    assert Anchor().resolve(bench, [Concept("robbot", anchor="clown")])[0].names == ("robbot",)
    [chosen] = Anchor().resolve(bench, [Concept("pizza", anchor="key")])
    assert chosen.anchor == "key"
    held = Anchor(holdout=(Anchor().resolve(bench, [Concept("pizza")])[0].anchor,))
    assert held.resolve(bench, [Concept("pizza")])[0].anchor not in held.holdout
    with pytest.raises(UsageError, match="cannot hold out 'unheard'"):
        Anchor(holdout=("unheard",)).resolve(bench, [Concept("pizza")])


def test_any_number_of_steps_can_be_asked_for(base: Base) -> None:
    for steps in (1, 2, 9, 10):
        told: list[tuple[int, int, float]] = []
        method = Anchor(steps=steps, pool=4, batch=2)
        erase(base, [Concept("pizza")], method, on_step=lambda *step, told=told: told.append(step))  # type: ignore[misc]
        assert sum(not math.isnan(loss) for _, _, loss in told) == steps
        assert [done for done, _, _ in told] == list(range(1, told[-1][1] + 1))  # the prompts' reading is told as well
