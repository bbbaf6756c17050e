"""What a judge of pictures must offer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Probabilities for n pictures. concept: [n, concepts]; style: [n, styles]; other: [n], none of them."""

    concept: Tensor
    style: Tensor
    other: Tensor

    def concepts_seen(self, names: Sequence[str]) -> list[str]:
        """The likeliest of the scorer's concepts in each picture; "" where it is likelier that it shows none of them."""
        none = (self.other > 0.5).tolist()
        return ["" if n else names[i] for i, n in zip(self.concept.argmax(1).tolist(), none, strict=True)]

    def styles_seen(self, names: Sequence[str]) -> list[str]:
        """The likeliest of the scorer's styles in each picture; "" where it knows none."""
        return [names[i] for i in self.style.argmax(1).tolist()] if names else [""] * len(self.other)


class Features(Protocol):
    """Tells how pictures are spread: a vector each, for the distribution distance."""

    name: str

    def features(self, pixels: Tensor) -> Tensor:
        """pixels: [n, 3, h, w] in [0, 1]. → [n, d]"""
        ...


class Scorer(Protocol):
    """Tells what a picture shows. It must not be trained on pictures that an eraser or a base made.

    Two more methods are used where a scorer has them. ``features(pixels) -> [n, d]``: one vector a picture, for the
    distribution distance and the consistency of clips. ``text_image(pixels, prompts) -> [n]``: the cosine of each
    picture with its own prompt. For the copyright metric, beside ``features``, ``feature_maps(pixels) -> list of
    [n, c, h, w]``, shallow to deep.
    """

    name: str
    concepts: tuple[str, ...]
    styles: tuple[str, ...]

    def score(self, pixels: Tensor) -> Scores:
        """pixels: [n, 3, h, w] in [0, 1]."""
        ...
