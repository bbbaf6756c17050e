"""Adversarial anchoring: as ``anchor``, against attackers that search the space of embeddings; no denoiser takes part."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..bench import Bench
from ..concept import Concept
from ..errors import DivergedError, UsageError
from ..families.contract import ReaderContract
from ..families.tokens import Tokens, tokenise
from ..forecast import Cost
from ..seat import Seat
from .anchor import Anchor
from .attackers import Attackers, Direction, Ground
from .fit import LARGE, SMALL, Best, Fit, Reading, counted, positions
from .options import check_range, option
from .prompts import Prompts, reaches
from .training import CLOSE, alike, relative_steps

PROMPTS = 256  # to attack in, of each number of words


@dataclass(frozen=True)
class Robust(Anchor):
    """Fit the encoder to the anchor under attack, so that no embedding in the name's place brings the concept back.

    min_τ anchor's loss + ``attack`` · E ‖τ(p[v]) − τ₀(p[anchor])‖² + ``free`` · E ‖τ(p[u]) − τ₀(p[anchor])‖², over
    the embeddings v that attackers found against τ (see ``Attackers``) and u drawn at random. Adversarial training
    (Madry et al. 2018, arXiv:1706.06083) as AdvUnlearn (Zhang et al. 2024, arXiv:2405.15234) and STEREO (Srivatsan et
    al. 2024, arXiv:2408.16807) do it through a denoiser; here attack and defence are both in the encoder's states, so
    it serves encoders that no text-to-image model reads. Attackers and fit see the first ``depth`` layers: whoever gets
    back the states of those gets all that follows.
    """

    name: ClassVar[str] = "robust"

    depth: int = option(4, "layers of the encoder that are fitted and attacked, from the first on")
    steps: int | None = option(None, "optimizer steps; by default 600, and fewer where a layer is large")
    lr: float = option(1.5, "of the steps: most that a step may change what a matrix answers, relative to that")
    keep: float = option(10.0, "weight of the prompts that must stay")
    attack: float = option(1.5, "weight of what the attackers find")
    free: float = option(1.0, "weight of embeddings drawn at random, off any word")
    words: int = option(2, "an attacker's embeddings at most, in place of the name or before it")
    bank: int = option(128, "attackers of each number of embeddings")
    inner: int = option(5, "an attacker's steps for each of the fit's")
    pace: float = option(0.2, "of an attacker's step, in norms of a word's embedding")
    restart: float = option(0.05, "chance that an attacker begins again when it is picked")
    towards: float = option(0.7, "share of the attackers that go along the concept's direction")
    away: float = option(0.15, "share of those that go away from the anchor; the rest go to the concept's states")

    def __post_init__(self) -> None:
        super().__post_init__()
        least = ("attack", "free", "restart", "towards", "away")
        check_range(self, above=("words", "bank", "inner", "pace"), least=least)
        if self.towards + self.away > 1:
            raise UsageError(f"towards={self.towards:g} and away={self.away:g} are shares: together 1 at most")

    def sizes(self, learning: int, solved: bool, concepts: int = 1) -> tuple[int, int, int]:
        _, batch, pool = super().sizes(learning, solved, concepts)
        steps = 600 if learning <= SMALL else 150 if learning < LARGE else 60
        return steps if self.steps is None else self.steps, batch, pool

    def cost(self, seat: Seat) -> Cost:
        """As of the anchor's fit with its steps; on top the attackers' passes, forward and back to the embeddings, and the
        states of their prompts, with the concept and with the anchor."""
        cost = super().cost(seat)
        prompts = self.words * min(self.sizes(cost.parameters, True)[2], PROMPTS)
        states = 8 * prompts * seat.width * sum(c.length if c.reads == "all" else positions(c) for c in seat.contracts)
        return Cost(cost.parameters, cost.memory + int(states), cost.flops * (1 + self.inner * 4 / 18 + 0.5))

    def fit(
        self, bench: Bench, seat: Seat, concepts: Sequence[Concept], tell: Callable[[int, int, float], None]
    ) -> Fit:
        return _UnderAttack(self, bench, seat, concepts, tell)


class _UnderAttack(Fit):
    """The anchor's fit whose steps are taken against attackers, on every reading a bank for each number of words."""

    options: Robust
    whole = 10
    pinned = CLOSE

    def __init__(
        self,
        options: Robust,
        bench: Bench,
        seat: Seat,
        concepts: Sequence[Concept],
        on_step: Callable[[int, int, float], None],
    ) -> None:
        super().__init__(options, bench, seat, concepts, on_step)
        at = iter(self.grounds)
        self.attackers = [
            [self._attackers(reading, *next(at)) for _ in range(options.words)] for reading in self.readings
        ]

    def _more(self, prompts: Prompts) -> Sequence[Tokens]:
        """The prompts to attack in: for each reading and number of words four of one length, see ``Prompts.attacked``:
        with the span of the free words and with that of what means the concept, with the concept, with the anchor."""
        self.grounds: list[tuple[Tokens, Tokens, Tokens, Tokens]] = []
        for contract in self.seat.contracts:
            for words in range(1, self.options.words + 1):
                asked = prompts.attacked(min(self.pool, PROMPTS), words)
                texts = [(said, part) for said, *parts in (a[0] for a in asked) for part in parts]
                texts = [*texts[::2], *texts[1::2], *(a[1] for a in asked), *(a[2] for a in asked)]
                said, names = zip(*texts, strict=True)
                rows = tokenise(self.seat.tokenizer, said, contract, phrases=names, trim=True)
                n = len(asked)
                self.grounds.append((rows[:n], rows[n : 2 * n], rows[2 * n : 3 * n], rows[3 * n :]))
        return [tokens for ground in self.grounds for tokens in ground]

    @torch.no_grad()
    def _attackers(self, reading: Reading, free: Tokens, said: Tokens, concept: Tokens, anchor: Tokens) -> Attackers:
        fit = counted(free, reading.contract) & reaches(said, anchor) & reaches(said, concept)
        if self.family.causal:
            fit &= torch.arange(fit.shape[1])[None] >= free.spans[:, :1]
        wanted, goal = (self._in_turn(said, to, reading.contract) for to in (anchor, concept))
        others = reading.wanted[reading.pool :][reading.fit[reading.pool :]]
        o = self.options
        return Attackers(
            Ground(free, fit, wanted, goal),
            Direction.between(goal[fit], others),
            float((goal - wanted)[fit].square().mean()),
            self.model,
            lambda tokens: self._states(tokens, reading.contract),
            self.generator,
            size=o.bank,
            shares=(o.towards, o.away),
            restart=o.restart,
        )

    def _in_turn(self, said: Tokens, meant: Tokens, contract: ReaderContract) -> Tensor:
        found = said.ids.new_zeros(*said.ids.shape, self.seat.width, dtype=torch.float32, device=self.device)
        for i in range(0, len(found), 32):
            states = self._as_meant(said[slice(i, i + 32)], meant[slice(i, i + 32)], contract)
            found[i : i + 32, : states.shape[1]] = states
        return found

    @torch.no_grad()
    def _check(self) -> float:
        """The concept's part of the anchor's loss, on rows apart: the price for others is ``keep``'s and shows elsewhere."""
        i, none = self.apart[0], self.apart[1][:0]
        return sum(float(self._loss(r, i, none, whole=True)) for r in self.readings) / len(self.readings)

    def _descend(self, best: Best) -> None:
        """All steps, the last kept: earlier ones met weaker attackers."""
        o = self.options
        groups: Any = relative_steps(self.layers, o.lr)
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.98))
        rates = [g["lr"] for g in optimizer.param_groups]
        for step in range(self.steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self._schedule(step)
            which = step % len(self.readings)
            attackers = self.attackers[which][step // len(self.readings) % o.words]
            picked = attackers.pick(self.batch)
            length = self._length(attackers.ground.tokens[attackers.rows[picked]], self.readings[which].contract)
            attackers.go_on(picked, length, o.inner, o.pace)
            loss = o.attack * attackers.lost(attackers.rows[picked], attackers.vectors[picked], length)
            if o.free:
                rows, vectors = attackers.random(max(1, self.batch // 2))
                length = self._length(attackers.ground.tokens[rows], self.readings[which].contract)
                loss = loss + o.free * attackers.lost(rows, vectors, length)
            loss = loss + self._loss(self.readings[which], *self._alike(self.readings[which]))
            if not math.isfinite(loss.item()):
                raise DivergedError(
                    f"the fit of {self.seat.name} diverged after {step} steps: nothing was written; "
                    f"try smaller steps, such as -O lr={o.lr / 4:g}"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.pin.apply()
            self._tell(loss.item())
        best.take(self._check())

    def _alike(self, reading: Reading) -> tuple[Tensor, Tensor]:
        """A step's rows: about the concepts, and about other things; all of about one length."""
        apart, lengths = self.batch, reading.tokens.mask.sum(1)
        n, at = reading.pool, float(torch.rand((), generator=self.generator))
        i = apart + alike(lengths[apart:n], self.batch, at, self.generator)
        j = 2 * apart + alike(lengths[n + 2 * apart : 3 * n], 2 * self.batch, at, self.generator)
        return i, j
