"""The recipe as an object: what is written is what is read, in all formats, and anything else is refused in one line."""

import copy
import json
from typing import Any

import pytest
from test_card import recipe

from unlearn_export.base import load_base
from unlearn_export.concept import Concept
from unlearn_export.erase import erase
from unlearn_export.erasers import Anchor
from unlearn_export.errors import ArtifactError
from unlearn_export.recipe import Recipe, told

SEAT = {
    "architecture": "CLIPTextModel",
    "family": "clip",
    "sha256": "a" * 64,
    "tokenizer": "tokenizer",
    "tokenizer_sha256": "b" * 64,
    "readers": ["StableDiffusionPipeline"],
    "changed": ["layers.0.mlp.fc1.weight"],
    "tensors": ["layers.0.mlp.fc1.weight", "layers.0.mlp.fc2.weight"],
    "parameters": 923776,
    "loss": [0.9, 0.1],
}


def second() -> dict[str, Any]:
    """A recipe of format 2."""
    made = copy.deepcopy(recipe()) | {"format": 2, "seats": {"text_encoder": SEAT}}
    made["base"] |= {"kind": "StableDiffusionPipeline"}
    made["images"] = [[{"file": "1.png", "sha256": "c" * 64}]]
    return made


def third() -> dict[str, Any]:
    """One of format 3."""
    return second() | {
        "format": 3,
        "seats": {"text_encoder": SEAT | {"tensor_sha256": dict.fromkeys(SEAT["tensors"], "d")}},
    }


@pytest.mark.parametrize("made", [recipe(), second(), third()], ids=["format 1", "format 2", "format 3"])
def test_all_formats_come_back_as_they_were(made: dict[str, Any]) -> None:
    read = Recipe.from_json(made)
    assert read.to_json() == made
    assert Recipe.from_json(json.loads(json.dumps(read.to_json()))) == read
    assert read.concepts == (Concept("pizza", "object", ("pepperoni", "pizza slice"), "hamburger", ("bread",)),)
    assert set(read.seats) == ({"text_encoder"} if made["format"] > 1 else set())


def test_what_the_first_format_left_unsaid_is_told() -> None:
    assert told(second()) == {"text_encoder": SEAT}
    [(name, about)] = told(recipe()).items()
    assert name == "text_encoder" and about["changed"] == recipe()["changed"]["tensors"]
    assert about["tokenizer"] == "tokenizer" and "architecture" not in about  # the encoder's config has its class
    assert tuple(about["readers"]) == ("StableDiffusionPipeline",)
    assert "changed" not in told({"format": 1})["text_encoder"]


def test_what_erase_makes_reads_back_the_same() -> None:
    made = erase(load_base("demo"), [Concept("pizza")], Anchor(steps=2, pool=32), seed=4).recipe
    assert Recipe.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert (made.seed, made.format, list(made.seats)) == (4, 3, ["text_encoder"])
    assert made.method.options["parts"] == ("mlp", "attention")
    assert made.changed.tensors == made.seats["text_encoder"].changed


def test_what_is_missing_or_unknown_is_named() -> None:
    def refused(message: str, **changes: Any) -> None:
        made = {k: v for k, v in (second() | changes).items() if v is not None}
        with pytest.raises(ArtifactError, match=message) as caught:
            Recipe.from_json(made)
        assert "\n" not in str(caught.value)

    refused("format 4.*reads up to 3", format=4)
    refused("lacks 'seed'", seed=None)
    refused("'colour', which this version does not know", colour="red")
    refused("base in .* lacks 'license'", base={"source": "demo", "revision": None})
    refused("text_encoder in .* 'size'", seats={"text_encoder": SEAT | {"size": 1}})
    refused("is no recipe: .*unknown kind", concepts=[{"name": "pizza", "kind": "food"}])
    refused("method in .* is no JSON object", method="anchor")
    refused("is no recipe", concepts=3)
    with pytest.raises(ArtifactError, match="format None"):
        Recipe.from_json([])
