"""unlearning/evaluation.json: what was seen before and after an edit. docs/evaluation.md tells what each part means."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ArtifactError
from .rates import Mean, Rate
from .records import fields_as_json, values_of
from .states import States

FORMAT = 2
READABLE = (1, 2)  # 1: fewer rates of each moment
WHERE = "unlearning/evaluation.json"
_MEANS = ("text_image", "amount", "consistency")
_TABLES = ("variants", "by_concept")


@dataclass(frozen=True)
class Moment:
    """What a judge saw in one pipeline's pictures or clips, before the edit or after it.

    erased, variants: the erased concept was asked for, in plain or in other words, and seen. negative, others,
    neighbours, far, holdout, styles, by_concept: what was asked for was seen. any_frame, by_frame: of clips, whether and
    when the erased concept is seen. text_image, motion, amount, consistency: of the other concepts. None where there was
    nothing to measure; an older format lacks some.
    """

    erased: Rate
    variants: Mapping[str, Rate] = field(default_factory=dict)
    negative: Rate | None = None
    any_frame: Rate | None = None
    by_frame: tuple[Rate, ...] | None = None
    others: Rate | None = None
    neighbours: Rate | None = None
    far: Rate | None = None
    holdout: Rate | None = None
    styles: Rate | None = None
    by_concept: Mapping[str, Rate] = field(default_factory=dict)
    text_image: Mean | None = None
    motion: Rate | None = None
    amount: Mean | None = None
    consistency: Mean | None = None
    copyright: float | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        return _without_none(fields_as_json(self), "seconds")

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Moment":
        """Raises ArtifactError for a key that is missing or unknown."""
        values = values_of(cls, data, where)
        for name, value in values.items():
            if value is None or name in ("copyright", "seconds"):
                continue
            if name in _TABLES:
                values[name] = {key: Rate.from_json(rate) for key, rate in value.items()}
            elif name == "by_frame":
                values[name] = tuple(Rate.from_json(rate) for rate in value)
            else:
                values[name] = Mean(**value) if name in _MEANS else Rate.from_json(value)
        return cls(**values)


@dataclass(frozen=True)
class Distance:
    """KID of the other concepts' pictures, after to before; floor: the same, before to before. n: pictures or clips.

    features: whose vectors were compared; None where that is not told.
    """

    kid: float
    floor: float
    n: int
    features: str | None = None

    def to_json(self) -> dict[str, Any]:
        return _without_none(fields_as_json(self), "features")


@dataclass(frozen=True)
class Compared:
    """One pipeline before and after. distance: None of too few. video: whether it draws clips. source: what it was
    called by whoever asked for it; None of the base itself.
    """

    before: Moment
    after: Moment
    distance: Distance | None = None
    video: bool | None = None
    source: str | None = None

    def to_json(self) -> dict[str, Any]:
        return _without_none(fields_as_json(self), "video", "source")

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Compared":
        """Raises ArtifactError for a key that is missing or unknown."""
        values = values_of(cls, data, where)
        moments = {m: Moment.from_json(data[m], f"{m} of {where}") for m in ("before", "after")}
        apart = values.get("distance")
        distance = Distance(**values_of(Distance, apart, f"distance of {where}")) if apart else None
        return cls(**values | moments | {"distance": distance})


@dataclass(frozen=True)
class Cost:
    """seconds: by stage. peak_memory_bytes: of the process. parameters_changed, parameters: of the encoders in all."""

    seconds: Mapping[str, float]
    peak_memory_bytes: float | None = None
    parameters_changed: int | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Report:
    """Everything that an evaluation found.

    scorer: the judge's name; None: then only ``drift``, ``states`` and ``cost`` are there. size: how much was drawn, by the fields of
    ``evaluation.Size``. targets, kinds: the erased concepts as the scorer calls them. drift: how far the text states of
    "empty", "concept" and "others" prompts moved. states: the same in full, reader by reader; None in older reports. judges: scorer and features as they were asked for.
    """

    scorer: str | None
    seed: int
    size: Mapping[str, Any]
    drift: Mapping[str, float]
    targets: tuple[str, ...]
    pipelines: Mapping[str, Compared]
    holdout: tuple[str, ...] = ()
    references: int = 0
    kinds: tuple[str, ...] = ()
    judges: Mapping[str, str | None] | None = None
    cost: Cost | None = None
    states: States | None = None
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        return _without_none(fields_as_json(self), "judges", "cost", "states")

    @classmethod
    def from_json(cls, data: Any) -> "Report":
        """Read formats 1 and 2. Raises ArtifactError for another one, a key that is missing, or one that is unknown."""
        values = values_of(cls, data, WHERE)
        if values.get("format", FORMAT) not in READABLE:
            raise ArtifactError(
                f"{WHERE} has format {values['format']!r}, this version reads up to {FORMAT}: update unlearn-export"
            )
        try:
            pipelines = {n: Compared.from_json(p, f"{n} in {WHERE}") for n, p in values["pipelines"].items()}
            cost = values.get("cost")
            cost = Cost(**values_of(Cost, cost, f"cost in {WHERE}")) if cost is not None else None
            states = values.get("states")
            states = States.from_json(states, f"states in {WHERE}") if states is not None else None
            return cls(**values | {"pipelines": pipelines, "cost": cost, "states": states})
        except (AttributeError, KeyError, TypeError) as error:
            raise ArtifactError(f"{WHERE} is no evaluation: {' '.join(str(error).split())}") from error


def _without_none(data: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in data.items() if v is not None or k not in names}
