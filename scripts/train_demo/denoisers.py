"""The three denoisers over one frozen text encoder: stills, motion modules for them, and a video model of its own."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel, UNet3DConditionModel
from diffusers.models import UNetMotionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from .data import FRAMES, MOTION_NAMES, NAMES, STYLE_NAMES, Sprites, caption, draw, motion_pose, still_pose
from .trainer import train

WIDTHS = (64, 128)
STILLS = 48  # poses of each picture
CLIPS = 3  # paths of each picture along each motion


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@dataclass
class Latents:
    """stills: [concepts, styles, STILLS, c, h, w]; clips: [concepts, styles, motions + 1, CLIPS, f, c, h, w]."""

    stills: Tensor
    clips: Tensor


@torch.no_grad()
def encode_all(vae: AutoencoderKL, sprites: Sprites, folder: Path) -> Latents:
    """Encode every picture and clip that the denoisers train on, once."""
    cache = folder / "latents.safetensors"
    if not cache.exists():
        generator = torch.Generator().manual_seed(4)
        scale = vae.config.scaling_factor

        def encode(sprite: Tensor, pose: tuple[Tensor, ...]) -> Tensor:
            pixels = draw(sprite[None].expand(len(pose[0]), -1, -1, -1), *pose)
            return (vae.encode(pixels).latent_dist.mean * scale).half()

        stills, clips = [], []
        for sprite in sprites.known.flatten(0, 1):
            stills.append(encode(sprite, still_pose(STILLS, generator)))
            poses = [motion_pose(m, generator) for m in [*MOTION_NAMES, None] for _ in range(CLIPS)]
            clips.append(encode(sprite, tuple(torch.cat(p) for p in zip(*poses, strict=True))))
        n = (len(NAMES), len(STYLE_NAMES))
        save_file(
            {
                "stills": torch.stack(stills).unflatten(0, n).contiguous(),
                "clips": torch.stack(clips)
                .unflatten(0, n)
                .unflatten(2, (len(MOTION_NAMES) + 1, CLIPS, FRAMES))
                .contiguous(),
            },
            cache,
        )
    tensors = load_file(cache)
    return Latents(tensors["stills"], tensors["clips"])


class Prompts:
    """Text states of every kind of caption, computed once by the frozen encoder."""

    variants = 4

    @torch.no_grad()
    def __init__(self, encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        rng = random.Random(5)
        self.keys: dict[tuple[str | None, str | None, str | None], int] = {}
        texts = [""]
        for c in [*NAMES, None]:
            for s in [*STYLE_NAMES, None]:
                for m in [*MOTION_NAMES, None]:
                    self.keys[c, s, m] = len(texts)
                    texts += [caption(c, s, m, rng) for _ in range(self.variants)]
        tokens = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        self.states = torch.cat([encoder(batch)[0].half() for batch in tokens.split(128)])

    def sample(self, wanted: list[tuple[int, int, int | None]], rng: random.Random) -> Tensor:
        """(concept, style, motion) indices → states [n, 77, d]; attributes and whole captions drop out at times."""
        rows = []
        for c, s, m in wanted:
            style = None if rng.random() < 0.12 else STYLE_NAMES[s]
            concept = None if style and rng.random() < 0.03 else NAMES[c]
            key = (concept, style, None if m is None else MOTION_NAMES[m])
            rows.append(0 if rng.random() < 0.1 else self.keys[key] + rng.randrange(self.variants))
        return self.states[rows].float()


def half(device: str = "cpu") -> torch.autocast:
    """bfloat16 products, where the processor has them: one without took 70 times as long."""
    able = device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device, dtype=torch.bfloat16, enabled=able)


@contextmanager
def fast(device: str = "cpu") -> Iterator[None]:
    """``half`` products and plain attention: half again as fast at these sizes on a CPU."""
    with half(device), sdpa_kernel([SDPBackend.MATH]):
        yield


class Noise:
    """v-prediction targets under the shared schedule (Salimans & Ho 2022)."""

    def __init__(self, seed: int, tilt: float = 1.0) -> None:
        """tilt: below 1 draws more of the noisiest timesteps, which decide what moves where."""
        self.tilt = tilt
        self.scheduler = scheduler()
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """clean: [n, ...] → noisy, timestep [n], target"""
        n = len(clean)
        # stratified timesteps: every batch covers the whole schedule
        share = (torch.arange(n) + torch.rand(n, generator=self.generator)) / n
        t = (share**self.tilt * 1000).long().clamp(max=999)
        noise = torch.randn(clean.shape, generator=self.generator)
        return self.scheduler.add_noise(clean, noise, t), t, self.scheduler.get_velocity(clean, noise, t)


def train_t2i(prompts: Prompts, latents: Latents, folder: Path, steps: int, batch: int = 32) -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        cross_attention_dim=prompts.states.shape[-1],
        attention_head_dim=4,
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)
    noise, rng = Noise(6), random.Random(6)

    def loss_fn(step: int) -> Tensor:
        wanted, clean = [], []
        for _ in range(batch):
            c, s = rng.randrange(len(NAMES)), rng.randrange(len(STYLE_NAMES))
            if rng.random() < 0.75:
                wanted.append((c, s, None))
                clean.append(latents.stills[c, s, rng.randrange(STILLS)])
            else:
                m = rng.randrange(len(MOTION_NAMES))
                wanted.append((c, s, m))
                clean.append(latents.clips[c, s, m, rng.randrange(CLIPS), rng.randrange(FRAMES)])
        noisy, t, target = noise(torch.stack(clean).float())
        with fast():
            out = unet(noisy.contiguous(memory_format=torch.channels_last), t, prompts.sample(wanted, rng)).sample
        return F.mse_loss(out.float(), target)

    return train("t2i", unet, loss_fn, folder, steps=steps, lr=1.5e-3, ema=0.998).eval()


def clip_batch(latents: Latents, n: int, rng: random.Random) -> tuple[list[tuple[int, int, int | None]], Tensor]:
    """n random clips. → (concept, style, motion), latents [n, f, c, h, w]"""
    wanted, clean = [], []
    for _ in range(n):
        c, s, m = rng.randrange(len(NAMES)), rng.randrange(len(STYLE_NAMES)), rng.randrange(len(MOTION_NAMES) + 1)
        wanted.append((c, s, m if m < len(MOTION_NAMES) else None))
        clean.append(latents.clips[c, s, m, rng.randrange(CLIPS)])
    return wanted, torch.stack(clean).float()


def train_motion(
    unet: UNet2DConditionModel, prompts: Prompts, latents: Latents, folder: Path, steps: int, batch: int = 3
) -> MotionAdapter:
    """Motion modules between the layers of the finished still model, which stays as it is (Guo et al. 2023)."""
    torch.manual_seed(0)
    adapter = MotionAdapter(
        block_out_channels=WIDTHS,
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=4,
        motion_norm_num_groups=16,
        motion_max_seq_length=16,
        use_motion_mid_block=False,
        conv_in_channels=None,
    )
    for name, module in adapter.named_modules():
        if name.endswith("proj_out"):  # start as the still model, frame by frame
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    model = UNetMotionModel.from_unet2d(unet, adapter)
    for name, p in model.named_parameters():
        p.requires_grad_("motion_modules" in name)
    noise, rng = Noise(7), random.Random(7)

    def loss_fn(step: int) -> Tensor:
        wanted, clean = clip_batch(latents, batch, rng)
        noisy, t, target = noise(clean)
        states = prompts.sample(wanted, rng).repeat_interleave(FRAMES, 0)
        with fast():
            out = model(noisy.transpose(1, 2), t, states).sample
        return F.mse_loss(out.float(), target.transpose(1, 2))

    train("motion", model, loss_fn, folder, steps=steps, lr=1.2e-3, ema=0.995)
    adapter.load_state_dict({k: v for k, v in model.state_dict().items() if "motion_modules" in k})
    return adapter.eval()


def train_unet3d(
    prompts: Prompts, latents: Latents, folder: Path, steps: int, still_steps: int, batch: int = 4
) -> UNet3DConditionModel:
    """A video denoiser from random weights on the frozen text states: first single frames, then clips."""
    torch.manual_seed(1)
    unet = UNet3DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        down_block_types=("CrossAttnDownBlock3D",) * 2,
        up_block_types=("CrossAttnUpBlock3D",) * 2,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        cross_attention_dim=prompts.states.shape[-1],
        attention_head_dim=32,
        norm_num_groups=16,
    )
    unet.eval()  # no dropout
    for name, module in unet.named_modules():
        if ("temp_attentions" in name and name.endswith("proj_out")) or name == "transformer_in.proj_out":
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    noise, rng = Noise(8, tilt=0.5), random.Random(8)

    def loss_fn(step: int) -> Tensor:
        if step < still_steps:
            wanted, clean = clip_batch(latents, 24, rng)
            frame = torch.randint(FRAMES, (24,), generator=noise.generator)
            clean = clean[torch.arange(24), frame][:, None]
        else:
            wanted, clean = clip_batch(latents, batch, rng)
        noisy, t, target = noise(clean)
        with fast():
            out = unet(noisy.transpose(1, 2), t, prompts.sample(wanted, rng)).sample
        return F.mse_loss(out.float(), target.transpose(1, 2))

    return train("unet3d", unet, loss_fn, folder, steps=steps, lr=1.2e-3, ema=0.998).eval()
