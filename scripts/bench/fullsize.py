"""Real sizes with random weights: what an edit takes. ``python -m scripts.bench.fullsize clip-l umt5-xxl``

Each case is laid out on disk as its published encoder is (bfloat16 shards with an index above 5 GB), opened as a base,
edited, measured, and written, each stage in a process of its own so that its peak memory is its own. Figures are for
cost alone: random weights have nothing to forget.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
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
    """Whole words and letters, with the special tokens at ids that every case has."""
    words = [*GENERAL.concepts, *GENERAL.styles, *GENERAL.contexts, "a photo of the picture drawing in style"]
    tok = Tokenizer(models.Unigram())
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=special, unk_token="<unk>", show_progress=False)
    letters = [chr(c) for c in range(32, 127)] * 3
    tok.train_from_iterator([*words * 5, *letters], trainer)
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def stage(name: str, folder: Path, concepts: int, options: dict[str, str]) -> dict[str, Any]:
    """One process: open, edit, write. → seconds, CPU seconds, peak memory, how far states moved in the first layers"""
    from unlearn_export import Concept, erase, load_base
    from unlearn_export.erase import write_encoder
    from unlearn_export.erasers import make_method

    begun, cpu = time.perf_counter(), time.process_time()
    base = load_base(folder)
    opened = time.perf_counter()
    wanted = [Concept(c, anchor="chair") for c in GENERAL.concepts if c != "chair"][:concepts]
    done = erase(base, wanted, make_method("anchor", options))
    edited, spent = time.perf_counter(), time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out = folder.with_name(f"{folder.name}-edited")
    shutil.rmtree(out, ignore_errors=True)
    write_encoder(base, done, out)
    written = time.perf_counter()
    first, best = next(iter(done.edit.loss.values()))
    delta = sum(t.nbytes for part in done.edit.tensors.values() for t in part.values())
    shutil.rmtree(out)
    return {
        "case": name,
        "concepts": concepts,
        "parameters": base.seat.weights.parameters,
        "bytes": base.seat.weights.size,
        "seconds": {
            "open": round(opened - begun, 1),
            "edit": round(edited - opened, 1),
            "edit_cpu": round(spent, 1),
            "write": round(written - edited, 1),
        },
        "peak_gib": round(peak / 2**30, 2),
        "delta_mb": round(delta / 1e6, 1),
        "loss": [round(first, 4), round(best, 4)],
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="by default all")
    parser.add_argument("--concepts", type=int, nargs="+", default=[1])
    parser.add_argument("-O", dest="options", action="append", default=[], metavar="KEY=VALUE", help="of the method")
    parser.add_argument("--work", type=Path, default=Path("build/fullsize"), help="where the weights are laid out")
    parser.add_argument("-o", "--out", type=Path, help="JSON to write the rows to")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        options = dict(text.split("=", 1) for text in args.options)
        print(json.dumps(stage(args.stage, args.work / args.stage, args.concepts[0], options)))
        return
    rows = []
    for name in args.cases or CASES:
        lay_out(name, args.work / name)
        for count in args.concepts:
            command = [sys.executable, "-m", "scripts.bench.fullsize", "--stage", name, "--work", str(args.work)]
            command += ["--concepts", str(count), *(word for o in args.options for word in ("-O", o))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
    if args.out:
        about = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
        args.out.write_text(json.dumps({"machine": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
