"""The shapes of published encoders, laid out on disk as they are, with random weights."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
    UMT5Config,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

from unlearn_export.families import family_of
from unlearn_export.vocabulary import GENERAL

SHARD = 5_000_000_000  # bytes


def _clip(width: int, layers: int, heads: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
    )


_T5_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CASES: dict[str, tuple[str, PretrainedConfig]] = {
    "clip-l": ("CLIPTextModel", _clip(768, 12, 12)),
    "openclip-h": ("CLIPTextModel", _clip(1024, 23, 16)),
    "bigg": ("CLIPTextModelWithProjection", _clip(1280, 32, 20)),
    "t5-xxl": ("T5EncoderModel", T5Config(vocab_size=32128, **_T5_XXL, **_GATED)),
    "umt5-xxl": ("UMT5EncoderModel", UMT5Config(vocab_size=256384, **_T5_XXL, **_GATED)),
    "qwen2.5-vl-7b": (
        "Qwen2_5_VLTextModel",
        Qwen2_5_VLTextConfig(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]},
        ),
    ),
    "llama-8b": (
        "LlamaModel",
        LlamaConfig(
            vocab_size=128320,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
        ),
    ),
    "gemma2-2b": (
        "Gemma2Model",
        Gemma2Config(
            hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4
        ),
    ),
    "gemma3-12b": (
        "Gemma3TextModel",
        Gemma3TextConfig(
            vocab_size=262208,
            hidden_size=3840,
            intermediate_size=15360,
            num_hidden_layers=48,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=256,
        ),
    ),
}


def lay_out(name: str, folder: Path) -> None:
    """Write a case's folder unless it is there: config.json, a tokenizer, bfloat16 weights (CLIP's are float32)."""
    if (folder / "done").exists():
        return
    architecture, config = CASES[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config.architectures = [architecture]
    config.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    dtype = torch.float32 if "CLIP" in architecture else torch.bfloat16
    shards: list[dict[str, Tensor]] = [{}]
    where: dict[str, int] = {}
    size = 0
    for key, tensor in _random(architecture, config, dtype):
        if size + tensor.nbytes > SHARD:
            _write(folder, len(shards), shards[-1])
            shards, size = [*shards[:-1], {}, {}], 0
        shards[-1][key] = tensor
        where[key], size = len(shards), size + tensor.nbytes
    _write(folder, len(shards), shards[-1])
    if len(shards) == 1:
        os.replace(folder / "part-1", folder / "model.safetensors")
    else:
        names = {i + 1: f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))}
        for i, file in names.items():
            os.replace(folder / f"part-{i}", folder / file)
        index = {"metadata": {}, "weight_map": {key: names[i] for key, i in where.items()}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "done").touch()


def _write(folder: Path, number: int, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / f"part-{number}", metadata={"format": "pt"})
    tensors.clear()


def _random(architecture: str, config: PretrainedConfig, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Tensors as an initialised model has them: matrices of 1/√inputs, norms of ones, embeddings of 1 (CLIP's 0.02)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(50_000_000, generator=generator)
    family = family_of(architecture)
    for key, p in family.skeleton(config).named_parameters():
        if key in family.tied:
            continue
        prefix = "text_model." if "CLIP" in architecture else ""
        if p.ndim == 1:
            tensor = torch.ones(p.shape) if "norm" in key and key.endswith("weight") else torch.zeros(p.shape)
        else:
            scale = 1.0 if key == family.embedding else p.shape[1] ** -0.5
            scale = 0.02 if "embedding" in key and "CLIP" in architecture else scale
            count = p.numel()
            repeated = noise.repeat(-(-count // len(noise)))[:count] if count > len(noise) else noise[:count]
            tensor = repeated.view(p.shape) * scale
        yield prefix + key, tensor.to(dtype)
    if architecture == "CLIPTextModelWithProjection":
        yield "text_projection.weight", torch.eye(config.projection_dim, config.hidden_size, dtype=dtype)


def tokenizer() -> PreTrainedTokenizerFast:
    """Common words whole, as published tokenizers have them, and letters; special tokens at ids that every case has."""
    texts = [*GENERAL.concepts, *GENERAL.styles, *GENERAL.contexts, "a photo of the picture drawing in style"]
    words = sorted({word for text in texts for word in text.split()})
    special = ["<pad>", "</s>", "<unk>"]
    scored = [(f"▁{word}", -1.0) for word in words] + [(chr(c), -10.0) for c in (*range(32, 127), ord("▁"))]
    tok = Tokenizer(models.Unigram([*((s, 0.0) for s in special), *scored], unk_id=2))
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
