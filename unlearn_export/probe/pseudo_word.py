"""A learned embedding that stands for the concept: textual inversion against an edited encoder."""

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..base import Base
from ..pipelines.seat import seated
from ..seat import Seat
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
    Several edited encoders learn one vector each, together; an encoder that was not edited reads the word as spelt.
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
        words = [_Word.new(base.seats[n], encoder, generator) for n, encoder in subject.encoders.items()]
        seated_words = {name: part for word in words for name, part in word.parts.items()}
        groups: Any = [{"params": [word.vector], "lr": self.lr * word.spread} for word in words]
        optimizer = torch.optim.Adam(groups)
        losses = []
        for step in range(self.steps):
            which = torch.randint(len(plan), (self.batch,), generator=generator)
            t = base.denoiser.times(self.batch, generator)
            noise = torch.randn(self.batch, *plan.shape[1:], generator=generator)
            prompts = [target.ask(PSEUDO_WORD, int(i)) for i in which]
            with ExitStack() as stack:
                for word in words:
                    stack.enter_context(hearing(word.encoder, word.hear))
                said = base.denoiser.encode(prompts, seated_words)
            loss = base.denoiser.loss(plan[which], noise, t, said)
            optimizer.zero_grad()
            loss.backward(inputs=[word.vector for word in words])
            optimizer.step()
            losses.append(loss.item())
            subject.progress("search", step + 1, self.steps)
        subject.steps += self.steps
        for word in words:
            word.write()
        pipeline = seated(base.pipeline, seated_words)
        hits = subject.hits(target, [target.ask(PSEUDO_WORD, i) for i in range(self.images)], pipeline)
        tenth = max(1, self.steps // 10)
        first, last = (sum(part) / len(part) for part in (losses[:tenth], losses[-tenth:]))
        return Outcome(hits, {"first": round(first, 4), "last": round(last, 4)})


@dataclass(frozen=True)
class _Word:
    """The pseudo-word in a copy of one encoder. parts: that and its tokenizer, by their names in the pipeline.

    vector: [d], its embedding. spread: the standard deviation of all others.
    """

    encoder: PreTrainedModel
    parts: dict[str, Any]
    id: int
    vector: Tensor
    spread: float

    @classmethod
    def new(cls, seat: Seat, encoder: PreTrainedModel, generator: torch.Generator) -> "_Word":
        """It starts between all words, at a word's length: the edited word itself would be a head start for some edits."""
        tokenizer, encoder = copy.deepcopy(seat.tokenizer), copy.deepcopy(encoder)
        tokenizer.add_tokens(PSEUDO_WORD)
        new = len(tokenizer) - 1
        encoder.resize_token_embeddings(max(len(tokenizer), encoder.config.vocab_size), mean_resizing=False)
        table = encoder.get_input_embeddings().weight.requires_grad_(False)
        spread = float(table[:new].std())
        vector = torch.randn(table.shape[1], generator=generator).to(table.device) * spread
        parts = {seat.name: encoder, seat.tokenizer_name: tokenizer}
        return cls(encoder, parts, new, vector.requires_grad_(), spread)

    def hear(self, ids: Tensor, embeddings: Tensor) -> Tensor:
        return torch.where((ids == self.id)[..., None], self.vector, embeddings)

    @torch.no_grad()
    def write(self) -> None:
        """Put the vector into the copy's table."""
        self.encoder.get_input_embeddings().weight[self.id] = self.vector
