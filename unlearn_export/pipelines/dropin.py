"""Whether an encoder is an edit of the very weights that a pipeline has: told by its class, sizes and what the edit left alone."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import BaseError, EncoderError
from ..families import EncoderFamily, architectures, class_of, family_of
from ..loading import one_line
from ..weights import Weights
from .ort import OrtTextEncoder, class_name, text_config

SIZES = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
)
TABLES = {  # the embedding tables, however a model calls them
    "token_embedding.weight": "token_embedding",
    "shared.weight": "token_embedding",
    "embed_tokens.weight": "token_embedding",
    "position_embedding.weight": "position_embedding",
}
# How many rows are compared, evenly spread: reading 10 GB to tell two models apart would take a minute. Training moves
# all of a layer's rows, but of a table those of its words.
ROWS, TABLE_ROWS = 64, 4096
PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # what is quantised cannot be compared

Readers: TypeAlias = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class Facts:
    """What tells an encoder: its class, its sizes, and its tensors by name, each read when it is asked for.

    tensors: as ``named`` calls them; of an encoder that is not all there, some.
    """

    kind: str
    sizes: Mapping[str, Any]
    tensors: Callable[[], Readers]

    @classmethod
    def of(cls, encoder: PreTrainedModel) -> "Facts":
        """Of a loaded encoder; an ONNX one's tensors are in the safetensors beside its graph."""
        kind, sizes = class_name(encoder), _sizes(encoder.config)
        if not isinstance(encoder, OrtTextEncoder):
            return cls(kind, sizes, lambda: _readers(kind, encoder.state_dict()))
        folder = encoder.folder

        def tensors() -> Readers:
            if not any(folder.glob("*.safetensors")):
                raise EncoderError(f"no model.safetensors beside {folder / 'model.onnx'}: its base cannot be told")
            return stored(folder, kind)

        return cls(kind, sizes, tensors)

    @classmethod
    def within(cls, folder: Path, kind: str, tensors: Callable[[Path, str], Readers] | None = None) -> "Facts":
        """Of a folder that holds an encoder of the class ``kind``; no tensor is read yet.

        tensors: what finds them there, given folder and class, in place of ``stored``. Raises EncoderError where there
        is no such class or its config.json cannot be read.
        """
        try:
            config = class_of(kind).config_class.from_pretrained(folder)
        except (OSError, ValueError, AttributeError, BaseError) as error:
            raise EncoderError(f"cannot read {folder / 'config.json'} as {kind}'s: {one_line(error)}") from error
        return cls(kind, _sizes(config), lambda: (tensors or stored)(folder, kind))


def check_drop_in(
    encoder: PreTrainedModel | Facts, original: PreTrainedModel | Facts, changed: Iterable[str] | None = None
) -> None:
    """Raise EncoderError unless ``encoder`` is an edit of the very weights in ``original``.

    changed: the tensors that the edit's recipe names; None is not known. Compared are the class, the sizes, and rows of
    every tensor that is not named; where nothing is known, of the embedding tables, which few edits touch. They may
    differ by roundings to half precisions. T5-XXL, UMT5-XXL and others share all of their sizes, so sizes are not
    enough; nor are tables, which a fine-tuned encoder may share with its base.
    """
    ours, theirs = (e if isinstance(e, Facts) else Facts.of(e) for e in (encoder, original))
    _compare("class", ours.kind, theirs.kind)
    for field in SIZES:
        _compare(field, ours.sizes[field], theirs.sizes[field])
    edited = named(ours.kind, changed or ())
    mine = ours.tensors()
    for name, read in theirs.tensors().items():
        table = name in TABLES.values()
        if name in edited or (not table and (changed is None or name not in mine)):
            continue
        if name not in mine or not _alike(mine[name](), read(), TABLE_ROWS if table else ROWS):
            raise EncoderError(
                f"the encoder is of another base: its {name} differs from the pipeline's own; erase from the base that "
                "this pipeline shares its text encoder with"
            )


def named(kind: str, keys: Iterable[str]) -> dict[str, str]:
    """A ``kind``'s tensors by names that do not depend on how they are stored → the keys; embedding tables come first."""
    family = family_of(kind) if kind in architectures() else EncoderFamily

    def name(key: str) -> str:
        canonical = family.canonical(key)
        return "token_embedding" if canonical in (family.embedding, *family.tied) else table_of(key) or canonical

    names = {name(key): key for key in keys}
    return dict(sorted(names.items(), key=lambda item: item[0] not in TABLES.values()))


def stored(folder: Path, kind: str) -> Readers:
    """The tensors of the encoder in a folder, mapped from its files. Raises EncoderError where one lacks."""
    try:
        weights = Weights.open(folder)
    except BaseError as error:
        raise EncoderError(str(error)) from error
    return in_files(weights, kind)


def in_files(weights: Weights, kind: str) -> Readers:
    """The tensors of these files."""
    return {name: partial(weights.get, key) for name, key in named(kind, weights.files).items()}


def table_of(key: str) -> str:
    """Which embedding table a tensor's name means; "" for every other tensor."""
    if "vision" in key:  # Gemma 3's image tower has positions too
        return ""
    return next((name for suffix, name in TABLES.items() if key.endswith(suffix)), "")


def _readers(kind: str, tensors: Mapping[str, Tensor]) -> Readers:
    return {name: partial(tensors.__getitem__, key) for name, key in named(kind, tensors).items()}


def _sizes(config: Any) -> dict[str, Any]:
    return {field: getattr(text_config(config), field, None) for field in SIZES}


def _compare(field: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise EncoderError(f"the encoder does not fit this pipeline: its {field} is {ours}, its own has {theirs}")


def _alike(ours: Tensor, theirs: Tensor, rows: int) -> bool:
    """Whether so many rows of both are the same numbers, each rounded to half precisions or not.

    bfloat16 is off by up to 2⁻⁸ of a number, float16 by 2⁻¹¹ of it or 2⁻²⁵, whichever is more. Training moves some
    numbers near zero by more than that.
    """
    if any(type(t) is not Tensor or t.dtype not in PLAIN for t in (ours, theirs)):
        return True
    if ours.shape != theirs.shape:
        return False
    ours, theirs = (torch.atleast_1d(t) for t in (ours, theirs))
    step = max(1, len(ours) // rows)
    ours, theirs = (t[::step].to("cpu", torch.float32) for t in (ours, theirs))
    return torch.equal(ours, theirs) or torch.allclose(ours, theirs, rtol=2**-8 + 2**-10, atol=2**-24)
