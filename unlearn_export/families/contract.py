"""How a diffusers pipeline reads one text encoder: the words to say it in, and when two ways of reading are alike.

An edit helps a pipeline only where it reaches every state that the pipeline reads, at every position that it reads,
under the prompt template that it writes.
"""

from dataclasses import dataclass
from typing import Literal

_READ = ("mask", "all")  # who reads all positions reads those under the mask


@dataclass(frozen=True, kw_only=True)
class ReaderContract:
    """How pipelines read one text encoder.

    pipelines: the diffusers classes that read it so, the main one first.
    seat: the component that it is in them. tokenizer: the component (a tokenizer or a processor) that feeds it.
    architectures: the transformers classes that sit there. weights: the published weights, for people.
    length: the positions, special tokens and padding included, that the pipeline's ``__call__`` gives the encoder
        beyond the first ``crop``: the tokenizer's ``max_length`` is ``crop + length``.
        ``encode_prompt`` alone may default to less.
    template: what stands around the prompt, rendered as text; ``{}`` is the prompt.
    crop: leading positions that are not read. None: the template's length depends on the tokenizer; the tokenizer's
        ``max_length`` is ``length - 2`` more than the tokens of the text before the prompt (special tokens counted),
        and the first and the last ``length - 1`` positions are read.
    window: positions that are read after the crop, where that is fewer than the encoder was given.
    clean: what happens to a prompt first. "strip": outer white space goes. "lower": also lower case. "caption":
        diffusers' caption cleaning, which is "lower" unless bs4 and ftfy are installed. "spaces": ftfy where
        installed, HTML entities, and white space squeezed.
    empty: what stands for an empty prompt.
    specials: the tokenizer adds its own special tokens, such as BOS and EOS.
    cut: how a prompt that is too long is cut: its "tokens", or first its "text" by the length of what is too much.
    fill: rows are padded to the full "length" or to the "longest" row. padding: on which side.
    mask: the attention mask is given to the encoder; without it padding attends like words.
    reads: what the denoiser heeds: "all" positions, padding too, or those under the "mask", the padded part zeroed, cut
        or masked.
    layers: indices into ``hidden_states``, -1 being the state after the final norm (for CLIP, that is
        ``last_hidden_state`` and not ``hidden_states[-1]``; see ``tokens.final_states``). "all": every layer's.
        (): none, the pooled vector alone is read.
    join: several layers are concatenated one after another, or "interleaved" (feature 0 of every layer, feature 1...).
    standardised: each state has its mean taken away and is divided by its standard deviation, over the features.
    pooled: the pooled vector is read (as well).
    embedding: the embedding's raw output, ``hidden_states[0]``, is among what is read.
    bidirectional: a position sees those after it too. Of T5 and its kin that is known by the class's name.
    video: the pipelines draw videos, not pictures.
    unedited: other text paths of these pipelines, in words, that an edit of this seat does not reach.
    """

    pipelines: tuple[str, ...]
    seat: str
    tokenizer: str
    architectures: tuple[str, ...]
    weights: tuple[str, ...]
    length: int
    template: str = "{}"
    crop: int | None = 0
    window: int | None = None
    clean: Literal["", "strip", "lower", "caption", "spaces"] = ""
    empty: str = ""
    specials: bool = True
    cut: Literal["tokens", "text"] = "tokens"
    fill: Literal["length", "longest"] = "length"
    padding: Literal["left", "right"] = "right"
    mask: bool = True
    reads: Literal["all", "mask"] = "mask"
    layers: tuple[int, ...] | Literal["all"] = (-1,)
    join: Literal["concatenated", "interleaved"] = "concatenated"
    standardised: bool = False
    pooled: bool = False
    embedding: bool = False
    bidirectional: bool = False
    video: bool = True
    unedited: tuple[str, ...] = ()

    @property
    def causal(self) -> bool:
        """A position sees only those before it: so in every family of ours but T5's."""
        return not (self.bidirectional or self.architectures[0].endswith("T5EncoderModel"))


def differences(known: ReaderContract, row: ReaderContract) -> list[str]:
    """In what a way of reading goes beyond the one that an edit was fitted to."""
    # of a causal encoder padded on the right no word sees the padding, masked or not
    same_mask = known.mask == row.mask or (row.causal and row.padding == "right" and row.reads == "mask")
    return [
        what
        for what, same in (
            ("template", known.template == row.template),
            ("mask", same_mask),
            ("span of positions", _READ.index(known.reads) >= _READ.index(row.reads)),
        )
        if not same
    ]
