"""The same prompts under the same seeds, through a pipeline with one encoder or another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from ..pipelines.call import own_choices
from ..pipelines.seat import seated
from .asks import Ask

__all__ = ["Ask", "batch_of", "batches", "draw", "to_images", "with_encoder"]

PIXELS = 2_500_000  # that are drawn at once, those of every frame: nine pictures of 512 × 512, a clip of 720p
SIDE = 1024  # of a picture whose pipeline does not tell

OnBatch = Callable[[int, int], None]  # samples done, samples in all


def with_encoder(
    pipeline: DiffusionPipeline, encoder: PreTrainedModel | Mapping[str, PreTrainedModel]
) -> DiffusionPipeline:
    """The same pipeline reading other encoders, by seat, or another one; all other weights are shared."""
    return seated(pipeline, encoder if isinstance(encoder, Mapping) else {"text_encoder": encoder})


def draw(
    pipeline: DiffusionPipeline,
    asks: Sequence[Ask],
    *,
    steps: int,
    frames: int | None = None,
    guidance: float | None = None,
    batch: int | None = None,
    on_batch: OnBatch | None = None,
) -> Tensor:
    """Draw every prompt with its own seed. → [n, frames, 3, h, w] in [0, 1]; one frame for a still."""
    options = {"steps": steps, "frames": frames, "guidance": guidance, "batch": batch, "on_batch": on_batch}
    return torch.cat([pixels for _, pixels in batches(pipeline, asks, **options)])  # type: ignore[arg-type]


def batches(
    pipeline: DiffusionPipeline,
    asks: Sequence[Ask],
    *,
    steps: int,
    frames: int | None = None,
    guidance: float | None = None,
    batch: int | None = None,
    on_batch: OnBatch | None = None,
) -> Iterator[tuple[Sequence[Ask], Tensor]]:
    """The same, part by part with its asks, so that no more is held than is drawn at once. batch: see ``batch_of``."""
    batch = batch or batch_of(pipeline, frames)
    for start in range(0, len(asks), batch):
        part = asks[start : start + batch]
        extra: dict[str, Any] = {} if frames is None else {"num_frames": frames}
        if guidance is not None:
            extra["guidance_scale"] = guidance
        with torch.no_grad():
            result = pipeline(
                [a.prompt for a in part],
                negative_prompt=[a.negative for a in part],
                num_inference_steps=steps,
                generator=[torch.Generator().manual_seed(a.seed) for a in part],
                output_type="pt",
                **extra,
            )
        pixels = result.images[:, None] if frames is None else result.frames
        if on_batch:
            on_batch(min(start + batch, len(asks)), len(asks))
        yield part, pixels.float().clamp(0, 1).cpu()


def batch_of(pipeline: DiffusionPipeline, frames: int | None) -> int:
    """How many samples are drawn at once: by the size that the pipeline draws, 32 stills or 8 clips at most."""
    own = own_choices(pipeline)
    pixels = (own["height"] or SIDE) * (own["width"] or SIDE) * (frames or 1)
    return max(1, min(8 if frames else 32, PIXELS // pixels))


def to_images(pixels: Tensor) -> list[Image.Image]:
    """[n, 3, h, w] in [0, 1] → n pictures."""
    array = (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in array]
