"""A linear classifier on the text states: is the concept still there to be read?"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import Base
from ..errors import UsageError
from ..phrasing import SUBJECT, TEMPLATES, in_style, with_context
from ..rates import Rate
from .subject import Outcome, Subject, Target, heard


@dataclass(frozen=True)
class LinearProbe:
    """Tell the concept's prompts from those of another concept by their states (Alain & Bengio 2017,
    arXiv:1610.01644), on held-out sentences, beside the same classifier with random labels (after the control
    tasks of Hewitt & Liang 2019, arXiv:1909.03368): above that one, the encoder still carries the concept.

    The other concept is the one that is closest in the encoder under attack, by the mean states of the training
    prompts: an edit that turns one thing into another has to be told from that other. ``others`` tells the concept
    from all others together, which such an edit need not hide. A prompt's features are its states' mean over all
    positions after the first, as the denoiser reads them all; the classifier is a logistic regression. Of several
    edited encoders the features stand side by side, each at the same scale: one that tells nothing adds noise to what
    another tells, so the rate can be lower than that one's alone.
    The rate counts held-out prompts that are told right, so chance is one half, not nothing.
    """

    name: ClassVar[str] = "linear-probe"
    access: ClassVar[str] = "representation"
    judged: ClassVar[bool] = False
    budgets: ClassVar[dict[str, dict[str, int]]] = {"quick": {"prompts": 40}, "thorough": {"prompts": 240}}

    prompts: int = 120  # of each concept; one half trains, the other is told
    decay: float = 1e-2  # of the squared weights

    def __post_init__(self) -> None:
        if self.prompts < 4:
            raise UsageError(f"linear-probe.prompts={self.prompts} leaves too few to train on: take 4 or more")

    def refuses(self, base: Base, target: Target) -> str:
        return "" if self._names(base, target) else "nothing else is known to tell it from"

    def _names(self, base: Base, target: Target) -> list[str]:
        pool = base.vocabulary.styles if target.is_style else base.vocabulary.concepts
        own = {n.lower() for n in (target.name, *target.concept.names)}
        return [n for n in pool if n.lower() not in own]

    def prepare(self, subject: Subject, target: Target, generator: torch.Generator) -> list[str]:
        """Sentences with a {} for the name, each once, in random order: the first half is the training's."""
        vocabulary = subject.base.vocabulary
        styled = [in_style(c, s) for s in vocabulary.styles for c in vocabulary.contexts]
        contexts = [*vocabulary.contexts, *styled]
        if target.is_style:
            frames = [in_style(with_context(f"a {SUBJECT}", c), "{}") for c in vocabulary.contexts]
            every = [f.replace(SUBJECT, s) for f in frames for s in target.others]
        else:
            every = [with_context(t, c) for t in TEMPLATES[target.concept.kind] for c in contexts]
        every = list(dict.fromkeys(every))
        order = torch.randperm(len(every), generator=generator)[: self.prompts].tolist()
        return [every[i] for i in order]

    def run(self, subject: Subject, target: Target, plan: list[str], generator: torch.Generator) -> Outcome:
        names = self._names(subject.base, target)
        read = []
        for i, name in enumerate((target.concept.name, *names)):
            read.append(_features(subject, [p.format(name) for p in plan]))
            subject.progress("states", i + 1, 1 + len(names))
        views = [torch.stack(view) for view in zip(*read, strict=True)]  # each [1 + names, prompts, d]
        states = torch.cat([view / view.std() for view in views], 2)
        own, rest = states[0], states[1:]
        half = len(plan) // 2
        near = int((rest[:, :half].mean(1) - own[:half].mean(0)).norm(dim=1).argmin())
        pair = torch.stack([own, rest[near]], 1)  # [prompts, 2, d]
        labels = torch.tensor([1.0, 0.0]).expand(len(plan), 2)
        hits = self._told(pair, labels, half)
        coins = [torch.randint(2, (len(plan), 2), generator=generator).float() for _ in range(4)]
        shuffled = [told for coin in coins for told in self._told(pair, coin, half)]
        mixed = torch.stack([own, rest[torch.arange(len(plan)) % len(rest), torch.arange(len(plan))]], 1)
        detail: dict[str, Any] = {
            "nearest": names[near],
            "random_labels": Rate.of(shuffled).to_json(),
            "others": Rate.of(self._told(mixed, labels, half)).to_json(),
        }
        return Outcome(hits, detail)

    def _told(self, features: Tensor, labels: Tensor, half: int) -> list[bool]:
        """Fit on the first ``half`` prompts, tell the labels of the rest. features: [n, 2, d], labels: [n, 2]."""
        x, y = features[:half].flatten(0, 1), labels[:half].flatten()
        mean, deviation = x.mean(0), x.std(0) + 1e-6
        x = (x - mean) / deviation
        weight = torch.zeros(x.shape[1] + 1, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(x @ weight[1:] + weight[0], y)
            loss = loss + self.decay * weight[1:].square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        test = (features[half:].flatten(0, 1) - mean) / deviation
        told = (test @ weight[1:] + weight[0] > 0).float()
        return (told == labels[half:].flatten()).tolist()


@torch.no_grad()
def _features(subject: Subject, prompts: list[str]) -> list[Tensor]:
    """→ of each edited encoder, what its pipeline reads of each prompt, [n, d]: the mean of the states after the first
    position, and the pooled vector.
    """
    seats = [(subject.base.seats[name], encoder) for name, encoder in subject.encoders.items()]
    every = [read for seat, encoder in seats for read in heard(seat, encoder, prompts).values()]
    return [(read[:, 1:] if read.shape[1] > 1 else read).mean(1).cpu() for read in every]
