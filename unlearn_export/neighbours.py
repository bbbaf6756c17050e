"""Which known names stand near a concept in the encoder, and which of them it may become."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Base
from .concept import Concept
from .errors import UsageError
from .families.tokens import final_states, tokenise
from .phrasing import TEMPLATES


def anchors(base: Base, concept: Concept, avoid: set[str]) -> list[str]:
    """The known names that a concept may become, best first, none of them in ``avoid``.

    A concept that the base knows takes a neighbour of its own group: a food becomes another food. First comes the
    nearest of those that are no more like it than the group is on average (a cosine of 0), since what is drawn of a
    closer one may be taken for the concept itself. One that the base does not know takes the nearest of all.
    Names of more tokens than the concept's are left out where there are others: not all of their states find a place
    (see ``erasers.prompts.Pairs``). Raises UsageError where the base knows no other name of its kind.
    """
    pool = base.vocabulary.styles if concept.kind == "style" else base.vocabulary.concepts
    own, groups = {name.lower() for name in concept.names}, base.vocabulary.groups
    names = [name for name in pool if name.lower() not in own]
    barred = {name.lower() for name in avoid}
    known = base.vocabulary.like(concept.name)
    mates = [name for name in names if known and groups.get(name) == groups.get(known)]
    mates = mates if any(name.lower() not in barred for name in mates) else []
    near = [pair for pair in neighbours(base, concept, mates or names) if pair[0].lower() not in barred]
    if not near:
        raise UsageError(f"no known neighbour for {concept.name!r}: name one with --anchor")

    def length(name: str) -> int:
        return len(base.seat.tokenizer(name, add_special_tokens=False).input_ids)

    room = min(length(name) for name in concept.names)
    near = [pair for pair in near if length(pair[0]) <= room] or near
    apart = [name for name, cosine in near if cosine <= 0 or not mates]
    return apart + [name for name, _ in reversed(near) if name not in apart]


def unknown(base: Base, concept: Concept) -> str:
    """What to tell of a concept that is on no list of the base's, so that neither synonyms nor an anchor are known."""
    hint = base.vocabulary.hint(concept.name)
    return f"{concept.name!r} is not on this base's list of words: {hint}say what it is to become with --anchor"


def neighbours(base: Base, concept: Concept, names: Sequence[str]) -> list[tuple[str, float]]:
    """``names`` by the cosine of their pooled states with the concept's, after removing the mean; nearest first."""
    templates = TEMPLATES[concept.kind][:4]
    prompts = [t.format(name) for name in [concept.name, *names] for t in templates]
    vectors = pooled(base, prompts).unflatten(0, (-1, len(templates))).mean(1)
    vectors = F.normalize(vectors - vectors.mean(0), dim=-1)
    cosines = (vectors[1:] @ vectors[0]).tolist()
    return sorted(zip(names, cosines, strict=True), key=lambda pair: -pair[1])


@torch.no_grad()
def pooled(base: Base, prompts: Sequence[str]) -> Tensor:
    """One vector [n, d] of each prompt by the first encoder: its own pooled state, or the mean of its text's states.

    What stands around the prompt in the reader's template is left out. A large encoder is asked through its first layer.
    """
    seat = base.seat
    tokens = tokenise(seat.tokenizer, list(prompts), seat.contract, trim=True)
    skeleton = seat.skeleton(1, used=tokens.ids) if seat.large else None
    rows = []
    for i in range(0, len(prompts), 64):
        part = tokens[i : i + 64].to(base.device)
        text = (part.read & tokens.mask[i : i + 64].bool()).to(base.device)
        if skeleton is not None:
            rows.append(_mean(seat.family.residual(skeleton, tokens[i : i + 64], seat.contract.mask), text.cpu()))
            continue
        out = seat.family.call(base.encoder, part, seat.contract.mask)
        own = out.get("pooler_output", out.get("text_embeds"))
        rows.append(_mean(final_states(out)[-1], text) if own is None else own)
    return torch.cat(rows)


def _mean(states: Tensor, text: Tensor) -> Tensor:
    weight = text[..., None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1)
