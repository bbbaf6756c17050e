"""Where names stand in a base's first encoder, by the pooled states of prompts that ask for them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Base
from .families.tokens import final_states, tokenise
from .phrasing import TEMPLATES


class Space:
    """Where names of one kind stand in the first encoder: each asked once, in a few templates of the kind."""

    def __init__(self, base: Base, kind: str) -> None:
        self.base, self.templates = base, TEMPLATES[kind][: 2 if base.vocabulary.words else 4]
        self._known: dict[str, Tensor] = {}

    def of(self, names: Sequence[str]) -> Tensor:
        """The mean pooled state of each name's prompts, [n, d]."""
        new = [name for name in dict.fromkeys(names) if name not in self._known]
        if new:
            states = pooled(self.base, [t.format(name) for name in new for t in self.templates])
            self._known |= zip(new, states.unflatten(0, (len(new), -1)).mean(1), strict=True)
        return torch.stack([self._known[name] for name in names])

    def cosines(self, name: str, others: Sequence[str], among: Sequence[str]) -> list[float]:
        """Of each of ``others`` with ``name``, after removing the mean of ``name`` and those ``among`` which it stands."""
        mean = self.of([name, *among]).mean(0)
        one, rest = (F.normalize(self.of(names) - mean, dim=-1) for names in ([name], others))
        found: list[float] = (rest @ one[0]).tolist()
        return found


@torch.no_grad()
def pooled(base: Base, prompts: Sequence[str]) -> Tensor:
    """One vector [n, d] of each prompt by the first encoder: its own pooled state, or the mean of its text's states.

    What stands around the prompt in the reader's template is left out. A large encoder is asked through its first layer.
    Of a base that may be asked for any word, causal padding is cut off, which tells nothing here and costs most.
    """
    seat = base.seat
    tokens = tokenise(seat.tokenizer, list(prompts), seat.contract, trim=True)
    if base.vocabulary.words and seat.family.causal and seat.contract.padding == "right":
        tokens = tokens.cut(int(tokens.mask.sum(1).max()))
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
