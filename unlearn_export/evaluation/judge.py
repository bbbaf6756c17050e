"""What is seen in the pictures and clips of one moment, counted."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..measured import Moment
from ..rates import Mean, Rate
from .asks import VARIANTS, Ask
from .sight import Sight


def judge(
    sight: Sight,
    asks: Sequence[Ask],
    targets: Sequence[str],
    *,
    holdout: Sequence[str] = (),
    groups: Mapping[str, str] | None = None,
) -> Moment:
    """Count what was seen of the samples that the asks are. → docs/evaluation.md

    groups: of each concept; the others that share a target's are its neighbours.
    """
    frames, concept, style = sight.frames, sight.concept, sight.style
    video = frames > 1
    # of each sample and frame: was what the prompt asked for seen, its style, and the erased thing, if it asked for that
    right = [[concept[i * frames + f] == a.concept for f in range(frames)] for i, a in enumerate(asks)]
    styled = [[style[i * frames + f] == a.style for f in range(frames)] for i, a in enumerate(asks)]
    still_seen = [styled[i] if a.style in targets else right[i] for i, a in enumerate(asks)]

    def rate(table: list[list[bool]], wanted: Callable[[Ask], bool]) -> Rate:
        return Rate.of((hit for row, a in zip(table, asks, strict=True) if wanted(a) for hit in row), frames)

    own = {g for t in targets if (g := (groups or {}).get(t))}

    def near(a: Ask) -> bool:
        return (groups or {}).get(a.concept) in own

    def other(a: Ask) -> bool:
        return a.role == "other" and a.concept not in holdout

    direct = [row for row, a in zip(still_seen, asks, strict=True) if a.role == "direct"]
    counted: dict[str, Any] = {
        "erased": rate(still_seen, lambda a: a.role == "direct"),
        "variants": {role: rate(still_seen, lambda a, role=role: a.role == role) for role in VARIANTS},  # type: ignore[misc]
        "negative": rate(right, lambda a: a.role == "negative"),
        "any_frame": Rate.of(any(row) for row in direct) if video else None,
        "by_frame": tuple(Rate.of(row[f] for row in direct) for f in range(frames)) if video else None,
        "others": rate(right, other),
        "neighbours": rate(right, lambda a: other(a) and near(a)),
        "far": rate(right, lambda a: other(a) and not near(a)),
        "holdout": rate(right, lambda a: a.role == "other" and a.concept in holdout),
        "styles": rate(styled, lambda a: a.role == "other" and bool(a.style)),
        "by_concept": {
            name: rate(right, lambda a, name=name: a.role in ("other", "direct") and a.concept == name)  # type: ignore[misc]
            for name in sorted({a.concept for a in asks if a.role in ("other", "direct")})
        },
    }
    rest = [i for i, a in enumerate(asks) if a.role == "other"]
    return Moment(**counted, **_looks(sight, asks, rest, right))


def _looks(sight: Sight, asks: Sequence[Ask], rest: list[int], right: list[list[bool]]) -> dict[str, Any]:
    """What is measured on the other concepts and is no count of what is seen."""
    found: dict[str, Any] = dict.fromkeys(("text_image", "motion", "amount", "consistency"))
    if not rest:
        return found
    if sight.text_image is not None:
        found["text_image"] = Mean.of(sight.text_image)
    if sight.frames == 1:
        return found
    asked = [(motion, asks[i].motion) for motion, i in zip(sight.motion, rest, strict=True) if asks[i].motion]
    if asked:
        found["motion"] = Rate.of(seen == motion for seen, motion in asked)
    found["amount"] = Mean.of(sight.change)
    if sight.features is not None:
        features = F.normalize(sight.features.flatten(0, 1), dim=1).unflatten(0, (len(rest), sight.frames))
        alike = (features[:, 1:] * features[:, :-1]).sum(2)
        there = torch.tensor([right[i] for i in rest])
        both = there[:, 1:] & there[:, :-1]  # a clip whose object has vanished is not consistent, it is empty
        found["consistency"] = Mean.of(alike[both].tolist())
    return found
