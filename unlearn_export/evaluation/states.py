"""What an edit did to the text states that pipelines are given, reader by reader: no denoiser and no picture take part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from ..base import Base
from ..concept import Concept
from ..erasers.prompts import places
from ..families.contract import ReaderContract
from ..families.tokens import Tokens, tokenise, views
from ..rates import FINE, Rate, Spread
from ..seat import Seat
from ..states import Gap, ReaderStates, SeatStates, Shares, States, Worst
from ..streaming import original
from .wordings import MOST, OTHERS, Wording, wordings

WORK = 2e13  # multiplications that one reader's measuring may take, about: up to half an hour on two cores
ROOM = 500_000_000  # bytes that the states of one batch may take, about

OnProgress = Callable[[str, int, int], None]  # what is being read, prompts done, in all


def measure_states(
    base: Base,
    edited: Mapping[str, PreTrainedModel],
    concepts: Sequence[Concept],
    *,
    holdout: Sequence[str] = (),
    seed: int = 1000,
    work: float = WORK,
    on_progress: OnProgress | None = None,
) -> States:
    """How far the states moved, how near the concept's came to the anchor's, and whether the others are still known.

    edited: by seat, in memory or streamed; the originals are streamed where they are large. Each seat is measured under
    all its contracts, on what that reader is given. holdout: concepts that the eraser's kept prompts did not name.
    seed: of the random contexts. work: the most multiplications of weights, about, for one reader: a large encoder is
    asked fewer prompts, and the report counts them.
    """
    seats: dict[str, SeatStates] = {}
    for name, after in edited.items():
        seat = base.seats[name]
        before = original(base, name)
        pair = before, after if _streams(after) else after.to(base.device)
        found: list[ReaderStates] = []
        for contract in seat.contracts:

            def tell(done: int, total: int, label: str = f"{name} as {contract.pipelines[0]}") -> None:
                if on_progress:
                    on_progress(label, done, total)

            asked = _affordable(base, seat, contract, concepts, holdout, seed, work)
            found += _Reading(seat, contract, pair, base.device).measure(asked, tell)
        seats[name] = SeatStates(_streams(before), tuple(found))
    return States(seed, seats)


def drift_of(states: States) -> dict[str, float]:
    """The report's ``drift`` out of its ``states``: the means of each seat's first reader, of the seat that moved most."""
    first = [seat.readers[0].drift for seat in states.seats.values()]
    return {
        key: max((moved.mean for drift in first if (moved := drift[group])), default=0.0)
        for key, group in (("empty", "empty"), ("concept", "concept"), ("others", "retained"))
    }


def _streams(encoder: PreTrainedModel) -> bool:
    return any(p.is_meta for p in encoder.parameters())


def _affordable(
    base: Base,
    seat: Seat,
    contract: ReaderContract,
    concepts: Sequence[Concept],
    holdout: Sequence[str],
    seed: int,
    work: float,
) -> list[Wording]:
    """As many prompts as the work allows. Without character offsets a name has no place, and no anchor is looked for."""
    found = wordings(base.vocabulary, concepts, holdout, seed)
    length = tokenise(seat.tokenizer, [w.text for w in found], contract, trim=True).ids.shape[1]
    layers = seat.family.layers(seat.family.skeleton(seat.config))
    cost = length * sum(3 if w.meant else 2 for w in found) * sum(p.numel() for p in layers.parameters())
    if cost > work:
        found = wordings(base.vocabulary, concepts, holdout, seed, work / cost)
    return found if seat.tokenizer.is_fast else [replace(w, meant="", anchor="") for w in found]


@dataclass
class _Found:
    """One view's figures, prompt by prompt. drift: [n]. gaps: group → kind of position → before and after, by prompt.

    nearer: of each held-out prompt about a concept before and after, is it nearer to the anchor's than to its own.
    plain, asked: name → vector of its plain prompt before, and of the other wording before and after.
    """

    drift: list[float] = field(default_factory=list)
    gaps: dict[str, dict[str, tuple[list[float], list[float]]]] = field(default_factory=dict)
    nearer: tuple[list[bool], list[bool]] = field(default_factory=lambda: ([], []))
    apart: list[float] = field(default_factory=list)
    last: Tensor | None = None
    plain: dict[str, Tensor] = field(default_factory=dict)
    asked: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class _Reading:
    """One reader of one seat, looking through the original encoder and the edited one."""

    def __init__(
        self, seat: Seat, contract: ReaderContract, pair: tuple[PreTrainedModel, PreTrainedModel], device: str
    ) -> None:
        self.seat, self.contract, self.device = seat, contract, device
        self.before, self.after = pair

    @torch.no_grad()
    def measure(self, asked: Sequence[Wording], tell: Callable[[int, int], None]) -> list[ReaderStates]:
        """→ one for the states and one for the pooled vector, where they are read"""
        n = len(asked)
        texts = [w.text for w in asked] + [w.meant for w in asked if w.meant]
        phrases = [w.name if w.meant else None for w in asked] + [w.anchor for w in asked if w.meant]
        named = phrases if any(phrases) else None
        tokens = tokenise(self.seat.tokenizer, texts, self.contract, phrases=named, trim=True)
        if self.contract.fill == "longest":  # a prompt alone has no padding
            tokens = replace(tokens, read=tokens.read & tokens.mask.bool())
        said, meant = tokens[:n], tokens[n:]
        goal = torch.tensor([bool(w.meant) for w in asked]).cumsum(0) - 1
        found: dict[str, _Found] = {}
        for rows in torch.arange(n).split(self._batch(tokens)):
            paired = torch.tensor([bool(asked[i].meant) for i in rows.tolist()])
            was, now = (self._views(encoder, said[rows]) for encoder in (self.before, self.after))
            to = meant[goal[rows[paired]]]
            aims = self._views(self.before, to) if paired.any() else {}
            part = [asked[i] for i in rows.tolist()]
            for what in was:
                one = found.setdefault(what, _Found())
                one.drift += _ratio(now[what] - was[what], was[what]).tolist()
                self._names(one, part, said[rows], was[what], now[what], what)
                if paired.any():
                    pairs = [w for w in part if w.meant]
                    self._towards(one, pairs, said[rows[paired]], to, was[what][paired], now[what][paired], aims[what])
            tell(int(rows[-1]) + 1, n)
        return [self._report(what, asked, one) for what, one in found.items()]

    def _batch(self, tokens: Tokens) -> int:
        text = self.seat.family.text_config(self.seat.config)
        length, width = tokens.ids.shape[1], self.seat.width
        inner = int(getattr(text, "intermediate_size", 0) or getattr(text, "d_ff", 4 * width))
        heads = int(getattr(text, "num_attention_heads", 0) or getattr(text, "num_heads", 16))
        joined = self.seat.depth + 1 if self.contract.layers == "all" else len(self.contract.layers)
        row = length * (width * (self.seat.depth + 8 + 6 * joined) + 4 * inner) + 3 * heads * length**2
        return max(1, min(64, ROOM // (4 * row)))

    def _views(self, encoder: PreTrainedModel, tokens: Tokens) -> dict[str, Tensor]:
        """What the reader is given: "states" [n, length, d], zero where it is not read, and "pooled" [n, 1, d]."""
        out = self.seat.family.call(encoder, tokens.to(self.device), self.contract.mask)
        return {what: states.float().cpu() for what, states in views(out, tokens, self.contract).items()}

    def _names(self, one: _Found, part: Sequence[Wording], tokens: Tokens, was: Tensor, now: Tensor, what: str) -> None:
        """Remember by what a name is to be known: the mean of its prompt's states over the text."""
        text = (tokens.read & tokens.mask.bool())[:, tokens.taken, None] if what == "states" else was.new_ones(1, 1, 1)
        for i, w in enumerate(part):
            weight = text[i % len(text)].float()
            if w.is_plain and w.name not in one.plain:
                one.plain[w.name] = (was[i] * weight).sum(0) / weight.sum()
                if one.last is not None:
                    one.apart += _ratio((was[i] - one.last)[None], was[i][None]).tolist()
                one.last = was[i]
            elif w.is_question:
                one.asked[w.name] = tuple((x[i] * weight).sum(0) / weight.sum() for x in (was, now))  # type: ignore[assignment]

    def _towards(
        self,
        one: _Found,
        pairs: Sequence[Wording],
        said: Tokens,
        meant: Tokens,
        was: Tensor,
        now: Tensor,
        aim: Tensor,
    ) -> None:
        """How far the concept's states are from those of the same prompt with its anchor, place by place."""
        if was.shape[1] == 1 and len(said.taken) > 1:
            kinds = {"pooled": torch.ones(len(pairs), 1, dtype=torch.bool)}
        else:
            index = torch.full((said.ids.shape[1],), -1).scatter(0, said.taken, torch.arange(len(said.taken)))
            to = index[places(said, meant)[:, said.taken]]
            aim = aim.gather(1, to.clamp(min=0)[..., None].expand(-1, -1, aim.shape[-1]))
            inside = (said.taken >= said.spans[:, :1]) & (said.taken < said.spans[:, 1:])
            text, read = said.mask.bool()[:, said.taken], said.read[:, said.taken] & (to >= 0)
            kinds = {"name": read & inside, "rest": read & text & ~inside, "padding": read & ~text}
        every = torch.stack(list(kinds.values())).any(0)[..., None]
        own, theirs = (((now - x) * every).flatten(1).norm(dim=1) for x in (was, aim))
        start = ((was - aim) * every).flatten(1).norm(dim=1)
        for i, w in enumerate(pairs):
            for kind, mask in kinds.items():
                if mask[i].any():
                    here = mask[i][None, :, None]
                    before, after = one.gaps.setdefault(w.group, {}).setdefault(kind, ([], []))
                    before += _ratio((was[i] - aim[i])[None] * here, aim[i][None] * here).tolist()
                    after += _ratio((now[i] - aim[i])[None] * here, aim[i][None] * here).tolist()
            if w.group == "concept_held_out":
                one.nearer[0].append(bool(start[i] <= 0))
                one.nearer[1].append(bool(theirs[i] < own[i]))

    def _report(self, what: str, asked: Sequence[Wording], one: _Found) -> ReaderStates:
        groups = {g: [d for d, w in zip(one.drift, asked, strict=True) if w.group == g] for g in MOST}
        others = [(d, w.text) for d, w in zip(one.drift, asked, strict=True) if w.group in OTHERS]
        worst = max(others, default=None)
        return ReaderStates(
            reader=self.contract.pipelines[0],
            what=what,
            prompts={group: len(values) for group, values in groups.items()},
            drift={group: Spread.of(values) for group, values in groups.items()},
            worst=Worst(worst[1], round(worst[0], FINE), len(others)) if worst else None,
            apart=Spread.of(one.apart),
            anchor={
                group: {kind: Gap(*(_spread(values) for values in pair)) for kind, pair in kinds.items()}
                for group, kinds in one.gaps.items()
            },
            nearer_anchor=Shares(*(Rate.of(hits) for hits in one.nearer)) if one.nearer[0] else None,
            known_again=Shares(*(Rate.of(hits) for hits in _known_again(one))),
            among=len(one.plain),
        )


def _spread(values: Sequence[float]) -> Spread:
    found = Spread.of(values)
    assert found is not None  # a kind of position is noted with its first value
    return found


def _known_again(one: _Found) -> tuple[list[bool], list[bool]]:
    """Whether each name's other wording is nearest to that name's plain prompt among all, before and after.

    By the cosine once the mean of each wording before the edit is taken away, so that the wording itself says nothing.
    """
    if len(one.asked) < 2:
        return [], []
    names = list(one.plain)
    plain = torch.stack([one.plain[name] for name in names])
    asked = torch.stack([torch.stack(pair) for pair in one.asked.values()], 1)  # [2, names, d]
    plain = F.normalize(plain - plain.mean(0), dim=-1)
    asked = F.normalize(asked - asked[0].mean(0), dim=-1)
    nearest = (asked @ plain.T).argmax(-1).tolist()
    before, after = ([names[k] == name for k, name in zip(row, one.asked, strict=True)] for row in nearest)
    return before, after


def _ratio(change: Tensor, of: Tensor) -> Tensor:
    """‖change‖ / ‖of‖ of each row [n, …]. → [n]; 0 where both are nothing."""
    return change.flatten(1).norm(dim=1) / of.flatten(1).norm(dim=1).clamp(min=1e-12)
