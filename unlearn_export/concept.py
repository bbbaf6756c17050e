"""What is to be forgotten, and the prompts that name it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .errors import UsageError
from .phrasing import TEMPLATES

Kind = Literal["object", "style", "character", "person"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Concept:
    """One thing to erase: its name and every word that also draws it.

    name: as a prompt would say it ("pizza", "Van Gogh"). kind: chooses the prompt templates. aliases: synonyms,
    misspellings, other languages; the concept is the set. anchor: what it becomes; "" lets the method choose.
    retain: neighbours that must survive.

    Raises UsageError for an empty name, an unknown kind, or an anchor that is the concept itself.
    """

    name: str
    kind: Kind = "object"
    aliases: tuple[str, ...] = ()
    anchor: str = ""
    retain: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UsageError("a concept's name is empty: say what to erase, such as pizza")
        if self.kind not in KINDS:
            raise UsageError(f"unknown kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.anchor and self.anchor.lower() in {name.lower() for name in self.names}:
            raise UsageError(f"the anchor {self.anchor!r} is the concept itself: choose something else to draw instead")

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Concept":
        """A concept from what ``asdict`` and JSON made of one."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)

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


def check_concepts(concepts: Sequence[Concept]) -> None:
    """Raise UsageError for no concept at all, a name that occurs in two, and for what contradicts itself: an anchor that
    is erased too, or a word that is to be erased and retained.
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
        if concept.anchor.lower() in owner:
            raise UsageError(f"{concept.name!r} would become {concept.anchor!r}, which is erased too: choose another")
        for word in concept.retain:
            if word.lower() in owner:
                raise UsageError(f"{word!r} cannot be erased and retained at once: leave it out of one")
