"""What is to be forgotten, and the prompts that name it."""

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
