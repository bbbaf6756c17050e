"""Few-shot unlearning by ascent on the denoising loss (Fuchi & Takagi 2024; Liu & Tan 2024)."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..base import Base
from ..concept import Concept
from ..denoising import Pin, denoising_loss, linear_layers, only_trainable
from .options import check_range, option


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

    images: int = option(4, "pictures of each concept to draw where --images brings none")
    steps: int = option(60, "most optimizer steps")
    stop: float = option(1.5, "loss over the empty prompt's at which it is done; higher erases more, of the others too")
    lr: float = option(1e-3, "learning rate at a width of 128; a wider encoder takes proportionally smaller steps")
    batch: int = option(2, "pictures in a step")
    parts: tuple[str, ...] = option(("mlp", "last-attention"), "layers that may change: mlp, attention, last-attention")

    def __post_init__(self) -> None:
        check_range(self, above=("images", "steps", "stop", "lr", "batch"))

    def resolve(self, base: Base, concepts: Sequence[Concept]) -> list[Concept]:
        return list(concepts)

    def edit(
        self,
        base: Base,
        concepts: Sequence[Concept],
        latents: Sequence[Tensor],
        *,
        generator: torch.Generator,
        on_step: Callable[[int, int, float], None] | None = None,
    ) -> PreTrainedModel:
        """See ``Method.edit``. Concepts are ascended one after the other."""
        encoder = copy.deepcopy(base.encoder)
        layers = linear_layers(encoder, self.parts)
        pin = Pin(encoder, layers, base.tokens([""]).to(encoder.device))
        total = self.steps * len(concepts)
        lr = self.lr * 128 / encoder.config.hidden_size
        with only_trainable(encoder, layers) as params:
            for index, (concept, pictures) in enumerate(zip(concepts, latents, strict=True)):
                optimizer = torch.optim.Adam(params, lr=lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-8)
                tokens = base.tokens(concept.prompts())
                probe = _Probe(base, pictures, tokens, generator)
                for step in range(self.steps):
                    chosen = torch.randint(len(pictures), (self.batch,), generator=generator)
                    said = torch.randint(len(tokens), (self.batch,), generator=generator)
                    t = torch.randint(
                        base.noise_scheduler.config.num_train_timesteps, (self.batch,), generator=generator
                    )
                    noise = torch.randn(self.batch, *pictures.shape[1:], generator=generator)
                    states = encoder(tokens[said].to(encoder.device))[0]
                    loss = denoising_loss(
                        base, pictures[chosen], noise.to(pictures.device), t.to(pictures.device), states
                    )
                    optimizer.zero_grad()
                    (-loss).backward()
                    optimizer.step()
                    pin.apply()
                    reached = probe.ratio(encoder)
                    if on_step:
                        on_step(index * self.steps + step + 1, total, loss.item())
                    if reached >= self.stop:
                        break
        return encoder


class _Probe:
    """The concept's loss over the empty prompt's, on noise and times that stay the same throughout."""

    @torch.no_grad()
    def __init__(self, base: Base, pictures: Tensor, tokens: Tensor, generator: torch.Generator, n: int = 16) -> None:
        steps = base.noise_scheduler.config.num_train_timesteps
        self.base = base
        self.latents = pictures[torch.arange(n) % len(pictures)]
        self.t = ((torch.arange(n) + 0.5) / n * steps).long().to(pictures.device)
        self.noise = torch.randn(self.latents.shape, generator=generator).to(pictures.device)
        self.tokens = tokens[torch.randint(len(tokens), (n,), generator=generator)].to(pictures.device)
        empty = base.encoder(base.tokens([""]).to(pictures.device))[0].expand(n, -1, -1)
        self.unprompted = denoising_loss(base, self.latents, self.noise, self.t, empty).item()

    @torch.no_grad()
    def ratio(self, encoder: PreTrainedModel) -> float:
        states = encoder(self.tokens)[0]
        return denoising_loss(self.base, self.latents, self.noise, self.t, states).item() / self.unprompted
