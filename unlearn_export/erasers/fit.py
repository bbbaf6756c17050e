"""One seat's first layers, fitted so that a concept's prompts give an anchor's states and everything else stays."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..bench import Bench
from ..concept import Concept
from ..errors import DivergedError
from ..families import EncoderFamily
from ..families.contract import ReaderContract
from ..families.tokens import Tokens, tokenise
from ..seat import Seat
from .options import check_range, option
from .prompts import Prompts, places, reaches
from .ridge import Ridge
from .training import EXACT, Pin, only_trainable, relative_steps, stored_like

CHECKS = 10  # times that the fit is looked at
PADDING = 8  # positions of a row's padding that stand for all of it in the solve


SMALL, LARGE = 2_000_000, 60_000_000  # parameters that learn, between which a step's cost begins to count
LONG = 48  # positions to compute of a prompt, above which a large layer is shown fewer prompts


@dataclass(frozen=True)
class FitOptions:
    """What a method that fits states can be told."""

    depth: int = option(1, "layers of the encoder that are fitted, from the first on")
    steps: int | None = option(
        None, "optimizer steps; by default none after a solve, else 200, and fewer where a layer is large"
    )
    lr: float = option(1.2, "of the steps: most that a step may change what a matrix answers, relative to that")
    batch: int | None = option(None, "prompts of each sort in a step; by default 16, and fewer where a layer is large")
    keep: float = option(4.0, "weight of the prompts that must stay")
    penalty: float = option(1e-2, "of the solve: what changed weights cost, in units of their mean input squared")
    pool: int | None = option(None, "prompts of each sort, drawn from throughout; by default 512, and fewer likewise")
    parts: tuple[str, ...] = option(("mlp", "attention"), "layers that may change: mlp, attention, last-attention")
    holdout: tuple[str, ...] = option((), "known concepts that the kept prompts must not name, to judge by")

    def __post_init__(self) -> None:
        check_range(self, above=("depth", "lr", "penalty", "batch", "pool"), least=("keep", "steps"))

    def sizes(self, learning: int, solved: bool, concepts: int = 1) -> tuple[int, int, int]:
        """(steps, prompts of each sort in a step, pool) where so many parameters learn. What one prompt costs grows
        with them, what a fit needs does not; each concept is to have four prompts at least. From a solve's result
        steps were seen to find next to nothing better.
        """
        steps, batch, pool = (200, 16, 512) if learning <= SMALL else (80, 8, 256) if learning < LARGE else (40, 8, 128)
        steps = (0 if solved else steps) if self.steps is None else self.steps
        return steps, self.batch or batch, self.pool or max(pool, 4 * concepts)

    def share(self, contract: ReaderContract, learning: int) -> float:
        """Of the pool, how much one reader's way of reading is fitted to: where all of its padding attends, a prompt
        costs as much as ten that are cut to their text, and tells hardly more."""
        return 1.0 if self.pool or learning < SMALL else min(1.0, LONG / positions(contract))


def solvable(family: type[EncoderFamily], layers: Mapping[str, nn.Linear]) -> str | None:
    """Of the layers that may change, the one that can be solved for: the last down-projection, if the family has such."""
    return next((name for name in reversed(list(layers)) if family.down and name.endswith(family.down)), None)


def positions(contract: ReaderContract) -> float:
    """How many positions of a prompt are computed: about those of a dozen words, all where padding attends, and of causal
    padding that is read a quarter (see ``Fit``)."""
    text = min(24 + len(contract.template) // 4, contract.length)
    if contract.mask and contract.reads != "all":
        return text
    if not contract.causal or contract.padding == "left":
        return contract.length
    return 0.75 * text + 0.25 * contract.length if contract.reads == "all" else text


@dataclass(frozen=True)
class Reading:
    """One reader's view of the pool. pool: prompts of each sort. fit: [n, length] bool, the positions that count.
    wanted: [n, length, d].

    way: mean square distance from the concepts' states to what they are to become, the measure of all errors.
    """

    contract: ReaderContract
    pool: int
    tokens: Tokens
    fit: Tensor
    wanted: Tensor
    way: float


class Fit:
    """One seat's fit: the first layers alone, under every contract that the edit is to cover."""

    whole = 4  # how rarely causal padding is computed in full
    pinned = EXACT

    def __init__(
        self,
        options: FitOptions,
        bench: Bench,
        seat: Seat,
        concepts: Sequence[Concept],
        on_step: Callable[[int, int, float], None] = lambda *_: None,
    ) -> None:
        """on_step: told what is done, of how much, and the loss: nan while the original is still being read."""
        self.options, self.seat, self.family, self.generator = options, seat, seat.family, bench.generator
        self.device = bench.base.device
        self.depth = min(options.depth, seat.depth)
        empty = self.family.skeleton(seat.config, self.depth)
        learning = self.family.linears(empty, options.parts)
        count = sum(p.numel() for layer in learning.values() for p in layer.parameters())
        solved = solvable(self.family, learning)
        self.steps, self.batch, self.pool = options.sizes(count, bool(solved), len(concepts))
        self.batch = min(self.batch, self.pool // 2)
        pools = [self._part(options.share(c, count)) for c in seat.contracts]
        self.on_step, self.done = on_step, 0
        self.all = self.steps + sum(len(_blocks(n)) for n in pools)
        prompts = Prompts(bench.vocabulary, seat.tokenizer, concepts, options.holdout, bench.generator)
        pairs, kept = prompts.pairs(self.pool), prompts.kept(2 * self.pool)
        rows = [_tokens(seat, c, pairs[:n], kept[: 2 * n]) for n, c in zip(pools, seat.contracts, strict=True)]
        pins = [tokenise(seat.tokenizer, [""], c, trim=True) for c in seat.contracts]
        more = self._more(prompts)
        used = torch.cat([t.ids.flatten() for t in (*rows, *pins, *more)])
        self.model = seat.skeleton(self.depth, used=used).to(self.device)
        self.layers = self.family.linears(self.model, options.parts)
        self.dtype = seat.get(seat.family.embedding).dtype  # lossless for what was stored so
        self.pin = Pin(self.layers, self.dtype, self.pinned)
        with self.pin.watching():
            for tokens, contract in zip(pins, seat.contracts, strict=True):
                self.pin.at(tokens, contract.mask)
                self._states(tokens, contract)
        self.ridge = Ridge(self.layers[solved], self.pin.span[solved]) if solved else None
        self.readings = [self._reading(*each) for each in zip(rows, seat.contracts, pools, strict=True)]
        self.apart = torch.arange(self.batch), torch.arange(2 * self.batch)  # rows to judge by, never learnt from

    def _more(self, prompts: Prompts) -> Sequence[Tokens]:
        """What else the model will be asked, where a fit asks for more."""
        return ()

    @torch.no_grad()
    def _reading(self, tokens: Tokens, contract: ReaderContract, n: int) -> Reading:
        """What the original makes of the prompts, with the anchors' states where the concepts' are."""
        asked, meant = tokens[: 3 * n], tokens[3 * n :]
        fit = counted(asked, contract)
        fit[:n] &= reaches(asked[:n], meant)
        lengths = {}
        for rows in _blocks(n):
            lengths[rows.start, rows.stop] = length = self._length(asked[rows], contract)
            fit[rows, length:] = False
        weight = self._thinned(asked, fit)
        weight[:n] /= fit[:n].sum()
        weight[n:] *= self.options.keep / fit[n:].sum()
        weight[: self.batch] = weight[n : n + 2 * self.batch] = 0  # those apart
        wanted = torch.zeros(*asked.ids.shape, self.seat.width, device=self.device)
        way = 0.0
        for (start, stop), length in lengths.items():
            rows = slice(start, stop)
            part = asked[rows].cut(length)
            with self._given() as given:
                states = goal = self._states(part, contract)
            if start < n:
                goal = self._as_meant(part, meant[rows], contract)
                way += float(
                    ((goal - states).square().mean(-1) * fit[rows, :length].to(self.device)).sum() / fit[:n].sum()
                )
            wanted[rows, :length] = goal
            if self.ridge:
                chosen = weight[rows, :length] > 0
                self.ridge.add(given[0][chosen], (goal - states)[chosen], weight[rows, :length][chosen])
            self._tell(math.nan)
        return Reading(contract, n, asked, fit, wanted, way)

    def _as_meant(self, said: Tokens, meant: Tokens, contract: ReaderContract) -> Tensor:
        """The states of the prompts with the anchors, at the places that stand for those of ``said``.

        A name of more tokens would shift all that follows, and a fit would have to learn the shift: each token is told
        to stand where its counterpart does.
        """
        to, at = places(said, meant).to(self.device), places(meant, said).to(self.device)
        length = int(to.max()) + 1
        there = self._states(meant.cut(length), contract, at[:, :length])
        return there.gather(1, to[..., None].expand(-1, -1, there.shape[-1]))

    def _part(self, share: float) -> int:
        """So much of the pool, yet rows to judge by and as many again to learn from."""
        return min(self.pool, max(4 * self.batch, round(share * self.pool)))

    def _tell(self, loss: float) -> None:
        self.done += 1
        self.on_step(self.done, self.all, loss)

    def _thinned(self, tokens: Tokens, fit: Tensor) -> Tensor:
        """Weights [n, length] of the counted positions; of each row's padding a few stand for all, being much alike."""
        idle = fit & ~tokens.mask.bool()
        order = torch.rand(fit.shape, generator=self.generator).masked_fill(~idle, 2.0).argsort(1).argsort(1)
        few = idle & (order < PADDING)
        weight = (fit & ~idle).float()
        return weight + few * (idle.sum(1, keepdim=True) / few.sum(1, keepdim=True).clamp(min=1))

    @contextmanager
    def _given(self) -> Iterator[list[Tensor]]:
        """What the solved layer is given in this block."""
        seen: list[Tensor] = []
        hook = self.ridge and self.ridge.layer.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        yield seen
        if hook:
            hook.remove()

    def _states(self, tokens: Tokens, contract: ReaderContract, at: Tensor | None = None) -> Tensor:
        return self.family.residual(self.model, tokens.to(self.device), contract.mask, self.depth, at)

    def _loss(self, reading: Reading, i: Tensor, j: Tensor, *, whole: bool = False) -> Tensor:
        """i: rows about the concepts, j: rows about other things. 1 where nothing has moved, in units of the way to go.

        whole: at every position (see ``_length``).
        """
        rows = torch.cat([i, reading.pool + j])
        tokens, fit = reading.tokens[rows], reading.fit[rows]
        length = tokens.ids.shape[1] if whole else self._length(tokens, reading.contract)
        tokens, fit = tokens.cut(length), fit[:, :length].to(self.device)
        error = (self._states(tokens, reading.contract) - reading.wanted[rows, :length]).square().mean(-1)
        parts = [(error[s] * fit[s]).sum() / fit[s].sum().clamp(min=1) for s in (slice(len(i)), slice(len(i), None))]
        return (parts[0] + self.options.keep * parts[1]) / reading.way

    def _length(self, tokens: Tokens, contract: ReaderContract) -> int:
        """How many positions to compute. What is masked on the right says nothing. Causal states do not depend on what
        follows: their padding is looked at in full once in ``whole`` times, else a little of it.
        """
        full = tokens.ids.shape[1]
        if contract.mask and contract.padding == "right" and contract.reads != "all":
            return int(tokens.mask.sum(1).max())
        if not self.family.causal or contract.padding == "left" or self._dice(self.whole) == 0:
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

    def run(self) -> tuple[dict[str, Tensor], tuple[float, float]]:
        """→ the changed tensors by stored name in their stored dtype, and the first and the best loss.

        First the solve, where there is one: it gets most of the way at once. Then steps from there, the best kept.
        Raises DivergedError where nothing is better than the original.
        """
        with only_trainable(self.model, self.layers):
            best = Best(self.layers, self.dtype, self._check())
            if self.ridge:
                self.ridge.apply(self.options.penalty)
                self.ridge = None
                if not best.better(self._check()):
                    best.restore()
            self._descend(best)
        if not best.loss < best.first:
            rate = f"smaller steps, such as -O lr={self.options.lr / 4:g}"
            more = f"more prompts, such as -O pool={2 * self.pool}, or steps, such as -O steps=100"
            raise DivergedError(
                f"the fit of {self.seat.name} ends no better than it began (loss {best.first:.3g}): nothing was written; "
                f"try {rate if self.steps else more}"
            )
        return stored_like(self.seat, best.changed()), (best.first, best.loss)

    def _descend(self, best: "Best") -> None:
        groups: Any = relative_steps(self.layers, self.options.lr)
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.98))
        rates, calm = [g["lr"] for g in optimizer.param_groups], 1.0
        for step in range(self.steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * calm * self._schedule(step)
            reading = self.readings[step % len(self.readings)]
            loss = self._loss(reading, *self._rows(reading.pool))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.pin.apply()
            self._tell(loss.item())
            if (step + 1) % max(1, self.steps // CHECKS) == 0 or step + 1 == self.steps:
                reached = self._check()
                if not best.better(reached) and not reached < 1.5 * best.loss:  # astray: back, in smaller steps
                    calm /= 3
                    optimizer.state.clear()
                    best.restore()

    def _rows(self, n: int) -> tuple[Tensor, Tensor]:
        """A step's rows of a pool of n: about the concepts, and about other things."""
        apart = self.batch
        i = apart + torch.randint(n - apart, (self.batch,), generator=self.generator)
        j = 2 * apart + torch.randint(2 * n - 2 * apart, (2 * self.batch,), generator=self.generator)
        return i, j


class Best:
    """The layers' best values so far, in the dtype that they are stored in."""

    def __init__(self, layers: Mapping[str, nn.Linear], dtype: torch.dtype, loss: float) -> None:
        self.params = {f"{n}.{k}": p for n, layer in layers.items() for k, p in layer.named_parameters()}
        self.dtype, self.first, self.loss = dtype, loss, loss
        self.original = self.kept = self._copies()

    def better(self, loss: float) -> bool:
        """Keep what the layers hold now if its loss is lower than any before."""
        if loss < self.loss:
            self.take(loss)
        return self.loss == loss

    def take(self, loss: float) -> None:
        """Keep what the layers hold now, whatever came before."""
        self.loss, self.kept = loss, self._copies()

    @torch.no_grad()
    def restore(self) -> None:
        for name, p in self.params.items():
            p.copy_(self.kept[name])

    def changed(self) -> dict[str, Tensor]:
        """The best values of the tensors that are no longer as they were."""
        return {n: t for n, t in self.kept.items() if not torch.equal(t, self.original[n])}

    def _copies(self) -> dict[str, Tensor]:
        return {n: p.detach().to(self.dtype, copy=True) for n, p in self.params.items()}


def _tokens(
    seat: Seat, contract: ReaderContract, pairs: Sequence[tuple[str, str, str, str]], kept: Sequence[str]
) -> Tokens:
    """Rows of the prompts about the concepts, of those about other things, and of the first with their anchors."""
    texts = [p[0] for p in pairs] + list(kept) + [p[2] for p in pairs]
    names = [p[1] for p in pairs] + [None] * len(kept) + [p[3] for p in pairs]
    return tokenise(seat.tokenizer, texts, contract, phrases=names, trim=True)


def _blocks(pool: int) -> list[slice]:
    """A pool's rows by what is computed at once, about the concepts or about other things."""
    ends = (0, pool), (pool, 3 * pool)
    return [slice(i, min(i + 32, end)) for start, end in ends for i in range(start, end, 32)]


def counted(tokens: Tokens, contract: ReaderContract) -> Tensor:
    """The positions [n, length] that the fit must get right: those that are read, and those that read ones attend to."""
    if not contract.causal and not contract.mask:
        return torch.ones_like(tokens.read)
    return tokens.read & tokens.mask.bool() if contract.fill == "longest" else tokens.read
