"""What is to be forgotten, and the prompts that name it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .errors import UsageError
from .phrasing import TEMPLATES
from .spelling import key, mentions
from .vocabulary import Vocabulary

Kind = Literal["object", "style", "character", "person"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Concept:
    """One thing to erase: its name and every word that also draws it.

    name: as a prompt would say it ("pizza", "Van Gogh"). kind: chooses the prompt templates. aliases: synonyms,
    misspellings, other languages; the concept is the set. anchor: what it becomes; "" lets the method choose.
    retain: neighbours that must survive.

    Raises UsageError for a name without a letter or digit, an unknown kind, a string where several words belong, an
    anchor that is the concept or has it in it, or a word to retain that does.
    """

    name: str
    kind: Kind = "object"
    aliases: tuple[str, ...] = ()
    anchor: str = ""
    retain: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_types()
        if not self.name.strip():
            raise UsageError("a concept's name is empty: say what to erase, such as pizza")
        if not any(letter.isalnum() for letter in self.name):
            raise UsageError(f"the name {self.name!r} has no letter: say it in words, and give signs with --alias")
        if self.kind not in KINDS:
            raise UsageError(f"unknown kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        for name in self.names:
            if self.anchor and key(self.anchor) == key(name):
                raise UsageError(
                    f"the anchor {self.anchor!r} is the concept itself: choose something else to draw instead"
                )
            if self.anchor and mentions(self.anchor, name):
                raise UsageError(
                    f"the anchor {self.anchor!r} has {name!r} in it: choose something else to draw instead"
                )
            for word in self.retain:
                _check_retained(word, name)

    def _check_types(self) -> None:
        """Each word a string, each list of words a tuple; a list becomes one."""
        for field in ("name", "kind", "anchor"):
            if not isinstance(getattr(self, field), str):
                raise UsageError(f"a concept's {field} is a string, not {getattr(self, field)!r}")
        for field in ("aliases", "retain"):
            value: Any = getattr(self, field)
            if isinstance(value, str):
                raise UsageError(f"a concept's {field} are several words, not the string {value!r}: give ({value!r},)")
            if not all(isinstance(word, str) and word.strip() for word in value):
                raise UsageError(f"a concept's {field} are words, none of them empty, not {value!r}")
            object.__setattr__(self, field, tuple(value))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Concept":
        """A concept from what ``asdict`` and JSON made of one."""
        return cls(**data)

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its aliases, each once, in whatever case it came first."""
        once: dict[str, str] = {}
        for name in (self.name, *self.aliases):
            once.setdefault(name.lower(), name)
        return tuple(once.values())

    def prompts(self) -> list[str]:
        """Every template of this kind with every name, name by name."""
        return [template.format(name) for name in self.names for template in TEMPLATES[self.kind]]


def check_concepts(concepts: Sequence[Concept], vocabulary: Vocabulary | None = None) -> None:
    """Raise UsageError for no concept at all, a name that occurs in two, and for what contradicts itself: an anchor that
    is erased too, or a word that is to be erased and retained. vocabulary: the base's, where a style may not be asked for as an object.
    """
    if not concepts:
        raise UsageError("nothing to erase: name a concept, such as pizza")
    owner: dict[str, Concept] = {}
    for concept in concepts:
        for name in concept.names:
            if name.lower() in owner:
                both = f"{owner[name.lower()].name!r} and {concept.name!r}"
                raise UsageError(f"{name!r} occurs in two concepts, {both}: leave one out")
            owner[name.lower()] = concept
    for concept in concepts:
        for name in owner:
            if concept.anchor and mentions(concept.anchor, name):
                why = "which" if key(concept.anchor) == key(name) else f"and {name!r}"
                raise UsageError(
                    f"{concept.name!r} would become {concept.anchor!r}, {why} is erased too: choose another"
                )
            for word in concept.retain:
                _check_retained(word, name)
        if vocabulary and concept.kind in ("object", "character") and vocabulary.is_style(concept.name):
            raise UsageError(f"this base knows {concept.name!r} as a style, no {concept.kind}: say --kind style")


def _check_retained(word: str, erased: str) -> None:
    if mentions(word, erased):
        has = "" if key(word) == key(erased) else f", having {erased!r} in it,"
        raise UsageError(f"{word!r}{has} cannot be erased and retained at once: leave it out of one")
