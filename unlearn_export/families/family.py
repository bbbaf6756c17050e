"""What the rest of the tool knows of an encoder's insides."""

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import UsageError
from .contract import ReaderContract
from .tokens import Tokens

PARTS = ("mlp", "attention", "last-attention")


class EncoderFamily:
    """One kind of text encoder: how its tensors are called, where its layers are, which of them can be edited.

    A subclass is one family and is used without instances: what differs are the class variables, and where that is not
    enough, a method. Names of tensors are *canonical*, those of ``text_class``; a file's own differ by a prefix.

    ``architectures``: the classes whose text part this is, by name. ``text_class``: the one that is built of it, and
    what a name stands for that is none of transformers'.
    ``prefixes``: what a stored key may begin with before the canonical name, longest first. ``stack``: the way to the
    list of layers. ``parts``: what the names of the editable linear layers contain. ``embedding``: canonical name of
    the token embedding; ``tied``: other names of the same tensor, which a file may hold in its stead or as well.
    ``projection``: stored name of the matrix that makes the pooled state a joint one with pictures, "" for none.
    ``down``: of each layer the linear one whose answer is added to the residual stream as it is, "" where a norm comes
    between. ``causal``: whether a state depends on earlier tokens only. ``placed``: whether
    the encoder takes ``position_ids``. ``contracts``: how pipelines read it, where the table in
    ``families.contracts`` does not say: a plug-in brings its own rows.
    """

    name: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    text_class: ClassVar[type[PreTrainedModel]]
    causal: ClassVar[bool]
    placed: ClassVar[bool] = True
    prefixes: ClassVar[tuple[str, ...]] = ("",)
    stack: ClassVar[str] = "layers"
    parts: ClassVar[Mapping[str, str]] = {"mlp": ".mlp.", "attention": ".self_attn."}
    embedding: ClassVar[str] = "embed_tokens.weight"
    tied: ClassVar[tuple[str, ...]] = ()
    projection: ClassVar[str] = ""
    down: ClassVar[str] = ""
    depth_field: ClassVar[str] = "num_hidden_layers"
    contracts: ClassVar[tuple[ReaderContract, ...]] = ()

    @classmethod
    def text_config(cls, config: Any) -> Any:
        """The part of a configuration that describes the text encoder."""
        return getattr(config, "text_config", None) or config

    @classmethod
    def depth(cls, config: Any) -> int:
        """How many layers there are."""
        return int(getattr(cls.text_config(config), cls.depth_field))

    @classmethod
    def width(cls, config: Any) -> int:
        """The size of a state."""
        return int(cls.text_config(config).hidden_size)

    @classmethod
    def canonical(cls, key: str) -> str:
        """A stored key without its file's prefix."""
        return next((key[len(p) :] for p in cls.prefixes if p and key.startswith(p)), key)

    @classmethod
    def stored(cls, keys: Iterable[str]) -> dict[str, str]:
        """canonical → stored, of every tensor of the text part among ``keys``.

        Raises UsageError where none is there: the file is of another family.
        """
        keys = list(keys)
        table = (cls.embedding, *cls.tied)
        prefix = next((p for p in cls.prefixes if any(p + name in keys for name in table)), None)
        if prefix is None:
            names = " or ".join(cls.architectures)
            raise UsageError(f"no {cls.embedding} among the tensors: these are no weights of a {names}")
        stored = {k[len(prefix) :]: k for k in keys if k.startswith(prefix)}
        held = next(stored[name] for name in table if name in stored)
        return dict.fromkeys(table, held) | stored

    @classmethod
    def skeleton(cls, config: Any, depth: int | None = None) -> PreTrainedModel:
        """The first ``depth`` layers (None: all) of the text part; its parameters are on the meta device, to be filled."""
        text = copy.deepcopy(cls.text_config(config))
        if depth is not None:
            setattr(text, cls.depth_field, depth)
            if getattr(text, "layer_types", None):
                text.layer_types = text.layer_types[:depth]
        with init_empty_weights(include_buffers=False):
            return cls.text_class(text).eval()

    @classmethod
    def fill(
        cls,
        skeleton: PreTrainedModel,
        get: Callable[[str], Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        used: Tensor | None = None,
    ) -> PreTrainedModel:
        """Give a skeleton its weights, in ``dtype``. get: canonical name → tensor.

        used: the token ids that will be asked for. Then only their rows of the embedding are read: a vocabulary of
        256,000 times 4,096 is 2 GB, a few thousand rows of it are nothing.
        """
        places: dict[int, list[tuple[nn.Module, str]]] = {}
        names: dict[int, str] = {}
        for path, module in skeleton.named_modules():
            for name, p in module.named_parameters(recurse=False):
                places.setdefault(id(p), []).append((module, name))
                names.setdefault(id(p), f"{path}.{name}".lstrip("."))
        table: nn.Parameter | None = None  # one, whatever number of modules look tokens up in it
        for key, where in places.items():
            looks_up = names[key] in (cls.embedding, *cls.tied)
            if looks_up and table is not None:
                filled = table
            else:
                tensor = get(names[key])
                filled = nn.Parameter(
                    (tensor[used.unique()] if looks_up and used is not None else tensor).to(dtype, copy=True),
                    requires_grad=False,
                )
            if looks_up:
                table = filled
            for module, name in where:
                module._parameters[name] = filled
                if looks_up and used is not None:
                    cls._renumber(module, used.unique())
        return skeleton

    @staticmethod
    def _renumber(lookup: nn.Module, ids: Tensor) -> None:
        """Let a module that holds these rows of a table alone take the tokens' own ids. ids: sorted."""
        place = torch.zeros(int(ids.max()) + 1, dtype=torch.long)
        place[ids] = torch.arange(len(ids))
        lookup.padding_idx = None  # type: ignore[assignment]  # it may be no row that is there
        lookup.register_forward_pre_hook(lambda _m, args: (place[args[0]], *args[1:]))

    @classmethod
    def layers(cls, encoder: nn.Module) -> nn.ModuleList:
        """The stack of layers of a loaded encoder or a skeleton."""
        for name, module in encoder.named_modules():
            if isinstance(module, nn.ModuleList) and f".{name}".endswith(f".{cls.stack}") and "vision" not in name:
                return module
        raise UsageError(f"a {type(encoder).__name__} has no {cls.stack}: it is no {cls.name} encoder")

    @classmethod
    def linears(cls, encoder: nn.Module, parts: Iterable[str], depth: int | None = None) -> dict[str, nn.Linear]:
        """The linear layers of the named parts (``mlp``, ``attention``, ``last-attention``) in the first ``depth``
        layers, by module name. Raises UsageError for an unknown part, or one that matches no layer of this encoder.
        """
        stack = cls.layers(encoder)
        count = len(stack) if depth is None else min(depth, len(stack))
        inside = {id(m) for layer in list(stack)[:count] for m in layer.modules()}
        last = {id(m) for m in stack[count - 1].modules()}
        found: dict[str, nn.Linear] = {}
        for part in parts:
            if part not in PARTS:
                raise UsageError(f"unknown part {part!r}: choose from {', '.join(PARTS)}")
            mark, among = cls.parts[part.removeprefix("last-")], last if part.startswith("last-") else inside
            hits = {
                n: m
                for n, m in encoder.named_modules()
                if isinstance(m, nn.Linear) and id(m) in among and mark in f".{n}."
            }
            if not hits:
                raise UsageError(f"no {part} layer in a {type(encoder).__name__}")
            found |= hits
        return found

    @classmethod
    def complete_tokenizer(cls, folder: Path) -> None:
        """Write what older readers of a tokenizer's folder look for and the base lacks."""

    @classmethod
    def call(cls, encoder: nn.Module, tokens: Tokens, masked: bool) -> Any:
        """Run the encoder on tokens, with their mask or without, all hidden states kept."""
        mask = tokens.mask if masked else None
        return encoder(input_ids=tokens.ids, attention_mask=mask, output_hidden_states=True)

    @classmethod
    def residual(
        cls, encoder: nn.Module, tokens: Tokens, masked: bool, depth: int | None = None, at: Tensor | None = None
    ) -> Tensor:
        """The residual stream [n, length, d] after ``depth`` layers (None: all), before any norm that follows them.

        at: [n, length] int64, where the tokens are to stand in place of 0, 1, 2 …; a family with relative positions of
        its own counting takes no notice (see ``placed``).
        """
        stack = cls.layers(encoder)
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _args: Any, out: Any) -> None:
            kept.append(out[0] if isinstance(out, tuple) else out)

        handle = stack[(depth or len(stack)) - 1].register_forward_hook(keep)
        try:
            if at is None or not cls.placed:
                encoder(input_ids=tokens.ids, attention_mask=tokens.mask if masked else None)
            else:  # with no mask at all, transformers would take a gap for the start of another text
                mask = tokens.mask if masked else torch.ones_like(tokens.mask)
                encoder(input_ids=tokens.ids, attention_mask=mask, position_ids=at)
        finally:
            handle.remove()
        return kept[-1]
