"""What a base is known to draw: the words that an eraser keeps and that an evaluation asks for."""

import difflib
from dataclasses import dataclass, field

from .lexicon import Lexicon, lexicon


@dataclass(frozen=True)
class Vocabulary:
    """concepts and styles: names a base draws well. contexts: ways a prompt goes on after its subject.

    aliases: other words for a concept. motions: phrases that ask a clip for a motion, by its name as
    ``evaluation.motion`` tells it. groups: a concept's group, for the in-domain and cross-domain rates. broad: whether
    the base may be asked for any word: then ``words`` has many more than are drawn to judge by.
    """

    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    contexts: tuple[str, ...]
    aliases: dict[str, tuple[str, ...]]
    groups: dict[str, str]
    motions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    broad: bool = False

    @property
    def words(self) -> Lexicon | None:
        """Nouns and names beyond the base's own list; None where that says all."""
        return lexicon() if self.broad else None

    def like(self, name: str) -> str:
        """The entry that ``name`` means, whatever its case, or one of its aliases; "" where there is none."""
        wanted = name.strip().lower()
        for entry in (*self.concepts, *self.styles):
            if wanted == entry.lower() or wanted in (alias.lower() for alias in self.aliases.get(entry, ())):
                return entry
        return ""

    def synonyms(self, name: str, kind: str) -> tuple[str, ...]:
        """Other words for ``name``, from its entry here or else among ``words``; () where there is none."""
        known = self.like(name)
        found = (known, *self.aliases.get(known, ())) if known else ()
        word = self.words.find(name, kind) if self.words else None
        if word and (word.kind == kind or "style" not in (word.kind, kind)):
            found += word.names
        return tuple(w for w in dict.fromkeys(found) if w.lower() != name.strip().lower())

    def knows(self, name: str, kind: str) -> bool:
        """Whether something can be said of what it is: it is on a list, or the name of a person, a character or a style,
        which no list has all of, and no slip of the hand for one that is listed.
        """
        if self.like(name) or not self.words:
            return bool(self.like(name))
        return bool(self.words.find(name, kind)) or (kind != "object" and not self.hint(name))

    def is_style(self, name: str) -> bool:
        """Whether it is known as a style and as nothing that a picture could be of."""
        known = self.like(name)
        if known:
            return known not in self.concepts
        word = self.words.find(name) if self.words else None
        return word is not None and word.kind == "style"

    def hint(self, name: str) -> str:
        """A question whether another word was meant, where one is spelt much alike; else ""."""
        words = [*self.concepts, *self.styles, *(alias for aliases in self.aliases.values() for alias in aliases)]
        words += [w.name for w in self.words.words] if self.words else []
        spelt = {word.lower(): word for word in reversed(words)}
        likeness = 0.8 if self.words else 0.6  # among thousands something is always a little alike
        close = [spelt[word] for word in difflib.get_close_matches(name.strip().lower(), spelt, n=1, cutoff=likeness)]
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
    broad=True,
)
