"""The erasers, each a frozen dataclass whose fields are its hyper-parameters."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, get_args, get_origin, get_type_hints

from ..errors import UsageError
from ..plugins import found
from .anchor import Anchor
from .few_shot import FewShotAscent
from .robust import Robust

if TYPE_CHECKING:
    from ..bench import Bench
    from ..concept import Concept
    from ..edit import Edit

__all__ = ["DEFAULT", "Anchor", "Eraser", "FewShotAscent", "OnStep", "Robust", "erasers", "make_method"]

OnStep = Callable[[int, int, float], None]  # step, steps at most, loss; nan where there is none yet


class Eraser(Protocol):
    """What ``erase`` asks of a method: a frozen dataclass whose fields are its hyper-parameters."""

    name: ClassVar[str]
    draws: ClassVar[bool]  # whether it needs the base's denoiser, and looks at pictures

    def resolve(self, bench: "Bench", concepts: "Sequence[Concept]") -> "list[Concept]":
        """The concepts with everything filled in that the method chose by itself, such as the anchor."""
        ...

    def edit(self, bench: "Bench", concepts: "Sequence[Concept]", on_step: OnStep | None = None) -> "Edit":
        """What to change in the encoders of ``bench.seats``; nothing of the base is altered."""
        ...


DEFAULT = Anchor.name


def erasers() -> dict[str, type[Any]]:
    """Every eraser by name, other people's among them (see ``plugins``)."""
    return {name: load() for name, load in found("erasers").items()}


def make_method(name: str, options: dict[str, str]) -> Eraser:
    """The method ``name`` with its fields set from strings.

    Raises UsageError for an unknown method or field, naming the valid ones, and for a value of the wrong type.
    """
    known_methods = erasers()
    if name not in known_methods:
        raise UsageError(f"unknown method {name!r}: choose one of {', '.join(known_methods)}")
    cls = known_methods[name]
    types = get_type_hints(cls)
    known = [field.name for field in fields(cls)]
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in known:
            raise UsageError(f"{name} has no option {key!r}: choose from {', '.join(known)}")
        try:
            kind = next((t for t in (*get_args(types[key]), types[key]) if t in (int, float, str)), tuple)
            values[key] = tuple(text.split("+")) if _is_list(types[key]) else kind(text)
        except ValueError as error:
            raise UsageError(f"{key}={text!r} is no {kind.__name__}") from error
    return cls(**values)


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple
