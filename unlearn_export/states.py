"""What an edit did to the text states, as unlearning/evaluation.json has it; docs/evaluation.md tells what each part means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .rates import Rate, Spread
from .records import fields_as_json, values_of


@dataclass(frozen=True)
class Shares:
    """A rate before the edit and after it."""

    before: Rate
    after: Rate

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Shares":
        return cls(**{moment: Rate.from_json(rate) for moment, rate in values_of(cls, data, where).items()})


@dataclass(frozen=True)
class Gap:
    """A relative distance before the edit and after it."""

    before: Spread
    after: Spread

    @classmethod
    def from_json(cls, data: Any, where: str) -> "Gap":
        return cls(**{m: Spread(**values_of(Spread, s, where)) for m, s in values_of(cls, data, where).items()})


@dataclass(frozen=True)
class Worst:
    """The prompt that moved most of so many that mention no concept."""

    prompt: str
    drift: float
    of: int


@dataclass(frozen=True)
class ReaderStates:
    """What one reader is given. reader: its pipeline. what: "states", or the "pooled" vector.

    prompts: how many of each group. drift: group → ‖after − before‖ / ‖before‖, prompt by prompt; None of no prompt.
    apart: the same between the plain prompts of different things, both before: what drift is to be held against.
    anchor: group → kind of position → distance to the anchor's states before; empty where no concept has an anchor.
    nearer_anchor: unseen prompts about a concept that are nearer to the anchor's states than to their own before.
    known_again: other things whose unseen wording is still nearest to their own plain prompt, among so many.
    """

    reader: str
    what: str
    prompts: Mapping[str, int]
    drift: Mapping[str, Spread | None]
    worst: Worst | None
    apart: Spread | None
    anchor: Mapping[str, Mapping[str, Gap]]
    nearer_anchor: Shares | None
    known_again: Shares
    among: int

    @property
    def gap(self) -> Gap | None:
        """Of unseen prompts about a concept, to the anchor: at the name, or pooled."""
        kinds = self.anchor.get("concept_held_out", {})
        return kinds.get("name") or kinds.get("pooled")

    def to_json(self) -> dict[str, Any]:
        return fields_as_json(self)

    @classmethod
    def from_json(cls, data: Any, where: str) -> "ReaderStates":
        """Raises ArtifactError for a key that is missing or unknown."""
        values = values_of(cls, data, where)

        def spread(value: Any) -> Spread | None:
            return None if value is None else Spread(**values_of(Spread, value, where))

        values["drift"] = {group: spread(value) for group, value in values["drift"].items()}
        values["apart"] = spread(values["apart"])
        values["worst"] = values["worst"] and Worst(**values_of(Worst, values["worst"], where))
        values["anchor"] = {
            group: {kind: Gap.from_json(gap, where) for kind, gap in kinds.items()}
            for group, kinds in values["anchor"].items()
        }
        nearer = values["nearer_anchor"]
        values["nearer_anchor"] = None if nearer is None else Shares.from_json(nearer, where)
        values["known_again"] = Shares.from_json(values["known_again"], where)
        return cls(**values)


@dataclass(frozen=True)
class SeatStates:
    """One encoder. streamed: whether it was read a layer at a time."""

    streamed: bool
    readers: tuple[ReaderStates, ...]


@dataclass(frozen=True)
class States:
    """seed: of the random prompts. seats: by name."""

    seed: int
    seats: Mapping[str, SeatStates]

    @property
    def readers(self) -> list[tuple[str, ReaderStates]]:
        """Every reader with the name of its seat."""
        return [(name, reader) for name, seat in self.seats.items() for reader in seat.readers]

    @classmethod
    def from_json(cls, data: Any, where: str) -> "States":
        """Raises ArtifactError for a key that is missing or unknown."""
        values, seats = values_of(cls, data, where), {}
        for name, seat in values["seats"].items():
            about = values_of(SeatStates, seat, f"{name} of {where}")
            readers = tuple(ReaderStates.from_json(r, f"a reader of {name} of {where}") for r in about["readers"])
            seats[name] = SeatStates(about["streamed"], readers)
        return cls(values["seed"], seats)
