"""What the owner of a base knows of it and no file says: its words, its settings, its judge."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .vocabulary import GENERAL, Vocabulary


@dataclass(frozen=True)
class Profile:
    """vocabulary: what the base is known to draw. guidance: the guidance scale of its pictures; None is the pipeline's
    own. scorer: who judges its pictures unless told otherwise, as ``load_scorer`` names it; None where nobody is known.

    t2v: pipelines that read the same encoder, as ``load_pipeline`` names them. frames, steps: of a clip that is drawn
    without saying more; None is the pipeline's own. translations: a concept's names in other languages.
    """

    vocabulary: Vocabulary = GENERAL
    guidance: float | None = None
    scorer: str | None = None
    t2v: tuple[str, ...] = ()
    frames: int | None = None
    steps: int | None = None
    translations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


UNKNOWN = Profile()
