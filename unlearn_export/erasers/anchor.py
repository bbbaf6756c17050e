"""Anchor alignment: the concept's prompts come to mean another thing's, everything else stays."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from ..base import Base
from ..concept import TEMPLATES, Concept
from ..denoising import Pin, linear_layers, only_trainable
from ..errors import UsageError
from .options import check_range, option


@dataclass(frozen=True)
class Anchor:
    """Fit the encoder so that "… pizza …" gives the states that "… hamburger …" gave, at every position.

    min_τ ‖τ(p[concept]) − τ₀(p[anchor])‖² + keep · ‖τ(q) − τ₀(q)‖² over prompts p about the concept and q about
    anything else, τ₀ the original, τ its first ``depth`` layers: where those agree, so does every layer above, and
    a fit through few layers costs as little as they do. No denoiser and no picture take part. All positions count:
    end-of-text and padding carry the concept as readily as its own token. The idea of mapping a concept to an anchor
    is Concept Ablation's (Kumari et al. 2023, arXiv:2303.13516), here on the text states alone. q are the base's
    other concepts, synonyms and styles in every context, the user's ``retain``, and random strings of vocabulary
    tokens. The empty prompt cannot move (see ``Pin``).
    """

    name: ClassVar[str] = "anchor"
    images: ClassVar[int] = 0

    depth: int = option(1, "layers of the encoder that are fitted, from the first on")
    steps: int = option(200, "optimizer steps")
    lr: float = option(2e-3, "learning rate at a width of 128; a wider encoder takes proportionally smaller steps")
    batch: int = option(16, "prompts of each sort in a step")
    keep: float = option(4.0, "weight of the prompts that must stay")
    pool: int = option(512, "prompts of each sort, drawn from throughout")
    parts: tuple[str, ...] = option(("mlp", "attention"), "layers that may change: mlp, attention, last-attention")
    holdout: tuple[str, ...] = option((), "known concepts that the kept prompts must not name, to judge by")

    def __post_init__(self) -> None:
        check_range(self, above=("depth", "steps", "lr", "batch", "pool"), least=("keep",))

    def resolve(self, base: Base, concepts: Sequence[Concept]) -> list[Concept]:
        """Known synonyms become aliases, and a concept without an anchor takes a known neighbour (see ``anchors``).

        Raises UsageError for a ``holdout`` that the base does not know, since it would hold out nothing, and for an
        unknown concept without an anchor, which may be a typing error.
        """
        for name in self.holdout:
            if name not in base.vocabulary.concepts:
                known = ", ".join(base.vocabulary.concepts)
                raise UsageError(f"cannot hold out {name!r}: this base's concepts are {known}")
        taken = {base.vocabulary.like(c.name) or c.name for c in concepts}
        done = []
        for concept in concepts:
            known = base.vocabulary.like(concept.name)
            words = (*concept.names, known, *base.vocabulary.aliases.get(known, ()))
            named = replace(concept, aliases=tuple(word for word in words if word))
            concept = replace(concept, aliases=named.names[1:])
            if not concept.anchor and not known:
                raise UsageError(_unknown(base, concept))
            if not concept.anchor:
                concept = replace(concept, anchor=anchors(base, concept, avoid=taken | set(self.holdout))[0])
            done.append(concept)
        return done

    def edit(
        self,
        base: Base,
        concepts: Sequence[Concept],
        latents: Sequence[Tensor] = (),
        *,
        generator: torch.Generator,
        on_step: Callable[[int, int, float], None] | None = None,
    ) -> PreTrainedModel:
        """See ``Method.edit``. All concepts are fitted together; ``resolve`` has given each its anchor."""
        # a copy cut short to train; transformers hooks its layers, so the cut one must not be what is returned
        encoder: Any = copy.deepcopy(base.encoder)
        layers = linear_layers(encoder, self.parts)
        prompts = Prompts(base, concepts, self.holdout, generator)
        said, meant, places = prompts.concept(self.pool)
        kept = prompts.kept(2 * self.pool)
        lr = self.lr * 128 / encoder.config.hidden_size
        encoder.encoder.layers = encoder.encoder.layers[: self.depth]
        layers = {name: layer for name, layer in layers.items() if layer in set(encoder.modules())}
        pin = Pin(encoder, layers, base.tokens([""]).to(encoder.device))
        with only_trainable(encoder, layers) as params:
            with torch.no_grad():
                wanted = torch.cat([_states(encoder, part) for part in torch.cat([meant, kept]).split(64)])
                moved = wanted[: len(meant)].gather(1, places[..., None].expand(-1, -1, wanted.shape[-1]))
                wanted = torch.cat([moved, wanted[len(meant) :]])
            spread = wanted.var()
            optimizer = torch.optim.Adam(params, lr=lr, betas=(0.9, 0.98))
            warm = max(0.1, 2 / (self.steps + 1))
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=self.steps + 1, pct_start=warm)
            for step in range(self.steps):
                i = torch.randint(len(said), (self.batch,), generator=generator)
                j = torch.randint(len(kept), (2 * self.batch,), generator=generator)
                states = _states(encoder, torch.cat([said[i], kept[j]]))
                move = F.mse_loss(states[: self.batch], wanted[i]) / spread
                stay = F.mse_loss(states[self.batch :], wanted[len(meant) + j]) / spread
                loss = move + self.keep * stay
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                pin.apply()
                if on_step:
                    on_step(step + 1, self.steps, loss.item())
        whole = copy.deepcopy(base.encoder)
        whole.load_state_dict(whole.state_dict() | encoder.state_dict())
        return whole


def _states(encoder: PreTrainedModel, tokens: Tensor) -> Tensor:
    """tokens [n, length] → the residual stream [n, length, d] above the encoder's layers, before the last norm."""
    return encoder(tokens, output_hidden_states=True).hidden_states[-1]


def anchors(base: Base, concept: Concept, avoid: set[str]) -> list[str]:
    """The known names that a concept may become, best first, none of them in ``avoid``.

    A concept that the base knows takes a neighbour of its own group: a food becomes another food. First comes the
    nearest of those that are no more like it than the group is on average (a cosine of 0), since what is drawn of a
    closer one may be taken for the concept itself. One that the base does not know takes the nearest of all.
    Names of more tokens than the concept's are left out where there are others: not all of their states find a place
    (see ``Prompts.concept``). Raises UsageError where the base knows no other name of its kind.
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
        return len(base.pipeline.tokenizer(name, add_special_tokens=False).input_ids)

    room = min(length(name) for name in concept.names)
    near = [pair for pair in near if length(pair[0]) <= room] or near
    apart = [name for name, cosine in near if cosine <= 0 or not mates]
    return apart + [name for name, _ in reversed(near) if name not in apart]


def _unknown(base: Base, concept: Concept) -> str:
    """What to tell of a concept that is on no list of the base's, so that neither synonyms nor an anchor are known."""
    hint = base.vocabulary.hint(concept.name)
    return f"{concept.name!r} is not on this base's list of words: {hint}say what it is to become with --anchor"


@torch.no_grad()
def neighbours(base: Base, concept: Concept, names: Sequence[str]) -> list[tuple[str, float]]:
    """``names`` by the cosine of their pooled states with the concept's, after removing the mean; nearest first."""
    templates = TEMPLATES[concept.kind][:4]
    prompts = [t.format(name) for name in [concept.name, *names] for t in templates]
    pooled = base.encoder(base.tokens(prompts).to(base.encoder.device)).pooler_output
    pooled = pooled.unflatten(0, (-1, len(templates))).mean(1)
    pooled = F.normalize(pooled - pooled.mean(0), dim=-1)
    cosines = (pooled[1:] @ pooled[0]).tolist()
    return sorted(zip(names, cosines, strict=True), key=lambda pair: -pair[1])


class Prompts:
    """Random prompts that mention the concepts, the same with their anchors, and prompts that mention neither."""

    def __init__(
        self, base: Base, concepts: Sequence[Concept], holdout: Sequence[str], generator: torch.Generator
    ) -> None:
        vocabulary = base.vocabulary
        self.base, self.concepts, self.generator = base, concepts, generator
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
        tokenizer = base.pipeline.tokenizer
        words = {i for name in barred for i in self._ids(name)}
        self.free = [i for i in range(len(tokenizer)) if i not in words and i not in set(tokenizer.all_special_ids)]

    def concept(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """→ tokens [n, length] of prompts with a concept, the same with its anchor, and places [n, length] there.

        The state at position p of a prompt with the concept is to become that at ``places[p]`` of the one with the
        anchor. They differ from p where the two names have different numbers of tokens: the last tokens of both stand
        for each other, since causal attention has gathered the whole name there, and what follows is shifted.
        """
        said, meant, places = [], [], []
        position = torch.arange(self.base.pipeline.tokenizer.model_max_length)
        for _ in range(n):
            concept = self._pick(self.concepts)
            name = self._pick(concept.names)
            frame = self._frame(self._pick(TEMPLATES[concept.kind]), style=concept.kind == "style")
            start, end = (self._ids(part) for part in frame.split("{}"))
            old, new = self._ids(name), self._ids(concept.anchor)
            said.append(start + old + end)
            meant.append(start + new + end)
            first = 1 + len(start)
            shifted = (position + len(new) - len(old)).clamp(first, len(position) - 1)
            places.append(torch.where(position < first, position, shifted))
        return self._pad(said), self._pad(meant), torch.stack(places).to(self.base.encoder.device)

    def _ids(self, text: str) -> list[int]:
        return self.base.pipeline.tokenizer(text, add_special_tokens=False).input_ids

    def _pad(self, rows: list[list[int]]) -> Tensor:
        tokenizer = self.base.pipeline.tokenizer
        length = tokenizer.model_max_length
        whole = [[tokenizer.bos_token_id, *row[: length - 2], tokenizer.eos_token_id] for row in rows]
        padded = [row + [tokenizer.pad_token_id] * (length - len(row)) for row in whole]
        return torch.tensor(padded, device=self.base.encoder.device)

    def kept(self, n: int) -> Tensor:
        """→ tokens [n, length]: half are prompts about known things, the rest strings of random tokens."""
        rows = []
        for i in range(n):
            if i % 2:
                rows.append([self._pick(self.free) for _ in range(1 + self._index(12))])
            else:
                template = self._pick(TEMPLATES[("object", "character", "person")[self._index(3)]])
                rows.append(self._ids(self._frame(template, style=False).format(self._pick(self.subjects))))
        return self._pad(rows)

    def _frame(self, template: str, style: bool) -> str:
        """A template with a context, and a style or, for a style's own prompts, a subject."""
        if style:
            if self._index(4):  # "a pizza in the style of {}"
                template = f"a {self._pick(self.subjects)} in {('the style of {}', '{} style')[self._index(2)]}"
        elif self.styles and self._index(2):
            template += f" in {self._pick(self.styles)} style"
        return f"{template} {self._pick(self.contexts)}".strip()

    def _index(self, n: int) -> int:
        return int(torch.randint(n, (1,), generator=self.generator))

    def _pick(self, items):  # type: ignore[no-untyped-def]
        return items[self._index(len(items))]
