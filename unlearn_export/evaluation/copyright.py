"""The copyright metric of CPDM: how close pictures come to the protected ones in meaning and in style at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .scorer import Scorer


@dataclass(frozen=True)
class Likeness:
    """semantic and style distances of n pictures to m references, each [n, m]."""

    semantic: Tensor
    style: Tensor

    @property
    def product(self) -> Tensor:
        """M_sem × M_style of each picture and the reference it is closest to, [n]."""
        return (self.semantic * self.style).amin(1)


def likeness(scorer: Scorer, pixels: Tensor, references: Tensor, weights: Sequence[float] = ()) -> Likeness:
    """The two distances of CPDM (Ma et al. 2024, arXiv:2403.12052, section 4).

    pixels: [n, 3, h, w], references: [m, 3, h, w], in [0, 1]. M_sem is the mean squared difference of the semantic
    embeddings; M_style the weighted sum, over the stages of a network, of the mean squared difference of Gram
    matrices. The paper takes CLIP for the one and four Inception blocks, weighted (.5, .1, 6e4, 40), for the other;
    here both are the scorer's, and without ``weights`` every stage counts by the size of the references' own Grams.
    """
    features, maps = scorer.features, scorer.feature_maps  # type: ignore[attr-defined]
    semantic = _squared(features(pixels), features(references))
    style = torch.zeros_like(semantic)
    for i, (ours, theirs) in enumerate(zip(maps(pixels), maps(references), strict=True)):
        a, b = gram(ours).flatten(1), gram(theirs).flatten(1)
        weight = weights[i] if weights else 1 / float(b.square().mean())
        style = style + weight * _squared(a, b)
    return Likeness(semantic, style)


def gram(maps: Tensor) -> Tensor:
    """Gram matrices of feature maps [n, c, h, w]: channel by channel products over positions, / (c h w). → [n, c, c]"""
    flat = maps.flatten(2)
    return flat @ flat.transpose(1, 2) / (maps[0].numel())


def copyright_metric(products: Sequence[Tensor]) -> list[float]:
    """CM = 1 − Norm(M_sem × M_style)², averaged, of each group of products [n] (eq. 5): 1 is a copy, 0 far from it.

    Norm brings all groups together to 0…1 by their least and largest, as the paper does over what it compares; so a
    CM says something beside the other groups of the same call, such as before and after an edit, and nothing alone.
    """
    whole = torch.cat(list(products))
    low, span = whole.min(), (whole.max() - whole.min()).clamp(min=1e-12)
    return [round(float((1 - ((p - low) / span) ** 2).mean()), 4) for p in products]


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of every row of a [n, d] with every row of b [m, d]. → [n, m]"""
    return torch.stack([(a - row).square().mean(1) for row in b], 1)
