"""A text encoder from a folder of config.json and safetensors, complete and unaltered or not at all."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging

from .errors import BaseError, EncoderError
from .families import class_of

# any one of these holds all of a tokenizer
TOKENIZER_FILES = (
    ("vocab.json", "merges.txt"),
    ("tokenizer.json",),
    ("spiece.model",),
    ("tokenizer.model",),
    ("sentencepiece.bpe.model",),
)


def load_torch(folder: Path, architecture: str, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The encoder in a folder as the class ``architecture`` (see ``class_of``), in ``dtype`` or as it is stored.

    Raises EncoderError for tensors that are missing, unexpected, of another shape or not finite: transformers would
    make them up or drop them with a warning.
    """
    if not any(folder.glob("*.safetensors")):
        raise EncoderError(f"no .safetensors in {folder}: other formats can run code and are not read")
    kind = class_of(architecture)
    try:
        with quiet():
            encoder, info = kind.from_pretrained(
                folder,
                dtype=dtype or "auto",
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they come back in the info, to be refused by name
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise EncoderError(f"cannot load {folder}: {one_line(error)}") from error
    for fault in ("missing", "unexpected", "mismatched"):
        keys = [key[0] if isinstance(key, tuple) else key for key in info[f"{fault}_keys"]]
        keys = sorted(key for key in keys if not key.endswith("position_ids"))  # a buffer in old checkpoints
        if keys:
            raise EncoderError(
                f"{folder} is no complete {architecture}: {len(keys)} {fault} tensors, the first is {keys[0]}"
            )
    for key, tensor in encoder.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise EncoderError(f"{key} in {folder} has values that are not finite: the file is damaged")
    for p in encoder.parameters():
        p.data = p.data.clone()  # no longer mapped from the file, which may be replaced or removed while this lives
    return encoder.eval()


def architecture_of(folder: Path) -> str:
    """The transformers class that an encoder's config.json names, "" for none. Raises BaseError where it is not JSON."""
    try:
        names = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    except (OSError, ValueError, AttributeError) as error:
        raise BaseError(f"{folder / 'config.json'} is not JSON: {error}") from error
    return str(names[0])


def is_tokenizer(folder: Path) -> bool:
    """Whether a folder has all files of some tokenizer."""
    return any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES)


def tokenizer_beside(folder: Path) -> Path:
    """Where the tokenizer of an encoder's folder is, or should be: in it, under it, or beside it as in a pipeline."""
    beside = [folder, folder / "tokenizer", folder.parent / folder.name.replace("text_encoder", "tokenizer")]
    return next((f for f in beside if is_tokenizer(f)), beside[-1])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' bars and load reports; what they say is checked and raised."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
