"""How far other prompts moved, and ascent that leaves them alone."""

import copy

import pytest
import torch

from unlearn_export.base import Base, load_base
from unlearn_export.bench import Bench
from unlearn_export.concept import Concept
from unlearn_export.erase import erase
from unlearn_export.erasers import Anchor, FewShotAscent
from unlearn_export.erasers.few_shot import _Away, _without
from unlearn_export.erasers.retained import Retained
from unlearn_export.phrasing import unstyled

PIZZA = Concept("pizza")


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("demo")


def retained(base: Base) -> Retained:
    return Retained(Bench(base, torch.Generator().manual_seed(3)), [PIZZA])


def test_nothing_has_moved_before_an_edit(base: Base) -> None:
    same = {"text_encoder": copy.deepcopy(base.encoder)}
    assert retained(base).drift(same) < 1e-9
    gone = copy.deepcopy(base.encoder)
    with torch.no_grad():
        for p in gone.parameters():
            p.zero_()
    assert retained(base).drift({"text_encoder": gone}) > 0.5  # as far as prompts are apart
    assert 0 < retained(base).drift(erase(base, [PIZZA], Anchor(pool=64, steps=0)).encoders) < 0.5


def test_ascent_that_retains_moves_the_concept_as_far_and_others_less(base: Base) -> None:
    def moved(**options: float) -> tuple[float, float]:
        """→ how far others moved, and the concept itself"""
        edited = erase(base, [PIZZA], FewShotAscent(**options)).encoders  # type: ignore[arg-type]
        with torch.no_grad():
            before, after = (e(base.tokens(["a photo of a pizza"]))[0] for e in (base.encoder, edited["text_encoder"]))
        return retained(base).drift(edited), float((after - before).norm() / before.norm())

    (free, gone), (kept, concept) = moved(), moved(keep=10.0, steps=60)
    assert kept < 0.65 * free, (kept, free)  # 0.059 and 0.118
    assert concept > 0.8 * gone > 0.4, (concept, gone)  # 0.61 and 0.72


def test_a_slope_loses_what_would_raise_the_others_loss() -> None:
    dice = torch.Generator().manual_seed(0)
    slopes, others = ([torch.randn(3, 4, generator=dice), torch.randn(5, generator=dice)] for _ in range(2))
    if sum(float((a * b).sum()) for a, b in zip(slopes, others, strict=True)) > 0:
        others = [-b for b in others]
    assert sum(float((a * b).sum()) for a, b in zip(slopes, others, strict=True)) < -0.1  # they are at odds
    left = _without(slopes, others)
    assert abs(sum(float((a * b).sum()) for a, b in zip(left, others, strict=True))) < 1e-5
    agreed = [-b for b in others]  # those that agree stay as they are
    assert all(torch.equal(a, b) for a, b in zip(_without(agreed, [2 * a for a in agreed]), agreed, strict=True))


def test_a_prompt_guides_no_longer_to_the_concept(base: Base) -> None:
    bench = Bench(base, torch.Generator().manual_seed(4))
    (shot,) = bench.pictures([PIZZA], 2, base.vocabulary.concepts)

    def gone(edited: FewShotAscent | None) -> float:
        encoders = erase(base, [PIZZA], edited).encoders if edited else {"text_encoder": copy.deepcopy(base.encoder)}
        return _Away(bench, encoders, PIZZA, shot).reached()

    assert abs(gone(None)) < 1e-4
    assert gone(FewShotAscent(keep=10.0, steps=60)) > 0.85  # 0.95


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("a cat in ink style", "a cat"),
        ("a cat in ink style moving left", "a cat moving left"),
        ("a painting in the style of ink rising", "a painting rising"),
        ("a cat in the style of inkblots", "a cat in the style of inkblots"),
    ],
)
def test_a_style_is_taken_out_of_a_prompt_wherever_it_stands(text: str, rest: str) -> None:
    assert unstyled(text, ["ink"]) == rest
