"""Anchor alignment: the concept's prompts come to mean another thing's, everything else stays."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..base import Base, Seat
from ..bench import Bench
from ..concept import Concept
from ..edit import Edit
from ..errors import DivergedError, UsageError
from ..families.contracts import ReaderContract
from ..families.tokens import Tokens, tokenise
from ..forecast import GIB, Cost
from ..neighbours import anchors, unknown
from .options import check_range, option
from .prompts import Prompts, places
from .training import Pin, only_trainable, relative_steps, stored_like

SMALL, LARGE = 2_000_000, 60_000_000  # parameters that learn, between which a step's cost begins to count
CHECKS = 10  # times that the fit is looked at


@dataclass(frozen=True)
class Anchor:
    """Fit the encoder so that "… pizza …" gives the states that "… hamburger …" gave, at every position.

    min_τ ‖τ(p[concept]) − τ₀(p[anchor])‖² + keep · ‖τ(q) − τ₀(q)‖² over prompts p about the concept and q about
    anything else, τ₀ the original, τ its residual stream after ``depth`` layers: where those agree, so does every
    layer above, whichever of them a pipeline reads, and a fit through few layers costs as little as they do. No
    denoiser and no picture take part. All positions count that a pipeline reads or that attend: end-of-text and
    padding carry the concept as readily as its own token. The idea of mapping a concept to an anchor
    is Concept Ablation's (Kumari et al. 2023, arXiv:2303.13516), here on the text states alone. q are the base's
    other concepts, synonyms and styles in every context, the user's ``retain``, and random strings of vocabulary
    tokens. The empty prompt, with all of a reader's template, cannot move (see ``Pin``).
    """

    name: ClassVar[str] = "anchor"
    draws: ClassVar[bool] = False  # needs no denoiser

    depth: int = option(1, "layers of the encoder that are fitted, from the first on")
    steps: int | None = option(None, "optimizer steps; by default 200, and fewer where a layer is large")
    lr: float = option(1.2, "most that a step may change what a matrix answers, relative to that")
    batch: int | None = option(None, "prompts of each sort in a step; by default 16, and fewer where a layer is large")
    keep: float = option(4.0, "weight of the prompts that must stay")
    pool: int | None = option(None, "prompts of each sort, drawn from throughout; by default 512, and fewer likewise")
    parts: tuple[str, ...] = option(("mlp", "attention"), "layers that may change: mlp, attention, last-attention")
    holdout: tuple[str, ...] = option((), "known concepts that the kept prompts must not name, to judge by")

    def __post_init__(self) -> None:
        check_range(self, above=("depth", "lr", "steps", "batch", "pool"), least=("keep",))

    def resolve(self, bench: Bench, concepts: Sequence[Concept]) -> list[Concept]:
        """Known synonyms become aliases, and a concept without an anchor takes a known neighbour (see ``anchors``).

        Raises UsageError for a ``holdout`` that the base does not know, since it would hold out nothing, and for an
        unknown concept without an anchor, which may be a typing error.
        """
        base = bench.base
        for name in self.holdout:
            if name not in base.vocabulary.concepts:
                known = ", ".join(base.vocabulary.concepts)
                raise UsageError(f"cannot hold out {name!r}: this base's concepts are {known}")
        taken = {base.vocabulary.like(c.name) or c.name for c in concepts}
        return [self._complete(base, concept, taken) for concept in concepts]

    def _complete(self, base: Base, concept: Concept, taken: set[str]) -> Concept:
        known = base.vocabulary.like(concept.name)
        words = (*concept.names, known, *base.vocabulary.aliases.get(known, ()))
        named = replace(concept, aliases=tuple(word for word in words if word))
        concept = replace(concept, aliases=named.names[1:])
        if not concept.anchor and not known:
            raise UsageError(unknown(base, concept))
        if not concept.anchor:
            concept = replace(concept, anchor=anchors(base, concept, avoid=taken | set(self.holdout))[0])
        return concept

    def cost(self, seat: Seat) -> Cost:
        """What the fit of one encoder takes: weights, gradients and Adam's two moments in float32, two copies as
        stored, and the pool's states."""
        skeleton = seat.family.skeleton(seat.config, min(self.depth, seat.depth))
        layers = seat.family.linears(skeleton, self.parts)
        learning = sum(p.numel() for layer in layers.values() for p in layer.parameters())
        steps, batch, pool = self.sizes(learning)
        stored = seat.get(seat.family.embedding).element_size()
        positions = sum(_positions(c) for c in seat.contracts)
        states = 4 * 4 * pool * positions * seat.width
        flops = learning * (6 * steps * 3 * batch * positions / len(seat.contracts) + 2 * 4 * pool * positions)
        return Cost(learning, int(learning * (16 + 2 * stored) + states + 0.8 * GIB), flops)

    def sizes(self, learning: int) -> tuple[int, int, int]:
        """(steps, prompts of each sort in a step, pool) where so many parameters learn. What one prompt costs grows
        with them, what a fit needs does not: 200 × 16 up to 2 million, 40 × 8 from 60 million.
        """
        steps, batch = (200, 16) if learning <= SMALL else (80, 8) if learning < LARGE else (40, 8)
        batch = self.batch or batch
        return self.steps or steps, batch, self.pool or (512 if batch >= 16 else 16 * batch)

    def edit(
        self,
        bench: Bench,
        concepts: Sequence[Concept],
        on_step: Callable[[int, int, float], None] | None = None,
    ) -> Edit:
        """Every seat fitted, all concepts together; ``resolve`` has given each its anchor.

        Raises DivergedError where a fit ends no better than it began, UsageError where a name finds no room.
        """
        parent, tensors, loss = {}, {}, {}
        for number, (name, seat) in enumerate(bench.seats.items()):

            def tell(step: int, steps: int, value: float, number: int = number) -> None:
                if on_step:
                    on_step(number * steps + step, len(bench.seats) * steps, value)

            fit = _Fit(self, bench, seat, concepts)
            tensors[name], loss[name] = fit.run(tell)
            parent[name] = seat.weights.fingerprint
        return Edit(parent, tensors, loss)


def _positions(contract: ReaderContract) -> int:
    """How many positions a prompt has for a reader: all that it reads, or about what a prompt of a dozen words takes."""
    padded = contract.reads == "all" and contract.fill == "length"
    return contract.length if padded or not (contract.mask or contract.causal) else 24 + len(contract.template) // 4


@dataclass(frozen=True)
class _Reading:
    """One reader's view of the pool. fit: [n, length] bool, the positions that count. wanted: [n, length, d].

    way: mean square distance from the concepts' states to what they are to become, the measure of all errors.
    """

    contract: ReaderContract
    tokens: Tokens
    fit: Tensor
    wanted: Tensor
    way: float


class _Fit:
    """One seat's fit: the first layers alone, under every contract that the edit is to cover."""

    def __init__(self, method: Anchor, bench: Bench, seat: Seat, concepts: Sequence[Concept]) -> None:
        self.method, self.seat, self.family, self.generator = method, seat, seat.family, bench.generator
        self.device = bench.base.device
        self.depth = min(method.depth, seat.depth)
        empty = self.family.skeleton(seat.config, self.depth)
        learning = self.family.linears(empty, method.parts)
        count = sum(p.numel() for layer in learning.values() for p in layer.parameters())
        self.steps, self.batch, self.pool = method.sizes(count)
        prompts = Prompts(bench.vocabulary, seat.tokenizer, concepts, method.holdout, bench.generator)
        pairs, kept = prompts.pairs(self.pool), prompts.kept(2 * self.pool)
        texts = [p[0] for p in pairs] + kept + [p[2] for p in pairs]
        names = [p[1] for p in pairs] + [None] * len(kept) + [p[3] for p in pairs]
        rows = [tokenise(seat.tokenizer, texts, c, phrases=names, trim=True) for c in seat.contracts]
        pins = [tokenise(seat.tokenizer, [""], c, trim=True) for c in seat.contracts]
        used = torch.cat([t.ids.flatten() for t in (*rows, *pins)])
        self.model = seat.skeleton(self.depth, used=used).to(self.device)
        self.layers = self.family.linears(self.model, method.parts)
        self.dtype = seat.get(seat.family.embedding).dtype  # lossless for what was stored so
        self.pin = Pin(self.layers, self.dtype)
        with self.pin.watching():
            for tokens, contract in zip(pins, seat.contracts, strict=True):
                self.pin.at(tokens, contract.mask)
                self._states(tokens, contract)
        self.readings = [self._reading(t, c) for t, c in zip(rows, seat.contracts, strict=True)]

    @torch.no_grad()
    def _reading(self, tokens: Tokens, contract: ReaderContract) -> _Reading:
        """What the original makes of the prompts, with the anchors' states where the concepts' are."""
        n = self.pool
        asked, meant = tokens[: 3 * n], tokens[3 * n :]
        kept = [self._states(asked[i : i + 32], contract) for i in range(n, 3 * n, 32)]
        moved = torch.cat([self._states(meant[i : i + 32], contract) for i in range(0, n, 32)])
        to = places(asked[:n], meant).to(moved.device)
        moved = moved.gather(1, to[..., None].expand(-1, -1, moved.shape[-1]))
        fit, few = counted(asked, contract), slice(0, min(n, 64))
        apart = (self._states(asked[few], contract) - moved[few]).square().mean(-1)[fit[few].to(moved.device)]
        return _Reading(contract, asked, fit, torch.cat([moved, *kept]), float(apart.mean()))

    def _states(self, tokens: Tokens, contract: ReaderContract) -> Tensor:
        return self.family.residual(self.model, tokens.to(self.device), contract.mask, self.depth)

    def _loss(self, reading: _Reading, i: Tensor, j: Tensor, *, whole: bool = False) -> Tensor:
        """i: rows about the concepts, j: rows about other things. 1 where nothing has moved, in units of the way to go.

        whole: at every position (see ``_length``).
        """
        rows = torch.cat([i, self.pool + j])
        tokens, fit = reading.tokens[rows], reading.fit[rows]
        length = tokens.ids.shape[1] if whole else self._length(tokens, reading)
        tokens, fit = tokens.cut(length), fit[:, :length].to(self.device)
        error = (self._states(tokens, reading.contract) - reading.wanted[rows, :length]).square().mean(-1)
        parts = [(error[s] * fit[s]).sum() / fit[s].sum() for s in (slice(len(i)), slice(len(i), None))]
        return (parts[0] + self.method.keep * parts[1]) / reading.way

    def _length(self, tokens: Tokens, reading: _Reading) -> int:
        """How many positions to compute. Causal states do not depend on what follows: padding is looked at in full
        once in four steps, else a little of it.
        """
        full = tokens.ids.shape[1]
        if not self.family.causal or reading.contract.padding == "left" or self._dice(4) == 0:
            return full
        return min(full, int(tokens.mask.sum(1).max()) + 1 + self._dice(8))

    def _schedule(self, step: int) -> float:
        """A tenth of the steps, five at least, to warm up, then down to nothing along a cosine."""
        warm = max(5, self.steps // 10)
        if step < warm:
            return (step + 1) / warm
        return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, self.steps - warm))

    def _dice(self, n: int) -> int:
        return int(torch.randint(n, (1,), generator=self.generator))

    @torch.no_grad()
    def _check(self) -> float:
        """The loss on rows that no step has seen, padding and all, over every reading."""
        return sum(float(self._loss(r, *self.apart, whole=True)) for r in self.readings) / len(self.readings)

    def run(self, tell: Callable[[int, int, float], None]) -> tuple[dict[str, Tensor], tuple[float, float]]:
        """→ the changed tensors by stored name in their stored dtype, and the first and the best loss"""
        count = min(self.batch, self.pool // 2)
        self.apart = torch.arange(count), torch.arange(2 * count)  # looked at, never learnt from
        free = self.pool - count, 2 * self.pool - 2 * count
        groups: Any = relative_steps(self.layers, self.method.lr)
        with only_trainable(self.model, self.layers) as params:
            optimizer = torch.optim.Adam(groups, betas=(0.9, 0.98))
            rates, calm = [g["lr"] for g in optimizer.param_groups], 1.0
            first = self._check()
            best, kept = first, [p.detach().to(self.dtype, copy=True) for p in params]
            for step in range(self.steps):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * calm * self._schedule(step)
                i = count + torch.randint(free[0], (self.batch,), generator=self.generator)
                j = 2 * count + torch.randint(free[1], (2 * self.batch,), generator=self.generator)
                loss = self._loss(self.readings[step % len(self.readings)], i, j)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                self.pin.apply()
                tell(step + 1, self.steps, loss.item())
                if (step + 1) % max(1, self.steps // CHECKS) == 0 or step + 1 == self.steps:
                    reached = self._check()
                    if reached < best:
                        best, kept = reached, [p.detach().to(self.dtype, copy=True) for p in params]
                    elif not reached < 1.5 * best:  # astray: back to the best, in smaller steps
                        calm /= 3
                        optimizer.state.clear()
                        with torch.no_grad():
                            for p, known in zip(params, kept, strict=True):
                                p.copy_(known)
        if not best < first:
            raise DivergedError(
                f"the fit of {self.seat.name} ends no better than it began (loss {first:.3g}): nothing was written; "
                f"try smaller steps, such as -O lr={self.method.lr / 4:g}"
            )
        own = {id(p): name for name, p in self.model.named_parameters()}
        changed = {own[id(p)]: tensor for p, tensor in zip(params, kept, strict=True)}
        return stored_like(self.seat, changed), (first, best)


def counted(tokens: Tokens, contract: ReaderContract) -> Tensor:
    """The positions [n, length] that the fit must get right: those that are read, and those that read ones attend to."""
    if not contract.causal and not contract.mask:
        return torch.ones_like(tokens.read)
    return tokens.read & tokens.mask.bool() if contract.fill == "longest" else tokens.read
