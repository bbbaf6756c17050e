"""Random prompts for the fits: some that mention the concepts, the same with their anchors, some with neither."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..concept import Concept
from ..errors import UsageError
from ..families.tokens import Tokens
from ..phrasing import TEMPLATES, in_style, styled, with_context
from ..vocabulary import Vocabulary


class Prompts:
    """Texts, drawn at random from what the base's vocabulary and the concepts offer."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        tokenizer: Any,
        concepts: Sequence[Concept],
        holdout: Sequence[str],
        generator: torch.Generator,
    ) -> None:
        self.concepts, self.generator, self.tokenizer = concepts, generator, tokenizer
        erased = {n.lower() for c in concepts for n in c.names}
        barred = erased | {n.lower() for h in holdout for n in (h, *vocabulary.aliases.get(h, ()))}
        own = [n for c in vocabulary.concepts for n in (c, *vocabulary.aliases.get(c, ()))]
        asked = [(c.kind == "style", n) for c in concepts for n in (*c.retain, c.anchor)]
        subjects = [*own, *(n for is_style, n in asked if not is_style)]
        styles = [*vocabulary.styles, *(n for is_style, n in asked if is_style)]
        self.subjects, self.styles = (
            [n for n in dict.fromkeys(names) if n and n.lower() not in barred] for names in (subjects, styles)
        )
        self.contexts = list(vocabulary.contexts)
        words = {i for name in barred for i in tokenizer(name, add_special_tokens=False).input_ids}
        self.free = [i for i in range(len(tokenizer)) if i not in words and i not in set(tokenizer.all_special_ids)]

    def pairs(self, n: int) -> list[tuple[str, str, str, str]]:
        """n times (prompt with a concept, the name in it, the same with the anchor, the anchor)."""
        found = []
        for frame, concept, name in self._frames(n):
            found.append((frame.format(name), name, frame.format(concept.anchor), concept.anchor))
        return found

    def about(self, n: int) -> list[str]:
        """n prompts with a concept."""
        return [frame.format(name) for frame, _, name in self._frames(n)]

    def attacked(self, n: int, words: int) -> list[tuple[tuple[str, str, str], tuple[str, str], tuple[str, str]]]:
        """n times (a prompt with so many words for an attacker's embeddings to stand in, those, what means the concept in
        it), (the prompt with the concept, its name), (with its anchor, that).

        Two times in three the words stand in place of the name and mean it, else they come before a prompt that has it.
        """
        found = []
        filler = " ".join([self.filler] * words)
        for frame, concept, name in self._frames(n):
            plain = frame.format(name)
            said = (frame.format(filler), filler, filler) if self._index(3) else (f"{filler} {plain}", filler, name)
            found.append((said, (plain, name), (frame.format(concept.anchor), concept.anchor)))
        return found

    @property
    def filler(self) -> str:
        """A known word of as few tokens as there are."""
        return min(self.subjects, key=lambda name: len(self.tokenizer(name, add_special_tokens=False).input_ids))

    def _frames(self, n: int) -> Iterator[tuple[str, Concept, str]]:
        """n times a prompt with a {}, a concept that it is for, and one of that one's names."""
        for _ in range(n):
            concept = self._pick(self.concepts)
            name = self._pick(concept.names)
            yield self._frame(self._pick(TEMPLATES[concept.kind]), style=concept.kind == "style"), concept, name

    def kept(self, n: int) -> list[str]:
        """n prompts that mention no concept: half are about known things, the rest strings of random tokens."""
        texts = []
        for i in range(n):
            if i % 2:
                texts.append(self.tokenizer.decode([self._pick(self.free) for _ in range(1 + self._index(12))]))
            else:
                template = self._pick(TEMPLATES[("object", "character", "person")[self._index(3)]])
                texts.append(self._frame(template, style=False).format(self._pick(self.subjects)))
        return texts

    def _frame(self, template: str, style: bool) -> str:
        """A template with a context, and a style or, for a style's own prompts, a subject."""
        if style:
            if self._index(4):  # on a subject
                template = styled(self._pick(self.subjects), self._index(2))
        elif self.styles and self._index(2):
            template = in_style(template, self._pick(self.styles))
        return with_context(template, self._pick(self.contexts))

    def _index(self, n: int) -> int:
        return int(torch.randint(n, (1,), generator=self.generator))

    def _pick(self, items: Sequence[Any]) -> Any:
        return items[self._index(len(items))]


def places(said: Tokens, meant: Tokens) -> Tensor:
    """For each position of prompts with a concept the position [n, length] of the same prompt with its anchor.

    The state at position p of ``said`` is to become that at ``places[p]`` of ``meant``. They differ where the two names
    have different numbers of tokens: the last tokens of both stand for each other, since causal attention has gathered
    the whole name there, and what follows is shifted. Both need ``spans``. Raises UsageError for a name of no tokens.
    """
    for tokens in (said, meant):
        if bool((tokens.spans[:, 0] >= tokens.spans[:, 1]).any() or (tokens.spans < 0).any()):
            raise UsageError("the tokenizer leaves nothing of a name: choose one of letters that it knows")
    return _places(said, meant).clamp(0, meant.ids.shape[1] - 1)


def reaches(said: Tokens, meant: Tokens) -> Tensor:
    """Which positions [n, length] have a place at all: a shorter name leaves none for the last, a longer none for the
    first of a text that is padded on the left."""
    found = _places(said, meant)
    return (found >= 0) & (found < meant.ids.shape[1])


def _places(said: Tokens, meant: Tokens) -> Tensor:
    position = torch.arange(said.ids.shape[1])[None]
    (start, end), (new_start, new_end) = said.spans.T[..., None], meant.spans.T[..., None]
    before = position - start + new_start
    after = position - end + new_end
    inside = torch.maximum(after, new_start)
    return torch.where(position < start, before, torch.where(position < end, inside, after))
