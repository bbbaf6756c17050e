"""The prompts that text states are measured on: of the concepts, of everything else, and such as no fit has seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from .. import phrasing
from ..concept import Concept
from ..vocabulary import Vocabulary

# The most prompts of each group. A fit is told of "concept" and "retained" in these or like words, of the rest in none.
MOST = {
    "empty": 1,
    "concept": 24,
    "concept_held_out": 24,
    "retained": 32,
    "held_out": 48,
    "contexts": 48,
    "words": 12,
}
OTHERS = ("retained", "held_out", "contexts", "words")  # the groups that mention no concept


@dataclass(frozen=True)
class Wording:
    """One prompt. group: a key of ``MOST``. name: what it asks for, "" for nothing.

    meant: the same prompt with the concept's anchor in place of its name, and anchor that name; "" without one.
    """

    text: str
    group: str
    name: str = ""
    meant: str = ""
    anchor: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it is the plain prompt of a thing: what a name is known by."""
        return bool(self.name) and self.text == phrasing.picture_of(self.name)

    @property
    def is_question(self) -> bool:
        """Whether it is the one other wording by which a name is to be known again."""
        return self.group == "held_out" and self.text == _question(self.name)


def wordings(
    vocabulary: Vocabulary, concepts: Sequence[Concept], holdout: Sequence[str], seed: int, share: float = 1.0
) -> list[Wording]:
    """Every prompt, group by group; the same arguments give the same list.

    holdout: concepts that the fit's kept prompts did not name. seed: of the combinations in "contexts". share: of
    ``MOST``, for an encoder that is slow to ask; two of a group at least.
    """
    most = {group: min(n, max(2, round(share * n))) for group, n in MOST.items()}
    erased = {name.lower() for c in concepts for name in c.names}
    told = [name for c in concepts if c.kind != "style" for name in c.retain]
    every = [n for n in dict.fromkeys((*vocabulary.concepts, *told, *holdout)) if n and n.lower() not in erased]
    names = thinned(every, most["retained"])
    found = [Wording("", "empty")]
    found += thinned(_concept(concepts, names), most["concept"])
    found += thinned(_concept_held_out(concepts, names), most["concept_held_out"])
    found += [
        Wording(phrasing.picture_of(n), "held_out" if n in holdout and n not in told else "retained", n) for n in names
    ]
    beside = thinned(list(pairwise(names)), max(1, most["held_out"] - len(names)))
    found += [Wording(_question(n), "held_out", n) for n in names]
    found += [Wording(phrasing.compositions("object", a, [b])[0], "held_out", a) for a, b in beside]
    found += _contexts(vocabulary, every, seed)[: most["contexts"]]
    return found + [Wording(n, "words", n) for n in thinned(every, most["words"])]


def thinned(items: list, n: int) -> list:
    """n of the items at even distances, in their order; all where there are no more."""
    return items if len(items) <= n else [items[i * len(items) // n] for i in range(n)]


def _question(name: str) -> str:
    return phrasing.PARAPHRASES["object"][0].format(name)


def _concept(concepts: Sequence[Concept], others: Sequence[str]) -> list[Wording]:
    """The plain prompts first, then template by template, the concepts and their names in turn."""
    plain = [(c, phrasing.picture_of("{}")) for c in concepts if c.kind != "style"]
    longest = max((len(phrasing.TEMPLATES[c.kind]) for c in concepts), default=0)
    rest = [
        (c, phrasing.TEMPLATES[c.kind][i])
        for i in range(longest)
        for c in concepts
        if i < len(phrasing.TEMPLATES[c.kind])
    ]
    return [w for c, frame in (*plain, *rest) for w in _named(c, frame, "concept", others)]


def _concept_held_out(concepts: Sequence[Concept], others: Sequence[str]) -> list[Wording]:
    found = []
    for c in concepts:
        beside = [n for n in others if n.lower() != c.anchor.lower()]
        frames = [
            *phrasing.paraphrases(c.kind, "{}"),
            *phrasing.compositions(c.kind, "{}", beside[:: len(beside) // 4 or 1]),
        ]
        found += [w for frame in frames for w in _named(c, frame, "concept_held_out", others)]
    return found


def _named(concept: Concept, frame: str, group: str, others: Sequence[str]) -> list[Wording]:
    """A frame with each of the concept's names; a style's on some other thing."""
    subject = others[len(frame) % len(others)] if others else "picture"
    frame = frame.replace(phrasing.SUBJECT, subject)
    meant = frame.replace("{}", concept.anchor) if concept.anchor else ""
    return [Wording(frame.replace("{}", name), group, name, meant, concept.anchor) for name in concept.names]


def _contexts(vocabulary: Vocabulary, names: Sequence[str], seed: int) -> list[Wording]:
    """Names in random templates, places and styles."""
    generator = torch.Generator().manual_seed(seed)
    frames = [*phrasing.TEMPLATES["object"], *phrasing.PARAPHRASES["object"]]
    styles, places = ("", *vocabulary.styles), vocabulary.contexts or ("",)
    found = []
    for _ in range(MOST["contexts"] if names else 0):
        frame, name, style, place = (
            items[int(torch.randint(len(items), (1,), generator=generator))]
            for items in (frames, names, styles, places)
        )
        text = frame.format(name)
        text = phrasing.in_style(text, style) if style else text
        found.append(Wording(phrasing.with_context(text, place), "contexts", name))
    return found
