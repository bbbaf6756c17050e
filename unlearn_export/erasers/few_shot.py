"""Few-shot unlearning by ascent on the denoising loss (Fuchi & Takagi 2024; Liu & Tan 2024)."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..bench import Bench
from ..concept import Concept
from ..denoisers import Denoiser
from ..edit import Edit
from ..families.tokens import tokenise
from .options import check_range, option
from .training import Pin, only_trainable, relative_steps, stored_like


@dataclass(frozen=True)
class FewShotAscent:
    """Make the concept's prompts useless to the denoiser on a few pictures of it.

    max_τ E ‖ε_θ(z_t, t, τ(prompt)) − ε‖² over the text encoder τ alone, on a handful of pictures that the base drew
    (Liu & Tan 2024, arXiv:2407.14209) or was given (Fuchi & Takagi 2024, arXiv:2405.07288: MLPs and the last
    self-attention, Adam with β = .9, .98). Ascent has no minimum, so it stops by what it is for: as soon as the
    prompt helps no more than no prompt would, that is, when its loss is ``stop`` times the empty prompt's. The
    papers count steps instead, about eight. Unlike theirs, the edit cannot move the empty prompt (see ``Pin``).
    """

    name: ClassVar[str] = "few-shot"
    draws: ClassVar[bool] = True  # works on the denoiser's loss

    images: int = option(4, "pictures of each concept to draw where --images brings none")
    steps: int = option(60, "most optimizer steps")
    stop: float = option(1.5, "loss over the empty prompt's at which it is done; higher erases more, of the others too")
    lr: float = option(0.25, "most that a step may change what a matrix answers, relative to that")
    batch: int = option(2, "pictures in a step")
    parts: tuple[str, ...] = option(("mlp", "last-attention"), "layers that may change: mlp, attention, last-attention")

    def __post_init__(self) -> None:
        check_range(self, above=("images", "steps", "stop", "lr", "batch"))

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
        denoiser, generator = bench.base.denoiser, bench.generator
        shots = bench.pictures(concepts, self.images)
        encoders = {name: copy.deepcopy(bench.base.encoders[name]) for name in bench.seats}
        layers = {f"{n}.{k}": v for n in encoders for k, v in self._layers(bench, n, encoders[n]).items()}
        pin = Pin(layers)
        with pin.watching():
            for name, seat in bench.seats.items():
                tokens = tokenise(seat.tokenizer, [""], seat.contract)
                pin.at(tokens, seat.contract.mask)
                seat.family.call(encoders[name], tokens.to(bench.base.device), seat.contract.mask)
        total = self.steps * len(concepts)
        with only_trainable(nn.ModuleDict(encoders), layers) as params:
            for index, (concept, shot) in enumerate(zip(concepts, shots, strict=True)):
                groups: Any = relative_steps(layers, self.lr)
                optimizer = torch.optim.Adam(groups, betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-8)
                prompts, pictures = concept.prompts(), shot.latents
                probe = _Probe(denoiser, pictures, prompts, generator)
                for step in range(self.steps):
                    chosen = torch.randint(len(pictures), (self.batch,), generator=generator)
                    said = torch.randint(len(prompts), (self.batch,), generator=generator)
                    t = denoiser.times(self.batch, generator)
                    noise = torch.randn(self.batch, *pictures.shape[1:], generator=generator)
                    conditions = denoiser.encode([prompts[i] for i in said.tolist()], encoders)
                    loss = denoiser.loss(pictures[chosen], noise, t, conditions)
                    optimizer.zero_grad()
                    (-loss).backward()
                    optimizer.step()
                    pin.apply()
                    reached = probe.ratio(encoders)
                    if on_step:
                        on_step(index * self.steps + step + 1, total, loss.item())
                    if reached >= self.stop:
                        break
        learnt = {id(p) for p in params}
        tensors = {}
        for name, seat in bench.seats.items():
            own = {seat.family.canonical(k): p for k, p in encoders[name].named_parameters() if id(p) in learnt}
            tensors[name] = stored_like(seat, own)
        return Edit({name: seat.weights.fingerprint for name, seat in bench.seats.items()}, tensors)

    def _layers(self, bench: Bench, name: str, encoder: PreTrainedModel) -> dict[str, nn.Linear]:
        return bench.seats[name].family.linears(encoder, self.parts)


class _Probe:
    """The concept's loss over the empty prompt's, on noise and times that stay the same throughout."""

    @torch.no_grad()
    def __init__(
        self, denoiser: Denoiser, pictures: Tensor, prompts: Sequence[str], generator: torch.Generator, n: int = 16
    ) -> None:
        self.denoiser = denoiser
        self.latents = pictures[torch.arange(n) % len(pictures)]
        self.t = denoiser.spread(n)
        self.noise = torch.randn(self.latents.shape, generator=generator)
        self.prompts = [prompts[i] for i in torch.randint(len(prompts), (n,), generator=generator).tolist()]
        self.unprompted = denoiser.loss(self.latents, self.noise, self.t, denoiser.encode([""])).item()

    @torch.no_grad()
    def ratio(self, encoders: Mapping[str, PreTrainedModel]) -> float:
        conditions = self.denoiser.encode(self.prompts, encoders)
        return self.denoiser.loss(self.latents, self.noise, self.t, conditions).item() / self.unprompted
