"""Search over words by gradient, and encoders that hear something other than their tokens."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from .families.tokens import clean
from .seat import Seat

Loss = Callable[[Sequence[str]], Tensor]  # n times some words → [n]


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


@torch.no_grad()
def embeddings(encoder: PreTrainedModel) -> Tensor:
    """What the layers are given for each token, [m, d]: some families scale the table's rows as they look them up."""
    lookup = encoder.get_input_embeddings()
    return lookup.forward(torch.arange(len(lookup.weight), device=lookup.weight.device))  # past hooks on the ids


def typeable(seat: Seat, without: Sequence[str] = ()) -> Tensor:
    """The ids of whole words that a user can type: alone and in a row they come back from the
    tokenizer as they were, after what the pipeline cleans of a prompt.

    without: words whose own tokens are left out.
    """
    tokenizer = seat.tokenizer
    special = set(tokenizer.all_special_ids)
    words = {i: tokenizer.decode([i]).strip() for i in range(len(tokenizer)) if i not in special}
    words = {i: word for i, word in words.items() if word.isalpha() and word.isascii()}
    cleaned = [clean(word, seat.contract) for word in words.values()]
    again = tokenizer(cleaned, add_special_tokens=False).input_ids
    barred = {i for word in without for i in tokenizer(word, add_special_tokens=False).input_ids}
    return torch.tensor([i for i, ids in zip(words, again, strict=True) if ids == [i] and i not in barred])


def said(seat: Seat, ids: Tensor) -> str:
    """What a user would type for these ids of whole words."""
    return " ".join(seat.tokenizer.decode([i]).strip() for i in ids.tolist())


@dataclass(frozen=True)
class Found:
    """words: [length] ids. first, last: loss of the start and of the result."""

    words: Tensor
    first: float
    last: float


def greedy_coordinate_gradient(
    seat: Seat,
    encoder: PreTrainedModel,
    length: int,
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

    The gradient of the loss by the one-hot vectors of the ``length`` words ranks all exchanges; of the ``pool`` best at
    each place, ``candidates`` are drawn and tried, and the best is kept if it is better than what was there.
    allowed: [m] ids of the seat's tokenizer. loss: of texts as a user types them, whatever it puts around them and
    whichever other encoders read them; ``encoder`` is the one in which the words are free. It is not altered.
    """
    table = encoder.get_input_embeddings().weight.detach()
    allowed = allowed.to(table.device)
    places = torch.arange(length, device=table.device)
    words = allowed[torch.randint(len(allowed), (length,), generator=generator).to(table.device)]
    with torch.no_grad():
        first = last = float(loss([said(seat, words)])[0])
    for step in range(steps):
        chosen = F.one_hot(words, len(table)).to(table.dtype).requires_grad_()

        def exchange(ids: Tensor, out: Tensor, words: Tensor = words, soft: Tensor = chosen @ table) -> Tensor:
            start = (ids[0].unfold(0, length, 1) == words).all(1).nonzero()[0]
            return out.index_copy(1, start + places, soft[None])

        with hearing(encoder, exchange):
            (slope,) = torch.autograd.grad(loss([said(seat, words)])[0], chosen)
        best = (-slope[:, allowed]).topk(min(pool, len(allowed)), dim=1).indices
        where = torch.randint(length, (candidates,), generator=generator)
        which = torch.randint(best.shape[1], (candidates,), generator=generator)
        tried = words.repeat(candidates, 1)
        tried[torch.arange(candidates), where] = allowed[best[where, which]]
        with torch.no_grad():
            losses = loss([said(seat, row) for row in tried])
        i = int(losses.argmin())
        if float(losses[i]) < last:
            words, last = tried[i].clone(), float(losses[i])
        if on_step:
            on_step(step + 1)
    return Found(words, first, last)
