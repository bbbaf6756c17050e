"""Decoder language models that read prompts for video models: Llama, Qwen and Gemma, alone or within a
vision-language model, of which only the language part is edited."""

from typing import ClassVar

from transformers import (
    Gemma2Model,
    Gemma3TextModel,
    LlamaModel,
    Qwen2_5_VLTextModel,
    Qwen3Model,
    Qwen3VLTextModel,
)

from .family import EncoderFamily

# of a text model alone, of a causal language model, and of a vision-language model before and since transformers 4.52
LAYOUTS = ("model.language_model.", "language_model.model.", "language_model.", "model.", "")


class Llama(EncoderFamily):
    """Llama 3 (HunyuanVideo 1.0, FramePack)."""

    name = "llama"
    architectures: ClassVar[tuple[str, ...]] = ("LlamaModel", "LlamaForCausalLM")
    text_class = LlamaModel
    causal = True
    down: ClassVar[str] = "mlp.down_proj"
    prefixes = LAYOUTS


class Qwen25VL(Llama):
    """Qwen2.5-VL's language model (HunyuanVideo 1.5, Kandinsky 5, Qwen-Image): biases on q, k and v."""

    name = "qwen2.5-vl"
    architectures: ClassVar[tuple[str, ...]] = (
        "Qwen2_5_VLTextModel",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLModel",
    )
    text_class = Qwen2_5_VLTextModel


class Qwen3(Llama):
    """Qwen3: norms on queries and keys."""

    name = "qwen3"
    architectures: ClassVar[tuple[str, ...]] = ("Qwen3Model", "Qwen3ForCausalLM")
    text_class = Qwen3Model


class Qwen3VL(Qwen3):
    """Qwen3-VL's language model (MiniMax-H3, of which there is no contract yet)."""

    name = "qwen3-vl"
    architectures: ClassVar[tuple[str, ...]] = (
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLTextModel",
        "Qwen3VLModel",
    )
    text_class = Qwen3VLTextModel


class Gemma2(Llama):
    """Gemma 2 (SANA and SANA-Video): a norm after each projection, soft-capped scores, sliding windows."""

    name = "gemma2"
    architectures: ClassVar[tuple[str, ...]] = ("Gemma2Model", "Gemma2ForCausalLM")
    text_class = Gemma2Model
    down = ""


class Gemma3(Gemma2):
    """Gemma 3's language model (LTX-2, which reads all states, the raw embeddings among them)."""

    name = "gemma3"
    architectures: ClassVar[tuple[str, ...]] = (
        "Gemma3ForConditionalGeneration",
        "Gemma3TextModel",
        "Gemma3ForCausalLM",
        "Gemma3Model",
    )
    text_class = Gemma3TextModel
