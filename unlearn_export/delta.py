"""unlearning/delta.safetensors: what an edit changed, and nothing else; with the base it gives the encoders again, bit for bit."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from .errors import ArtifactError
from .records import values_of
from .weights import DTYPES, Weights, tensor_digest

if TYPE_CHECKING:  # a front end reads what a delta tells of itself without torch
    from torch import Tensor

    from .edit import Edit

FORMAT = 1
KEY = "delta"  # of the metadata: one alone, since safetensors writes several in any order
LONGEST = 64  # factors that are tried for
LOST = 0.3  # of a difference, above which factors leave too much to be set right; rounding to half leaves a tenth
PARTS = {  # how a tensor is kept → what of it is in the file
    "whole": ("whole",),
    "rows": ("at", "rows"),
    "factors": ("left", "right", "at", "values"),
}


@dataclass(frozen=True)
class Delta:
    """What a delta's metadata tells. base: seat → tensor → hash of the base's, of all tensors. result: the same of the
    changed ones afterwards. kept: seat → changed tensor → how it is kept, of ``PARTS``. Hashes are ``weights.hashes``'.
    """

    file: Path
    base: Mapping[str, Mapping[str, str]]
    result: Mapping[str, Mapping[str, str]]
    kept: Mapping[str, Mapping[str, str]]

    @classmethod
    def open(cls, file: Path) -> "Delta":
        """Read the metadata alone. Raises ArtifactError for what is no delta."""
        try:
            with safe_open(file, "np") as opened:
                about = dict(opened.metadata() or {})
                held = set(opened.keys())
            told = json.loads(about[KEY])
            if told.pop("format") != FORMAT:
                raise ArtifactError(f"{file} is of a later format than {FORMAT}: update unlearn-export")
        except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
            raise ArtifactError(f"{file} is no delta: {' '.join(str(error).split())[:150]}") from error
        delta = cls(**values_of(cls, {"file": str(file), **told}, str(file)) | {"file": file})
        wanted = {f"{s}/{k}#{part}" for s, kept in delta.kept.items() for k, how in kept.items() for part in PARTS[how]}
        for name in sorted(wanted ^ held):
            raise ArtifactError(f"{file} is no complete delta: {name} is in its list or among its tensors only")
        return delta

    def edit(self, base: Mapping[str, Weights]) -> "Edit":
        """The changed tensors, as the edit of these weights, by seat; everything of the base is read, once.

        Raises ArtifactError where a tensor of the base is not the one that the delta was made of, or the result is not
        what it should be.
        """
        from .edit import Edit

        parent: dict[str, str] = {}
        tensors: dict[str, dict[str, Tensor]] = {}
        for seat, kept in self.kept.items():
            if seat not in base:
                raise ArtifactError(f"{self.file} changes a {seat}, which this base has not: {', '.join(base)}")
            own = base[seat].tensor_digests
            for key in sorted({*own, *self.base[seat]}):
                if own.get(key) != self.base[seat].get(key):
                    raise ArtifactError(
                        f"{key} of the {seat} in {base[seat].folder} is not the one that {self.file} was made of: give "
                        "the very base"
                    )
            parent[seat], tensors[seat] = base[seat].fingerprint, {}
            for key, how in kept.items():
                tensor = _restored(how, base[seat].get(key), self._parts(seat, key, how))
                if tensor_digest(tensor) != self.result[seat][key]:
                    raise ArtifactError(f"{key} of the {seat} does not come out of {self.file} as it went in")
                tensors[seat][key] = tensor
        return Edit(parent, tensors)

    def _parts(self, seat: str, key: str, how: str) -> dict[str, "Tensor"]:
        with safe_open(self.file, "pt") as opened:
            return {part: opened.get_tensor(f"{seat}/{key}#{part}") for part in PARTS[how]}


def write_delta(file: Path, base: Mapping[str, Weights], edited: Mapping[str, Weights]) -> Delta:
    """Write what differs between two folders' weights, by seat, each tensor in the shortest way that is exact."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    told: dict[str, dict[str, dict[str, str]]] = {"base": {}, "result": {}, "kept": {}}
    for seat, mine in edited.items():
        before, after = base[seat].tensor_digests, mine.tensor_digests
        if before.keys() != after.keys():
            raise ArtifactError(f"the {seat} in {mine.folder} has other tensors than its base in {base[seat].folder}")
        changed = [key for key in sorted(after) if after[key] != before[key]]
        told["base"][seat] = dict(sorted(before.items()))
        told["result"][seat] = {key: after[key] for key in changed}
        told["kept"][seat] = {}
        for key in changed:
            how, parts = _shortest(base[seat].get(key), mine.get(key))
            told["kept"][seat][key] = how
            tensors |= {f"{seat}/{key}#{part}": tensor.contiguous() for part, tensor in parts.items()}
    about = {KEY: json.dumps({"format": FORMAT, **told}, sort_keys=True)}
    file.write_bytes(save(tensors, about))  # save_file would make it nobody else's business
    return Delta.open(file)


def _shortest(before: "Tensor", after: "Tensor") -> tuple[str, dict[str, "Tensor"]]:
    ways = [("whole", {"whole": after})]
    if before.shape == after.shape and before.dtype == after.dtype and after.dim() == 2:
        rows = (before != after).any(1).nonzero()[:, 0]
        ways.append(("rows", {"at": rows, "rows": after[rows]}))
        if str(after.dtype) in DTYPES and min(after.shape) >= 16:
            ways += [("factors", parts) for parts in _factors(before, after)]
    exact = [way for way in ways if _same(_restored(way[0], before, way[1]), after)]
    return min(exact, key=lambda way: sum(t.numel() * t.element_size() for t in way[1].values()))


def _factors(before: "Tensor", after: "Tensor") -> Iterator[dict[str, "Tensor"]]:
    """Low-rank factors of the difference, each with the few numbers that rounding leaves to be set right."""
    import torch

    gap = after.double() - before.double()
    most = min(LONGEST, min(gap.shape) // 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, values, right = torch.svd_lowrank(gap, q=most, niter=1)
    total, rank = float(gap.norm()) ** 2, 1
    while rank <= most:
        if total - float((values[:rank] ** 2).sum()) < (LOST**2) * total:
            parts = {"left": (left[:, :rank] * values[:rank]).float(), "right": right[:, :rank].float()}
            wrong = (_sum(before, parts).reshape(-1) != after.reshape(-1)).nonzero()[:, 0]
            yield parts | {"at": wrong.int(), "values": after.reshape(-1)[wrong]}
        rank *= 2


def _restored(how: str, before: "Tensor", parts: Mapping[str, "Tensor"]) -> "Tensor":
    if how == "whole":
        return parts["whole"]
    if how == "rows":
        tensor = before.clone()
        tensor[parts["at"].long()] = parts["rows"]
        return tensor
    tensor = _sum(before, parts)
    tensor.view(-1)[parts["at"].long()] = parts["values"]
    return tensor


def _sum(before: "Tensor", parts: Mapping[str, "Tensor"]) -> "Tensor":
    """before + left @ right.T, number by number in a fixed order: a matrix product rounds otherwise on each machine."""
    total = before.double()
    for left, right in zip(parts["left"].double().T, parts["right"].double().T, strict=True):
        total = total + left[:, None] * right
    return total.to(before.dtype)


def _same(one: "Tensor", other: "Tensor") -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and tensor_digest(one) == tensor_digest(other)
