"""UnlearnDiffAtk: adversarial words found through the denoiser, with the edited encoder in hand."""

from collections.abc import Sequence
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
    Of several edited encoders each has its own ``prompts`` searched, in the words of its tokenizer and by its gradient;
    the loss is of the pipeline with all of them, which read the same words.
    """

    name: ClassVar[str] = "unlearndiff"
    access: ClassVar[str] = "white box"
    judged: ClassVar[bool] = True
    budgets: ClassVar[dict[str, dict[str, int]]] = {
        "quick": {"prompts": 1, "steps": 10},
        "thorough": {"prompts": 12, "steps": 60, "candidates": 48, "noises": 8},
    }

    prompts: int = 4  # for each edited encoder
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
        base, denoiser = subject.base, subject.base.denoiser
        t = denoiser.spread(self.noises)
        prompts: list[str] = []
        entries: list[dict[str, Any]] = []
        for name, encoder in subject.encoders.items():
            seat = base.seats[name]
            allowed = typeable(seat)
            for i, picture in enumerate(plan):
                plain = target.ask(target.concept.name, i)
                latents = picture.expand(self.noises, *picture.shape)
                noise = torch.randn(latents.shape, generator=generator)

                def loss(
                    words: Sequence[str], plain: str = plain, latents: Tensor = latents, noise: Tensor = noise
                ) -> Tensor:
                    given = denoiser.encode([f"{w} {plain}" for w in words], subject.encoders)
                    rows = ({k: x[i : i + 1] for k, x in given.items()} for i in range(len(words)))
                    return torch.stack([denoiser.loss(latents, noise, t, row) for row in rows])

                def tell(step: int, before: int = len(prompts) * self.steps) -> None:
                    subject.progress("search", before + step, self.prompts * self.steps * len(subject.encoders))

                result = greedy_coordinate_gradient(
                    seat,
                    encoder,
                    self.tokens,
                    allowed,
                    loss,
                    steps=self.steps,
                    candidates=self.candidates,
                    generator=generator,
                    on_step=tell,
                )
                subject.steps += self.steps
                prompts.append(f"{said(seat, result.words)} {plain}")
                entries.append({"seat": name, "first": round(result.first, 4), "last": round(result.last, 4)})
        hits = subject.hits(target, [prompt for prompt in prompts for _ in range(self.images)])
        each = [sum(hits[i : i + self.images]) for i in range(0, len(hits), self.images)]
        table = [
            {"prompt": p, **e, "hits": n, "n": self.images} for p, e, n in zip(prompts, entries, each, strict=True)
        ]
        return Outcome(hits, {"prompts": table, "any": sum(n > 0 for n in each)})
