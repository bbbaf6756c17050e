"""Few-shot unlearning by ascent on the denoising loss (Fuchi & Takagi 2024; Liu & Tan 2024), and what must stay."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..bench import Bench
from ..concept import Concept
from ..edit import Edit
from ..families.tokens import tokenise
from ..images import FewShot
from ..phrasing import unstyled
from .options import check_range, option
from .prompts import Prompts
from .retained import Retained
from .training import CLOSE, EXACT, Pin, only_trainable, relative_steps, stored_like

POOL = 128  # prompts about the concept, beside the papers' templates
PROBES = 16  # noises and times by which an ascent is judged


@dataclass(frozen=True)
class FewShotAscent:
    """Make the concept's prompts useless to the denoiser on a few pictures of it, and leave all others alone.

    max_τ E ‖ε_θ(z_t, t, τ(prompt)) − ε‖² over the text encoder τ alone, on a handful of pictures that the base drew
    (Liu & Tan 2024, arXiv:2407.14209) or was given (Fuchi & Takagi 2024, arXiv:2405.07288: MLPs and the last
    self-attention, Adam with β = .9, .98). Ascent has no minimum, so it stops by what it is for: as soon as the prompt
    helps no more than none would, that is, when its loss is ``stop`` times the empty prompt's. The papers count steps
    instead, about eight. Unlike theirs, the edit cannot move the empty prompt (see ``Pin``).

    Everything else drifts, as in the papers. With ``keep`` it is held, and ascent pauses where it would stop:

    - other prompts q stay by + ``keep`` · E ‖τ(q) − τ₀(q)‖² (see ``Retained``), and what of the ascent's slope would
      raise that is taken out (gradient surgery with a true projection: DoCo, Wu et al. 2024, arXiv:2405.15304; PCGrad, Yu
      et al. 2020, arXiv:2001.06782);
    - the ascent has an end: where a prompt with the concept guided the denoiser by d = ε_θ(z_t, t, τ₀(prompt)) −
      ε_θ(z_t, t, τ₀(the same without the concept)), it is to guide by −d (negative guidance: ESD, Gandikota et al. 2023,
      arXiv:2303.07345, eq. 6, there for the denoiser's weights). What is drawn follows the guidance, while a prompt may
      tell pictures badly and draw them well;
    - of the steps that erase enough the one that moves other prompts least is taken.
    """

    name: ClassVar[str] = "few-shot"
    draws: ClassVar[bool] = True  # works on the denoiser's loss

    images: int = option(4, "pictures of each concept to draw where --images brings none")
    steps: int = option(60, "most optimizer steps; with keep, all are taken")
    stop: float = option(
        1.5,
        "loss over that without the concept at which ascent stops, with keep part of the guidance; higher erases more",
    )
    lr: float = option(0.25, "most that a step may change what a matrix answers, relative to that")
    batch: int = option(2, "pictures in a step")
    keep: float = option(
        0.0, "weight of other prompts, which must stay, such as 10; 0 lets them drift as the papers do"
    )
    parts: tuple[str, ...] = option(("mlp", "last-attention"), "layers that may change: mlp, attention, last-attention")

    def __post_init__(self) -> None:
        check_range(self, above=("images", "steps", "stop", "lr", "batch"), least=("keep",))

    def resolve(self, bench: Bench, concepts: Sequence[Concept]) -> list[Concept]:
        return list(concepts)

    def edit(
        self,
        bench: Bench,
        concepts: Sequence[Concept],
        on_step: Callable[[int, int, float], None] | None = None,
    ) -> Edit:
        """Concepts are ascended one after the other, through every seat of ``bench`` at once.

        Raises UsageError for a base that draws nothing, or whose denoiser's loss is not known.
        """
        shots = bench.pictures(concepts, self.images, bench.vocabulary.concepts if self.keep else ())
        encoders = {name: copy.deepcopy(bench.base.encoders[name]) for name in bench.seats}
        linears = {name: seat.family.linears(encoders[name], self.parts) for name, seat in bench.seats.items()}
        layers = {f"{n}.{k}": layer for n, found in linears.items() for k, layer in found.items()}
        pin = _pinned(bench, encoders, Pin(layers, tolerance=CLOSE if self.keep else EXACT))
        retained = Retained(bench, concepts) if self.keep else None
        total = self.steps * len(concepts)
        with only_trainable(nn.ModuleDict(encoders), layers) as params:
            for index, (concept, shot) in enumerate(zip(concepts, shots, strict=True)):
                ascent = (_Away if self.keep else _Ascent)(bench, encoders, concept, shot)
                for step, loss in self._descend(ascent, retained, layers, pin):
                    if on_step:
                        on_step(index * self.steps + step + 1, total, loss)
        learnt = {id(p) for p in params}
        tensors = {}
        for name, seat in bench.seats.items():
            own = {seat.family.canonical(k): p for k, p in encoders[name].named_parameters() if id(p) in learnt}
            tensors[name] = stored_like(seat, own)
        return Edit({name: seat.weights.fingerprint for name, seat in bench.seats.items()}, tensors)

    def _descend(
        self, ascent: "_Ascent", retained: Retained | None, layers: Mapping[str, nn.Linear], pin: Pin
    ) -> Iterator[tuple[int, float]]:
        """One concept's steps, told as they are done; the best of them is what the layers hold in the end."""
        groups: Any = relative_steps(layers, self.lr)
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-8)
        params = [p for layer in layers.values() for p in layer.parameters()]
        best, least, reached = None, float("inf"), 0.0
        for step in range(self.steps):
            falls, loss = ascent.loss(self.batch, away=reached < self.stop)
            slopes = list(torch.autograd.grad(falls, params))
            if retained:
                others = torch.autograd.grad(retained.loss(ascent.encoders), params)
                slopes = [a + self.keep * b for a, b in zip(_without(slopes, others), others, strict=True)]
            for p, slope in zip(params, slopes, strict=True):
                p.grad = slope
            optimizer.step()
            pin.apply()
            reached = ascent.reached()
            yield step, loss
            if reached >= self.stop and not retained:
                return
            if reached >= self.stop and retained:
                drift = retained.drift(ascent.encoders)
                if drift < least:
                    best, least = [p.detach().clone() for p in params], drift
        with torch.no_grad():
            for p, value in zip(params, best or (), strict=bool(best)):
                p.copy_(value)


class _Ascent:
    """One concept's pictures, and what to say of them."""

    @torch.no_grad()
    def __init__(
        self,
        bench: Bench,
        encoders: Mapping[str, PreTrainedModel],
        concept: Concept,
        shot: FewShot,
        more: Sequence[str] = (),
    ) -> None:
        self.denoiser, self.encoders, self.generator = bench.base.denoiser, encoders, bench.generator
        self.latents, self.prompts = shot.latents, [*concept.prompts(), *more]
        which = torch.arange(PROBES) % len(self.latents)
        noise = torch.randn(PROBES, *self.latents.shape[1:], generator=self.generator)
        self.probes = which, self.denoiser.spread(PROBES), noise
        self.said = self._said(which)
        self._begin(which)

    def _begin(self, which: Tensor) -> None:
        self.without = self._at([""] * len(which), None)

    def loss(self, n: int, *, away: bool) -> tuple[Tensor, float]:
        """→ what is to fall, on n pictures under noise and at times drawn anew, and the loss to tell.

        away: whether the concept is to be driven any further; the plain ascent always is, for it stops instead.
        """
        which = torch.randint(len(self.latents), (n,), generator=self.generator)
        said = self._said(which)
        t = self.denoiser.times(n, self.generator)
        noise = torch.randn(n, *self.latents.shape[1:], generator=self.generator)
        return self._fall(which, t, noise, said, away)

    def _fall(self, which: Tensor, t: Tensor, noise: Tensor, said: Sequence[str], away: bool) -> tuple[Tensor, float]:
        own = self.denoiser.loss(self.latents[which], noise, t, self.denoiser.encode(said, self.encoders))
        return -own, own.item()

    @torch.no_grad()
    def reached(self) -> float:
        """The loss in parts of that without the concept, on noise and times that stay the same throughout."""
        return self._at(self.said, self.encoders) / self.without

    def _at(self, prompts: Sequence[str], encoders: Mapping[str, PreTrainedModel] | None) -> float:
        which, t, noise = self.probes
        return self.denoiser.loss(self.latents[which], noise, t, self.denoiser.encode(prompts, encoders)).item()

    def _said(self, which: Tensor) -> list[str]:
        drawn = torch.randint(len(self.prompts), (len(which),), generator=self.generator)
        return [self.prompts[i] for i in drawn.tolist()]


class _Away(_Ascent):
    """The same with an end: a prompt is to guide away from what it guided to."""

    def __init__(self, bench: Bench, encoders: Mapping[str, PreTrainedModel], concept: Concept, shot: FewShot) -> None:
        # a style is taken from what it was on: that is not what is to be forgotten
        style = concept.kind == "style"
        self.own = shot.prompts if style else ()
        tokenizer = next(iter(bench.seats.values())).tokenizer
        # what is held elsewhere is raised only where it is said so: in many words
        more = Prompts(bench.vocabulary, tokenizer, [concept], (), bench.generator).about(POOL)
        self.plain = {p: unstyled(p, concept.names) for p in (*self.own, *concept.prompts(), *more) if style}
        super().__init__(bench, encoders, concept, shot, more)

    def _begin(self, which: Tensor) -> None:
        self.ways = self._ways(*self.probes, self.said)

    def _fall(self, which: Tensor, t: Tensor, noise: Tensor, said: Sequence[str], away: bool) -> tuple[Tensor, float]:
        z, plain, way = self._ways(which, t, noise, said)
        goal = plain - way if away else plain
        loss = (self._predicted(z, t, said, self.encoders) - goal).square().mean() / way.square().mean()
        return loss, loss.item()

    @torch.no_grad()
    def reached(self) -> float:
        """The part of the guidance towards the concept that is gone: 0 at first, 1 where none is left, 2 at the goal."""
        z, plain, way = self.ways
        left = self._predicted(z, self.probes[1], self.said, self.encoders) - plain
        return 1 - ((left * way).sum() / way.square().sum()).item()

    @torch.no_grad()
    def _ways(self, which: Tensor, t: Tensor, noise: Tensor, said: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """→ the noisy pictures, what the original answers without the concept, and by how much more with it."""
        z = self.denoiser.noisy(self.latents[which], noise, t)
        plain = self._predicted(z, t, [self.plain.get(prompt, "") for prompt in said], None)
        return z, plain, self._predicted(z, t, said, None) - plain

    def _predicted(
        self, z: Tensor, t: Tensor, said: Sequence[str], encoders: Mapping[str, PreTrainedModel] | None
    ) -> Tensor:
        return self.denoiser.predict(z, t, self.denoiser.encode(said, encoders))

    def _said(self, which: Tensor) -> list[str]:
        said = super()._said(which)
        own = torch.rand(len(which), generator=self.generator) < 0.5
        return [self.own[i] if self.own and mine else text for i, mine, text in zip(which, own, said, strict=True)]


def _pinned(bench: Bench, encoders: Mapping[str, PreTrainedModel], pin: Pin) -> Pin:
    with pin.watching():
        for name, seat in bench.seats.items():
            tokens = tokenise(seat.tokenizer, [""], seat.contract)
            pin.at(tokens, seat.contract.mask)
            seat.family.call(encoders[name], tokens.to(bench.base.device), seat.contract.mask)
    return pin


def _without(slopes: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """``slopes`` less what of them would raise the others' loss: g − (g·h / h·h) h where g·h < 0, over all numbers at once."""
    along = sum(float((a * b).sum()) for a, b in zip(slopes, others, strict=True))
    size = sum(float(b.square().sum()) for b in others)
    if along >= 0 or size == 0:
        return list(slopes)
    return [a - (along / size) * b for a, b in zip(slopes, others, strict=True)]
