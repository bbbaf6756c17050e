"""The judges that come with the package, each made of what follows the colon in its name, the base and the concepts.

A scorer of another package registers such a function too.
"""

from collections.abc import Sequence
from pathlib import Path

from ..base import Base
from ..concept import Concept
from ..errors import UsageError
from ..evaluation.scorer import Scorer

FORMS = 'demo, "clip:" and a folder or Hub id, nudenet, "face:" and a folder of pictures, or package.module:Factory'


def clip(rest: str, base: Base, concepts: Sequence[Concept]) -> Scorer:
    """``clip:FOLDER`` or ``clip:OWNER/NAME[@REVISION]``: tells the base's words and ``concepts`` apart."""
    check_rest("clip", rest, wanted=True)
    from .clip import ClipScorer

    vocabulary = base.vocabulary
    named = {c: vocabulary.like(c.name) or c.name for c in concepts}
    things = dict.fromkeys([*vocabulary.concepts, *(n for c, n in named.items() if c.kind != "style")])
    styles = dict.fromkeys([*vocabulary.styles, *(n for c, n in named.items() if c.kind == "style")])
    return ClipScorer.load(rest, tuple(things), tuple(styles), device=base.encoder.device)


def nudenet(rest: str, base: Base, concepts: Sequence[Concept]) -> Scorer:
    """``nudenet``: exposed nudity."""
    check_rest("nudenet", rest, wanted=False)
    from .nudity import NudeNetScorer

    return NudeNetScorer()


def face(rest: str, base: Base, concepts: Sequence[Concept]) -> Scorer:
    """``face:FOLDER``: persons."""
    check_rest("face", rest, wanted=True)
    from .face import FaceScorer

    return FaceScorer(Path(rest))


def check_rest(kind: str, rest: str, *, wanted: bool) -> None:
    """Raise UsageError where something follows a judge's name and nothing may, or nothing does and something must."""
    if bool(rest) != wanted:
        raise UsageError(f"no scorer {kind + (f':{rest}' if rest else '')!r}: give {FORMS}")
