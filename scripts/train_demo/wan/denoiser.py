"""Wan's transformer on the frozen text states: flow matching on stills and clips (Lipman et al. 2022)."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from ..data import MOTION_NAMES, NAMES, STYLE_NAMES, Sprites, draw, motion_pose, still_pose
from ..denoisers import fast, half
from ..trainer import train
from .autoencoder import CHANNELS, FRAMES, clip_pixels, flat_convolutions, statistics
from .encoder import WIDTH, words

STILLS = 48  # poses of each picture
MOMENTS = 3  # single frames of each picture along each motion
PATHS = 4  # clips of each picture along each motion, and standing still
SHIFT = 2.0  # of the noise levels, towards the noisy end: they decide what is where and where it goes
DROPOUT = 0.1  # captions replaced by none, for classifier-free guidance
PADDINGS = (64, 128, 226, 512, 512)  # Wan attends to its zero padding: any max_sequence_length has to do


@dataclass(frozen=True)
class Shape:
    """heads × 32 wide, layers deep; seed: of the random weights and of everything that is drawn while training."""

    heads: int
    layers: int
    ffn: int
    seed: int
    rate: float = 1.5e-3


SHAPES = {"transformer": Shape(6, 6, 512, 20), "transformer-b": Shape(6, 4, 512, 30)}


@dataclass
class Latents:
    """Normalised latents. stills: [concepts, styles, STILLS, c, 1, h, w]; moments: [concepts, styles, motions, MOMENTS,
    c, 1, h, w], single frames of a motion; clips: [concepts, styles, motions + 1, PATHS, c, 5, h, w].
    """

    stills: Tensor
    moments: Tensor
    clips: Tensor


@torch.no_grad()
def encode_all(model: AutoencoderKLWan, sprites: Sprites, folder: Path) -> Latents:
    """Encode every picture and clip that the denoisers train on, once."""
    cache = folder / "wan-latents.safetensors"
    if not cache.exists():
        generator = torch.Generator().manual_seed(4)
        mean, std = statistics(model)

        def encode(pixels: Tensor) -> Tensor:
            with half(), flat_convolutions():
                latents = model.encode(pixels).latent_dist.mean.float()
            return ((latents - mean) / std).half()

        found: dict[str, list[Tensor]] = {"stills": [], "moments": [], "clips": []}
        for sprite in sprites.known.flatten(0, 1):
            pose = still_pose(STILLS, generator)
            found["stills"].append(encode(draw(sprite[None].expand(STILLS, -1, -1, -1), *pose).unsqueeze(2)))
            poses = [motion_pose(m, generator, FRAMES) for m in [*MOTION_NAMES, None] for _ in range(PATHS)]
            clips = clip_pixels(sprite[None].expand(len(poses), -1, -1, -1), poses)
            found["clips"].append(encode(clips).unflatten(0, (-1, PATHS)))
            moments = clips[: len(MOTION_NAMES) * PATHS].unflatten(0, (-1, PATHS))[:, :MOMENTS]
            frame = torch.randint(FRAMES, moments.shape[:2], generator=generator)
            one = torch.take_along_dim(moments, frame[:, :, None, None, None, None], 3).flatten(0, 1)
            found["moments"].append(encode(one).unflatten(0, (-1, MOMENTS)))
        n = (len(NAMES), len(STYLE_NAMES))
        save_file({k: torch.stack(v).unflatten(0, n).contiguous() for k, v in found.items()}, cache)
    return Latents(**load_file(cache))


class Prompts:
    """Text states of every kind of caption, computed once by the frozen encoder.

    As WanPipeline gives them: the states of the true tokens, then zeros. Zeros are all alike, so one of them, weighed
    by their number, stands for all.
    """

    variants = 8

    @torch.no_grad()
    def __init__(self, encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerFast) -> None:
        rng = random.Random(5)
        self.keys: dict[tuple[str | None, str | None, str | None], int] = {}
        texts = [""]
        for c in [*NAMES, None]:
            for s in [*STYLE_NAMES, None]:
                for m in [*MOTION_NAMES, None]:
                    self.keys[c, s, m] = len(texts)
                    texts += [words((c, s, m), rng) for _ in range(self.variants)]
        tokens = tokenizer(texts, padding="longest", return_tensors="pt")
        self.lengths = tokens.attention_mask.sum(1)
        pairs = zip(tokens.input_ids.split(256), tokens.attention_mask.split(256), strict=True)
        states = torch.cat([encoder(input_ids=i, attention_mask=a).last_hidden_state.half() for i, a in pairs])
        states *= tokens.attention_mask[..., None]
        self.states = F.pad(states, (0, 0, 0, 1))  # at least one zero at the end

    def sample(self, wanted: list[tuple[int, int, int | None]], rng: random.Random) -> tuple[Tensor, Tensor]:
        """(concept, style, motion) indices → states [n, l, d] and lengths [n]; attributes drop out at times."""
        rows = []
        for c, s, m in wanted:
            style = None if rng.random() < 0.15 else STYLE_NAMES[s]
            concept = None if style and rng.random() < 0.03 else NAMES[c]
            key = (concept, style, None if m is None else MOTION_NAMES[m])
            rows.append(0 if rng.random() < DROPOUT else self.keys[key] + rng.randrange(self.variants))
        return self.states[rows].float(), self.lengths[rows]


class PaddedAttention(WanAttnProcessor):
    """Cross-attention in which the first zero stands for all: its logit is raised by the logarithm of their number."""

    bias: Tensor | None = None

    def __call__(self, attn: WanAttention, hidden: Tensor, states: Tensor, mask: None = None, rotary: None = None):
        return super().__call__(attn, hidden, states, self.bias, rotary)

    def pad(self, lengths: Tensor, width: int, padded: int, device: str) -> None:
        """lengths: [n] true tokens; width: of the states given; padded: of the states meant."""
        place = torch.arange(width)
        bias = torch.zeros(len(lengths), width).masked_fill(place > lengths[:, None], -torch.inf)
        bias[torch.arange(len(lengths)), lengths] = torch.log(padded - lengths)
        self.bias = bias[:, None, None].to(device)


def new_transformer(shape: Shape) -> WanTransformer3DModel:
    torch.manual_seed(shape.seed)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=shape.heads,
        attention_head_dim=32,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=WIDTH,
        freq_dim=128,
        ffn_dim=shape.ffn,
        num_layers=shape.layers,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    for block in model.blocks:
        nn.init.constant_(block.attn2.norm_k.weight, 2.0)  # a word has to be heard among 500 zeros
    return model


def batch_of(latents: Latents, clips: bool, n: int, rng: random.Random) -> tuple[list[tuple], Tensor]:
    """n random clips or stills, one still in four a moment of a motion. → (concept, style, motion), [n, c, f, h, w]"""
    wanted: list[tuple[int, int, int | None]] = []
    clean = []
    for _ in range(n):
        c, s = rng.randrange(len(NAMES)), rng.randrange(len(STYLE_NAMES))
        if clips:
            m = rng.randrange(len(MOTION_NAMES) + 1)
            clean.append(latents.clips[c, s, m, rng.randrange(PATHS)])
        elif rng.random() < 0.25:
            m = rng.randrange(len(MOTION_NAMES))
            clean.append(latents.moments[c, s, m, rng.randrange(MOMENTS)])
        else:
            m = len(MOTION_NAMES)
            clean.append(latents.stills[c, s, rng.randrange(STILLS)])
        wanted.append((c, s, m if m < len(MOTION_NAMES) else None))
    return wanted, torch.stack(clean).float()


def noisy(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Straight paths to noise. clean: [n, ...] → mixed, timestep [n] in 0…1000, velocity (noise - clean)"""
    n = len(clean)
    share = (torch.arange(n) + torch.rand(n, generator=generator)) / n  # every batch covers all noise levels
    sigma = SHIFT * share / (1 + (SHIFT - 1) * share)
    noise = torch.randn(clean.shape, generator=generator)
    return torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1)), sigma * 1000, noise - clean


def train_transformer(
    name: str,
    prompts: Prompts,
    latents: Latents,
    folder: Path,
    steps: int,
    still_steps: int,
    device: str = "cpu",
    compiled: bool = False,
    start: Path | None = None,
) -> WanTransformer3DModel:
    """First single pictures, then three batches of clips to one of pictures. compiled: half again as fast, needs g++.

    start: a pipeline's folder whose component ``name`` to begin from in place of random weights, at half the rate.
    """
    shape = SHAPES[name]
    model = new_transformer(shape).to(device)
    if start:
        model.load_state_dict(WanTransformer3DModel.from_pretrained(start / name).state_dict())
    attention = PaddedAttention()
    for block in model.blocks:
        block.attn2.set_processor(attention)
        if compiled and steps:
            block.compile(dynamic=False)
    generator, rng = torch.Generator().manual_seed(shape.seed), random.Random(shape.seed)

    def loss_fn(step: int) -> Tensor:
        clips = step >= still_steps and step % 4 != 0
        wanted, clean = batch_of(latents, clips, 20 if clips else 64, rng)
        mixed, t, velocity = noisy(clean, generator)
        states, lengths = prompts.sample(wanted, rng)
        padded = 32 if step < 300 else rng.choice(PADDINGS)
        attention.pad(lengths, states.shape[1], padded, device)
        with fast(device):
            out = model(mixed.to(device), t.to(device), states.to(device), return_dict=False)[0]
        return F.mse_loss(out.float(), velocity.to(device))

    train(name, model, loss_fn, folder, steps=steps, lr=shape.rate / 2 if start else shape.rate, ema=0.998)
    for block in model.blocks:
        block.attn2.set_processor(WanAttnProcessor())
        block._compiled_call_impl = None
    return model.cpu().eval()
