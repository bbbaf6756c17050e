"""Small random text-to-image pipelines of the real classes, and Wan: one for each way to call a denoiser."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


@dataclass(frozen=True)
class Case:
    """build: folder for a tokenizer → pipeline. side: of its pictures. guidance: that calls its model once a step."""

    build: Callable[[Path], Any]
    side: int
    guidance: float = 1.0


def words() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, as T5's and Gemma's are used: one end, padding on the right."""
    vocab = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", *tiny.WORDS))}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def gemma() -> Gemma2Model:
    torch.manual_seed(5)
    config = Gemma2Config(
        **{"vocab_size": tiny.VOCAB, "hidden_size": tiny.WIDTH, "intermediate_size": 64, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.2},
    )
    return Gemma2Model(config).eval()


def kl(channels: int = 4, **more: Any) -> AutoencoderKL:
    """A VAE that halves the picture."""
    torch.manual_seed(6)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        **more,
    )


def unet(**more: Any) -> UNet2DConditionModel:
    torch.manual_seed(7)
    sizes: dict[str, Any] = {"cross_attention_dim": tiny.WIDTH} | more
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **sizes,
    )


def sd(folder: Path, **schedule: Any) -> StableDiffusionPipeline:
    parts = {"vae": kl(), "text_encoder": tiny.encoder(), "tokenizer": tiny.tokenizer(folder), "unet": unet()}
    more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(
        **parts, **more, scheduler=DDIMScheduler(**BETAS, clip_sample=False, steps_offset=1, **schedule)
    )


def sd_velocity(folder: Path) -> StableDiffusionPipeline:
    return sd(folder, prediction_type="v_prediction")


def lcm(folder: Path) -> LatentConsistencyModelPipeline:
    parts = sd(folder).components | {"unet": unet(time_cond_proj_dim=8), "scheduler": LCMScheduler(**BETAS)}
    return LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)


def sdxl(folder: Path) -> StableDiffusionXLPipeline:
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    added |= {"projection_class_embeddings_input_dim": 6 * 8 + 16, "cross_attention_dim": 2 * tiny.WIDTH}
    tokenizer = tiny.tokenizer(folder)
    return StableDiffusionXLPipeline(
        vae=kl(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 1.5, 2.0, 2.5]),
        text_encoder=tiny.encoder(),
        text_encoder_2=tiny.encoder("CLIPTextModelWithProjection", seed=1),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet(**added),
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
    )


def sd3(folder: Path) -> StableDiffusion3Pipeline:
    torch.manual_seed(8)
    transformer = SD3Transformer2DModel(
        **{"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2},
        **{"attention_head_dim": 8, "num_attention_heads": 2, "caption_projection_dim": 16},
        **{"joint_attention_dim": 2 * tiny.WIDTH, "pooled_projection_dim": 32, "pos_embed_max_size": 8},
    )
    clip = tiny.tokenizer(folder)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl(shift_factor=0.0609, scaling_factor=1.5305),
        text_encoder=tiny.encoder("CLIPTextModelWithProjection"),
        text_encoder_2=tiny.encoder("CLIPTextModelWithProjection", seed=1),
        text_encoder_3=tiny.encoder("T5EncoderModel", seed=2, d_model=2 * tiny.WIDTH),
        tokenizer=clip,
        tokenizer_2=clip,
        tokenizer_3=words(),
    )


def flux(folder: Path, guided: bool = True) -> FluxPipeline:
    torch.manual_seed(9)
    transformer = FluxTransformer2DModel(
        **{"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16},
        **{"num_attention_heads": 2, "joint_attention_dim": tiny.WIDTH, "pooled_projection_dim": tiny.WIDTH},
        **{"guidance_embeds": guided, "axes_dims_rope": (4, 4, 8)},
    )
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15),
        vae=kl(shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=tiny.encoder(),
        text_encoder_2=tiny.encoder("T5EncoderModel", seed=2),
        tokenizer=tiny.tokenizer(folder),
        tokenizer_2=words(),
    )


def flux_schnell(folder: Path) -> FluxPipeline:
    return flux(folder, guided=False)


def pixart_sigma(folder: Path) -> PixArtSigmaPipeline:
    return PixArtSigmaPipeline(**pixart(8))


def pixart_alpha(folder: Path) -> PixArtAlphaPipeline:
    """Of the size that is told its pictures' resolution."""
    return PixArtAlphaPipeline(**pixart(128))


def pixart(size: int) -> dict[str, Any]:
    torch.manual_seed(10)
    transformer = PixArtTransformer2DModel(
        **{"sample_size": size, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 3},
        **{"cross_attention_dim": 24, "caption_channels": tiny.WIDTH, "in_channels": 4, "out_channels": 8},
    )
    return {
        "tokenizer": words(),
        "text_encoder": tiny.encoder("T5EncoderModel"),
        "vae": kl(),
        "transformer": transformer.eval(),
        "scheduler": DPMSolverMultistepScheduler(**BETAS),
    }


def sana(folder: Path) -> SanaPipeline:
    torch.manual_seed(11)
    transformer = SanaTransformer2DModel(
        **{"patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 1, "sample_size": 32},
        **{"num_attention_heads": 2, "attention_head_dim": 4, "num_cross_attention_heads": 2},
        **{"cross_attention_head_dim": 4, "cross_attention_dim": 8, "caption_channels": tiny.WIDTH},
        timestep_scale=0.5,
    )
    blocks: dict[str, Any] = {
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (8, 8),
        "encoder_qkv_multiscales": ((), (5,)),
        "encoder_layers_per_block": (1, 1),
    }
    blocks |= {name.replace("encoder", "decoder"): value for name, value in blocks.items()}
    more = {"downsample_block_type": "conv", "upsample_block_type": "interpolate", "decoder_act_fns": "silu"}
    vae = AutoencoderDC(latent_channels=4, attention_head_dim=2, **blocks, **more, scaling_factor=0.41407)
    schedule = DPMSolverMultistepScheduler(**BETAS, **FLOW)
    return SanaPipeline(words(), gemma(), vae.eval(), transformer.eval(), schedule)


def wan(folder: Path, two: bool = False, **config: Any) -> WanPipeline:
    def stage(seed: int) -> WanTransformer3DModel:
        torch.manual_seed(seed)
        return WanTransformer3DModel(
            **{"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4},
            **{"text_dim": tiny.WIDTH, "freq_dim": 16, "ffn_dim": 32, "num_layers": 1, "rope_max_seq_len": 32},
        ).eval()

    torch.manual_seed(12)
    vae = AutoencoderKLWan(
        **{"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
        **{"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 2.0, 0.5, 1.0]},
    )
    return WanPipeline(
        tokenizer=words(),
        text_encoder=tiny.encoder("UMT5EncoderModel"),
        vae=vae.eval(),
        scheduler=UniPCMultistepScheduler(**FLOW),
        transformer=stage(13),
        transformer_2=stage(14) if two else None,
        **config,
    )


def wan_two(folder: Path) -> WanPipeline:
    """A model for the noisy times and one for the others, as Wan 2.2 with 14 billion weights."""
    return wan(folder, two=True, boundary_ratio=0.875)


def wan_tokens(folder: Path) -> WanPipeline:
    """A time for each token, as Wan 2.2 with 5 billion weights."""
    return wan(folder, expand_timesteps=True)


CASES = {
    "sd": Case(sd, 16),
    "sd-v": Case(sd_velocity, 16),
    "lcm": Case(lcm, 16, guidance=8.5),
    "sdxl": Case(sdxl, 16),
    "sd3": Case(sd3, 16),
    "flux-dev": Case(flux, 16, guidance=3.5),
    "flux-schnell": Case(flux_schnell, 16, guidance=0.0),
    "pixart-alpha": Case(pixart_alpha, 16),
    "pixart-sigma": Case(pixart_sigma, 16),
    "sana": Case(sana, 32),
    "wan": Case(wan, 32),
    "wan-two": Case(wan_two, 32),
    "wan-tokens": Case(wan_tokens, 32),
}


def built(name: str, folder: Path) -> Any:
    """The pipeline of a case, frozen and quiet."""
    pipeline = CASES[name].build(folder)
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    return pipeline
