"""The word list that comes with the package: it is whole, it knows what a user would erase, and what stands beside that."""

import pytest

from unlearn_export.concept import KINDS
from unlearn_export.lexicon import lexicon
from unlearn_export.spelling import key, mentions
from unlearn_export.vocabulary import GENERAL


def test_every_entry_has_a_kind_a_group_and_words_of_its_own() -> None:
    words = lexicon().words
    assert len(words) > 8000 and {w.kind for w in words} == set(KINDS)
    assert all(w.name == w.name.strip() != "" and w.group for w in words)
    for kind in KINDS:
        names = [key(w.name) for w in words if w.kind == kind]
        assert len(set(names)) == len(names) > 200


@pytest.mark.parametrize(
    ("name", "kind", "entry", "synonym"),
    [
        ("Chain-Saw", "object", "chainsaw", "chain saw"),
        ("automobiles", "object", "car", "motorcar"),
        ("VAN GOGH", "style", "Vincent van Gogh", "Van Gogh"),
        ("mickey mouse", "character", "Mickey Mouse", ""),
        ("Beyoncé", "person", "Beyonce", "Beyoncé"),
    ],
)
def test_a_concept_is_found_by_any_of_its_words(name: str, kind: str, entry: str, synonym: str) -> None:
    word = lexicon().find(name, kind)
    assert word and word.name == entry and word.kind == kind
    assert not synonym or synonym in word.synonyms


def test_a_synonym_is_no_common_word_for_something_else() -> None:
    """WordNet lists "dog" with "hot dog" and "machine" with "car": erasing one would take the other along."""
    found = lexicon().find("car", "object")
    assert found and "auto" in found.synonyms and "machine" not in found.synonyms
    dog, machine = (lexicon().find(name, "object") for name in ("dog", "machine"))
    assert dog and dog.name == "dog" and dog.group == "animal"
    assert machine and machine.name == "machine"


@pytest.mark.parametrize(
    ("name", "kind", "inside", "outside"),
    [
        ("chainsaw", "object", {"jigsaw"}, {"chain saw", "power saw", "pizza"}),
        ("cat", "object", {"lion", "dog"}, {"tomcat", "feline", "kitten", "guitar"}),
        ("Van Gogh", "style", {"Claude Monet", "Rembrandt"}, {"Vincent van Gogh", "pizza"}),
        ("Mickey Mouse", "character", {"Minnie Mouse", "Donald Duck"}, {"Mickey Mouse", "mouse"}),
        ("Taylor Swift", "person", {"Adele", "Rihanna"}, {"Taylor Swift", "Batman"}),
    ],
)
def test_what_stands_beside_a_concept_is_of_its_kind(name: str, kind: str, inside: set, outside: set) -> None:
    near = lexicon().near(name, kind, 48)
    assert len(near) == 48 and inside <= set(near) and not outside & set(near)
    assert not any(mentions(other, name) for other in near)


def test_a_name_that_is_not_listed_has_those_of_its_kind() -> None:
    people = lexicon().near("Jane Doe", "person", 20)
    assert len(people) == 20 and set(people) <= set(lexicon().of_kind("person"))
    assert lexicon().near("blorbo", "object", 20) == []  # what it is nobody knows
    assert lexicon().near("Van Gogh", "object", 20) == []


def test_the_vocabulary_of_an_unknown_base_knows_them() -> None:
    assert GENERAL.synonyms("chainsaw", "object") == ("chain saw",)
    assert GENERAL.synonyms("Van Gogh", "style") == ("Vincent van Gogh",)
    assert GENERAL.synonyms("Van Gogh", "object") == ()
    assert GENERAL.is_style("Van Gogh") and GENERAL.is_style("watercolor")
    assert not GENERAL.is_style("mosaic") and not GENERAL.is_style("Taylor Swift")
    assert GENERAL.knows("Taylor Swift", "person") and GENERAL.knows("Jane Doe", "person")
    assert not GENERAL.knows("chainsww", "object") and "chainsaw" in GENERAL.hint("chainsww")
    assert not GENERAL.knows("Tailor Swift", "person") and "Taylor Swift" in GENERAL.hint("Tailor Swift")
