"""An encoder that is read from its files while it runs, a layer at a time: 11 GB pass through the room of one layer."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from .base import Base
from .errors import EncoderError
from .seat import Seat


def streamed(seat: Seat, changed: Mapping[str, Tensor] | None = None, device: str = "cpu") -> PreTrainedModel:
    """The text part of a seat's encoder, whole, computing in float32 whatever is stored, and holding no weights.

    Each layer takes its weights from the files as it begins and lets them go as it ends, so the most that is held is
    one layer in float32 (and what the system keeps of the files, while it has room). Of the token embedding only the
    rows in use are read. What it gives is what ``seat.load()`` gives, a pooled state's projection included.

    changed: stored name → tensor, in place of the files', as an ``Edit`` has them by seat. It is not copied.
    Every pass reads the files anew: give it many prompts at once. Its weights are on the meta device between passes,
    so it cannot be copied to a device, saved or trained. Raises EncoderError for a tensor that finds no place.
    """
    changed = dict(changed or {})
    for key, tensor in changed.items():
        if key not in seat.weights.files or seat.weights.shape(key) != tuple(tensor.shape):
            raise EncoderError(f"{key} of the edit finds no place in this {seat.architecture}")

    def get(key: str) -> Tensor:
        return changed[key] if key in changed else seat.weights.get(key)

    family = seat.family
    model = family.skeleton(seat.config).requires_grad_(False)
    model.apply(lambda module: _settle(module, device))
    names = {id(module): path for path, module in model.named_modules()}
    layers = list(family.layers(model))
    within = {id(module) for layer in layers for module in layer.modules()}
    alone = [m for m in model.modules() if id(m) not in within and next(m.parameters(recurse=False), None) is not None]
    for module in (*layers, *alone):
        path = names[id(module)]
        keys = {name: seat.stored[f"{path}.{name}".lstrip(".")] for name, _ in module.named_parameters()}
        rows = f"{path}.weight" in (family.embedding, *family.tied)
        _Passing(module, keys, get, device, rows)
    if family.projection in seat.weights.files:

        def project(_module: nn.Module, _args: Any, out: Any) -> None:
            out["text_embeds"] = F.linear(out.pooler_output, get(family.projection).to(device, torch.float32))

        model.register_forward_hook(project)
    return model


def original(base: Base, name: str) -> PreTrainedModel:
    """A seat's encoder as the base has it: whole, or streamed where it is large."""
    seat = base.seats[name]
    return streamed(seat, device=base.device) if seat.large else base.encoders[name]


class _Passing:
    """Gives one module its weights for as long as it runs.

    keys: name of a parameter → stored name. rows: it is a token embedding, of which the rows in use are enough.
    """

    def __init__(self, module: nn.Module, keys: Mapping[str, str], get: Any, device: str, rows: bool) -> None:
        self.keys, self.get, self.device = keys, get, device
        self.empty = dict(module.named_parameters())
        module.register_forward_pre_hook(self.begin_rows if rows else self.begin)
        module.register_forward_hook(self.end, always_call=True)

    def begin(self, module: nn.Module, _args: Any) -> None:
        for name, key in self.keys.items():
            _put(module, name, self.get(key).to(self.device, torch.float32))

    def begin_rows(self, module: nn.Module, args: Any) -> Any:
        ids, places = args[0].unique(return_inverse=True)
        for name, key in self.keys.items():
            _put(module, name, self.get(key)[ids.cpu()].to(self.device, torch.float32))
        return (places, *args[1:])

    def end(self, module: nn.Module, *_: Any) -> None:
        for name, parameter in self.empty.items():
            _put(module, name, parameter)


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, last = name.rpartition(".")
    filled = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
    module.get_submodule(path)._parameters[last] = filled


def _settle(module: nn.Module, device: str) -> None:
    """What is no weight goes to the device now; no row of an embedding is special where only some are held."""
    for name, buffer in module.named_buffers(recurse=False):
        module._buffers[name] = buffer.to(device)
    if isinstance(module, nn.Embedding):
        module.padding_idx = None
