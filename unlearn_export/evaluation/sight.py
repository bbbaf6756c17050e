"""What a judge saw in pictures and clips, batch by batch: all that is kept of them once their pixels are gone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .asks import Ask
from .copyright import likeness
from .motion import name_motion, track
from .scorer import Features, Scorer


@dataclass(frozen=True)
class Sight:
    """n samples of so many ``frames`` each; one frame is a still. What has a first dimension "others" is of the other
    concepts' samples alone, in their order; None where it was not looked for.

    concept, style: [n × frames] what the scorer saw. text_image: [others × frames]. motion, change: [others], of clips.
    features: [others, frames, d], the scorer's. vectors: the same of whoever tells how pictures are spread.
    products: [direct × frames], of the copyright metric.
    """

    frames: int
    concept: list[str]
    style: list[str]
    text_image: list[float] | None
    motion: list[str]
    change: list[float]
    features: Tensor | None
    vectors: Tensor | None
    products: Tensor | None

    @classmethod
    def joined(cls, parts: "Sequence[Sight]") -> "Sight":
        """Of several batches one."""
        found: dict[str, Any] = {"frames": parts[0].frames}
        for name in ("concept", "style", "text_image", "motion", "change"):
            lists = [value for p in parts if (value := getattr(p, name)) is not None]
            found[name] = [x for values in lists for x in values] if lists else None
        for name in ("features", "vectors", "products"):
            tensors = [value for p in parts if (value := getattr(p, name)) is not None]
            found[name] = torch.cat(tensors) if tensors else None
        return cls(**found)


@dataclass(frozen=True)
class Judge:
    """Whoever looks. features: whose vectors the distance compares, the scorer's own by default. references: protected
    pictures [m, 3, h, w] in [0, 1], for the copyright metric.
    """

    scorer: Scorer
    features: Features | None = None
    references: Tensor | None = None

    @torch.no_grad()
    def look(self, pixels: Tensor, asks: Sequence[Ask]) -> Sight:
        """pixels: [n, frames, 3, h, w] in [0, 1], as the asks were drawn."""
        scorer: Any = self.scorer
        frames = pixels.shape[1]
        scores = scorer.score(pixels.flatten(0, 1))
        others = [i for i, a in enumerate(asks) if a.role == "other"]
        direct = [i for i, a in enumerate(asks) if a.role == "direct"]
        flat = pixels[others].flatten(0, 1)
        text_image = features = vectors = products = None
        if others and hasattr(scorer, "text_image"):
            text_image = scorer.text_image(flat, [asks[i].prompt for i in others for _ in range(frames)]).tolist()
        if others and hasattr(scorer, "features") and (frames > 1 or self.features is None):
            features = scorer.features(flat).unflatten(0, (len(others), -1))
        if others:
            vectors = self.features.features(flat).unflatten(0, (len(others), -1)) if self.features else features
        tracks = [track(clip) for clip in pixels[others]] if frames > 1 else []
        if self.references is not None and direct and hasattr(scorer, "feature_maps"):
            products = likeness(scorer, pixels[direct].flatten(0, 1), self.references).product
        return Sight(
            frames,
            scores.concepts_seen(scorer.concepts),
            scores.styles_seen(scorer.styles),
            text_image,
            [name_motion(t) for t in tracks],
            [t.change for t in tracks],
            features,
            vectors,
            products,
        )
