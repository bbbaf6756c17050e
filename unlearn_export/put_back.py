"""Edited text encoders put back into the one file that they came from, for programs that read no folders."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from .artifact import Artifact
from .errors import BaseError, UsageError
from .families import EncoderFamily, family_of
from .recipe import FIRST_CLASS, told
from .single_file import SingleFile
from .weights import Weights, patch


def put_back(artifact: Artifact, path: Path, out: Path) -> list[str]:
    """Write the file ``path`` anew at ``out`` with an artifact's encoders in it. → the altered tensors

    path: a checkpoint or an encoder alone, as ``load_base`` takes it; all other bytes of it stay.
    Raises BaseError where its encoders are others than those that were edited, UsageError for an ``out`` that exists.
    """
    if out.exists():
        raise UsageError(f"{out} exists already: choose another name")
    if out.suffix != ".safetensors":
        raise UsageError(f"{out} must end in .safetensors, as what reads it expects")
    artifact.need_weights()
    file, edited = SingleFile.open(path), told(artifact.recipe.to_json())
    kinds = {name: about.get("architecture", FIRST_CLASS) for name, about in edited.items()}
    seats = {name: Weights.open(artifact.path / name) for name in edited}
    patches: dict[str, Tensor] = {}
    for name, weights in seats.items() if file.whole else _alone(file, seats, kinds).items():
        prefix = file.prefix(name)
        if file.whole and not prefix:
            raise BaseError(f"{file.path} has no {name}: the edit finds no place in it")
        patches |= _patches(file, prefix, weights, set(edited[name]["changed"]), family_of(kinds[name]))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    try:
        shutil.copyfile(file.path, part)
        patch(part, patches)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return sorted(patches)


def _alone(file: SingleFile, seats: Mapping[str, Weights], kinds: Mapping[str, str]) -> dict[str, Weights]:
    """The one encoder of an artifact that a file of one encoder is: they differ in their embedding tables."""
    for seat, weights in seats.items():
        family = family_of(kinds[seat])
        try:
            own, theirs = family.stored(file.shapes)[family.embedding], family.stored(weights.files)[family.embedding]
        except UsageError:
            continue
        if file.shapes[own] == weights.shape(theirs):
            return {seat: weights}
    raise BaseError(f"{file.path} is none of the encoders {', '.join(seats)} that were edited")


def _patches(
    file: SingleFile, prefix: str, weights: Weights, changed: set[str], family: type[EncoderFamily]
) -> dict[str, Tensor]:
    """The file's tensors that the edit alters, with its numbers in them.

    The way back is found by sending each number's position along the way there.
    """
    stored, seen, patches = family.stored(weights.files), set(), {}
    with safe_open(file.path, "pt") as opened:
        for key in file.names(prefix):
            tensor = opened.get_tensor(key)
            altered = None
            for name, now in file.converted(prefix, {key: tensor}).items():
                own = family.canonical(name)
                theirs = stored.get(own, own)
                if theirs not in weights.files:
                    continue  # what no encoder's class has, such as position_ids
                seen.add(theirs)
                edited = weights.get(theirs)
                if (edited.shape, edited.dtype) != (now.shape, now.dtype):
                    raise BaseError(
                        f"{key} in {file.path} is {now.dtype}{list(now.shape)}, the edited encoder's {edited.dtype}"
                        f"{list(edited.shape)}: erase from this file itself, with --base {file.path.name}"
                    )
                if theirs in changed:
                    altered = tensor.clone() if altered is None else altered
                    places = torch.arange(tensor.numel()).reshape(tensor.shape)
                    where = file.converted(prefix, {key: places})[name]
                    altered.view(-1)[where.reshape(-1)] = edited.reshape(-1)
                elif not torch.equal(edited, now):
                    raise BaseError(f"{file.path} has another text encoder than the one that was edited: {key} differs")
            if altered is not None:
                patches[key] = altered
    for lost in sorted(set(weights.files) - seen):
        if not lost.endswith("position_ids"):
            raise BaseError(f"{file.path} has another text encoder than the one that was edited: {lost} has no place")
    return patches
