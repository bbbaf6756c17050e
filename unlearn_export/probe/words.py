"""Black-box attacks that only choose their words. They cost nothing, so every eraser has to stand them."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..base import Base
from ..phrasing import SUBJECT, company, paraphrases, picture_of
from ..textsearch import said, typeable
from .subject import Outcome, Subject, Target, counted


@dataclass(frozen=True)
class Words:
    """images: pictures in all; the prompts take turns."""

    access: ClassVar[str] = "black box"
    judged: ClassVar[bool] = True
    budgets: ClassVar[dict[str, dict[str, int]]] = {"quick": {"images": 8}, "thorough": {"images": 96}}

    images: int = 32

    def prompts(self, base: Base, target: Target, generator: torch.Generator) -> list[str]:
        raise NotImplementedError

    def refuses(self, base: Base, target: Target) -> str:
        return ""

    def prepare(self, subject: Subject, target: Target, generator: torch.Generator) -> list[str]:
        texts = self.prompts(subject.base, target, generator)
        return [texts[i % len(texts)] for i in range(self.images)]

    def run(self, subject: Subject, target: Target, plan: list[str], generator: torch.Generator) -> Outcome:
        hits = subject.hits(target, plan)
        return Outcome(hits, {"prompts": counted(plan, hits)})


@dataclass(frozen=True)
class Direct(Words):
    """The plain name: no attack, but what every attack is to be read against."""

    name: ClassVar[str] = "direct"

    def prompts(self, base: Base, target: Target, generator: torch.Generator) -> list[str]:
        return [target.ask(target.concept.name, i) for i in range(self.images)]


@dataclass(frozen=True)
class Unrelated(Words):
    """Prompts about other things, and words at random: how often the scorer sees the target without being led there.

    No attack either: a rate that is not above this one is none. With three styles, one picture in three has each.
    """

    name: ClassVar[str] = "unrelated"

    tokens: int = 6

    def prompts(self, base: Base, target: Target, generator: torch.Generator) -> list[str]:
        allowed = typeable(base.seat, without=target.concept.names)
        texts = []
        for i in range(self.images):
            if i % 2 and target.others:
                texts.append(picture_of(target.others[5 * i % len(target.others)]))
            else:
                texts.append(said(base.seat, allowed[torch.randint(len(allowed), (self.tokens,), generator=generator)]))
        return texts


@dataclass(frozen=True)
class Alias(Words):
    """Synonyms: the concept's own aliases and those of the base's vocabulary."""

    name: ClassVar[str] = "alias"

    def words(self, base: Base, target: Target) -> list[str]:
        known = base.vocabulary.like(target.concept.name)
        every = (*target.concept.aliases, known, *base.vocabulary.aliases.get(known, ()))
        return [w for w in dict.fromkeys(every) if w and w.lower() != target.concept.name.lower()]

    def refuses(self, base: Base, target: Target) -> str:
        return "" if self.words(base, target) else f"no other words for {target.concept.name!r} are known"

    def prompts(self, base: Base, target: Target, generator: torch.Generator) -> list[str]:
        words = self.words(base, target)
        return [target.ask(words[i % len(words)], i // len(words)) for i in range(self.images)]


@dataclass(frozen=True)
class Paraphrase(Words):
    """The name in sentences that no eraser here trains with."""

    name: ClassVar[str] = "paraphrase"

    def prompts(self, base: Base, target: Target, generator: torch.Generator) -> list[str]:
        every = paraphrases(target.concept.kind, target.concept.name)
        texts = [every[i % len(every)] for i in range(self.images)]
        if target.concept.kind != "style":
            return texts
        return [t.replace(SUBJECT, target.others[5 * i % len(target.others)]) for i, t in enumerate(texts)]


@dataclass(frozen=True)
class Misspelling(Words):
    """Typing errors in the name: a letter dropped, doubled or swapped, digits for letters, a gap, a hyphen, an s."""

    name: ClassVar[str] = "misspelling"

    def prompts(self, base: Base, target: Target, generator: torch.Generator) -> list[str]:
        words = misspelled(target.concept.name, generator)
        return [target.ask(words[i % len(words)], i // len(words)) for i in range(self.images)]


def misspelled(name: str, generator: torch.Generator) -> list[str]:
    """Up to eight ways to get ``name`` wrong, each once, at places that the generator chooses."""

    def place(end: int) -> int:
        return int(torch.randint(max(1, end), (1,), generator=generator))

    n = len(name)
    i, j, k = place(n), place(n), place(n - 1)
    half = 1 + place(n - 1)
    digits = name.translate(str.maketrans("oieas", "01345"))
    wrong = (
        name[:i] + name[i + 1 :],
        name[: j + 1] + name[j:],
        name[:k] + name[k : k + 2][::-1] + name[k + 2 :],
        digits,
        f"{name[:half]} {name[half:]}",
        f"{name[:half]}-{name[half:]}",
        f"{name}s",
        name[:-1] if n > 2 else "",
    )
    return [w for w in dict.fromkeys(w.strip() for w in wrong) if w and w != name]


@dataclass(frozen=True)
class Language(Words):
    """Names in other languages: the user's own words, or those that the base's profile has."""

    name: ClassVar[str] = "language"

    words: tuple[str, ...] = ()

    def known(self, base: Base, target: Target) -> list[str]:
        names = self.words or base.profile.translations.get(target.name, ())
        return [w for w in dict.fromkeys(w.lower() for w in names) if w != target.concept.name.lower()]

    def refuses(self, base: Base, target: Target) -> str:
        if self.known(base, target):
            return ""
        return f"no name of {target.concept.name!r} in another language is known: give one with --word"

    def prompts(self, base: Base, target: Target, generator: torch.Generator) -> list[str]:
        words = self.known(base, target)
        return [target.ask(words[i % len(words)], i // len(words)) for i in range(self.images)]


@dataclass(frozen=True)
class Composition(Words):
    """The name beside something else. Only what the scorer sees first counts, so the base falls short too."""

    name: ClassVar[str] = "composition"

    def refuses(self, base: Base, target: Target) -> str:
        return "" if target.others else "nothing else is known to put beside it"

    def prompts(self, base: Base, target: Target, generator: torch.Generator) -> list[str]:
        order = torch.randperm(len(target.others), generator=generator).tolist()
        texts = []
        for i in range(self.images):
            one, two = (target.others[order[(i + step) % len(order)]] for step in (0, 1))
            texts.append(company(target.concept.kind, target.concept.name, one, two, i))
        return texts
