"""The way back from diffusers' folders to the one file that A1111 and ComfyUI keep: the names of the original code."""

import re
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
ATTENTION = {"group_norm.": "norm.", "to_q.": "q.", "to_k.": "k.", "to_v.": "v.", "to_out.0.": "proj_out."}
OPENCLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def replaced(name: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def unet(state: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """layers: of a block, as the config's ``layers_per_block``."""
    blocks = [name for name in state if name.startswith("up_blocks")]

    def original(name: str) -> str:
        if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name):
            way, i, part, j, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
            if part == "downsamplers":
                return f"input_blocks.{(i + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
            if part == "upsamplers":
                attends = any(block.startswith(f"up_blocks.{i}.attentions") for block in blocks)
                return f"output_blocks.{i * (layers + 1) + layers}.{1 + attends}.{rest}"
            at = (
                f"input_blocks.{1 + i * (layers + 1) + j}" if way == "down" else f"output_blocks.{i * (layers + 1) + j}"
            )
            return f"{at}.0.{replaced(rest, RESNET)}" if part == "resnets" else f"{at}.1.{rest}"
        if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
            if found[1] == "attentions":
                return f"middle_block.1.{found[3]}"
            return f"middle_block.{2 * int(found[2])}.{replaced(found[3], RESNET)}"
        return replaced(name, ENDS)

    return {f"model.diffusion_model.{original(name)}": tensor for name, tensor in state.items()}


def vae(state: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """blocks: how many there are in each half."""

    def original(name: str) -> str:
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{blocks - 1 - int(m[1])}.block.", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if found := re.fullmatch(r"(.+)mid_block\.attentions\.0\.(.+)", name):
            return f"{found[1]}mid.attn_1.{replaced(found[2], ATTENTION)}"
        return name

    named = {original(name): tensor for name, tensor in state.items()}
    return {
        f"first_stage_model.{name}": tensor[:, :, None, None] if "attn_1" in name and tensor.ndim == 2 else tensor
        for name, tensor in named.items()
    }


def clip(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """transformers 4's names, with a buffer that old checkpoints have."""
    named = {f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}
    return named | {f"{prefix}text_model.embeddings.position_ids": torch.arange(77)[None]}


def openclip(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {f"{prefix}logit_scale": torch.tensor(4.6)}
    fused: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        name = name.removeprefix("text_model.")
        if found := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name):
            fused.setdefault(f"resblocks.{found[1]}.attn.in_proj_{found[3]}", {})[found[2]] = tensor
        elif found := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name):
            rest = replaced(found[2], OPENCLIP).replace("self_attn.", "attn.")
            made[f"{prefix}transformer.resblocks.{found[1]}.{rest}"] = tensor
        elif name == "text_projection.weight":
            made[f"{prefix}text_projection"] = tensor.T.contiguous()
        else:
            name = name.replace("final_layer_norm", "ln_final").replace("embeddings.token_", "token_")
            made[prefix + name.replace("embeddings.position_embedding.weight", "positional_embedding")] = tensor
    for name, parts in fused.items():
        made[f"{prefix}transformer.{name}"] = torch.cat([parts[part] for part in "qkv"])
    return made


def checkpoint(pipe: DiffusionPipeline, *, second: bool = False) -> dict[str, Tensor]:
    """All weights of a Stable Diffusion pipeline as its original checkpoint names them. second: of version 2, whose only
    encoder is OpenCLIP's.
    """
    made = unet(pipe.unet.state_dict(), pipe.unet.config.layers_per_block)
    made |= vae(pipe.vae.state_dict(), len(pipe.vae.config.block_out_channels))
    first = pipe.text_encoder.state_dict()
    if hasattr(pipe, "text_encoder_2"):
        made |= clip(first, "conditioner.embedders.0.transformer.")
        return made | openclip(pipe.text_encoder_2.state_dict(), "conditioner.embedders.1.model.")
    return made | (
        openclip(first, "cond_stage_model.model.") if second else clip(first, "cond_stage_model.transformer.")
    )


def write(tensors: dict[str, Tensor], file: Path, **metadata: str) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata or None)
    return file
