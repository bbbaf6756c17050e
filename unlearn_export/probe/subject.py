"""What an attack works on: encoders, the thing that was erased from them, and a count of what was spent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from transformers import PreTrainedModel

from .. import phrasing
from ..base import Base
from ..concept import Concept
from ..evaluation.samples import Ask, draw, with_encoder
from ..evaluation.scorer import Scorer
from ..families.tokens import tokenise, views
from ..seat import Seat

OnProgress = Callable[[str, int, int], None]  # what is under way, done, in all


@dataclass(frozen=True)
class Target:
    """An erased concept. name: what the scorer calls it. others: known concepts that stay, to fill prompts with."""

    concept: Concept
    name: str
    others: tuple[str, ...]

    @property
    def is_style(self) -> bool:
        return self.concept.kind == "style"

    def ask(self, word: str, i: int = 0) -> str:
        """The i-th plain prompt for ``word``; only a style's differ, by their subject."""
        if self.is_style:
            return phrasing.plain("style", word).replace(phrasing.SUBJECT, self.others[5 * i % len(self.others)])
        return phrasing.plain(self.concept.kind, word)


@dataclass
class Subject:
    """Encoders under attack in the base's pipeline. steps and queries: spent so far, gradient steps and pictures.

    encoders: by seat, all that were edited, or the base's own there. They sit in the pipeline together, as an artifact
    brings them; the other seats keep the base's. seed: of the first picture of every attack. sampling: denoising steps of a picture. scorer: None where no
    pictures can be judged.
    """

    base: Base
    encoders: Mapping[str, PreTrainedModel]
    scorer: Scorer | None
    seed: int = 0
    sampling: int = 8
    guidance: float | None = None
    on_progress: OnProgress | None = None
    steps: int = field(default=0, init=False)
    queries: int = field(default=0, init=False)

    def hits(
        self, target: Target, prompts: Sequence[str], pipeline: DiffusionPipeline | None = None, *, quiet: bool = False
    ) -> list[bool]:
        """Draw each prompt, the i-th with seed + i: is the target what the scorer sees first?

        pipeline: in place of the base's with these encoders. Sixteen pictures at a time: how many are drawn together
        changes their last bits. quiet: tell no progress.
        """
        assert self.scorer is not None
        pipeline = pipeline or with_encoder(self.base.pipeline, self.encoders)
        asks = [Ask(prompt, target.name, "", self.seed + i) for i, prompt in enumerate(prompts)]
        pixels = draw(
            pipeline,
            asks,
            steps=self.sampling,
            guidance=self.guidance,
            batch=16,
            on_batch=None if quiet else lambda done, total: self.progress("pictures", done, total),
        )[:, 0]
        self.queries += len(asks)
        scores = self.scorer.score(pixels)
        names = self.scorer.styles if target.is_style else self.scorer.concepts
        seen = scores.styles_seen(names) if target.is_style else scores.concepts_seen(names)
        return [name == target.name for name in seen]

    @torch.no_grad()
    def references(self, target: Target, n: int, generator: torch.Generator) -> Tensor:
        """n pictures of the target that the base drew, with other noise than any attack is judged by.

        → latents [n, *latent_shape] as the denoiser reads them.
        """
        prompts = [target.ask(target.concept.name, i) for i in range(n)]
        self.queries += n
        return replace(self.base.denoiser, guidance=self.guidance).sample(prompts, steps=25, generator=generator)

    @property
    def is_base(self) -> bool:
        """Whether this is the control."""
        return all(encoder is self.base.encoders[name] for name, encoder in self.encoders.items())

    def progress(self, what: str, done: int, total: int) -> None:
        if self.on_progress:
            self.on_progress(what, done, total)


@dataclass(frozen=True)
class Outcome:
    """hits: one truth value a trial. detail: what else is worth keeping, as JSON."""

    hits: list[bool]
    detail: dict[str, Any]


class Attack(Protocol):
    """A frozen dataclass whose fields are its hyper-parameters; the numbers among them are its budget."""

    name: ClassVar[str]
    access: ClassVar[str]  # what the attacker holds: black box, white box, representation, weights
    judged: ClassVar[bool]  # whether pictures are drawn, which needs a scorer
    budgets: ClassVar[dict[str, dict[str, int]]]  # "quick" and "thorough": fields that differ from the defaults

    def refuses(self, base: Base, target: Target) -> str:
        """Why this target cannot be attacked so; "" where it can."""
        ...

    def prepare(self, subject: Subject, target: Target, generator: torch.Generator) -> Any:
        """What base and edit are attacked with, made with the base alone: prompts, pictures."""
        ...

    def run(self, subject: Subject, target: Target, plan: Any, generator: torch.Generator) -> Outcome:
        """Attack the encoders. Called for the base's and for the edited ones with equal ``plan`` and ``generator``."""
        ...


def heard(seat: Seat, encoder: PreTrainedModel, texts: Sequence[str]) -> dict[str, Tensor]:
    """What the base's pipeline is given of these texts by one of its encoders, see ``families.tokens.views``."""
    tokens = tokenise(seat.tokenizer, texts, seat.contract)
    parts = []
    for i in range(0, len(texts), 16):
        part = tokens[i : i + 16]
        parts.append(views(seat.family.call(encoder, part.to(encoder.device), seat.contract.mask), part, seat.contract))
    return {what: torch.cat([part[what] for part in parts]) for what in parts[0]}


def counted(prompts: Sequence[str], hits: Sequence[bool]) -> list[dict[str, Any]]:
    """Hits by prompt, in order of first use."""
    table: dict[str, list[bool]] = {}
    for prompt, hit in zip(prompts, hits, strict=True):
        table.setdefault(prompt, []).append(hit)
    return [{"prompt": prompt, "hits": sum(seen), "n": len(seen)} for prompt, seen in table.items()]
