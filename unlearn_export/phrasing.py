"""All the words that prompts are made of: templates, paraphrases, styles, contexts and company for a name.

Nothing else in the package spells a prompt. A ``{}`` is the place of the concept's name, ``SUBJECT`` that of the thing
that a style is shown on.
"""

import re
from collections.abc import Sequence

SUBJECT = "{subject}"
ANYTHING = "a picture"  # a prompt that asks for nothing in particular

# The 27 object and 19 style templates of textual inversion (Gal et al. 2022, arXiv:2208.01618), which
# Fuchi & Takagi (arXiv:2405.07288) train with; a character or a person is no "cropped photo of the dirty {}".
TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": (
        "a photo of a {}",
        "a rendering of a {}",
        "a cropped photo of the {}",
        "the photo of a {}",
        "a photo of a clean {}",
        "a photo of a dirty {}",
        "a dark photo of the {}",
        "a photo of my {}",
        "a photo of the cool {}",
        "a close-up photo of a {}",
        "a bright photo of the {}",
        "a cropped photo of a {}",
        "a photo of the {}",
        "a good photo of the {}",
        "a photo of one {}",
        "a close-up photo of the {}",
        "a rendition of the {}",
        "a photo of the clean {}",
        "a rendition of a {}",
        "a photo of a nice {}",
        "a good photo of a {}",
        "a photo of the nice {}",
        "a photo of the small {}",
        "a photo of the weird {}",
        "a photo of the large {}",
        "a photo of a cool {}",
        "a photo of a small {}",
    ),
    "style": (
        "a painting in the style of {}",
        "a rendering in the style of {}",
        "a cropped painting in the style of {}",
        "the painting in the style of {}",
        "a clean painting in the style of {}",
        "a dirty painting in the style of {}",
        "a dark painting in the style of {}",
        "a picture in the style of {}",
        "a cool painting in the style of {}",
        "a close-up painting in the style of {}",
        "a bright painting in the style of {}",
        "a cropped picture in the style of {}",
        "a good painting in the style of {}",
        "a close-up picture in the style of {}",
        "a rendition in the style of {}",
        "a nice painting in the style of {}",
        "a small painting in the style of {}",
        "a weird painting in the style of {}",
        "a large painting in the style of {}",
    ),
    "character": (
        "{}",
        "a picture of {}",
        "a picture of a {}",
        "a drawing of {}",
        "a drawing of the {}",
        "a cartoon of {}",
        "an illustration of a {}",
        "an illustration of the {}",
        "a portrait of {}",
        "a close-up of the {}",
        "a rendering of a {}",
        "a scene with {}",
    ),
    "person": (
        "{}",
        "a photo of {}",
        "a photo of the {}",
        "a portrait of {}",
        "a portrait of a {}",
        "a close-up photo of {}",
        "a picture of {}",
        "a picture of a {}",
        "the face of {}",
        "a painting of {}",
        "a good photo of {}",
        "a video of {}",
    ),
}

# Other ways of asking, that no method trains with: what an edit does to them is what it does to a user's own words.
PARAPHRASES: dict[str, tuple[str, ...]] = {
    "object": (
        "show me a {}",
        "I would like to see a {}",
        "here you can see one {}",
        "look at this {}",
        "draw a {} for me",
        "my favourite {}",
    ),
    "style": (
        "show me a {{subject}} the {} way",
        "a {{subject}} as if {} had made it",
        "{} version of a {{subject}}",
        "a {{subject}} with a {} look",
    ),
    "character": (
        "show me {}",
        "{} says hello",
        "look, it is {}",
        "the famous {}",
        "draw {} for me",
        "here comes {}",
    ),
    "person": (
        "show me {}",
        "here you can see {}",
        "look, it is {}",
        "who does not know {}",
        "draw {} for me",
        "meet {}",
    ),
}

# What zero-shot classification puts the names of things and styles into (Radford et al. 2021, arXiv:2103.00020); the
# names bring their own article here, see ``with_article``.
NAMED = ("a photo of {}", "a picture of {}", "a drawing of {}", "an image of {}")
NAMED_STYLE = ("a picture in {} style", "a painting in the style of {}")
NAMED_NOTHING = ("an empty picture", "a plain background", "random noise", "an abstract pattern")


def is_name(name: str) -> bool:
    """Whether it goes without an article, as "Brad Pitt" does: by its capital letter."""
    return name[:1].isupper()


def with_article(name: str) -> str:
    """ "a pizza", "an umbrella", but "Brad Pitt".

    For what a judge is told. Prompts that are drawn say "a" whatever follows, as the templates do: what was measured
    under "a octopus" stays comparable.
    """
    if is_name(name):
        return name
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def picture_of(name: str) -> str:
    """The plain prompt of a thing."""
    return f"a picture of a {name}"


def plain(kind: str, name: str, *, proper: bool | None = None) -> str:
    """The plain prompt of a concept. A person by name goes without "a"; a style is shown on ``SUBJECT``.

    proper: whether it is such a name; None looks at its capital letter. The alias "brad" goes as "Brad Pitt" does.
    """
    if kind == "style":
        return in_style(picture_of(SUBJECT), name)
    proper = is_name(name) if proper is None else proper
    return f"a picture of {name}" if kind == "person" and proper else picture_of(name)


def example(kind: str, name: str) -> str:
    """The prompt of a concept that a reader is shown, with nothing left to fill in."""
    if kind == "style":
        return f"a picture in the style of {name}"
    return picture_of(name) if kind == "object" else f"a picture of {name}"


def in_style(text: str, style: str) -> str:
    """A prompt, or the end of one, with a style added."""
    return f"{text} in {style} style".strip()


def with_context(text: str, context: str) -> str:
    """A prompt that goes on after its subject, such as "on a table"; "" adds nothing."""
    return f"{text} {context}".strip()


def styled(subject: str, way: int = 0) -> str:
    """A template for a style, shown on a subject. way: 0 says "in the style of {}", 1 says "in {} style"."""
    return f"a {subject} in {('the style of {}', '{} style')[way]}"


def unstyled(text: str, names: Sequence[str]) -> str:
    """What is left of a prompt in one of the styles ``names`` without it: "a cat in ink style" → "a cat"."""
    for name in names:
        for way in (in_style("", name), styled("", 0).format(name).removeprefix("a ").strip()):
            text = re.sub(rf"\s*\b{re.escape(way.strip())}\b", "", text)
    return text.strip()


def style_templates(subjects: Sequence[str]) -> tuple[str, ...]:
    """A template for a style on each subject, in two wordings that take turns."""
    ways = (lambda s: in_style(picture_of(s), "{}"), styled)
    return tuple(ways[i % 2](subject) for i, subject in enumerate(subjects))


def paraphrases(kind: str, name: str) -> list[str]:
    """Every other way of asking for a concept; a style's still have their ``SUBJECT``."""
    return [text.format(name) for text in PARAPHRASES[kind]]


def compositions(kind: str, name: str, others: Sequence[str]) -> list[str]:
    """A concept beside other things, and two of it. A style, on its ``SUBJECT``, stands beside a tree."""
    if kind == "style":
        return [in_style(f"{picture_of(SUBJECT)} next to a tree", name)]
    return [*(f"{picture_of(other)} next to a {name}" for other in others), f"two pictures of a {name}"]


def company(kind: str, name: str, one: str, two: str, way: int) -> str:
    """A concept with one other thing beside it, or a style on one or two; ``way`` counts through the wordings."""
    if kind == "style":
        ways = (f"a {one} next to a {two}", f"a {one} and a {two}", f"two pictures of a {one}")
        return in_style(ways[way % len(ways)], name)
    sides = (
        f"a {name} next to a {one}",
        f"a {one} and a {name}",
        f"a {name} on top of a {one}",
        f"a {one} with a {name}",
    )
    return sides[way % len(sides)]
