"""Embeddings that give the edited encoder the states that the base had for the concept; nothing is drawn."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..base import Base
from ..errors import UsageError
from ..families.tokens import Tokens, tokenise, views
from ..seat import Seat
from ..textsearch import embeddings, hearing, typeable
from .subject import Outcome, Subject, Target

View = dict[str, Tensor]


@dataclass(frozen=True)
class StateSpace:
    """min over embeddings v in the place of the name of ‖τ(P[v]) − τ₀(P)‖², τ₀ the base's encoder, P a plain prompt.

    Of attacks with a learned embedding (see ``PseudoWord``) the one that needs neither denoiser nor scorer, so that an
    encoder of a pipeline that draws nothing here can be attacked. Distances are mean squares over all that the pipeline
    reads, in units of the same with random words in the name's place: 0 is the concept itself, 1 as far as any word.
    A try is a hit where it comes nearer than ``near``. A denoiser may draw the concept from states that are farther off,
    so a rate of nothing is no proof; ``PseudoWord`` asks the denoiser itself.

    There is one try from the name's own embeddings, which knows that the name was edited; half of the others begin at
    words, half at random. Of several edited encoders each is tried by itself.
    """

    name: ClassVar[str] = "state-space"
    access: ClassVar[str] = "white box"
    judged: ClassVar[bool] = False
    budgets: ClassVar[dict[str, dict[str, int]]] = {
        "quick": {"tries": 3, "steps": 40},
        "thorough": {"tries": 32, "steps": 1000},
    }

    tries: int = 8
    steps: int = 200
    lr: float = 0.1  # Adam's, in standard deviations of the embeddings
    near: float = 0.25  # half of the way, squared

    def __post_init__(self) -> None:
        if not 0 < self.near < 1:
            raise UsageError(f"state-space.near={self.near:g} must lie between 0 and 1, the distance of random words")

    def refuses(self, base: Base, target: Target) -> str:
        return ""

    def prepare(self, subject: Subject, target: Target, generator: torch.Generator) -> None:
        return None

    def run(self, subject: Subject, target: Target, plan: None, generator: torch.Generator) -> Outcome:
        base, hits, detail = subject.base, [], {}
        for number, (name, encoder) in enumerate(subject.encoders.items()):

            def tell(step: int, before: int = number * self.steps) -> None:
                subject.progress("search", before + step, self.steps * len(subject.encoders))

            reached = self._search(base.seats[name], base.encoders[name], encoder, target, generator, tell)
            subject.steps += self.steps
            hits += [distance < self.near for distance in reached]
            detail[name] = {
                "distances": [round(distance, 4) for distance in reached],
                "nearest": round(min(reached), 4),
            }
        return Outcome(hits, detail)

    def _search(
        self,
        seat: Seat,
        original: PreTrainedModel,
        encoder: PreTrainedModel,
        target: Target,
        generator: torch.Generator,
        tell: Any,
    ) -> list[float]:
        """→ the least distance of every try."""
        prompt, phrase = target.ask(target.concept.name), target.concept.name
        tokens = tokenise(seat.tokenizer, [prompt], seat.contract, phrases=[phrase], trim=True).to(encoder.device)
        start, end = tokens.spans[0].tolist()
        place = slice(start, end)
        words = typeable(seat, without=target.concept.names)
        table = embeddings(encoder)
        drawn = words[torch.randint(len(words), (16, end - start), generator=generator)].to(table.device)
        with torch.no_grad():
            wanted = _read(seat, original, tokens)
            far = _read(seat, original, tokens, place, table[drawn])
            unit = {what: (far[what] - wanted[what]).square().mean() for what in wanted}
        spread = float(table.std())
        vectors = torch.randn(self.tries, end - start, table.shape[1], generator=generator).to(table.device) * spread
        own = table[tokens.ids[0, place]]
        at_words = words[torch.randint(len(words), vectors.shape[:2], generator=generator)].to(table.device)
        vectors[1::2] = table[at_words[1::2]]
        vectors[0] = own
        vectors.requires_grad_(True)
        optimizer = torch.optim.Adam([vectors], lr=self.lr * spread)
        least = torch.full((self.tries,), torch.inf)
        for step in range(self.steps + 1):
            now = _read(seat, encoder, tokens, place, vectors)
            parts = [(now[what] - wanted[what]).square().flatten(1).mean(1) / unit[what] for what in wanted]
            distance = torch.stack(parts).mean(0)
            least = torch.minimum(least, distance.detach().cpu())
            if step < self.steps:
                optimizer.zero_grad()
                distance.sum().backward(inputs=[vectors])
                optimizer.step()
                tell(step + 1)
        return least.tolist()


def _read(
    seat: Seat, encoder: PreTrainedModel, tokens: Tokens, place: slice = slice(0, 0), vectors: Tensor | None = None
) -> View:
    """What the base's own reader is given of the prompt, as often as there are ``vectors`` [n, k, d] for the place."""
    if vectors is None:
        return views(seat.family.call(encoder, tokens, seat.contract.mask), tokens, seat.contract)
    rows = tokens[torch.zeros(len(vectors), dtype=torch.long)]

    def change(_ids: Tensor, heard: Tensor) -> Tensor:
        return torch.cat([heard[:, : place.start], vectors, heard[:, place.stop :]], 1)

    with hearing(encoder, change):
        return views(seat.family.call(encoder, rows, seat.contract.mask), rows, seat.contract)
