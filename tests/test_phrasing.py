"""Prompt wording lives in one module; what it says stays comparable from version to version."""

from pathlib import Path

from unlearn_export import phrasing
from unlearn_export.concept import KINDS

PACKAGE = Path(phrasing.__file__).parent
# what the demo learnt from, what pipelines add
OWN_WORDS = {"phrasing.py", "demo/world.py", "families/contract_rows.py"}


def test_no_other_module_spells_a_prompt() -> None:
    spelt = ('"a picture of', '"a photo of', '"a drawing of', "{} style", "in the style of {", "next to a {")
    found = {
        (file.relative_to(PACKAGE).as_posix(), words)
        for file in PACKAGE.rglob("*.py")
        for words in spelt
        if words in file.read_text(encoding="utf-8")
    }
    assert {file for file, _ in found} - OWN_WORDS == set()
    assert {words for file, words in found if file == "phrasing.py"} == set(spelt)  # the control: the words are right


def test_plain_prompts_of_every_kind() -> None:
    assert phrasing.plain("object", "octopus") == "a picture of a octopus"  # as it was always asked
    assert phrasing.plain("person", "Brad Pitt") == "a picture of Brad Pitt"
    assert phrasing.plain("person", "baby") == "a picture of a baby"
    assert phrasing.plain("person", "brad", proper=True) == "a picture of brad"
    assert phrasing.plain("style", "ink").replace(phrasing.SUBJECT, "cat") == "a picture of a cat in ink style"
    shown = [phrasing.example(kind, "Ink") for kind in ("object", "style", "character", "person")]
    assert shown == ["a picture of a Ink", "a picture in the style of Ink", "a picture of Ink", "a picture of Ink"]


def test_the_article_follows_the_name() -> None:
    said = [phrasing.with_article(name) for name in ("pizza", "umbrella", "Brad Pitt")]
    assert said == ["a pizza", "an umbrella", "Brad Pitt"]


def test_every_wording_names_the_concept_once_and_fills_every_place() -> None:
    for kind in KINDS:
        texts = [t.format("@") for t in phrasing.TEMPLATES[kind]] + phrasing.paraphrases(kind, "@")
        texts += phrasing.compositions(kind, "@", ["cat"]) + [
            phrasing.company(kind, "@", "cat", "car", i) for i in range(4)
        ]
        for text in texts:
            assert text.count("@") == 1 and "{" not in text.replace(phrasing.SUBJECT, ""), (kind, text)


def test_a_prompt_in_a_style_is_told_without_it() -> None:
    templates = phrasing.style_templates(["cat", "dog"])
    plain = [phrasing.unstyled(t.format(name), ["ink", "flat"]) for t in templates for name in ("ink", "flat")]
    assert plain == ["a picture of a cat", "a picture of a cat", "a dog", "a dog"]
    assert phrasing.unstyled("a dog in glossy style", ["ink"]) == "a dog in glossy style"
