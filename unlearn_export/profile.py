"""What the owner of a base knows of it and no file says: its words, its settings, its judge."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .plugins import found
from .vocabulary import GENERAL, Vocabulary


@dataclass(frozen=True)
class Profile:
    """vocabulary: what the base is known to draw. guidance: the guidance scale of its pictures; None is the pipeline's
    own. scorer: who judges its pictures unless told otherwise, as ``load_scorer`` names it; None where nobody is known.

    t2v: pipelines that read the same encoder, as ``load_pipeline`` names them. frames, steps: of a clip that is drawn
    without saying more; None is the pipeline's own. translations: a concept's names in other languages.

    title: what a model card calls the base; "" is its source. note: what the card says of it beside that. snippet: Python
    for the card that puts an edited encoder to use: ``{encoder}`` stands for the expression that loads it, ``{prompt}``
    for a prompt; "" is a diffusers pipeline's.
    """

    vocabulary: Vocabulary = GENERAL
    guidance: float | None = None
    scorer: str | None = None
    t2v: tuple[str, ...] = ()
    frames: int | None = None
    steps: int | None = None
    translations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    title: str = ""
    note: str = ""
    snippet: str = ""


UNKNOWN = Profile()


def profile_of(source: str) -> Profile:
    """The profile that is registered under a base's name (see ``plugins``); ``UNKNOWN`` for every other base."""
    load = found("profiles").get(source)
    return load() if load else UNKNOWN
