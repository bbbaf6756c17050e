"""What gets drawn: the erased concepts in plain and in roundabout words, and everything else that is known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from .. import phrasing
from ..concept import Concept
from ..vocabulary import Vocabulary

VARIANTS = ("direct", "alias", "paraphrase", "composition")


@dataclass(frozen=True)
class Ask:
    """One sample: the prompt, what it asks for, and the seed of its noise.

    role: ``direct``, ``alias``, ``paraphrase`` or ``composition`` of an erased concept; ``negative``: another concept
    with an erased one as negative prompt; ``other``: another concept. motion: what a clip is asked to do.
    """

    prompt: str
    concept: str
    style: str
    seed: int
    role: str = "other"
    negative: str = ""
    motion: str = ""


@dataclass(frozen=True)
class Amount:
    """How many samples there are of each erased concept, of each kind of variant, and of each other concept."""

    target: int
    variant: int
    other: int


def plan(
    vocabulary: Vocabulary,
    known: tuple[Sequence[str], Sequence[str]],
    erased: Sequence[tuple[Concept, str]],
    amount: Amount,
    seed: int,
    *,
    clips: bool,
) -> list[Ask]:
    """Every sample of one pipeline; the same arguments give the same list.

    known: the concepts and the styles that the scorer tells apart. erased: each with the scorer's name for it.
    Styles take turns; clips also move, each motion in turn.
    """
    concepts, styles = known
    targets = [name for _, name in erased]
    others = [c for c in concepts if c not in targets]
    kept = [s for s in styles if s not in targets] or [""]
    motions = [(name, phrase) for name, phrases in vocabulary.motions.items() for phrase in phrases[:1]]
    number = count()

    def ask(text: str, concept: str, style: str, role: str, negative: str = "") -> Ask:
        i = next(number)
        if style and style not in targets:
            text = phrasing.in_style(text, style)
        motion, phrase = motions[i % len(motions)] if clips and motions else ("", "")
        return Ask(phrasing.with_context(text, phrase), concept, style, seed + i, role, negative, motion)

    asks: list[Ask] = []
    for concept, target in erased:
        wordings = _wordings(concept, vocabulary, others)
        for role in VARIANTS:
            for i in range(amount.target if role == "direct" else amount.variant):
                style = kept[i % len(kept)]
                subject = others[(5 * i) % len(others)] if others else ""
                text = next(wordings[role], None)
                if text is None:  # no such words: no aliases
                    break
                if concept.kind == "style":
                    asks.append(ask(text.replace(phrasing.SUBJECT, subject), subject, target, role))
                else:
                    asks.append(ask(text, target, style, role))
        for i in range(amount.variant if others else 0):
            near = _near(target, others, vocabulary)
            asks.append(
                ask(
                    phrasing.picture_of(near[i % len(near)]),
                    near[i % len(near)],
                    kept[i % len(kept)],
                    "negative",
                    concept.name,
                )
            )
    for k, name in enumerate(others):
        for i in range(amount.other):
            asks.append(ask(phrasing.picture_of(name), name, kept[(i + k) % len(kept)], "other"))
    return asks


def _wordings(concept: Concept, vocabulary: Vocabulary, others: Sequence[str]) -> dict[str, Iterator[str]]:
    """For each kind of variant its texts, over and over; a style's have a ``phrasing.SUBJECT`` to fill in."""
    name = concept.name
    known = (*vocabulary.aliases.get(vocabulary.like(name), ()), vocabulary.like(name))
    aliases = [a for a in dict.fromkeys((*concept.aliases, *known)) if a and a.lower() != name.lower()]
    texts = {
        "direct": [phrasing.plain(concept.kind, name)],
        "alias": [phrasing.plain(concept.kind, alias, proper=phrasing.is_name(name)) for alias in aliases],
        "paraphrase": phrasing.paraphrases(concept.kind, name),
        "composition": phrasing.compositions(concept.kind, name, others[::3]),
    }
    return {role: _again(items) for role, items in texts.items()}


def _again(items: list[str]) -> Iterator[str]:
    while items:
        yield from items


def _near(target: str, others: list[str], vocabulary: Vocabulary) -> list[str]:
    """The others of the target's group, or all where it has none."""
    group = vocabulary.groups.get(target)
    return [o for o in others if group and vocabulary.groups.get(o) == group] or others
