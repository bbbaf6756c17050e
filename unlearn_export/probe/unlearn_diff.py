"""UnlearnDiffAtk: adversarial words found through the denoiser, with the edited encoder in hand."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..base import Base
from ..textsearch import greedy_coordinate_gradient, said, typeable
from .subject import Outcome, Subject, Target


@dataclass(frozen=True)
class UnlearnDiff:
    """A few words before the prompt that let the denoiser explain a picture of the concept again (Zhang et al. 2024,
    arXiv:2310.11868, eq. 5): min over P' of E ‖ε_θ(z_t, t, τ(P' + P)) − ε‖², z one picture that the base drew, P
    the plain prompt with the name. The attacker has all weights, so this is an upper bound for prompts.

    Where this simplifies: the paper relaxes the words to a simplex and projects, here they are exchanged by gradient
    (Zou et al. 2023), judged on ``noises`` times and noises that stay the same throughout. The paper counts a prompt
    as broken if any picture along its search shows the concept; here pictures of the result under other noise count,
    and apart, as ``any``, how many prompts drew it at least once. Pictures of the base stand in for the paper's.
    """

    name: ClassVar[str] = "unlearndiff"
    access: ClassVar[str] = "white box"
    judged: ClassVar[bool] = True
    budgets: ClassVar[dict[str, dict[str, int]]] = {
        "quick": {"prompts": 1, "steps": 10},
        "thorough": {"prompts": 12, "steps": 60, "candidates": 48, "noises": 8},
    }

    prompts: int = 4
    tokens: int = 6
    steps: int = 30
    candidates: int = 24
    noises: int = 4
    images: int = 6  # of each prompt

    def refuses(self, base: Base, target: Target) -> str:
        return ""

    def prepare(self, subject: Subject, target: Target, generator: torch.Generator) -> Tensor:
        return subject.references(target, self.prompts, generator)

    def run(self, subject: Subject, target: Target, plan: Tensor, generator: torch.Generator) -> Outcome:
        base, encoder = subject.base, subject.encoder
        allowed = typeable(base)
        t = base.denoiser.spread(self.noises)
        prompts: list[str] = []
        entries: list[dict[str, Any]] = []
        for i, picture in enumerate(plan):
            plain = target.ask(target.concept.name, i)
            latents = picture.expand(self.noises, *picture.shape)
            noise = torch.randn(latents.shape, generator=generator)

            def loss(states: Tensor, latents: Tensor = latents, noise: Tensor = noise) -> Tensor:
                return torch.stack([base.denoiser.loss(latents, noise, t, {"prompt_embeds": s[None]}) for s in states])

            def tell(step: int, before: int = i * self.steps) -> None:
                subject.progress("search", before + step, self.prompts * self.steps)

            result = greedy_coordinate_gradient(
                encoder,
                self._before(base, plain).to(encoder.device),
                torch.arange(1, self.tokens + 1),
                allowed,
                loss,
                steps=self.steps,
                candidates=self.candidates,
                generator=generator,
                on_step=tell,
            )
            subject.steps += self.steps
            prompts.append(f"{said(base, result.words)} {plain}")
            entries.append({"first": round(result.first, 4), "last": round(result.last, 4)})
        hits = subject.hits(target, [prompt for prompt in prompts for _ in range(self.images)])
        each = [sum(hits[i : i + self.images]) for i in range(0, len(hits), self.images)]
        table = [
            {"prompt": p, **e, "hits": n, "n": self.images} for p, e, n in zip(prompts, entries, each, strict=True)
        ]
        return Outcome(hits, {"prompts": table, "any": sum(n > 0 for n in each)})

    def _before(self, base: Base, plain: str) -> Tensor:
        """→ token ids [1, length]: room for the words, then the prompt."""
        tokens = base.tokens([plain])
        return torch.cat([tokens[:, :1], tokens[:, 1:2].expand(-1, self.tokens), tokens[:, 1 : -self.tokens]], 1)
