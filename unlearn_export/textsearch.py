"""Search over words by gradient, and encoders that hear something other than their tokens."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from .base import Base

Loss = Callable[[Tensor], Tensor]  # states [n, length, d] → [n]


@contextmanager
def hearing(encoder: PreTrainedModel, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Let ``change(ids, embeddings)`` replace the token embeddings [n, length, d] of every call in the block.

    T5 looks tokens up in a module of its own that shares the table: every one that does is listened to.
    """
    table = encoder.get_input_embeddings().weight
    lookups = [m for m in encoder.modules() if isinstance(m, nn.Embedding) and m.weight is table]
    handles = [m.register_forward_hook(lambda _m, args, out: change(args[0], out)) for m in lookups]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def typeable(base: Base, without: Sequence[str] = ()) -> Tensor:
    """The ids of whole words that a user can type: alone and in a row they come back from the tokenizer as they were.

    without: words whose own tokens are left out.
    """
    tokenizer = base.seat.tokenizer
    special = set(tokenizer.all_special_ids)
    words = {i: tokenizer.decode([i]).strip() for i in range(len(tokenizer)) if i not in special}
    words = {i: word for i, word in words.items() if word.isalpha() and word.isascii()}
    again = tokenizer(list(words.values()), add_special_tokens=False).input_ids
    barred = {i for word in without for i in tokenizer(word, add_special_tokens=False).input_ids}
    return torch.tensor([i for i, ids in zip(words, again, strict=True) if ids == [i] and i not in barred])


def said(base: Base, ids: Tensor) -> str:
    """What a user would type for these ids of whole words."""
    return " ".join(base.seat.tokenizer.decode([i]).strip() for i in ids.tolist())


@dataclass(frozen=True)
class Found:
    """words: [k] ids in place of the free ones. first, last: loss of the start and of the result."""

    words: Tensor
    first: float
    last: float


def greedy_coordinate_gradient(
    encoder: PreTrainedModel,
    tokens: Tensor,
    places: Tensor,
    allowed: Tensor,
    loss: Loss,
    *,
    steps: int,
    candidates: int,
    generator: torch.Generator,
    pool: int = 32,
    on_step: Callable[[int], None] | None = None,
) -> Found:
    """Exchange one word at a time for another that lowers the loss (Zou et al. 2023, arXiv:2307.15043, algorithm 1).

    The gradient of the loss by the one-hot vectors of the free words ranks all exchanges; of the ``pool`` best at
    each place, ``candidates`` are drawn and tried, and the best is kept if it is better than what was there.
    tokens: [1, length]; places: [k], which of them are free; allowed: [m] ids. The encoder is not altered.
    """
    table = encoder.get_input_embeddings().weight.detach()
    places, allowed = places.to(table.device), allowed.to(table.device)
    tokens = tokens.clone()
    start = allowed[torch.randint(len(allowed), (len(places),), generator=generator).to(table.device)]
    tokens[0, places] = start
    with torch.no_grad():
        first = last = float(loss(encoder(tokens)[0])[0])
    for step in range(steps):
        chosen = F.one_hot(tokens[0, places], len(table)).to(table.dtype).requires_grad_()
        soft = (chosen @ table)[None]

        def exchange(_ids: Tensor, out: Tensor, words: Tensor = soft) -> Tensor:
            return out.index_copy(1, places, words)

        with hearing(encoder, exchange):
            (slope,) = torch.autograd.grad(loss(encoder(tokens)[0])[0], chosen)
        best = (-slope[:, allowed]).topk(min(pool, len(allowed)), dim=1).indices
        where = torch.randint(len(places), (candidates,), generator=generator)
        which = torch.randint(best.shape[1], (candidates,), generator=generator)
        tried = tokens.repeat(candidates, 1)
        tried[torch.arange(candidates), places[where]] = allowed[best[where, which]]
        with torch.no_grad():
            losses = loss(encoder(tried)[0])
        i = int(losses.argmin())
        if float(losses[i]) < last:
            tokens, last = tried[i : i + 1].clone(), float(losses[i])
        if on_step:
            on_step(step + 1)
    return Found(tokens[0, places], first, last)
