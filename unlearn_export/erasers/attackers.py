"""Attackers for an eraser to learn from: free embeddings in place of a name, that go on from where they stopped."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..families.tokens import Tokens
from ..textsearch import embeddings, hearing
from .training import alike

NEAR, TOWARDS, AWAY = range(3)  # an attacker's goals
AS_A_WORD = 0.85  # cosine with a word's embedding, above which a free one is that word
FREE = (0.5, 15.0)  # norms of embeddings drawn at random, in those of words


@dataclass(frozen=True)
class Ground:
    """Prompts to attack in. tokens: their spans are where the free embeddings stand. fit: [n, length] bool, the positions
    that count. wanted: [n, length, d], the anchor's states there. goal: the concept's.
    """

    tokens: Tokens
    fit: Tensor
    wanted: Tensor
    goal: Tensor


@dataclass(frozen=True)
class Direction:
    """What sets the concept's states apart from others: 1 at its own mean, 0 at the others'.

    Differences count by how little the others vary there, each number of a state for itself: whitened by the whole
    covariance it would point where no prompt ever goes, and where a denoiser does not look.
    """

    weight: Tensor
    middle: Tensor

    @classmethod
    def between(cls, concept: Tensor, others: Tensor) -> "Direction":
        """concept, others: [n, d]."""
        middle = others.mean(0)
        way = concept.mean(0) - middle
        weight = way / others.var(0).clamp(min=1e-6 * float(others.var(0).mean()))
        return cls(weight / (weight @ way), middle)

    def of(self, states: Tensor) -> Tensor:
        """[..., d] → [...]"""
        return (states - self.middle) @ self.weight


class Attackers:
    """A bank of attackers on one ground, each a prompt, a few free embeddings and a goal of its own.

    The goals: states near those that the concept had; states far along the concept's direction; states away from the
    anchor's, wherever to. Picked in turn, they go a few steps on from where they stopped, since those that begin anew
    each time teach an encoder to withstand short attacks only. One that has become a word, or by chance, begins again.
    """

    def __init__(
        self,
        ground: Ground,
        direction: Direction,
        way: float,
        model: PreTrainedModel,
        states: Callable[[Tokens], Tensor],
        generator: torch.Generator,
        *,
        size: int,
        shares: tuple[float, float],
        restart: float,
    ) -> None:
        """way: the unit of distances. states: what the model makes of tokens, [n, length, d]. size: of the bank.
        shares: of the goals TOWARDS and AWAY. restart: chance to begin again.
        """
        self.ground, self.direction, self.way, self.model, self.states = ground, direction, way, model, states
        self.generator, self.restart = generator, restart
        self.words = words = embeddings(model).float()
        self.units = torch.nn.functional.normalize(words, dim=-1)
        self.norm = float(words.norm(dim=-1).mean())
        self.device = words.device
        self.count = int((ground.tokens.spans[:, 1] - ground.tokens.spans[:, 0]).max())
        self.rows = self._rows(size)
        self.vectors = self._begun(size)
        dice = self._uniform(size)
        self.goals = torch.where(dice < shares[0], TOWARDS, torch.where(dice < sum(shares), AWAY, NEAR))

    def pick(self, n: int) -> Tensor:
        """n of the bank, [n] indices, some of which begin again."""
        picked = alike(self._lengths(self.rows), n, float(self._uniform(1)), self.generator)
        anew = picked[self._uniform(len(picked)) < self.restart]
        self.rows[anew], self.vectors[anew] = self._rows(len(anew)), self._begun(len(anew))
        return picked

    def go_on(self, picked: Tensor, length: int, steps: int, pace: float) -> None:
        """Steps of normalised gradient. length: positions to compute. pace: of a step, in words' norms."""
        rows, vectors = self.rows[picked], self.vectors[picked]
        at, goal, wanted = (x[rows, :length] for x in (self.ground.fit, self.ground.goal, self.ground.wanted))
        at, goals = at.to(self.device), self.goals[picked].to(self.device)
        for _ in range(steps):
            vectors.requires_grad_(True)
            now = self.read(rows, vectors, length)
            near, away = ((now - to).square().mean(-1) / self.way for to in (goal, wanted))
            loss = torch.where((goals == NEAR)[:, None], near, -away)
            loss = torch.where((goals == TOWARDS)[:, None], -self.direction.of(now), loss)
            (slope,) = torch.autograd.grad(((loss * at).sum(1) / at.sum(1).clamp(min=1)).sum(), vectors)
            size = slope.norm(dim=(1, 2), keepdim=True) / self.count**0.5
            vectors = (vectors - pace * self.norm * slope / (size + 1e-12)).detach()
        alike = torch.nn.functional.normalize(vectors, dim=-1) @ self.units.T
        self.vectors[picked] = vectors
        words = picked[(alike.amax((1, 2)) > AS_A_WORD).cpu()]
        self.vectors[words] = self._drawn(len(words))

    def random(self, n: int) -> tuple[Tensor, Tensor]:
        """n prompts, [n] rows, with embeddings [n, count, d] drawn at random, of norms well below and above words'."""
        low, high = (torch.tensor(x).log() for x in FREE)
        rows = alike(self._lengths(slice(None)), n, float(self._uniform(1)), self.generator)
        return rows, self._drawn(n) * (low + (high - low) * self._uniform(n)).exp()[:, None, None].to(self.device)

    def read(self, rows: Tensor, vectors: Tensor, length: int) -> Tensor:
        """The states [n, length, d] of these rows' prompts with ``vectors`` [n, count, d] where the names stand."""
        tokens = self.ground.tokens[rows]
        place = torch.arange(length)[None] - tokens.spans[:, :1]
        inside = ((place >= 0) & (place < tokens.spans[:, 1:] - tokens.spans[:, :1]))[..., None].to(self.device)
        place = place.clamp(0, self.count - 1)[..., None].to(self.device)

        def change(_ids: Tensor, heard: Tensor) -> Tensor:
            free = vectors.gather(1, place.expand(-1, -1, vectors.shape[-1]))
            return torch.where(inside, free, heard)

        with hearing(self.model, change):
            return self.states(tokens.cut(length))

    def lost(self, rows: Tensor, vectors: Tensor, length: int) -> Tensor:
        """How far the states are from the anchor's, the mean square over the positions that count, in units of ``way``."""
        at = self.ground.fit[rows, :length].to(self.device)
        error = (self.read(rows, vectors, length) - self.ground.wanted[rows, :length]).square().mean(-1)
        return (error * at).sum() / at.sum().clamp(min=1) / self.way

    def _begun(self, n: int) -> Tensor:
        """Where attackers begin: at one word, between up to three, or at random."""
        many = 1 + torch.randint(3, (n, self.count, 1), generator=self.generator)
        chosen = torch.randint(len(self.words), (n, self.count, 3), generator=self.generator)
        used = (torch.arange(3) < many).float().to(self.device)
        between = (self.words[chosen.to(self.device)] * (used / many.to(self.device).sqrt())[..., None]).sum(2)
        return torch.where(self._uniform(n)[:, None, None].to(self.device) < 0.5, between, self._drawn(n))

    def _drawn(self, n: int) -> Tensor:
        drawn = torch.randn(n, self.count, self.words.shape[1], generator=self.generator)
        return drawn.to(self.device) * (self.norm / self.words.shape[1] ** 0.5)

    def _lengths(self, rows: Tensor | slice) -> Tensor:
        return self.ground.tokens.mask[rows].sum(1)

    def _rows(self, n: int) -> Tensor:
        return torch.randint(len(self.ground.fit), (n,), generator=self.generator)

    def _uniform(self, n: int) -> Tensor:
        return torch.rand(n, generator=self.generator)
