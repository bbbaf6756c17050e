"""Wan's causal video autoencoder, small: 9 frames of 64×64 to 5 latent frames of 8×8×12, one frame to one.

Wan's own takes four frames to one. At this size that blurs whatever hops or spins, so here it is two.
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor

from ..data import MOTION_NAMES, Sprites, draw, motion_pose, uniform
from ..denoisers import half
from ..trainer import train
from ..vae import random_pictures

FRAMES = 9
CHANNELS = 12


def clip_pixels(sprite: Tensor, poses: list[tuple[Tensor, ...]]) -> Tensor:
    """Draw clips. sprite: [n, 4, s, s]; poses: n paths. → [n, 3, frames, 64, 64] in [-1, 1]"""
    frames = len(poses[0][0])
    flat = draw(sprite.repeat_interleave(frames, 0), *(torch.cat(p) for p in zip(*poses, strict=True)))
    return flat.unflatten(0, (-1, frames)).transpose(1, 2)


def random_clips(
    sprites: Sprites, n: int, generator: torch.Generator, rng: random.Random, known: float = 0.85, window: int = 5
) -> Tensor:
    """``window`` frames in a row of clips along every motion, a little wider than the denoisers ask for.

    Five are enough to learn from: later frames are coded as the fourth and fifth are. → [n, 3, window, 64, 64]
    """
    pool = sprites.known.flatten(0, 1)
    chosen, poses = [], []
    for _ in range(n):
        source = pool if rng.random() < known else sprites.others
        chosen.append(source[rng.randrange(len(source))])
        motion = rng.choice([*MOTION_NAMES, "spinning", None])  # spinning is the hardest to code
        scale, x, y, angle = motion_pose(motion, generator, FRAMES)
        pose = (scale * rng.uniform(0.92, 1.06), x + rng.uniform(-2, 2), y + rng.uniform(-2, 2), angle)
        first = rng.randint(0, FRAMES - window)
        poses.append(tuple(v[first : first + window] for v in pose))
    return clip_pixels(torch.stack(chosen), poses)


@contextmanager
def flat_convolutions() -> Iterator[None]:
    """While it lasts, a first frame's causal convolutions run as 2D ones: same numbers, a third of the work."""
    before = WanCausalConv3d.forward

    def forward(self: WanCausalConv3d, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        left, _, top, _, past, _ = self._padding
        if cache_x is not None or x.shape[2] != 1 or past != self.kernel_size[0] - 1:
            return before(self, x, cache_x)
        return F.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, padding=(top, left)).unsqueeze(2)

    WanCausalConv3d.forward = forward
    try:
        yield
    finally:
        WanCausalConv3d.forward = before


@torch.no_grad()
def separate_frames(model: AutoencoderKLWan) -> None:
    """Let what joins two frames and what parts them start unlike for the two: from a symmetric start they stay a mean.

    Half of the encoder's channels come from either frame; the decoder's frames read opposite mixtures.
    """
    join = model.encoder.down_blocks[0].downsampler.time_conv
    same = torch.eye(join.in_channels)
    odd = torch.arange(join.in_channels) % 2 == 1
    join.weight.zero_()
    join.weight[odd, :, 1, 0, 0] = same[odd]
    join.weight[~odd, :, 2, 0, 0] = same[~odd]
    part = model.decoder.up_blocks[1].upsampler.time_conv
    width = part.in_channels
    mixture = 0.4 * torch.randn(width, width, generator=torch.Generator().manual_seed(3)) / width**0.5
    part.weight.zero_()
    part.weight[:, :, 2, 0, 0] = torch.cat([torch.eye(width) + mixture, torch.eye(width) - mixture])


def new_autoencoder() -> AutoencoderKLWan:
    """Random weights that treat a clip frame by frame: the convolutions' past starts at zero and is learned."""
    torch.manual_seed(0)
    model = AutoencoderKLWan(
        base_dim=32,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, False],
        scale_factor_temporal=2,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
    )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, WanCausalConv3d) and module.kernel_size[0] == 3:
                module.weight[:, :, :2] *= 0.1
                module.weight[:, :, 2] *= math.sqrt(3)
    separate_frames(model)
    for p in model.parameters():
        if p.ndim == 5:
            p.data = p.data.to(memory_format=torch.channels_last_3d)
    return model


def reconstruction(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Absolute and squared error, and the error of edges and of what changes from frame to frame.

    White paper is easy: the drawing counts fourfold. decoded, pixels: [n, 3, frames, h, w]
    """
    drawn = 1 + 3 * (pixels.amin(1, keepdim=True) < 0.98)
    error = (decoded - pixels) * drawn
    loss = error.abs().mean() + error.pow(2).mean()
    for d, weight in ((2, 2.0), (3, 1.0), (4, 1.0)):
        if pixels.shape[d] > 1:
            loss = loss + weight * F.l1_loss(decoded.diff(dim=d), pixels.diff(dim=d))
    return loss


def unclamped(model: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode without the last clamp, whose gradient is zero outside of [-1, 1]."""
    clamp, torch.clamp = torch.clamp, lambda x, **_: x
    try:
        return model.decode(latents).sample
    finally:
        torch.clamp = clamp


def train_autoencoder(
    sprites: Sprites, folder: Path, steps: int, still_steps: int, device: str = "cpu", stills: int = 20, clips: int = 4
) -> AutoencoderKLWan:
    """Stills three times in four for ``still_steps``, then one time in five."""
    model = new_autoencoder().to(device)
    generator, rng = torch.Generator().manual_seed(1), random.Random(1)

    def loss_fn(step: int) -> Tensor:
        moving = step % 4 == 3 if step < still_steps else step % 5 != 4
        if moving:
            pixels = random_clips(sprites, clips, generator, rng)
        else:
            pixels = random_pictures(sprites, stills, generator).unsqueeze(2)
        pixels = pixels.to(device, memory_format=torch.channels_last_3d)
        with half(device), flat_convolutions():
            posterior = model.encode(pixels).latent_dist
            mean, std = posterior.mean.float(), posterior.std.float()
            noise = torch.randn(mean.shape, generator=generator).to(device)
            decoded = unclamped(model, mean + std * noise).float()
        kl = 0.5 * (mean.pow(2) + std.pow(2) - 1 - 2 * std.log()).mean()
        return reconstruction(decoded, pixels) + 1e-3 * kl

    train("autoencoder", model, loss_fn, folder, steps=steps, lr=2e-3)
    return normalise(model.cpu().eval(), sprites)


@torch.no_grad()
def normalise(model: AutoencoderKLWan, sprites: Sprites) -> AutoencoderKLWan:
    """Write each latent channel's mean and spread over stills and clips into the config, as Wan does."""
    generator, rng = torch.Generator().manual_seed(1), random.Random(2)
    clips = torch.cat(
        [model.encode(random_clips(sprites, 8, generator, rng, 1.0, FRAMES)).latent_dist.mean for _ in range(12)]
    )
    flat = clips.transpose(0, 1).flatten(1)
    model.register_to_config(
        latents_mean=[round(v, 4) for v in flat.mean(1).tolist()],
        latents_std=[round(v, 4) for v in flat.std(1).tolist()],
    )
    return model


def statistics(model: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """latents_mean, latents_std, each [1, c, 1, 1, 1]."""
    mean, std = (torch.tensor(model.config[k]).view(1, -1, 1, 1, 1) for k in ("latents_mean", "latents_std"))
    return mean, std


def train_decoder(
    model: AutoencoderKLWan, sprites: Sprites, folder: Path, steps: int, device: str = "cpu", clips: int = 4
) -> AutoencoderKLWan:
    """Train the decoder on, alone: the latents, and so every denoiser, stay as they are."""
    generator, rng = torch.Generator().manual_seed(11), random.Random(11)
    model.to(device).requires_grad_(False)
    for part in (model.decoder, model.post_quant_conv):
        part.requires_grad_(True)
    std = statistics(model)[1].to(device)

    def loss_fn(step: int) -> Tensor:
        if step % 4 == 3:
            pixels = random_pictures(sprites, 20, generator, known=0.9).unsqueeze(2)
        else:
            pixels = random_clips(sprites, clips, generator, rng, known=0.95)
        pixels = pixels.to(device)
        with half(device), flat_convolutions():
            with torch.no_grad():
                latents = model.encode(pixels).latent_dist.mean.float()
            # a denoiser's latents are never quite an encoder's
            amount = 0.15 * float(uniform(1, 0, 1, generator))
            latents = latents + amount * std * torch.randn(latents.shape, generator=generator).to(device)
            decoded = unclamped(model, latents).float()
        return reconstruction(decoded, pixels)

    train("decoder", model, loss_fn, folder, steps=steps, lr=1e-3, ema=0.998)
    return model.cpu().requires_grad_(True).eval()


@torch.no_grad()
def psnr(model: AutoencoderKLWan, sprites: Sprites) -> dict[str, float]:
    """Peak signal-to-noise ratio in dB over stills and over clips of each motion."""
    generator, rng = torch.Generator().manual_seed(77), random.Random(77)

    def of(pixels: Tensor) -> float:
        decoded = model.decode(model.encode(pixels).latent_dist.mean).sample
        return round(float(10 * torch.log10(4 / (decoded - pixels).pow(2).mean())), 2)

    found = {"stills": of(random_pictures(sprites, 64, generator, known=1.0).unsqueeze(2))}
    pool = sprites.known.flatten(0, 1)
    for motion in MOTION_NAMES:
        chosen = torch.stack([pool[rng.randrange(len(pool))] for _ in range(8)])
        found[motion] = of(clip_pixels(chosen, [motion_pose(motion, generator, FRAMES) for _ in range(8)]))
    return found
