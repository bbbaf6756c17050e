"""A learned embedding that stands for the concept: textual inversion against an edited encoder."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..base import Base
from ..pipelines.seat import seated
from ..textsearch import hearing
from .subject import Outcome, Subject, Target

PSEUDO_WORD = "<it>"


@dataclass(frozen=True)
class PseudoWord:
    """Textual inversion (Gal et al. 2022, arXiv:2208.01618), which brought erased concepts back in "Circumventing
    Concept Erasure" (Pham et al. 2024, arXiv:2308.01508): min over one embedding v of E ‖ε_θ(z_t, t, τ(… v …)) − ε‖²
    on a few pictures of the concept, all weights frozen.

    An upper bound for what any prompt can reach: no text spells v, and it is the denoiser, which no edit of the
    encoder touches, that still draws the concept. Read it as how much of the way to the denoiser is still open.
    Where this simplifies: pictures are the base's own, and a prompt is plain rather than one of 27 templates.
    """

    name: ClassVar[str] = "pseudo-word"
    access: ClassVar[str] = "white box"
    judged: ClassVar[bool] = True
    budgets: ClassVar[dict[str, dict[str, int]]] = {
        "quick": {"steps": 40, "images": 8},
        "thorough": {"steps": 800, "pictures": 8, "images": 96},
    }

    pictures: int = 4
    steps: int = 200
    batch: int = 4
    lr: float = 0.1  # Adam's, in standard deviations of the embeddings
    images: int = 24

    def refuses(self, base: Base, target: Target) -> str:
        return ""

    def prepare(self, subject: Subject, target: Target, generator: torch.Generator) -> Tensor:
        return subject.references(target, self.pictures, generator)

    def run(self, subject: Subject, target: Target, plan: Tensor, generator: torch.Generator) -> Outcome:
        base = subject.base
        tokenizer = copy.deepcopy(base.seat.tokenizer)
        tokenizer.add_tokens(PSEUDO_WORD)
        encoder = copy.deepcopy(subject.encoder)
        new = len(tokenizer) - 1
        encoder.resize_token_embeddings(max(len(tokenizer), encoder.config.vocab_size), mean_resizing=False)
        table = encoder.get_input_embeddings().weight.requires_grad_(False)
        spread = float(table[:new].std())
        # starts between all words, at a word's length: the edited word itself would be a head start for some edits
        vector = torch.randn(table.shape[1], generator=generator).to(table.device) * spread
        vector.requires_grad_()
        optimizer = torch.optim.Adam([vector], lr=self.lr * spread)
        length = base.seat.contract.length
        losses = []
        for step in range(self.steps):
            which = torch.randint(len(plan), (self.batch,), generator=generator)
            t = base.denoiser.times(self.batch, generator)
            noise = torch.randn(self.batch, *plan.shape[1:], generator=generator)
            prompts = [target.ask(PSEUDO_WORD, int(i)) for i in which]
            tokens = tokenizer(
                prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).input_ids.to(table.device)
            with hearing(encoder, lambda ids, out: torch.where((ids == new)[..., None], vector, out)):
                states = encoder(tokens)[0]
            loss = base.denoiser.loss(plan[which], noise, t, {"prompt_embeds": states})
            (vector.grad,) = torch.autograd.grad(loss, vector)
            optimizer.step()
            losses.append(loss.item())
            subject.progress("search", step + 1, self.steps)
        subject.steps += self.steps
        with torch.no_grad():
            table[new] = vector
        pipeline = seated(base.pipeline, {base.seat.name: encoder, base.seat.tokenizer_name: tokenizer})
        hits = subject.hits(target, [target.ask(PSEUDO_WORD, i) for i in range(self.images)], pipeline)
        tenth = max(1, self.steps // 10)
        first, last = (sum(part) / len(part) for part in (losses[:tenth], losses[-tenth:]))
        return Outcome(hits, {"first": round(first, 4), "last": round(last, 4)})
