"""A prompt as a pipeline's encoder sees it, the named phrase in it, and what of the encoder's states is read.

Everything follows a ``ReaderContract``: the same ids and mask that the pipeline passes, the same states that it takes.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .contract import ReaderContract


@dataclass(frozen=True)
class Tokens:
    """Rows of tokens, as one pipeline gives them to its encoder.

    ids, mask: [n, L] int64; the mask is the tokenizer's, whether or not the encoder is given it.
    read: [n, L] bool, the positions whose states the denoiser gets.
    spans: [n, 2] int64, the first position of the named phrase and one past its last; -1 where none was named.
    taken: [L'] int64, the positions that leave the encoder, the same for every row: crop and window are applied.
    """

    ids: Tensor
    mask: Tensor
    read: Tensor
    spans: Tensor
    taken: Tensor

    def __getitem__(self, rows: slice | Tensor) -> "Tokens":
        """Some of the rows."""
        return replace(self, ids=self.ids[rows], mask=self.mask[rows], read=self.read[rows], spans=self.spans[rows])

    def cut(self, length: int) -> "Tokens":
        """The first ``length`` positions."""
        taken = self.taken[self.taken < length]
        return replace(
            self, ids=self.ids[:, :length], mask=self.mask[:, :length], read=self.read[:, :length], taken=taken
        )

    def to(self, device: str | torch.device) -> "Tokens":
        """The same with the encoder's inputs on a device."""
        return replace(self, ids=self.ids.to(device), mask=self.mask.to(device))


def tokenise(
    tokenizer: Any,
    texts: Sequence[str],
    contract: ReaderContract,
    *,
    phrases: Sequence[str | None] | None = None,
    trim: bool = False,
) -> Tokens:
    """The texts as the contract's pipelines tokenise them: too long ones are cut as if each were alone.

    tokenizer: the pipeline's component, a tokenizer or a processor around one. It is not changed.
    phrases: the piece of each text whose positions are wanted: its first occurrence as a whole word, else the first.
    trim: leave out padding beyond the longest row, where that does not change what is read: never where padding is
        read, or where it attends (T5 without a mask).

    Raises UsageError if a phrase is not in its text, was cut off, or the tokenizer has no character offsets.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if phrases is not None and not tokenizer.is_fast:
        raise UsageError(
            f'the phrase "{next(filter(None, phrases), "")}" cannot be found in tokens: {type(tokenizer).__name__} '
            "gives no character offsets; use its fast form"
        )
    before = contract.template.partition("{}")[0]
    contents = [clean(text, contract) or contract.empty for text in texts]
    if contract.crop is None:
        limit = len(tokenizer(before, add_special_tokens=contract.specials).input_ids) + contract.length - 2
    else:
        limit = contract.crop + contract.length
    prompts = [contract.template.format(content) for content in contents]
    if contract.cut == "text":
        prompts = [_cut(tokenizer, prompt, contract, limit) for prompt in prompts]
    encoded = tokenizer(
        prompts,
        padding="max_length" if contract.fill == "length" else "longest",
        padding_side=contract.padding,
        max_length=limit,
        truncation=True,
        add_special_tokens=contract.specials,
        return_attention_mask=True,
        return_offsets_mapping=phrases is not None,
        return_tensors="pt",
    )
    ids, mask = encoded.input_ids, encoded.attention_mask
    n, length = ids.shape
    if contract.crop is None:
        taken = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(length - contract.length + 1, length)])
    else:
        taken = torch.arange(contract.crop, length)[: contract.window]
    read = torch.zeros(n, length, dtype=torch.bool)
    read[:, taken] = True
    if contract.reads == "mask":
        read &= mask.bool()
    spans = torch.full((n, 2), -1)
    for i, phrase in enumerate(phrases or ()):
        if phrase is not None:
            first, last = _within(contents[i], clean(phrase, contract), phrase)
            spans[i] = _span(encoded.offset_mapping[i], len(before) + first, len(before) + last)
            if spans[i, 0] < 0 or not read[i, spans[i, 0] : spans[i, 1]].all():
                raise UsageError(
                    f'the phrase "{phrase}" was cut off: {contract.pipelines[0]} reads {contract.window or contract.length} '
                    "tokens; name it earlier in the prompt"
                )
    tokens = Tokens(ids, mask, read, spans, taken)
    return _trimmed(tokens, contract) if trim else tokens


def read_states(hidden_states: Sequence[Tensor], tokens: Tokens, contract: ReaderContract) -> Tensor:
    """What the denoiser is given, [n, L', d]: of each layer's states [n, L, d], those that the contract reads.

    hidden_states: the embedding's output, then every layer's, the last after the final norm (``final_states``).
    Positions are cropped; unread padding is zero. Several layers share the last dimension.

    Raises ValueError if the contract reads the pooled vector alone.
    """
    if contract.layers == "all":
        layers = list(hidden_states if contract.embedding else hidden_states[1:])
    else:
        layers = [hidden_states[k] for k in contract.layers]
    if not layers:
        raise ValueError(f"{contract.pipelines[0]} reads no states of its {contract.seat}, only the pooled vector")
    taken = tokens.taken.to(layers[0].device)
    layers = [states[:, taken] for states in layers]
    if contract.standardised:
        layers = [(states - states.mean(-1, keepdim=True)) / (states.std(-1, keepdim=True) + 1e-8) for states in layers]
    together = torch.stack(layers, -1).flatten(2) if contract.join == "interleaved" else torch.cat(layers, -1)
    read = tokens.read.to(taken.device)[:, taken, None]
    return together.masked_fill(~read, 0)


def views(output: Any, tokens: Tokens, contract: ReaderContract) -> dict[str, Tensor]:
    """What the contract's pipelines are given of an encoder's output: "states" [n, L', d] and "pooled" [n, 1, d], each
    where it is read.
    """
    found = {}
    if contract.layers:
        found["states"] = read_states(final_states(output), tokens, contract)
    if contract.pooled:
        projected = output.get("text_embeds")
        found["pooled"] = (output.pooler_output if projected is None else projected)[:, None]
    return found


def final_states(output: Any) -> tuple[Tensor, ...]:
    """An encoder output's hidden states, the last one after the final norm.

    Most models of transformers 5 give it so; CLIP's ``hidden_states[-1]`` is from before its norm.
    """
    last = getattr(output, "last_hidden_state", None)
    return tuple(output.hidden_states) if last is None else (*output.hidden_states[:-1], last)


def clean(text: str, contract: ReaderContract) -> str:
    """What the contract's pipelines make of a prompt before they tokenise it."""
    if contract.clean == "spaces":
        try:
            import ftfy  # as the pipelines: used where it is installed
        except ImportError:
            pass
        else:
            text = ftfy.fix_text(text)
        return re.sub(r"\s+", " ", html.unescape(html.unescape(text)).strip()).strip()
    if contract.clean == "caption":
        from diffusers import PixArtAlphaPipeline
        from diffusers.utils import is_bs4_available, is_ftfy_available

        if is_bs4_available() and is_ftfy_available():
            for _ in range(2):  # twice, as the pipelines do
                text = PixArtAlphaPipeline._clean_caption(PixArtAlphaPipeline, text)
            return text
    if contract.clean in ("lower", "caption"):
        text = text.lower()
    return text.strip() if contract.clean else text


def _cut(tokenizer: Any, prompt: str, contract: ReaderContract, limit: int) -> str:
    """Kandinsky's way: as many characters go, from the end of the template, as the tokens that are too many have."""
    ids = tokenizer(prompt).input_ids
    if len(ids) <= limit:
        return prompt
    removed = tokenizer.decode(ids[contract.crop : -2][contract.length - 2 :])
    return prompt[: len(prompt) - len(removed)]


def _within(content: str, wanted: str, phrase: str) -> tuple[int, int]:
    """The first and one past the last character of the phrase."""
    found = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", content) or re.search(re.escape(wanted), content)
    if not wanted or found is None:
        raise UsageError(f'the phrase "{phrase}" is not in the prompt "{content}"')
    return found.span()


def _span(offsets: Tensor, first: int, last: int) -> Tensor:
    """The token positions that overlap these characters; -1 if they do not reach to the end. offsets: [L, 2]."""
    inside = ((offsets[:, 0] < last) & (offsets[:, 1] > first)).nonzero().flatten()
    if len(inside) == 0 or offsets[inside, 1].max() < last:
        return torch.tensor([-1, -1])
    return torch.stack([inside[0], inside[-1] + 1])


def _trimmed(tokens: Tokens, contract: ReaderContract) -> Tokens:
    hidden = contract.mask or (contract.causal and contract.padding == "right")  # padding reaches no real position
    if contract.reads == "all" or not hidden:
        return tokens
    length = tokens.ids.shape[1]
    longest = int(tokens.mask.sum(1).max())
    if contract.padding == "left":
        first, last = length - longest, length
    else:
        first, last = 0, longest
    kept = (tokens.taken >= first) & (tokens.taken < last)
    return replace(
        tokens,
        ids=tokens.ids[:, first:last],
        mask=tokens.mask[:, first:last],
        read=tokens.read[:, first:last],
        spans=torch.where(tokens.spans < 0, tokens.spans, tokens.spans - first),
        taken=tokens.taken[kept] - first,
    )
