"""An artifact's edit made anew with more concepts, or with fewer: of the base, in the way that it was made.

An edit of an edited encoder would depend on the order, and nothing could be taken out of it. Made of the base each time,
A and then B is the same as both at once, byte for byte on one machine, and without B it is A alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .artifact import Artifact
from .base import Base
from .concept import Concept
from .erasers import Eraser, erasers
from .errors import UsageError
from .recipe import Recipe
from .stages import base_of


@dataclass(frozen=True)
class Terms:
    """What an edit is made of and in what way, whichever the concepts: what ``build`` takes beside them."""

    base: Base
    method: Eraser
    seed: int
    seats: tuple[str, ...]


def terms(
    artifact: Artifact,
    source: str | None = None,
    config: str | None = None,
    *,
    images: Path | None = None,
    device: str = "cpu",
) -> Terms:
    """How to make an artifact again. source, config: as ``base_of`` takes them.

    images: the folder of pictures to use now. Raises UsageError where it was made from such a folder and none is given,
    and for a method that is not installed; else what ``base_of`` raises.
    """
    recipe = artifact.recipe
    if images is None and any("file" in picture for shot in recipe.images for picture in shot):
        raise UsageError(f"{artifact.path} was made from pictures in a folder: give them with --images")
    base = base_of(artifact, source, config, device)
    return Terms(base, _method(recipe), recipe.seed, tuple(recipe.seats))


def more(known: Sequence[Concept], added: Sequence[Concept]) -> list[Concept]:
    """Both, in this order. Raises UsageError for an addition that is forgotten already."""
    names = {name.lower(): concept.name for concept in known for name in concept.names}
    for concept in added:
        if taken := next((names[n.lower()] for n in concept.names if n.lower() in names), None):
            what = f"{concept.name!r}" if taken == concept.name else f"{concept.name!r}, as {taken!r},"
            raise UsageError(f"{what} is forgotten already: name others")
    return [*known, *added]


def without(known: Sequence[Concept], names: Sequence[str]) -> list[Concept]:
    """The concepts but for those of these names. Raises UsageError for a name that is none, or where nothing is left."""
    gone = {name.lower() for name in names}
    have = {concept.name.lower() for concept in known}
    if unknown := [name for name in names if name.lower() not in have]:
        held = ", ".join(concept.name for concept in known)
        raise UsageError(f"{unknown[0]!r} was never erased there: its concepts are {held}")
    left = [concept for concept in known if concept.name.lower() not in gone]
    if not left:
        raise UsageError("nothing would remain erased: use the base's own encoder")
    return left


def _method(recipe: Recipe) -> Eraser:
    made = recipe.method
    if made.name not in erasers():
        raise UsageError(f"the method {made.name!r} is not installed: choose from {', '.join(erasers())}")
    method: Eraser = erasers()[made.name](**made.options)
    return method
