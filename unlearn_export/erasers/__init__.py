"""The erasers, each a frozen dataclass whose fields are its hyper-parameters."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, get_type_hints

from ..errors import UsageError
from .anchor import Anchor
from .few_shot import FewShotAscent

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from ..base import Base
    from ..concept import Concept

OnStep = Callable[[int, int, float], None]  # step, steps at most, loss


class Method(Protocol):
    """What ``erase`` asks of an eraser."""

    name: ClassVar[str]

    @property
    def images(self) -> int:
        """Few-shot pictures wanted for each concept; 0 for none."""
        ...

    def edit(
        self,
        base: "Base",
        concepts: "Sequence[Concept]",
        latents: "Sequence[Tensor]",
        *,
        generator: "torch.Generator",
        on_step: OnStep | None = None,
    ) -> "PreTrainedModel":
        """An edited copy of the base's encoder. latents: one [n, c, h, w] for each concept, or ()."""
        ...

    def resolve(self, base: "Base", concepts: "Sequence[Concept]") -> "list[Concept]":
        """The concepts with everything filled in that the method chose by itself, such as the anchor."""
        ...


METHODS: dict[str, type[Any]] = {method.name: method for method in (Anchor, FewShotAscent)}
DEFAULT = Anchor.name


def make_method(name: str, options: dict[str, str]) -> Method:
    """The method ``name`` with its fields set from strings.

    Raises UsageError for an unknown method or field, naming the valid ones, and for a value of the wrong type.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}: choose one of {', '.join(METHODS)}")
    cls = METHODS[name]
    types = get_type_hints(cls)
    known = [field.name for field in fields(cls)]
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in known:
            raise UsageError(f"{name} has no option {key!r}: choose from {', '.join(known)}")
        try:
            kind = types[key]
            values[key] = tuple(text.split("+")) if kind not in (int, float, str) else kind(text)
        except ValueError as error:
            raise UsageError(f"{key}={text!r} is no {types[key].__name__}") from error
    return cls(**values)
