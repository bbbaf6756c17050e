"""One text encoder of a base, with its tokenizer, its files, and how it is read."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .errors import BaseError
from .families import EncoderFamily, class_of, family_of
from .families.contract import ReaderContract
from .loading import TOKENIZER_FILES, load_torch, one_line, quiet
from .weights import Weights

LARGE = 4_000_000_000  # bytes of an encoder's weights, above which it is not loaded whole to be measured


@dataclass(frozen=True)
class Seat:
    """One text encoder of a base: the files, and who reads it how.

    name: the pipeline's component, such as "text_encoder". folder, tokenizer_folder: what an artifact copies names and
    bytes from. contracts: the readers that an edit is fitted to and measured under, the base's own first.
    """

    name: str
    folder: Path
    tokenizer_name: str
    tokenizer_folder: Path
    architecture: str
    contracts: tuple[ReaderContract, ...]
    weights: Weights
    tokenizer_class: str = "AutoTokenizer"

    @property
    def family(self) -> type[EncoderFamily]:
        return family_of(self.architecture)

    @cached_property
    def config(self) -> Any:
        """transformers' configuration of the encoder."""
        try:
            return class_of(self.architecture).config_class.from_pretrained(self.folder)
        except (OSError, ValueError, AttributeError) as error:
            raise BaseError(f"cannot read {self.folder / 'config.json'}: {one_line(error)}") from error

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer beside the encoder; of a processor, the tokenizer in it."""
        import transformers

        kind = getattr(transformers, self.tokenizer_class, transformers.AutoTokenizer)
        try:
            with quiet():
                loaded = kind.from_pretrained(self.tokenizer_folder, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BaseError(f"cannot read the tokenizer in {self.tokenizer_folder}: {one_line(error)}") from error
        return getattr(loaded, "tokenizer", loaded)

    @cached_property
    def stored(self) -> dict[str, str]:
        """canonical name → name in the files, of the text part's tensors."""
        return self.family.stored(self.weights.files)

    @property
    def contract(self) -> ReaderContract:
        """The base's own reader."""
        return self.contracts[0]

    @property
    def depth(self) -> int:
        return self.family.depth(self.config)

    @property
    def width(self) -> int:
        return self.family.width(self.config)

    def get(self, name: str) -> Tensor:
        """A tensor of the text part by its canonical name, mapped from the file."""
        return self.weights.get(self.stored[name])

    @property
    def large(self) -> bool:
        """Whether its weights are more than is held at ease: it is then asked a layer at a time (see ``streaming``)."""
        return self.weights.size > LARGE

    def load(self) -> PreTrainedModel:
        """The whole encoder in float32, frozen. Raises BaseError where a tensor is missing or damaged."""
        encoder = load_torch(self.folder, self.architecture, torch.float32)
        return encoder.requires_grad_(False)

    def skeleton(self, depth: int, used: Tensor | None = None) -> PreTrainedModel:
        """The first ``depth`` layers in float32, frozen. used: the token ids that it will see (see ``fill``)."""
        return self.family.fill(self.family.skeleton(self.config, depth), self.get, used=used)

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """sha256 of the tokenizer's words and merges."""
        digest = hashlib.sha256()
        names = next(n for n in TOKENIZER_FILES if all((self.tokenizer_folder / name).is_file() for name in n))
        for name in names:
            digest.update((self.tokenizer_folder / name).read_bytes())
        return digest.hexdigest()
