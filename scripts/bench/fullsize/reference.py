"""The few-shot paper's recipe at its own size, beside our default on the same encoder.

Fuchi & Takagi 2024 (arXiv:2405.07288): four 512 × 512 pictures, each drawn in 50 steps with guidance and kept as a PNG;
then 8 steps of 2, each of which encodes its pictures anew and sends the gradient through the denoiser, in float32. Here
re-expressed on random weights of Stable Diffusion 1.5's shapes. Its steps are all alike, so a few of each sort are timed
and multiplied by how many there are.
"""

import io
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel

PICTURES, DENOISING, STEPS, BATCH, SIDE = 4, 50, 8, 2, 512


def recipe(encoder: CLIPTextModel, device: str, timed: int) -> dict[str, Any]:
    """Seconds of each part of the recipe, and in all. timed: how many of each sort are timed (of its steps, one less)."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).to(device).requires_grad_(False)
    widths = (128, 256, 512, 512)
    vae = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=SIDE,
    )
    vae = vae.to(device).requires_grad_(False)
    encoder = encoder.to(device).requires_grad_(True)
    learning = [p for name, p in encoder.named_parameters() if "mlp" in name or ".11.self_attn" in name]
    optimizer = torch.optim.AdamW(learning, lr=1e-5)
    ids = torch.randint(0, 600, (BATCH, 77), device=device)
    latents, times = torch.randn(BATCH, 4, 64, 64, device=device), torch.tensor([500] * BATCH, device=device)

    @torch.no_grad()
    def denoise() -> Tensor:  # one picture, with its twin for guidance
        return unet(latents, times, encoder(ids)[0]).sample

    @torch.no_grad()
    def picture() -> Tensor:
        pixels = vae.decode(latents[:1]).sample[0].clamp(-1, 1)
        array = ((pixels + 1) * 127.5).byte().permute(1, 2, 0).cpu().numpy()
        Image.fromarray(array).save(io.BytesIO(), "PNG")
        return pixels

    def learn() -> Tensor:
        with torch.no_grad():
            vae.encode(torch.randn(BATCH, 3, SIDE, SIDE, device=device))
        loss = -(unet(latents, times, encoder(ids)[0]).sample - latents).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    parts = {
        "denoising": (PICTURES * DENOISING, denoise, timed),
        "decoding": (PICTURES, picture, timed),
        "learning": (STEPS, learn, max(1, timed - 1)),
    }
    seconds = {name: count * _mean(call, n, device) for name, (count, call, n) in parts.items()}
    return {
        "recipe_s": {name: round(value, 1) for name, value in seconds.items()}
        | {"all": round(sum(seconds.values()), 1)},
        "timed": {name: f"{min(n, count)} of {count}" for name, (count, _, n) in parts.items()},
    }


def _mean(call: Callable[[], Tensor], times: int, device: str) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        call()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / times
