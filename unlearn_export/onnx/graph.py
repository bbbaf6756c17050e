"""What an encoder's graph takes and gives, by class."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import EncoderError

POOLED = {"CLIPTextModel": "pooler_output", "CLIPTextModelWithProjection": "text_embeds"}
T5 = ("T5EncoderModel", "UMT5EncoderModel")
DECODERS = {  # where the language model lies in the class
    "LlamaModel": "",
    "Qwen2_5_VLTextModel": "",
    "Qwen2_5_VLForConditionalGeneration": "model.language_model",
    "Qwen3Model": "",
    "Qwen3VLForConditionalGeneration": "model.language_model",
    "Gemma2Model": "",
    "Gemma3TextModel": "",
    "Gemma3ForConditionalGeneration": "model.language_model",
}


def language_model(encoder: PreTrainedModel) -> PreTrainedModel:
    """The part that reads text: the encoder itself, or what a vision-language model holds. Raises EncoderError."""
    name = type(encoder).__name__
    if name not in POOLED and name not in T5 and name not in DECODERS:
        raise EncoderError(f"{name} cannot be exported: expected {', '.join((*POOLED, *T5, *DECODERS))}")
    part: Any = encoder.get_submodule(DECODERS.get(name, ""))
    return part


def resolve(layers: Sequence[int] | None, model: PreTrainedModel) -> tuple[int, ...]:
    """The absolute indices [0, layers + 1) of hidden states, in order. Raises EncoderError for one out of range."""
    total = model.config.num_hidden_layers + 1
    if layers is None:
        return tuple(range(total))
    for layer in layers:
        if not -total <= layer < total:
            raise EncoderError(f"hidden state {layer} does not exist: choose from {-total} to {total - 1}")
    return tuple(sorted({layer % total for layer in layers}))


def needed_bytes(model: PreTrainedModel, layers: tuple[int, ...]) -> int:
    """Bytes of the float32 weights that the graph for these hidden states holds."""
    stack = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    unused = [] if gives_last(model, layers) else list(stack[max(layers) :])
    dropped = {id(weight) for layer in unused for weight in layer.parameters()}
    return 4 * sum(weight.numel() for weight in model.parameters() if id(weight) not in dropped)


def gives_last(model: PreTrainedModel, layers: tuple[int, ...]) -> bool:
    """Whether the graph computes the last hidden state: not where only lower ones are asked for, CLIP's pooled aside.

    No layers at all means the last state alone.
    """
    pooled = type(model).__name__ in POOLED
    return pooled or not layers or max(layers) == model.config.num_hidden_layers


def float32_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy on the CPU with eager attention; float32 CPU weights are shared, not duplicated."""

    def weight(p: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(p.detach().to("cpu", torch.float32), requires_grad=False)

    shared = {id(p): weight(p) for p in model.parameters()}
    twin: Any = copy.deepcopy(model, shared)
    twin.set_attn_implementation("eager")  # sdpa's masking does not export
    twin = twin.to("cpu", torch.float32).eval()
    if hasattr(twin, "rotary_emb"):  # its angles and Gemma's scale are no weights: a cast to half has rounded them
        twin.rotary_emb = type(twin.rotary_emb)(config=twin.config)
    for module in twin.modules():
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale = torch.tensor(float(module.scalar_embed_scale))
    return twin


class Flat(nn.Module):
    """The encoder with its outputs as one flat dict, which is what a graph can return."""

    def __init__(self, encoder: PreTrainedModel, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.flat = encoder
        self.layers = layers
        self.pooled = POOLED.get(type(encoder).__name__)
        self.last = gives_last(encoder, layers)
        self.options = {"use_cache": False} if type(encoder).__name__ in DECODERS else {}

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        out = self.flat(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True, **self.options)
        named = {"last_hidden_state": out.last_hidden_state} if self.last else {}
        if self.pooled:
            named[self.pooled] = out[self.pooled]
        return named | {f"hidden_states.{i}": out.hidden_states[i] for i in self.layers}


def sample(
    model: PreTrainedModel, batch: int, length: int, generator: torch.Generator, *, left: bool = False
) -> dict[str, Tensor]:
    """Random token ids [b, n], for CLIP with an end of text in each row, else with a mask that has one full row.

    left: a decoder's padding stands before the text, not behind it.
    """
    config, name = model.config, type(model).__name__
    ids = torch.randint(config.vocab_size, (batch, length), generator=generator)
    ends = torch.randint(length, (batch,), generator=generator)
    if name in POOLED:
        ids[torch.arange(batch), ends] = config.eos_token_id
        return {"input_ids": ids}
    mask = (torch.arange(length) <= ends[:, None]).long()
    mask[-1] = 1
    return {"input_ids": ids, "attention_mask": mask.flip(1) if left and name in DECODERS else mask}
