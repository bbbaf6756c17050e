"""What somebody writes into a card stays: only the generated part, between its marks, is rendered again."""

import pytest
import yaml

from unlearn_export.card_text import END, START, Own, marked, merged, reconciled

GENERATED = "---\nlicense: mit\ntags:\n- unlearning\n---\n\n# Card\n\n| a table |\n"
LATER = marked(GENERATED.replace("a table", "another table").replace("mit", "apache-2.0"))


def written(card: str) -> str:
    """With a human's keys, tag, and text above and below."""
    card = card.replace("- unlearning\n", "- unlearning\n- mine\nlanguage: de\n")
    return card.replace(START, f"> Read this first.\n\n{START}") + "\n## My notes\n\nKeep them.\n"


def front(card: str) -> dict[str, object]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_a_card_that_nobody_touched_is_as_generated() -> None:
    first = marked(GENERATED)
    assert not Own.of(first)
    assert merged(LATER, first) == LATER and merged(first, first) == first


def test_only_the_generated_part_is_rewritten() -> None:
    there = written(marked(GENERATED))
    new = merged(LATER, there)
    assert front(new) == {"license": "apache-2.0", "tags": ["unlearning", "mine"], "language": "de"}
    body = new.split("---\n", 2)[2].strip()
    assert body.startswith("> Read this first.") and body.endswith("Keep them.")
    assert "another table" in new and "| a table |" not in new
    assert merged(LATER, new) == new, "and again the same"


def test_what_is_generated_no_more_goes() -> None:
    more = GENERATED.replace("license: mit", "license: other\nlicense_link: LICENSE\nbase_model: a/b")
    assert front(merged(LATER, marked(more.replace("- unl", "- onnx\n- unl")))) == front(LATER)


def test_a_card_without_marks_is_somebodys_and_is_kept_below() -> None:
    new = merged(LATER, "---\nlicense: mit\nlanguage: de\n---\n# Mine\n")
    assert new.endswith(f"{END}\n\n# Mine\n") and front(new)["language"] == "de"
    assert merged(LATER, "# Mine\n").count("# Mine") == 1
    with pytest.raises(ValueError, match="front matter is no YAML"):
        merged(LATER, "---\na: [\n---\n# Mine\n")


def test_two_cards_meet_only_where_one_of_them_has_nothing_of_its_own() -> None:
    mine, theirs = written(LATER), written(marked(GENERATED))
    assert reconciled(LATER, marked(GENERATED)) == LATER
    assert reconciled(LATER, theirs) == merged(LATER, theirs)
    assert reconciled(mine, marked(GENERATED)) == mine
    assert reconciled(mine, theirs) == mine, "the same text in both"
    assert reconciled(mine, theirs.replace("Keep them", "Lose them")) is None
    assert "a: [" in str(reconciled(LATER, "---\na: [\n---\n# Mine\n")), "what cannot be read is text"
