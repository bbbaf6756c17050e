"""Whether an artifact's weights are what its recipe tells of: the base's, but for the tensors that it names as changed.

A manifest vouches for files alone, and whoever seals a folder anew can put the base's own weights there. The recipe
records a hash of each of the base's tensors, so that this is seen without the base; whoever forges the recipe too is
seen by ``check_against``, which asks the base itself.
"""

from collections.abc import Collection, Mapping
from typing import Any

from .delta import Delta
from .errors import ArtifactError
from .recipe import FORMAT, WHERE, seat_records, told
from .weights import Weights


def check_recorded(recipe: Mapping[str, Any], held: Mapping[str, Weights]) -> None:
    """Compare an artifact's encoders with what its recipe's JSON records of the base. held: the encoders, by seat.

    Raises ArtifactError where one is its base's own, lacks a change that the recipe names, or has another one. Recipes
    before format 3 record hashes of files alone, so that only a copy of the base's file is seen.
    """
    seats = seat_records(recipe)
    if recipe.get("format") == FORMAT:
        if not seats:
            raise ArtifactError(f"{WHERE} was altered: it tells of no encoder")
        for name, seat in seats.items():
            if seat.tensor_sha256.keys() != set(seat.tensors):
                raise ArtifactError(
                    f"{WHERE} was altered: it does not have the hash of each of the {name}'s base's tensors"
                )
            _check(name, held[name], seat.tensor_sha256, seat.changed)
        _check_edited(any(seat.changed for seat in seats.values()))
        return
    first = {"text_encoder": (recipe.get("base") or {}).get("text_encoder_sha256")}
    base = {name: seat.sha256 for name, seat in seats.items()} or first
    same = [weights.fingerprint == base.get(name) for name, weights in held.items()]
    _check_edited(not same or not all(same))


def check_against(recipe: Mapping[str, Any], held: Mapping[str, Weights], base: Mapping[str, Weights]) -> None:
    """Compare every tensor of an artifact's encoders with the base's own. held, base: by seat.

    Raises ArtifactError as ``check_recorded``, whatever the recipe records.
    """
    told_of = told(recipe)
    for name, weights in held.items():
        changed = told_of[name].get("changed", ())
        if recipe.get("format") != FORMAT:  # they named what the eraser may have changed
            own = base[name].tensor_digests
            changed = [key for key in changed if weights.tensor_digests.get(key) != own.get(key)]
        _check(name, weights, base[name].tensor_digests, changed)
    _check_edited(any(w.tensor_digests != base[name].tensor_digests for name, w in held.items()))


def check_delta(recipe: Mapping[str, Any], delta: Delta) -> None:
    """Compare what a delta says of itself with what its recipe's JSON records. Raises ArtifactError where they differ."""
    seats = seat_records(recipe)
    for name in sorted({*seats, *delta.result}):
        if name not in seats or name not in delta.result:
            raise ArtifactError(f"{delta.file} and {WHERE} tell of other encoders: {name} is in one of them only")
        base, result = seats[name].tensor_sha256, delta.result[name]
        if dict(base) != dict(delta.base[name]):
            raise ArtifactError(f"{delta.file} was made of another {name} than {WHERE} tells of")
        if set(result) != set(seats[name].changed):
            raise ArtifactError(f"{delta.file} changes other tensors of the {name} than {WHERE} names")
        for key in sorted(key for key in result if result[key] == base.get(key)):
            raise ArtifactError(f"{key} of the {name} in {delta.file} is its base's own: nothing was erased there")
    _check_edited(any(delta.result.values()))


def _check(seat: str, weights: Weights, base: Mapping[str, str], changed: Collection[str]) -> None:
    folder, mine = weights.folder.parent, weights.tensor_digests
    if changed and mine == base:
        raise ArtifactError(f"the {seat} in {folder} is its base's own: nothing was erased from these weights")
    for key in sorted({*base, *mine}):
        if key in changed and mine.get(key) == base.get(key):
            raise ArtifactError(
                f"{key} of the {seat} in {folder} is its base's own, and the recipe names it as changed"
            )
        if key not in changed and mine.get(key) != base.get(key):
            raise ArtifactError(
                f"{key} of the {seat} in {folder} is not its base's, and the recipe names no change of it"
            )


def _check_edited(edited: bool) -> None:
    if not edited:
        raise ArtifactError("all encoders are their base's own: nothing was erased from these weights")
