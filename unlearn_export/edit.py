"""What an eraser makes: the changed tensors, and what they apply to."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .errors import EncoderError
from .families import family_of
from .weights import Weights

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Edit:
    """A change of some tensors of one or several encoders.

    parent: seat → fingerprint of the weights that it applies to. tensors: seat → stored name → new value, in the
    parent's own dtype: what is measured is what is shipped. loss: of the fit, first and best, by seat, if there was one.
    """

    parent: Mapping[str, str]
    tensors: Mapping[str, Tensors]
    loss: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers it changes at most."""
        return sum(t.numel() for tensors in self.tensors.values() for t in tensors.values())

    @property
    def finite(self) -> bool:
        return all(bool(torch.isfinite(t).all()) for tensors in self.tensors.values() for t in tensors.values())

    @cached_property
    def result(self) -> dict[str, str]:
        """seat → name of the weights after it, made of the parent's and of what changed; the parent's without any."""
        return {seat: _after(self.parent[seat], self.tensors.get(seat, {})) for seat in self.parent}

    def only(self, seat: str) -> "Edit":
        """The part that changes one seat."""
        return Edit({seat: self.parent[seat]}, {seat: self.tensors[seat]})

    @torch.no_grad()
    def apply(self, encoders: Mapping[str, PreTrainedModel]) -> None:
        """Write the tensors into loaded encoders, by seat. Raises EncoderError for one that finds no place."""
        for seat, tensors in self.tensors.items():
            encoder = encoders[seat]
            family = family_of(type(encoder).__name__)
            own = {family.canonical(key): p for key, p in encoder.named_parameters()}
            for key, tensor in tensors.items():
                place = own.get(family.canonical(key))
                if place is None or place.shape != tensor.shape:
                    raise EncoderError(f"{key} of the edit finds no place in this {type(encoder).__name__}")
                place.copy_(tensor)

    def then(self, later: "Edit") -> "Edit":
        """Both as one. Raises EncoderError unless ``later`` was made on the result of this one."""
        for seat, name in later.parent.items():
            if self.result.get(seat, name) != name:
                raise EncoderError(
                    f"the later edit applies to {name[:12]}, not to {self.result[seat][:12]}: redo it there"
                )
        seats = dict.fromkeys((*self.tensors, *later.tensors))
        return Edit(
            {**later.parent, **self.parent},
            {seat: {**self.tensors.get(seat, {}), **later.tensors.get(seat, {})} for seat in seats},
        )

    def undo(self, parent: Mapping[str, Weights]) -> "Edit":
        """The edit that brings the parent's tensors back. parent: seat → weights.

        Raises EncoderError for other weights than this was made of.
        """
        for seat, name in self.parent.items():
            if parent[seat].fingerprint != name:
                raise EncoderError(f"these are not the weights that the edit was made of: {parent[seat].folder}")
        tensors = {seat: {key: parent[seat].get(key) for key in changed} for seat, changed in self.tensors.items()}
        return Edit(self.result, tensors)


def _after(parent: str, tensors: Tensors) -> str:
    if not tensors:
        return parent
    digest = hashlib.sha256(parent.encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
