"""What an eraser works with: the base's seats and words, pictures of the concept where it asks for them, and dice."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .base import Base
from .concept import Concept
from .errors import ImagesError
from .images import FewShot, read_images, sample_images
from .seat import Seat
from .vocabulary import Vocabulary


@dataclass
class Bench:
    """generator: every random choice comes from it. images: a folder of pictures in place of the base's own samples;
    of several concepts, one sub-folder each, by name. seats: those to edit, by name; all of the base's by default.

    shots: the pictures handed out so far, for the recipe.
    """

    base: Base
    generator: torch.Generator
    images: Path | None = None
    seats: dict[str, Seat] = field(default_factory=dict)
    shots: list[FewShot] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seats = self.seats or dict(self.base.seats)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.base.vocabulary

    def pictures(self, concepts: Sequence[Concept], n: int, subjects: Sequence[str] = ()) -> list[FewShot]:
        """For each concept its few pictures as latents: n that the base draws, or all that the folder has. subjects: see
        ``sample_images``.

        Raises ImagesError where the folder or one of its sub-folders is absent, empty or holds what is no picture.
        """
        if self.images is None:
            shots = [sample_images(self.base, c, n, self.generator, subjects=subjects) for c in concepts]
        elif len(concepts) == 1:
            shots = [read_images(self.base, self.images)]
        else:
            absent = [c.name for c in concepts if not (self.images / c.name).is_dir()]
            if absent:
                raise ImagesError(f"no folder {absent[0]!r} in {self.images}: several concepts need one each, by name")
            shots = [read_images(self.base, self.images / c.name) for c in concepts]
        self.shots += shots
        return shots
