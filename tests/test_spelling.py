"""One name in other letters: plurals, cases, hyphens and slips, and whether a text has a name in it."""

import pytest

from unlearn_export.spelling import key, mentions, misspellings, plural, singular


@pytest.mark.parametrize(
    ("one", "many"),
    [("cat", "cats"), ("old man", "old men"), ("berry", "berries"), ("toy", "toys"), ("fox", "foxes"), ("y", "ys")],
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many
    assert singular(many) == one or one == "y"  # "ys" is too short to be taken for one


def test_misspellings_are_slips_of_the_longest_word() -> None:
    assert misspellings("police officer") == ["police offcer", "police ofifcer", "police offficer"]
    assert misspellings("cat") == []
    for slip in misspellings("hamburger"):
        assert slip != "hamburger"
        assert abs(len(slip) - len("hamburger")) <= 1


def test_a_singular_is_left_alone() -> None:
    for name in ("glass", "octopus", "tennis", "bus", "gas", "Van Gogh"):
        assert singular(name) == name
    assert singular("glasses") == "glass"


def test_a_text_mentions_a_name_by_whole_words_only() -> None:
    for text in ("a friendly ghost", "Ghosts", "ghost-like"):
        assert mentions(text, "ghost")
    assert mentions("Spider Man", "Spider-Man") and mentions("a pizza", "pizzas")
    for text in ("ghostly", "", "hosts"):
        assert not mentions(text, "ghost")
    assert key("Chain-Saw ") == key("chain  saw") == "chain saw"
