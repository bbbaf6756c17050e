"""Whether an artifact is what its recipe makes: the edit done again from the base, and held against what is there."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .artifact import Artifact
from .erase import erase
from .erasers import OnStep
from .errors import GateError
from .remake import terms
from .weights import Weights

TOLERANCE = 0.01  # of the edit's own size: processors and versions round differently


@dataclass(frozen=True)
class Rebuilt:
    """What doing an edit again gave.

    tensors: how many were compared. differing: those that are not equal byte for byte, as SEAT/TENSOR. worst: the largest
    ‖again − here‖ / ‖here − base‖ among them, 0 where all are equal. versions: name → the recipe's and the one here,
    of what is not the same.
    """

    tensors: int
    differing: tuple[str, ...]
    worst: float
    versions: Mapping[str, tuple[str, str]]

    @property
    def identical(self) -> bool:
        return not self.differing

    def __str__(self) -> str:
        if self.identical:
            return f"{self.tensors} edited tensors are the same byte for byte"
        others = ", ".join(f"{name} {here} (was {was})" for name, (was, here) in self.versions.items())
        return (
            f"{len(self.differing)} of {self.tensors} edited tensors differ, by {self.worst:.1e} of the edit at most"
            + (f"; other versions: {others}" if others else "; the versions are the same, so another processor")
        )


def rebuild(
    artifact: Artifact,
    source: str | None = None,
    config: str | None = None,
    *,
    images: Path | None = None,
    device: str = "cpu",
    tolerance: float = TOLERANCE,
    on_step: OnStep | None = None,
) -> Rebuilt:
    """Do an artifact's edit again from its recipe and compare every tensor; nothing is written.

    source, config, images: as ``remake.terms`` takes them. tolerance: of ``Rebuilt.worst``.
    Raises GateError where the result is further off, and what ``terms`` and ``erase`` raise.
    """
    artifact.need_weights()
    recipe = artifact.recipe
    made = terms(artifact, source, config, images=images, device=device)
    again = erase(
        made.base, recipe.concepts, made.method, images=images, seed=made.seed, seats=made.seats, on_step=on_step
    )
    compared, differing, worst = 0, [], 0.0
    for name in artifact.seats:
        base, here = made.base.seats[name].weights, Weights.open(artifact.path / name)
        new = again.edit.tensors.get(name, {})
        known = recipe.seats[name].changed if name in recipe.seats else ()
        for key in sorted({*new, *known}):
            compared += 1
            mine, other = here.get(key), new[key] if key in new else base.get(key)
            if mine.dtype == other.dtype and torch.equal(mine, other.cpu()):
                continue
            differing.append(f"{name}/{key}")
            worst = max(worst, _apart(other.cpu(), mine, base.get(key)))
    found = Rebuilt(compared, tuple(differing), worst, _versions(recipe.versions))
    if not found.worst <= tolerance:  # so that NaN fails too
        raise GateError(f"{artifact.path} is not what its recipe makes: {found}; the tolerance is {tolerance:g}")
    return found


def _apart(again: Tensor, here: Tensor, base: Tensor) -> float:
    """‖again − here‖ / ‖here − base‖; infinite where there is nothing to compare with."""
    edit = float((here.double() - base.double()).norm())
    gap = float((again.double() - here.double()).norm())
    return gap / edit if edit else float("inf")


def _versions(recorded: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    found = {}
    for name, was in recorded.items():
        try:
            here = platform.python_version() if name == "python" else version(name)
        except PackageNotFoundError:
            here = "absent"
        if here != was:
            found[name] = (str(was), here)
    return found
