"""Which known names stand near a concept in the encoder, and which of them it may become."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .base import Base
from .concept import Concept
from .errors import UsageError
from .lexicon import Lexicon
from .space import Space
from .spelling import key, mentions

LISTED, ALIKE = 48, 24  # candidates that the word list names for a concept, and those that its tokens do


def anchors(base: Base, concept: Concept, avoid: set[str], space: Space | None = None) -> list[str]:
    """The known names that a concept may become, best first, none of them in ``avoid``.

    A concept that the base knows takes a neighbour of its own group: a food becomes another food. First comes the
    nearest of those that are no more like it than the group is on average (a cosine of 0), since what is drawn of a
    closer one may be taken for the concept itself. One that the base does not know takes the nearest of all.
    Names of more tokens than the concept's are left out where there are others: not all of their states find a place
    (see ``erasers.prompts.Pairs``). Of a base that may be asked for any word, so is a concept that the word list
    knows (see ``Lexicon.near``). Raises UsageError where the base knows no other name of its kind.
    """
    barred = {name.lower() for name in avoid}
    mates = _mates(base, concept, barred)
    names = [n for n in _pool(base, concept.kind) if not _is_or_has(n, concept)]
    near = [pair for pair in neighbours(base, concept, mates or names, space) if pair[0].lower() not in barred]
    if not near:
        raise UsageError(f"no known neighbour for {concept.name!r}: name one with --anchor")

    def length(name: str) -> int:
        return len(base.seat.tokenizer(name, add_special_tokens=False).input_ids)

    room = min(length(name) for name in concept.names)
    near = [pair for pair in near if length(pair[0]) <= room] or near
    apart = [name for name, cosine in near if cosine <= 0 or not mates]
    return apart + [name for name, _ in reversed(near) if name not in apart]


def _mates(base: Base, concept: Concept, barred: set[str]) -> list[str]:
    """Names of what the concept is, that it may become; [] where none is known."""
    vocabulary = base.vocabulary
    known, groups = vocabulary.like(concept.name), vocabulary.groups
    names = [n for n in _pool(base, concept.kind) if not _is_or_has(n, concept)]
    mates = [name for name in names if known and groups.get(name) == groups.get(known)]
    if vocabulary.words and (not known or known in vocabulary.styles):
        listed = vocabulary.words.near(concept.name, concept.kind, LISTED // 2)
        mates = [n for n in listed if not _is_or_has(n, concept)] or mates
    return mates if any(name.lower() not in barred for name in mates) else []


def _pool(base: Base, kind: str) -> tuple[str, ...]:
    return base.vocabulary.styles if kind == "style" else base.vocabulary.concepts


def _is_or_has(name: str, concept: Concept) -> bool:
    return any(mentions(name, own) for own in concept.names)


def candidates(base: Base, concept: Concept) -> list[str]:
    """The names that may stand near a concept: all that the base's own list has of its kind. Of a base that may be asked
    for any word: those of its group, those that the word list has beside it, and those whose tokens are most alike.
    """
    vocabulary = base.vocabulary
    own = [n for n in _pool(base, concept.kind) if not _is_or_has(n, concept)]
    if vocabulary.words is None:
        return own
    group = vocabulary.groups.get(vocabulary.like(concept.name))
    mates = [n for n in own if group and vocabulary.groups.get(n) == group]
    listed = vocabulary.words.near(concept.name, concept.kind, LISTED)
    alike = _alike(base, concept, vocabulary.words)
    found = {key(n): n for n in reversed([*mates, *listed, *alike]) if not _is_or_has(n, concept)}
    return list(reversed(found.values())) or own


def _alike(base: Base, concept: Concept, words: Lexicon) -> list[str]:
    """Words of the concept's kind by the mean embedding of their tokens: cheap for thousands, and the same in every family.

    What shares a token with the concept comes first, and is what an edit of that token moves.
    """
    seat = base.seat
    names = [n for n in words.of_kind(concept.kind) if not _is_or_has(n, concept)]
    table = seat.get(seat.family.embedding)
    ids = seat.tokenizer([f" {n}" for n in (concept.name, *names)], add_special_tokens=False).input_ids
    rows = torch.tensor([i for row in ids for i in row])
    used, places = rows.unique(return_inverse=True)
    owner = torch.repeat_interleave(torch.arange(len(ids)), torch.tensor([len(row) for row in ids]))
    means = torch.zeros(len(ids), table.shape[1]).index_add_(0, owner, table[used].float()[places])
    means /= torch.tensor([max(1, len(row)) for row in ids])[:, None]
    means = F.normalize(means - means.mean(0), dim=-1)
    order = (means[1:] @ means[0]).topk(min(ALIKE, len(names))).indices
    return [names[i] for i in order.tolist()]


def unknown(base: Base, concept: Concept) -> str:
    """What to tell of a concept that is on no list of the base's, so that neither synonyms nor an anchor are known."""
    hint = base.vocabulary.hint(concept.name)
    return f"{concept.name!r} is not on this base's list of words: {hint}say what it is to become with --anchor"


def neighbours(
    base: Base, concept: Concept, names: Sequence[str], space: Space | None = None
) -> list[tuple[str, float]]:
    """``names`` by the cosine of their pooled states with the concept's, after removing the mean; nearest first.

    space: one of the concept's kind that has been asked already.
    """
    space = space or Space(base, concept.kind)
    cosines = space.cosines(concept.name, names, names)
    return sorted(zip(names, cosines, strict=True), key=lambda pair: -pair[1])
