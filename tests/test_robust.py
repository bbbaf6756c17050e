"""Adversarial anchoring: what an attacker finds against an edited encoder, with the plain anchor's as control."""

from typing import Any

import pytest
import test_families as few
import torch
from transformers import PreTrainedModel

from unlearn_export.base import Base, load_base
from unlearn_export.erase import erase
from unlearn_export.erasers import Anchor, Robust
from unlearn_export.erasers.attackers import Direction
from unlearn_export.errors import UsageError
from unlearn_export.probe import make_attacks, probe

QUICK: dict[str, Any] = {"depth": 2, "batch": 4, "pool": 96, "keep": 2.0, "words": 1, "inner": 3}


@pytest.fixture(scope="module", params=["umt5", "qwen-vl"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    model, tokenizer = few.FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("robust") / request.param
    few.widened(model).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return load_base(folder)


def distances(base: Base, encoder: PreTrainedModel) -> dict[str, list[float]]:
    """What the state-space attack's tries come to, the first from the name itself: 0 the concept's states, 1 any word's."""
    attacks = make_attacks(["state-space"], ["state-space.tries=3", "state-space.steps=60"])
    entry = probe(base, {base.seat.name: encoder}, [few.PIZZA], None, attacks).report["attacks"][0]
    (found,) = entry["targets"].values()
    return {moment: found[moment]["detail"][base.seat.name]["distances"] for moment in ("before", "after")}


def test_embeddings_bring_back_less_than_after_the_plain_anchor(base: Base) -> None:
    plain, robust = (
        distances(base, erase(base, [few.PIZZA], method).encoder)
        for method in (Anchor(batch=4, pool=96), Robust(steps=40, **QUICK))
    )
    assert plain["before"] == robust["before"] and plain["before"][0] == 0  # the base hides nothing
    assert robust["after"][0] > 1.2 * plain["after"][0]  # seen: nine times with UMT5, 1.4 times with Qwen2.5-VL


def test_a_seed_gives_the_same_bytes_and_several_layers_change(base: Base) -> None:
    method = Robust(steps=3, lr=0.25, **QUICK)
    one, two = (erase(base, [few.PIZZA], method, seed=1).edit for _ in range(2))
    tensors = one.tensors[base.seat.name]
    assert all(torch.equal(t, two.tensors[base.seat.name][key]) for key, t in tensors.items())
    stack = base.seat.family.stack
    for layer in range(2):
        assert any(f"{stack}.{layer}." in key for key in tensors)
    assert not any(f"{stack}.2." in key for key in tensors)


def test_the_direction_is_one_at_the_concept_and_none_at_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    others = torch.randn(400, 8, generator=generator) * torch.tensor([5.0, *[1.0] * 7])
    concept = others[:50] + torch.tensor([2.0, 2.0, *[0.0] * 6])
    direction = Direction.between(concept, others)
    assert abs(float(direction.of(concept.mean(0))) - 1) < 1e-4 and abs(float(direction.of(others).mean())) < 1e-4
    assert direction.weight[1] > 10 * direction.weight[0]  # where others vary a difference says less


@pytest.mark.parametrize("option", ["words", "inner", "bank", "pace", "attack"])
def test_options_out_of_range_are_named(option: str) -> None:
    with pytest.raises(UsageError, match=option):
        Robust(**{option: -1})


def test_shares_of_goals_are_at_most_all() -> None:
    assert Robust(towards=0.5, away=0.5).towards == 0.5
    with pytest.raises(UsageError, match="towards=0.9"):
        Robust(towards=0.9)
