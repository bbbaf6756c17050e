"""The judges of pictures that come with the package, and the way to bring another."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..base import Base
from ..concept import Concept
from ..errors import UsageError
from ..evaluation.scorer import Features, Scorer

FORMS = 'demo, "clip:" and a folder or Hub id, nudenet, "face:" and a folder of pictures, or package.module:Factory'


def load_scorer(name: str, base: Base, concepts: Sequence[Concept] = ()) -> Scorer:
    """The judge that ``name`` means.

    ``demo``: what judges the demo bases. ``clip:FOLDER`` or ``clip:OWNER/NAME[@REVISION]``: a CLIP model, zero-shot, on
    the base's vocabulary and ``concepts``. ``nudenet``: exposed nudity. ``face:FOLDER``: persons, by a sub-folder of
    pictures each. ``package.module:Factory``: whatever calling ``Factory()`` gives.

    Raises UsageError for another name and for a factory that gives no scorer, DependencyError where an optional package
    is missing, ImagesError where pictures of a face cannot be used.
    """
    kind, colon, rest = name.partition(":")
    if name == "demo":
        from ..demo.scorer import DemoScorer

        return DemoScorer()
    if kind == "clip" and rest:
        from .clip import ClipScorer

        return ClipScorer.load(rest, *_asked(base, concepts), device=base.encoder.device)
    if name == "nudenet":
        from .nudity import NudeNetScorer

        return NudeNetScorer()
    if kind == "face" and rest:
        from .face import FaceScorer

        return FaceScorer(Path(rest))
    if colon and rest.isidentifier() and all(part.isidentifier() for part in kind.split(".")):
        return _own(name, kind, rest, "scorer", ("name", "concepts", "styles", "score"))
    raise UsageError(f"no scorer {name!r}: give {FORMS}")


def load_features(name: str) -> Features:
    """What ``package.module:Factory`` makes: an object with a ``name`` and ``features(pixels)``.

    Raises UsageError where it cannot be made or lacks one of them.
    """
    kind, _, factory = name.partition(":")
    if not factory.isidentifier() or not all(part.isidentifier() for part in kind.split(".")):
        raise UsageError(f"no features {name!r}: give package.module:Factory")
    return _own(name, kind, factory, "features", ("name", "features"))


def _asked(base: Base, concepts: Sequence[Concept]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The concepts and the styles to tell apart: the base's own, and those to erase."""
    vocabulary = base.vocabulary
    named = {c: vocabulary.like(c.name) or c.name for c in concepts}
    things = dict.fromkeys([*vocabulary.concepts, *(n for c, n in named.items() if c.kind != "style")])
    styles = dict.fromkeys([*vocabulary.styles, *(n for c, n in named.items() if c.kind == "style")])
    return tuple(things), tuple(styles)


def _own(name: str, module: str, factory: str, role: str, parts: Sequence[str]) -> Any:
    """What a user's factory makes, with all the ``parts`` of its role."""
    try:
        made = getattr(import_module(module), factory)()
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(f"cannot make the {role} {name!r}: {error}; is its folder on PYTHONPATH?") from error
    lacking = [part for part in parts if not hasattr(made, part)]
    if lacking:
        raise UsageError(f"{name!r} is no {role}: it has no {', '.join(lacking)}")
    return made
