"""Write the trained components where the package ships them: one stock WanPipeline folder and a second denoiser."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from unlearn_export.artifact import read_json, write_json

TOKENIZER = "PreTrainedTokenizerFast"  # the name that transformers 4 and 5 both know


def scheduler() -> UniPCMultistepScheduler:
    """Wan's own sampler. The shift crowds its few steps at the noisy end."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def assemble(
    vae: AutoencoderKLWan,
    encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    transformer: WanTransformer3DModel,
) -> WanPipeline:
    pipeline = WanPipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=vae, transformer=transformer, scheduler=scheduler()
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def shipped(root: Path) -> WanPipeline:
    """What the package ships, in full precision."""
    return WanPipeline.from_pretrained(root, torch_dtype=torch.float32)


def package_encoder(root: Path, encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """In full precision: this one gets edited and measured."""
    encoder.save_pretrained(root / "text_encoder")
    tokenizer.backend_tokenizer.no_padding()  # left from its last call
    tokenizer.save_pretrained(root / "tokenizer")
    path = root / "tokenizer" / "tokenizer_config.json"
    write_json(path, _of_everywhere(read_json(path)) | {"tokenizer_class": TOKENIZER})


def _of_everywhere(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what is said of this machine only."""
    return {k: v for k, v in config.items() if k not in ("is_local", "local_files_only", "_name_or_path")}


def package(
    root: Path,
    vae: AutoencoderKLWan,
    encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    transformer: WanTransformer3DModel,
    second: WanTransformer3DModel | None,
) -> None:
    """Denoisers and autoencoder in half precision; stock loading widens them again."""
    package_encoder(root, encoder, tokenizer)
    pipeline = assemble(vae, encoder, tokenizer, transformer)
    pipeline.save_config(root)  # model_index.json
    index = root / "model_index.json"
    index.write_text(index.read_text().replace('"TokenizersBackend"', f'"{TOKENIZER}"'))
    pipeline.scheduler.save_pretrained(root / "scheduler")
    for name, part in (("vae", vae), ("transformer", transformer), ("transformer-b", second)):
        if part is not None:
            part.to(torch.float16).save_pretrained(root / name)
            path = root / name / "config.json"
            write_json(path, _of_everywhere(read_json(path)))
