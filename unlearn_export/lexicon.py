"""The words of the world, for a base whose own are not known: nouns with synonyms and superclasses, and names.

``words/nouns.tsv`` is derived from WordNet 3.1 (Miller 1995, doi:10.1145/219717.219748) by ``scripts/words``, commonest
first; ``words/names.tsv`` (artists, styles, characters, persons) is this project's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from .spelling import key, mentions, singular

FOLDER = Path(__file__).parent / "words"


@dataclass(frozen=True)
class Word:
    """kind: "object" for a noun, else the kind of the name. group: WordNet's category, or what sort of name it is.

    above: a noun's superclasses, nearest first.
    """

    name: str
    kind: str
    group: str
    synonyms: tuple[str, ...] = ()
    above: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class Lexicon:
    """words: nouns, commonest first, then names."""

    words: tuple[Word, ...]

    @cached_property
    def _index(self) -> dict[str, list[Word]]:
        found: dict[str, list[Word]] = {}
        for word in self.words:
            found.setdefault(key(word.name), []).append(word)
        for word in self.words:  # a name goes before another word's synonym
            for synonym in word.synonyms:
                found.setdefault(key(synonym), []).append(word)
        return found

    def find(self, name: str, kind: str = "") -> Word | None:
        """The entry for a name, a synonym or a plural, in any case; of that kind where there are several or, for "", any."""
        known = self._index.get(key(name)) or self._index.get(key(singular(key(name)))) or []
        return next((w for w in known if w.kind == kind), known[0] if known else None)

    def of_kind(self, kind: str) -> tuple[str, ...]:
        return tuple(w.name for w in self.words if w.kind == kind)

    def near(self, name: str, kind: str, most: int) -> list[str]:
        """Up to ``most`` entries that are what ``name`` is: of a noun those under its nearest superclass first, commonest
        first; of a name those of its group, then of its kind. None that is the thing itself, a sort of it, above it, or
        has the name in it. A name that is not listed has those of its kind, [] where it is an object.
        """
        word = self.find(name, kind)
        if word is None or (word.kind != kind and "style" in (word.kind, kind)):
            spread = [n for n in self.of_kind(kind) if not mentions(n, name)] if kind != "object" else []
            return spread[:: max(1, len(spread) // most)][:most]
        ranked = [(shared, w) for w in self.words if (shared := _shared(word, w)) is not None]
        ranked.sort(key=lambda pair: pair[0])  # stable: commonest first within
        return [w.name for _, w in ranked if not _overlap(w, (name, *word.names))][:most]


def _shared(word: Word, other: Word) -> int | None:
    """How far up ``word``'s superclasses stand those of ``other``; for names 0 in the same group, else 1. None for no
    relation, and for the thing itself, a sort of it, or what it is a sort of."""
    if other is word or other.kind != word.kind:
        return None
    if word.kind != "object":
        return int(other.group != word.group)
    if word.name in other.above or other.name in word.above:
        return None
    return next((i for i, label in enumerate(word.above) if label in other.above), None)


def _overlap(word: Word, names: Sequence[str]) -> bool:
    return any(mentions(own, name) for own in word.names for name in names)


@cache
def lexicon() -> Lexicon:
    """The one that comes with the package, read when first asked for."""
    words = []
    for line in _lines("nouns.tsv"):
        name, group, synonyms, above = line.split("\t")
        words.append(Word(name, "object", group, _cells(synonyms), _cells(above)))
    for line in _lines("names.tsv"):
        name, kind, group, synonyms = line.split("\t")
        words.append(Word(name, kind, group, _cells(synonyms)))
    return Lexicon(tuple(words))


def _lines(name: str) -> list[str]:
    return (FOLDER / name).read_text(encoding="utf-8").splitlines()


def _cells(text: str) -> tuple[str, ...]:
    return tuple(text.split(";")) if text else ()
