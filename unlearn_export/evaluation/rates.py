"""Counted things with their uncertainty."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Z = 1.959964  # of a two-sided 95 % interval


@dataclass(frozen=True)
class Rate:
    """hits of n. trials: how many of the n are independent, such as the clips that n frames belong to."""

    hits: int
    n: int
    trials: int

    @classmethod
    def of(cls, hits: Iterable[bool], per_trial: int = 1) -> "Rate":
        """Count ``hits``, of which ``per_trial`` at a time belong to one trial."""
        seen = list(hits)
        return cls(sum(seen), len(seen), len(seen) // per_trial)

    @property
    def rate(self) -> float | None:
        """hits / n, or None where nothing was counted."""
        return self.hits / self.n if self.n else None

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval (Wilson 1927) of this rate in ``trials`` trials; None where nothing was counted."""
        p, n = self.rate, self.trials
        if p is None or not n:
            return None
        centre = p + Z * Z / (2 * n)
        spread = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        low, high = ((centre + sign * spread) / (1 + Z * Z / n) for sign in (-1, 1))
        return max(0.0, low), min(1.0, high)

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval() or (None, None)
        values = {"rate": self.rate, "low": low, "high": high}
        return {"hits": self.hits, "n": self.n} | {k: None if v is None else round(v, 4) for k, v in values.items()}


def mean(values: Iterable[float]) -> dict[str, Any] | None:
    """→ ``{"mean", "n"}``, or None of nothing."""
    known = list(values)
    return {"mean": round(sum(known) / len(known), 4), "n": len(known)} if known else None


def spread(values: Iterable[float], digits: int = 4) -> dict[str, Any] | None:
    """→ ``{"mean", "low", "high", "n"}``, or None of nothing. low, high: the 95 % interval of the mean, as of a normal
    distribution; None of one value.
    """
    known = list(values)
    if not known:
        return None
    middle, half = sum(known) / len(known), None
    if len(known) > 1:
        half = Z * math.sqrt(sum((v - middle) ** 2 for v in known) / (len(known) - 1) / len(known))
    low, high = (None, None) if half is None else (round(middle - half, digits), round(middle + half, digits))
    return {"mean": round(middle, digits), "low": low, "high": high, "n": len(known)}
