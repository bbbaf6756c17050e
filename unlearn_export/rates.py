"""Counted and measured things with their uncertainty."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Z = 1.959964  # of a two-sided 95 % interval
PLACES = 4  # of a rate, its interval and a mean, in every report
FINE = 6  # of distances, the empty prompt's among them


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

    @property
    def told(self) -> float | None:
        """The rate as reports tell it and figures are made of it, rounded."""
        return None if self.rate is None else round(self.rate, PLACES)

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
        low, high = (round(end, PLACES) for end in self.interval() or ()) if self.trials else (None, None)
        return {"hits": self.hits, "n": self.n, "rate": self.told, "low": low, "high": high}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Rate":
        """What ``to_json`` wrote. It does not say how many trials there were; its interval does."""
        hits, n, low, high = data["hits"], data["n"], data.get("low"), data.get("high")
        if low is None or high is None or not n:
            return cls(hits, n, n)

        def misses(trials: int) -> float:
            ends = cls(hits, n, trials).interval() or (0.0, 1.0)
            return abs(ends[0] - low) + abs(ends[1] - high)

        return cls(hits, n, min((n // frames for frames in range(1, n + 1) if n % frames == 0), key=misses))


@dataclass(frozen=True)
class Mean:
    """The mean of n measured values."""

    mean: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Mean | None":
        """None of nothing."""
        known = list(values)
        return cls(round(sum(known) / len(known), PLACES), len(known)) if known else None


@dataclass(frozen=True)
class Spread:
    """The mean of n measured values. low, high: its 95 % interval, as of a normal distribution; None of one value."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """None of nothing."""
        known = list(values)
        if not known:
            return None
        mean, n = sum(known) / len(known), len(known)
        if n == 1:
            return cls(round(mean, FINE), None, None, 1)
        half = Z * math.sqrt(sum((v - mean) ** 2 for v in known) / (n - 1) / n)
        return cls(round(mean, FINE), round(mean - half, FINE), round(mean + half, FINE), n)
