"""Whether an encoder is an edit of the very weights that a pipeline has: told by its class, sizes and embedding tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import BaseError, EncoderError
from ..families import class_of
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
# An edit rewrites how words are read, never which rows they are looked up in: these tell the base.
FINGERPRINT = {
    "token_embedding.weight": "token_embedding",
    "shared.weight": "token_embedding",
    "embed_tokens.weight": "token_embedding",
    "position_embedding.weight": "position_embedding",
}
ROWS = 4096  # of a table that are compared, evenly spread: reading 2 GB to tell two models apart would take seconds


@dataclass(frozen=True)
class Facts:
    """What tells an encoder: its class, its sizes, and its embedding tables by name, read when they are asked for."""

    kind: str
    sizes: Mapping[str, Any]
    tables: Callable[[], dict[str, Tensor]]

    @classmethod
    def of(cls, encoder: PreTrainedModel) -> "Facts":
        """Of a loaded encoder; an ONNX one's tables are in the safetensors beside its graph."""
        kind, sizes = class_name(encoder), _sizes(encoder.config)
        if not isinstance(encoder, OrtTextEncoder):
            return cls(kind, sizes, lambda: named_tables(encoder.state_dict()))
        folder = encoder.folder

        def tables() -> dict[str, Tensor]:
            if not any(folder.glob("*.safetensors")):
                raise EncoderError(f"no model.safetensors beside {folder / 'model.onnx'}: its base cannot be told")
            return stored_tables(folder)

        return cls(kind, sizes, tables)

    @classmethod
    def within(cls, folder: Path, kind: str, tables: Callable[[Path], dict[str, Tensor]] | None = None) -> "Facts":
        """Of a folder that holds an encoder of the class ``kind``; none of its layers is read.

        Raises EncoderError where there is no such class or its config.json cannot be read.
        """
        try:
            config = class_of(kind).config_class.from_pretrained(folder)
        except (OSError, ValueError, AttributeError, BaseError) as error:
            raise EncoderError(f"cannot read {folder / 'config.json'} as {kind}'s: {one_line(error)}") from error
        return cls(kind, _sizes(config), lambda: (tables or stored_tables)(folder))


def check_drop_in(encoder: PreTrainedModel | Facts, original: PreTrainedModel | Facts) -> None:
    """Raise EncoderError unless ``encoder`` is an edit of the very weights in ``original``.

    Compared are the class, the sizes, and the embedding tables, which an edit leaves alone; the tables may differ by
    one rounding to half precision. T5-XXL, UMT5-XXL and others share all of their sizes, so sizes are not enough.
    """
    ours, theirs = (e if isinstance(e, Facts) else Facts.of(e) for e in (encoder, original))
    _compare("class", ours.kind, theirs.kind)
    for field in SIZES:
        _compare(field, ours.sizes[field], theirs.sizes[field])
    mine = ours.tables()
    for name, table in theirs.tables().items():
        if name not in mine or not _equal(mine[name], table):
            raise EncoderError(
                f"the encoder is of another base: its {name} differs from the pipeline's own; erase from the base that "
                "this pipeline shares its text encoder with"
            )


def named_tables(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The embedding tables among an encoder's tensors."""
    return {table_of(key): tensor for key, tensor in tensors.items() if table_of(key)}


def stored_tables(folder: Path) -> dict[str, Tensor]:
    """The embedding tables of the encoder in a folder, mapped from its files. Raises EncoderError where one lacks."""
    try:
        weights = Weights.open(folder)
    except BaseError as error:
        raise EncoderError(str(error)) from error
    return named_tables({key: weights.get(key) for key in weights.files if table_of(key)})


def table_of(key: str) -> str:
    """Which embedding table a tensor's name means; "" for every other tensor."""
    if "vision" in key:  # Gemma 3's image tower has positions too
        return ""
    return next((name for suffix, name in FINGERPRINT.items() if key.endswith(suffix)), "")


def _sizes(config: Any) -> dict[str, Any]:
    return {field: getattr(text_config(config), field, None) for field in SIZES}


def _compare(field: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise EncoderError(f"the encoder does not fit this pipeline: its {field} is {ours}, its own has {theirs}")


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    """Bit-equal, or equal once both are rounded to a half precision: one of the two was stored in it."""
    if ours.shape != theirs.shape:
        return False
    step = max(1, len(ours) // ROWS)
    ours, theirs = ours[::step].cpu(), theirs[::step].cpu()
    return any(torch.equal(ours.to(d), theirs.to(d)) for d in (torch.float32, torch.float16, torch.bfloat16))
