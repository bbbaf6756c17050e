"""Families of text encoders, one file each, and how each pipeline reads them."""

from typing import Any

import transformers

from ..errors import BaseError
from ..plugins import found
from .family import EncoderFamily

__all__ = ["EncoderFamily", "architectures", "class_of", "families", "family_of"]


def families() -> dict[str, type[EncoderFamily]]:
    """Every known family by name, other people's among them (see ``plugins``)."""
    return {name: load() for name, load in found("families").items()}


def family_of(architecture: str) -> type[EncoderFamily]:
    """The family of a transformers class. Raises BaseError for an unknown one, naming those that are known."""
    for family in families().values():
        if architecture in family.architectures:
            return family
    names = ", ".join(architectures())
    raise BaseError(f"no family of text encoders knows {architecture or 'nothing'}: known are {names}")


def architectures() -> tuple[str, ...]:
    """The names of the classes that some family knows."""
    return tuple(name for family in families().values() for name in family.architectures)


def class_of(architecture: str) -> Any:
    """The class of that name: transformers', else the ``text_class`` of the family that knows it.

    Raises BaseError where neither is there.
    """
    return getattr(transformers, architecture, None) or family_of(architecture).text_class
