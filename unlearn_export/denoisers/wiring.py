"""How each pipeline calls its model: argument names, time scale, packing, added conditions. One row a pipeline.

Every function repeats one call in the denoising loop of the pipeline that it is named after (diffusers 0.42); the
tests hold each argument against what the pipeline itself passes.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Conditions = dict[str, Tensor]
"""What the denoiser is given for n texts, each tensor [n, …], by the names that the pipeline's own call takes."""

Predict = Callable[[Any, Tensor, Tensor, Conditions, float], Tensor]
"""(pipeline, noisy latents [b, c, …, h, w], times [b], conditions, guidance) → the model's answer, of latents' shape."""


@dataclass(frozen=True)
class Wiring:
    """returns: the names of what ``encode_prompt`` returns, in order; "" is not for the model.
    native: the side in pixels of the pictures that the pipeline draws unless told otherwise.
    clip: its latents are of clips, [c, frames, h, w]. unpack: what it draws, as [n, c, …, h, w], given the side.
    """

    predict: Predict
    returns: tuple[str, ...]
    native: Callable[[Any], int]
    model: str = "transformer"
    clip: bool = False
    unpack: Callable[[Any, Tensor, int], Tensor] = lambda pipe, latents, side: latents


def default(call: Callable[..., Any], name: str) -> Any:
    """What ``call`` takes ``name`` to be unless told."""
    return inspect.signature(call).parameters[name].default


def factor(pipe: Any) -> int:
    """Pixels along one side of a latent."""
    return int(getattr(pipe, "vae_scale_factor_spatial", None) or pipe.vae_scale_factor)


def _sd(pipe: Any, z: Tensor, t: Tensor, c: Conditions, guidance: float) -> Tensor:
    return _unet(pipe, z, t, c, guidance, None)


def _sdxl(pipe: Any, z: Tensor, t: Tensor, c: Conditions, guidance: float) -> Tensor:
    """The picture is told to be whole and of its own size (Podell et al. 2023, arXiv:2307.01952, section 2.2)."""
    height, width = (side * factor(pipe) for side in z.shape[-2:])
    sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=z.dtype, device=z.device)
    added = {"text_embeds": c["pooled_prompt_embeds"], "time_ids": sizes.expand(len(z), -1)}
    return _unet(pipe, z, t, c, guidance, added)


def _unet(pipe: Any, z: Tensor, t: Tensor, c: Conditions, guidance: float, added: dict[str, Tensor] | None) -> Tensor:
    told = None
    if pipe.unet.config.time_cond_proj_dim is not None:  # LCM: the guidance is distilled into the model
        scale = torch.full((len(z),), guidance - 1.0)
        told = pipe.get_guidance_scale_embedding(scale, embedding_dim=pipe.unet.config.time_cond_proj_dim).to(z)
    return pipe.unet(
        z,
        t,
        encoder_hidden_states=c["prompt_embeds"],
        timestep_cond=told,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


def _sd3(pipe: Any, z: Tensor, t: Tensor, c: Conditions, guidance: float) -> Tensor:
    return pipe.transformer(
        hidden_states=z,
        timestep=t,
        encoder_hidden_states=c["prompt_embeds"],
        pooled_projections=c["pooled_prompt_embeds"],
        return_dict=False,
    )[0]


def _flux(pipe: Any, z: Tensor, t: Tensor, c: Conditions, guidance: float) -> Tensor:
    """Patches of two by two become tokens, times run from 0 to 1, and FLUX.1-dev is told its guidance."""
    batch, channels, height, width = z.shape
    out = pipe.transformer(
        hidden_states=pipe._pack_latents(z, batch, channels, height, width),
        timestep=t.to(z.dtype) / 1000,
        guidance=torch.full((batch,), guidance, device=z.device) if pipe.transformer.config.guidance_embeds else None,
        pooled_projections=c["pooled_prompt_embeds"],
        encoder_hidden_states=c["prompt_embeds"],
        txt_ids=z.new_zeros(c["prompt_embeds"].shape[1], 3),
        img_ids=pipe._prepare_latent_image_ids(batch, height // 2, width // 2, z.device, z.dtype),
        return_dict=False,
    )[0]
    return _unpack_flux(pipe, out, height * factor(pipe))


def _unpack_flux(pipe: Any, latents: Tensor, side: int) -> Tensor:
    return pipe._unpack_latents(latents, side, side, pipe.vae_scale_factor)


def _pixart(pipe: Any, z: Tensor, t: Tensor, c: Conditions, guidance: float) -> Tensor:
    """PixArt-α at 1024 pixels is told size and shape (Chen et al. 2023, arXiv:2310.00426); the others are not."""
    added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if pipe.transformer.use_additional_conditions:
        height, width = (side * factor(pipe) for side in z.shape[-2:])
        added = {
            "resolution": z.new_tensor([[height, width]]).expand(len(z), -1),
            "aspect_ratio": z.new_tensor([[height / width]]).expand(len(z), -1),
        }
    out = pipe.transformer(
        z,
        encoder_hidden_states=c["prompt_embeds"],
        encoder_attention_mask=c["prompt_attention_mask"],
        timestep=t,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]
    return _mean(out, z)


def _sana(pipe: Any, z: Tensor, t: Tensor, c: Conditions, guidance: float) -> Tensor:
    out = pipe.transformer(
        z,
        encoder_hidden_states=c["prompt_embeds"],
        encoder_attention_mask=c["prompt_attention_mask"],
        timestep=t * pipe.transformer.config.timestep_scale,
        return_dict=False,
    )[0]
    return _mean(out, z)


def _mean(out: Tensor, z: Tensor) -> Tensor:
    """Without the half that a model with a learned variance answers about it."""
    return out.chunk(2, dim=1)[0] if out.shape[1] == 2 * z.shape[1] else out


def _wan(pipe: Any, z: Tensor, t: Tensor, c: Conditions, guidance: float) -> Tensor:
    """Wan 2.2 with 14 billion weights has a model for the noisy times and one for the others."""
    if pipe.config.boundary_ratio is None:
        return _wan_stage(pipe, pipe.transformer, z, t, c)
    out = torch.empty_like(z)
    noisy = t >= pipe.config.boundary_ratio * pipe.scheduler.config.num_train_timesteps
    for rows, model in ((noisy, pipe.transformer), (~noisy, pipe.transformer_2)):
        if rows.any():
            out[rows] = _wan_stage(pipe, model, z[rows], t[rows], {name: x[rows] for name, x in c.items()})
    return out


def _wan_stage(pipe: Any, model: Any, z: Tensor, t: Tensor, c: Conditions) -> Tensor:
    if pipe.config.expand_timesteps:  # Wan 2.2 with 5 billion weights: a time for each token
        t = t[:, None].expand(-1, z[0, 0, :, ::2, ::2].numel())
    return model(hidden_states=z, timestep=t, encoder_hidden_states=c["prompt_embeds"], return_dict=False)[0]


def _unet_side(pipe: Any) -> int:
    size = pipe.unet.config.sample_size
    return factor(pipe) * (size if isinstance(size, int) else size[0])


def _transformer_side(pipe: Any) -> int:
    return factor(pipe) * pipe.transformer.config.sample_size


def _flux_side(pipe: Any) -> int:
    return factor(pipe) * pipe.default_sample_size


def _call_side(pipe: Any) -> int:
    return default(pipe.__call__, "height")


_MASKED = ("prompt_embeds", "prompt_attention_mask")
_POOLED = ("prompt_embeds", "", "pooled_prompt_embeds")
_PIXART = Wiring(_pixart, _MASKED, _transformer_side)
_SD = Wiring(_sd, ("prompt_embeds",), _unet_side, "unet")

WIRINGS: dict[str, Wiring] = {
    "StableDiffusionPipeline": _SD,
    "LatentConsistencyModelPipeline": _SD,
    "StableDiffusionXLPipeline": Wiring(_sdxl, _POOLED, _unet_side, "unet"),
    "StableDiffusion3Pipeline": Wiring(_sd3, _POOLED, _transformer_side),
    "FluxPipeline": Wiring(_flux, ("prompt_embeds", "pooled_prompt_embeds"), _flux_side, unpack=_unpack_flux),
    "PixArtAlphaPipeline": _PIXART,
    "PixArtSigmaPipeline": _PIXART,
    "SanaPipeline": Wiring(_sana, _MASKED, _transformer_side),
    "WanPipeline": Wiring(_wan, ("prompt_embeds",), _call_side, clip=True),
}
