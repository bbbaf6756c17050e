"""Families of text encoders, one file each, and how each pipeline reads them."""

from ..errors import BaseError
from ..plugins import found
from .family import EncoderFamily

__all__ = ["EncoderFamily", "families", "family_of"]


def families() -> dict[str, type[EncoderFamily]]:
    """Every known family by name, other people's among them (see ``plugins``)."""
    return {name: load() for name, load in found("families").items()}


def family_of(architecture: str) -> type[EncoderFamily]:
    """The family of a transformers class. Raises BaseError for an unknown one, naming those that are known."""
    known = families()
    for family in known.values():
        if architecture in family.architectures:
            return family
    names = ", ".join(a for family in known.values() for a in family.architectures)
    raise BaseError(f"no family of text encoders knows {architecture or 'nothing'}: known are {names}")
