"""What an edit will take and reach, before any of it is done: for `erase --dry-run` and for the check of memory."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .base import Base
from .errors import UnlearnExportError
from .families.contract import ReaderContract, differences
from .families.contract_rows import CONTRACTS
from .seat import Seat

GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """parameters: how many learn. memory: bytes at the peak. flops: of the whole fit, products of matrices alone."""

    parameters: int
    memory: int
    flops: float


@dataclass(frozen=True)
class SeatForecast:
    """One encoder. covered, uncovered: pipelines that read these published weights, and whether the edit is fitted to
    their way of reading. unedited: text paths of the covered ones that it does not reach.
    """

    seat: str
    architecture: str
    family: str
    bytes: int
    parameters: int
    learning: int
    memory: int
    seconds: float
    covered: tuple[str, ...]
    uncovered: tuple[str, ...]
    unedited: tuple[str, ...]


def reach(seat: Seat) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """(covered, uncovered, unedited) of a seat, as in ``SeatForecast``."""
    weights = {w for c in seat.contracts for w in c.weights}
    mates = [c for c in CONTRACTS if weights & set(c.weights) and seat.family.name in _families(c)]
    covered = [c for c in mates if any(not differences(known, c) for known in seat.contracts)]
    names = dict.fromkeys(c.pipelines[0] for c in covered)
    uncovered = dict.fromkeys(c.pipelines[0] for c in mates if c.pipelines[0] not in names)
    unedited = dict.fromkeys(path for c in seat.contracts for path in c.unedited)
    if any(c.embedding for c in seat.contracts):
        unedited["the raw output of the embedding, which no edit of layers reaches"] = None
    return tuple(names), tuple(uncovered), tuple(unedited)


def _families(contract: ReaderContract) -> set[str]:
    from .families import families

    return {n for n, f in families().items() if set(contract.architectures) & set(f.architectures)}


def forecast(base: Base, seats: Mapping[str, Seat], method: Any) -> list[SeatForecast]:
    """Seat by seat what ``method`` would take and reach. Methods without ``cost`` are told at 0."""
    rate = matrix_rate() if hasattr(method, "cost") else 1.0
    found = []
    for name, seat in seats.items():
        cost = method.cost(seat) if hasattr(method, "cost") else Cost(0, 0, 0.0)
        found.append(
            SeatForecast(
                name,
                seat.architecture,
                seat.family.name,
                seat.weights.size,
                seat.weights.parameters,
                cost.parameters,
                cost.memory,
                round(cost.flops / rate, 1),
                *reach(seat),
            )
        )
    return found


def check_memory(seats: Mapping[str, Seat], method: Any) -> None:
    """Raise UnlearnExportError where an edit needs more memory than is free, with what would help."""
    if not hasattr(method, "cost"):
        return
    import psutil

    free = psutil.virtual_memory().available
    for name, seat in seats.items():
        needs = method.cost(seat).memory
        if needs > free:
            raise UnlearnExportError(
                f"the edit of {name} needs about {needs / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free: "
                "take fewer prompts (-O batch=4 -O pool=32) or fewer layers (-O parts=mlp), or a larger machine"
            )


def matrix_rate(seconds: float = 0.2) -> float:
    """Floating-point operations a second of float32 matrix products here, by a short trial."""
    a, b = torch.randn(256, 1024), torch.randn(1024, 1024)
    a @ b
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        a @ b
        done += 1
    return done * 2 * a.numel() * b.shape[1] / (time.perf_counter() - begun)


def text(found: list[SeatForecast]) -> str:
    """The forecast for people."""
    lines = []
    for f in found:
        lines.append(f"{f.seat}: {f.architecture} ({f.family}), {f.parameters:,} parameters, {f.bytes / GIB:.2f} GiB")
        lines.append(f"  learns {f.learning:,}; about {f.memory / GIB:.1f} GiB and {f.seconds:,.0f} s at best here")
        lines.append(f"  covers: {', '.join(f.covered)}")
        for label, names in (("does not cover", f.uncovered), ("does not reach", f.unedited)):
            if names:
                lines.append(f"  {label}: {'; '.join(names)}")
    return "\n".join(lines)


def to_json(found: list[SeatForecast]) -> list[dict[str, Any]]:
    return [asdict(f) for f in found]
