"""The judges of pictures that come with the package, and the way to bring another."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ..base import Base
from ..concept import Concept
from ..errors import UsageError
from ..evaluation.scorer import Features, Scorer
from ..plugins import found, theirs
from .named import FORMS

PARTS = ("name", "concepts", "styles", "score")


def load_scorer(name: str, base: Base, concepts: Sequence[Concept] = ()) -> Scorer:
    """The judge that ``name`` means.

    ``demo``: what judges the demo bases. ``clip:FOLDER`` or ``clip:OWNER/NAME[@REVISION]``: a CLIP model, zero-shot, on
    the base's vocabulary and ``concepts``. ``nudenet``: exposed nudity. ``face:FOLDER``: persons, by a sub-folder of
    pictures each. ``NAME`` or ``NAME:REST``: one that another package registers (see docs/plugins.md).
    ``package.module:Factory``: whatever calling ``Factory()`` gives.

    Raises UsageError for another name and for a factory that gives no scorer, DependencyError where an optional package
    is missing, ImagesError where pictures of a face cannot be used.
    """
    kind, colon, rest = name.partition(":")
    known = found("scorers")
    if kind in known:
        return _checked(known[kind]()(rest, base, concepts), name, "scorer", PARTS)
    if colon and rest.isidentifier() and all(part.isidentifier() for part in kind.split(".")):
        return _own(name, kind, rest, "scorer", PARTS)
    others = "".join(f", {other}" for other in theirs("scorers"))
    raise UsageError(f"no scorer {name!r}: give {FORMS}{others}")


def load_features(name: str) -> Features:
    """What ``package.module:Factory`` makes: an object with a ``name`` and ``features(pixels)``.

    Raises UsageError where it cannot be made or lacks one of them.
    """
    kind, _, factory = name.partition(":")
    if not factory.isidentifier() or not all(part.isidentifier() for part in kind.split(".")):
        raise UsageError(f"no features {name!r}: give package.module:Factory")
    return _own(name, kind, factory, "features", ("name", "features"))


def _own(name: str, module: str, factory: str, role: str, parts: Sequence[str]) -> Any:
    """What a user's factory makes, with all the ``parts`` of its role."""
    try:
        made = getattr(import_module(module), factory)()
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(f"cannot make the {role} {name!r}: {error}; is its folder on PYTHONPATH?") from error
    return _checked(made, name, role, parts)


def _checked(made: Any, name: str, role: str, parts: Sequence[str]) -> Any:
    lacking = [part for part in parts if not hasattr(made, part)]
    if lacking:
        raise UsageError(f"{name!r} is no {role}: it has no {', '.join(lacking)}")
    return made
