"""What a base is known to draw: the words that an eraser keeps and that an evaluation asks for."""

import difflib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Vocabulary:
    """concepts and styles: names a base draws well. contexts: ways a prompt goes on after its subject.

    aliases: other words for a concept. motions: phrases that ask a clip for a motion, by its name as
    ``evaluation.motion`` tells it. groups: a concept's group, for the in-domain and cross-domain rates.
    """

    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    contexts: tuple[str, ...]
    aliases: dict[str, tuple[str, ...]]
    groups: dict[str, str]
    motions: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def like(self, name: str) -> str:
        """The entry that ``name`` means, whatever its case, or one of its aliases; "" where there is none."""
        wanted = name.strip().lower()
        for entry in (*self.concepts, *self.styles):
            if wanted == entry.lower() or wanted in (alias.lower() for alias in self.aliases.get(entry, ())):
                return entry
        return ""

    def hint(self, name: str) -> str:
        """A question whether another word was meant, where one is spelt much alike; else ""."""
        words = [*self.concepts, *self.styles, *(alias for aliases in self.aliases.values() for alias in aliases)]
        close = difflib.get_close_matches(name.strip().lower(), words, n=1)
        return f"did you mean {close[0]!r}? " if close else ""


_GROUPS = {
    "animal": "dog cat horse bird fish cow sheep elephant lion tiger bear rabbit frog butterfly snake wolf",
    "food": "pizza apple bread cake banana cheese soup salad burger strawberry carrot egg sandwich coffee",
    "object": "car bicycle airplane boat train chair table lamp book clock guitar umbrella phone camera bottle ball",
    "place": "house church castle bridge mountain beach forest city street river garden desert waterfall",
    "person": "man woman child baby doctor soldier chef dancer king queen astronaut police officer",
    "character": "robot ghost alien clown snowman dragon superhero wizard princess pirate mermaid zombie",
}
_PHRASES = {"police officer"}


def _split(words: str) -> list[str]:
    for phrase in _PHRASES:
        words = words.replace(phrase, phrase.replace(" ", "_"))
    return [word.replace("_", " ") for word in words.split()]


# For a base that brings no list of its own.
GENERAL = Vocabulary(
    concepts=tuple(name for words in _GROUPS.values() for name in _split(words)),
    styles=(
        "Vincent van Gogh",
        "Claude Monet",
        "Pablo Picasso",
        "Rembrandt",
        "Andy Warhol",
        "Salvador Dali",
        "pixel art",
        "watercolor",
        "line art",
        "anime",
        "photorealism",
    ),
    contexts=(
        "",
        "on a white background",
        "on a table",
        "in the street",
        "in a forest",
        "at night",
        "in the snow",
        "running",
        "moving slowly",
        "next to a tree",
        "in black and white",
        "high quality",
    ),
    aliases={},
    groups={name: group for group, words in _GROUPS.items() for name in _split(words)},
)
