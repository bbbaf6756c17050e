"""The same prompts under the same seeds, through a pipeline with one encoder or another."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from ..pipelines.seat import seated
from .asks import Ask

__all__ = ["Ask", "draw", "to_images", "with_encoder"]

OnBatch = Callable[[int, int], None]  # samples done, samples in all


def with_encoder(
    pipeline: DiffusionPipeline, encoder: PreTrainedModel | Mapping[str, PreTrainedModel]
) -> DiffusionPipeline:
    """The same pipeline reading other encoders, by seat, or another one; all other weights are shared."""
    return seated(pipeline, encoder if isinstance(encoder, Mapping) else {"text_encoder": encoder})


@torch.no_grad()
def draw(
    pipeline: DiffusionPipeline,
    asks: Sequence[Ask],
    *,
    steps: int,
    frames: int | None = None,
    guidance: float | None = None,
    batch: int = 32,
    on_batch: OnBatch | None = None,
) -> Tensor:
    """Draw every prompt with its own seed. → [n, frames, 3, h, w] in [0, 1]; one frame for a still."""
    out = []
    for start in range(0, len(asks), batch):
        part = asks[start : start + batch]
        extra: dict[str, Any] = {} if frames is None else {"num_frames": frames}
        if guidance is not None:
            extra["guidance_scale"] = guidance
        result = pipeline(
            [a.prompt for a in part],
            negative_prompt=[a.negative for a in part],
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(a.seed) for a in part],
            output_type="pt",
            **extra,
        )
        pixels = result.images[:, None] if frames is None else result.frames
        out.append(pixels.float().clamp(0, 1).cpu())
        if on_batch:
            on_batch(min(start + batch, len(asks)), len(asks))
    return torch.cat(out)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """[n, 3, h, w] in [0, 1] → n pictures."""
    array = (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in array]
