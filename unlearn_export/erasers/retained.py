"""Prompts that an eraser must leave alone, by what pipelines are given of them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..bench import Bench
from ..concept import Concept
from ..families.tokens import Tokens, tokenise, views
from ..seat import Seat
from .prompts import Prompts

POOL, APART = 192, 32  # prompts to draw from, and others to judge by
BATCH = 16


class Retained:
    """How far other prompts moved: E ‖τ(q) − τ₀(q)‖² over what the readers of every seat are given, in units of the
    distance between different prompts. q: as ``Prompts.kept`` draws them.
    """

    def __init__(self, bench: Bench, concepts: Sequence[Concept], holdout: Sequence[str] = ()) -> None:
        self.generator, self.device = bench.generator, bench.base.device
        first = next(iter(bench.seats.values()))
        prompts = Prompts(bench.vocabulary, first.tokenizer, concepts, holdout, bench.generator)
        texts = prompts.kept(POOL + APART)
        self.seats = bench.seats
        self.tokens = {name: tokenise(s.tokenizer, texts, s.contract) for name, s in bench.seats.items()}
        self.wanted = {name: self._read(seat, bench.base.encoders[name]) for name, seat in bench.seats.items()}
        self.unit = {
            (name, what): float((states - states.mean(0)).square().mean())
            for name, found in self.wanted.items()
            for what, states in found.items()
        }

    def loss(self, encoders: Mapping[str, PreTrainedModel]) -> Tensor:
        """Of a few prompts, drawn anew."""
        return self._moved(encoders, APART + torch.randint(POOL, (BATCH,), generator=self.generator))

    @torch.no_grad()
    def drift(self, encoders: Mapping[str, PreTrainedModel]) -> float:
        """Of those that no loss has seen."""
        return float(self._moved(encoders, torch.arange(APART)))

    def _moved(self, encoders: Mapping[str, PreTrainedModel], rows: Tensor) -> Tensor:
        parts = []
        for name, seat in self.seats.items():
            now = self._views(seat, encoders[name], self.tokens[name][rows])
            for what, states in now.items():
                moved = (states - self.wanted[name][what][rows]).square().mean()
                parts.append(moved / self.unit[name, what])
        return torch.stack(parts).mean()

    @torch.no_grad()
    def _read(self, seat: Seat, encoder: PreTrainedModel) -> dict[str, Tensor]:
        tokens = self.tokens[seat.name]
        parts = [self._views(seat, encoder, tokens[i : i + BATCH]) for i in range(0, POOL + APART, BATCH)]
        return {what: torch.cat([part[what] for part in parts]) for what in parts[0]}

    def _views(self, seat: Seat, encoder: PreTrainedModel, tokens: Tokens) -> dict[str, Tensor]:
        tokens = tokens.to(self.device)
        return views(seat.family.call(encoder, tokens, seat.contract.mask), tokens, seat.contract)
