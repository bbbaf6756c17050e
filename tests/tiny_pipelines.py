"""Every pipeline family in small: the real classes with random weights and tokenizers made on the spot.

``PIPELINES[name]()`` builds one in milliseconds, ``draw`` makes it paint, ``save_like_hub`` writes its folder.
Text encoders are 32 wide and have four layers, so that a reader of the third last state has one to read.
"""

import functools
import inspect
import json
import string
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import split_torch_state_dict_into_shards
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GemmaTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.utils import is_torchvision_available

from unlearn_export.families.contract_rows import CONTRACTS

WIDTH, LAYERS, HEADS = 32, 4, 4
WORDS = ("a", "photo", "of", "pizza", "clown", "car", "the", "mickey", "mouse", "cartoon")
CHATML = (  # as Qwen's own renders text
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# Tokenizers


def _corpus() -> list[str]:
    """The words, letters, and the pipelines' own templates, so that those take as many tokens as in the real ones."""
    templates = [contract.template.format(" ".join(WORDS)) for contract in CONTRACTS]
    for word, pieces in (("scren", ""), ("postprocessing", "post\nprocessing")):  # that the real ones split
        templates = [template.replace(word, pieces) for template in templates]
    return [*templates, *[" ".join(WORDS)] * 20, *string.printable[:95] * 2]


def _train(tokenizer: Tokenizer, specials: Sequence[str], alphabet: Sequence[str] = ()) -> dict[str, Any]:
    """The trained model's vocabulary and merges, as ``tokenizer.json`` has them."""
    trainer = trainers.BpeTrainer(
        vocab_size=1400, show_progress=False, special_tokens=list(specials), initial_alphabet=list(alphabet)
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


@functools.cache
def _clip_parts() -> dict[str, Any]:
    """Each word of ``WORDS`` is one token; other words are spelt. (Training would number suffixed letters at random.)"""
    vocabulary, merges = sorted(pre_tokenizers.ByteLevel.alphabet()), []
    vocabulary += [letter + "</w>" for letter in vocabulary]
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.append(parts[0])
    vocabulary = [
        *dict.fromkeys(vocabulary),
        "<|startoftext|>",
        "<|endoftext|>",
    ]  # the last id marks the end, as in CLIP
    return {"vocab": {token: i for i, token in enumerate(vocabulary)}, "merges": list(dict.fromkeys(merges))}


def clip_tokenizer() -> CLIPTokenizer:
    parts = _clip_parts()
    return CLIPTokenizer(vocab=dict(parts["vocab"]), merges=list(parts["merges"]), model_max_length=77)


@functools.cache
def _t5_pieces() -> list[tuple[str, float]]:
    """Short words are one piece and longer ones two; others are spelt. (Training ends in other scores every time.)"""
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -3.0}
    pieces |= dict.fromkeys(string.printable[:94], -8.0)
    for word in WORDS:
        cut = len(word) if len(word) < 5 else 3
        pieces |= {"▁" + word[:cut]: -4.0} | ({word[cut:]: -4.0} if word[cut:] else {})
    return list(pieces.items())


def t5_tokenizer() -> T5Tokenizer:
    return T5Tokenizer(vocab=list(_t5_pieces()), extra_ids=0, model_max_length=512)


@functools.cache
def _qwen_parts() -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _byte_level(PRETOKENIZE_REGEX)
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    specials += ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    return _train(tokenizer, specials, pre_tokenizers.ByteLevel.alphabet())


def _byte_level(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )


def qwen_tokenizer() -> Qwen2Tokenizer:
    parts = _qwen_parts()
    tokenizer = Qwen2Tokenizer(vocab=dict(parts["vocab"]), merges=list(parts["merges"]), chat_template=CHATML)
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                *("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
            ]
        }
    )
    return tokenizer


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 3's kind: byte pairs, and a BOS token in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _byte_level(PRETOKENIZE_REGEX)
    tokenizer.decoder = decoders.ByteLevel()
    specials = (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<pad>",
    )
    _train(tokenizer, specials, pre_tokenizers.ByteLevel.alphabet())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token="<pad>",
        additional_special_tokens=["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        padding_side="right",
    )


@functools.cache
def _gemma_parts() -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    return _train(tokenizer, [*specials, *(f"<0x{byte:02X}>" for byte in range(256))])


def gemma_tokenizer() -> GemmaTokenizer:
    parts = _gemma_parts()
    return GemmaTokenizer(vocab=dict(parts["vocab"]), merges=list(parts["merges"]), add_bos_token=True)


# Text encoders


def _random(model: torch.nn.Module) -> Any:
    """The weights spread wider than the classes' own initialisation, so that words matter; norms differ from one."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(0, 0.2)
            elif weight.ndim == 1 and name.endswith("weight"):
                weight.add_(torch.rand_like(weight) * 0.5)
    return model.eval()


def clip(projected: bool = False, *, seed: int = 0) -> PreTrainedModel:
    vocabulary = len(_clip_parts()["vocab"])
    config = CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        projection_dim=WIDTH,
        vocab_size=vocabulary,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    torch.manual_seed(seed)
    return _random((CLIPTextModelWithProjection if projected else CLIPTextModel)(config))


def t5(*, multilingual: bool = False, seed: int = 0, width: int = WIDTH) -> PreTrainedModel:
    sizes = {
        "vocab_size": len(_t5_pieces()),
        "d_model": width,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "feed_forward_proj": "gated-gelu",
    }
    torch.manual_seed(seed)
    return _random(UMT5EncoderModel(UMT5Config(**sizes)) if multilingual else T5EncoderModel(T5Config(**sizes)))


def byt5(*, seed: int = 0) -> PreTrainedModel:
    sizes = {"vocab_size": 384, "d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": HEADS}
    torch.manual_seed(seed)
    return _random(T5EncoderModel(T5Config(**sizes)))


def _decoder_sizes(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 2048,
    }


def qwen_text(*, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return _random(Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**_qwen_sizes())))


def qwen(*, seed: int = 0) -> PreTrainedModel:
    ids = qwen_tokenizer().convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config=_qwen_sizes(),
        vision_config={
            "depth": 1,
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    torch.manual_seed(seed)
    return _random(Qwen2_5_VLForConditionalGeneration(config))


def _qwen_sizes() -> dict[str, Any]:
    sizes = _decoder_sizes(len(qwen_tokenizer()))
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    return sizes | {"rope_parameters": rope, "bos_token_id": 0, "eos_token_id": 0}


def llama(*, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return _random(LlamaModel(LlamaConfig(**_decoder_sizes(len(llama_tokenizer())))))


def gemma2(*, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = Gemma2Config(**_decoder_sizes(len(gemma_tokenizer())), query_pre_attn_scalar=8, sliding_window=64)
    return _random(Gemma2Model(config))


def gemma3(*, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    text = _decoder_sizes(len(gemma_tokenizer())) | {"query_pre_attn_scalar": 8, "sliding_window": 64}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
    }
    ids = {"boi_token_index": 8, "eoi_token_index": 9, "image_token_index": 10}
    return _random(Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, **ids)))


# Video pipelines that read UMT5


def _t5_seat(*, multilingual: bool = False) -> dict[str, Any]:
    return {"text_encoder": t5(multilingual=multilingual), "tokenizer": t5_tokenizer()}


def _wan_vae() -> Any:
    return diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def _wan_sizes() -> dict[str, Any]:
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": WIDTH,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
    }


def _flow() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0)


def fix_text(pipeline: type) -> None:
    """Stand in for ftfy, which these pipelines call even where it is not installed: plain text stays as it is."""
    module = sys.modules[pipeline.__module__]
    if not hasattr(module, "ftfy"):
        module.ftfy = type("Ftfy", (), {"fix_text": staticmethod(lambda text: text)})


def wan(*, boundary_ratio: float | None = None) -> Any:
    """Wan 2.1; with a boundary ratio, which only the pipeline's config holds, 2.2 and its two denoisers."""
    torch.manual_seed(1)
    transformers = [diffusers.WanTransformer3DModel(**_wan_sizes(), rope_max_seq_len=32) for _ in range(2)]
    return diffusers.WanPipeline(
        transformer=transformers[0],
        transformer_2=transformers[1] if boundary_ratio else None,
        boundary_ratio=boundary_ratio,
        vae=_wan_vae(),
        scheduler=_flow(),
        **_t5_seat(multilingual=True),
    )


def wan_vace() -> Any:
    torch.manual_seed(1)
    fix_text(diffusers.WanVACEPipeline)
    sizes = _wan_sizes() | {"num_layers": 3, "vace_layers": [0, 2], "vace_in_channels": 96}
    transformer = diffusers.WanVACETransformer3DModel(**sizes, rope_max_seq_len=32)
    parts = {"transformer": transformer, "vae": _wan_vae(), "scheduler": _flow(), **_t5_seat(multilingual=True)}
    return diffusers.WanVACEPipeline(**parts)


def wan_animate() -> Any:
    torch.manual_seed(1)
    fix_text(diffusers.WanAnimatePipeline)
    sizes = _wan_sizes() | {
        "in_channels": 36,
        "latent_channels": 16,
        "image_dim": 4,
        "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16},
        "motion_encoder_size": 16,
        "motion_style_dim": 8,
        "motion_dim": 4,
        "motion_encoder_dim": 16,
        "face_encoder_hidden_dim": 16,
        "face_encoder_num_heads": 2,
        "inject_face_latents_blocks": 2,
    }
    vision = CLIPVisionConfig(
        hidden_size=4,
        projection_dim=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=4,
        intermediate_size=16,
        patch_size=1,
    )
    return diffusers.WanAnimatePipeline(
        transformer=diffusers.WanAnimateTransformer3DModel(**sizes, rope_max_seq_len=32),
        vae=_wan_vae(),
        scheduler=_flow(),
        image_encoder=CLIPVisionModelWithProjection(vision),
        image_processor=CLIPImageProcessor(crop_size=4, size=4),
        **_t5_seat(multilingual=True),
    )


def skyreels(pipeline: type) -> Any:
    torch.manual_seed(1)
    fix_text(pipeline)
    transformer = diffusers.SkyReelsV2Transformer3DModel(**_wan_sizes(), rope_max_seq_len=32)
    scheduler = diffusers.UniPCMultistepScheduler(flow_shift=8.0, use_flow_sigmas=True)
    return pipeline(transformer=transformer, vae=_wan_vae(), scheduler=scheduler, **_t5_seat(multilingual=True))


def helios() -> Any:
    torch.manual_seed(1)
    fix_text(diffusers.HeliosPipeline)
    transformer = diffusers.HeliosTransformer3DModel(
        **_wan_sizes(),
        rope_dim=(4, 4, 4),
        has_multi_term_memory_patch=True,
        guidance_cross_attn=True,
        zero_history_timestep=True,
        is_amplify_history=False,
    )
    scheduler = diffusers.HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True)
    parts = {"transformer": transformer, "vae": _wan_vae(), "scheduler": scheduler, **_t5_seat(multilingual=True)}
    return diffusers.HeliosPipeline(**parts)


# Video pipelines that read T5


def _blocks_vae(kind: type, block: str, **sizes: Any) -> Any:
    return kind(
        in_channels=3,
        out_channels=3,
        down_block_types=(f"{block}DownBlock3D",) * 4,
        up_block_types=(f"{block}UpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        **sizes,
    )


def cogvideox() -> Any:
    torch.manual_seed(1)
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=WIDTH,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=226,
    )
    vae = _blocks_vae(diffusers.AutoencoderKLCogVideoX, "CogVideoX", norm_num_groups=2, temporal_compression_ratio=4)
    return diffusers.CogVideoXPipeline(
        transformer=transformer, vae=vae, scheduler=diffusers.CogVideoXDDIMScheduler(), **_t5_seat()
    )


def ltx(pipeline: type) -> Any:
    torch.manual_seed(1)
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=WIDTH,
        num_layers=1,
        caption_channels=WIDTH,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return pipeline(transformer=transformer, vae=vae, scheduler=scheduler, **_t5_seat())


def mochi() -> Any:
    torch.manual_seed(1)
    transformer = diffusers.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        qk_norm="rms_norm",
        text_embed_dim=WIDTH,
        time_embed_dim=4,
        activation_fn="swiglu",
        max_sequence_length=256,
    )
    vae = diffusers.AutoencoderKLMochi(
        latent_channels=12,
        out_channels=3,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return diffusers.MochiPipeline(transformer=transformer, vae=vae, scheduler=scheduler, **_t5_seat())


def allegro() -> Any:
    torch.manual_seed(1)
    transformer = diffusers.AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=WIDTH,
    )
    vae = _blocks_vae(diffusers.AutoencoderKLAllegro, "Allegro", norm_num_groups=2, temporal_compression_ratio=4)
    vae.enable_tiling()  # it decodes in no other way, and nothing that is smaller than a tile
    vae.kernel, vae.stride = (8, 16, 16), (4, 8, 8)
    return diffusers.AllegroPipeline(
        transformer=transformer, vae=vae, scheduler=diffusers.DDIMScheduler(), **_t5_seat()
    )


def _caption_transformer(kind: type, **changes: Any) -> Any:
    """Latte's and PixArt's are one design."""
    return kind(
        **changes,
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=WIDTH,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )


def latte() -> Any:
    torch.manual_seed(1)
    transformer = _caption_transformer(diffusers.LatteTransformer3DModel, video_length=2)
    parts = {"transformer": transformer, "vae": _image_vae(), "scheduler": diffusers.DDIMScheduler(), **_t5_seat()}
    return diffusers.LattePipeline(**parts)


class NoGuardrail(diffusers.ModelMixin, diffusers.ConfigMixin):
    """Cosmos refuses to run without its safety checker, whose models are large; this one finds nothing."""

    config_name = "config.json"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("nothing", torch.zeros(1), persistent=False)

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: np.ndarray) -> np.ndarray:
        return frames


def _cosmos_transformer(channels: int, out: int, text: int = WIDTH) -> Any:
    return diffusers.CosmosTransformer3DModel(
        in_channels=channels,
        out_channels=out,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=text,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=False,  # resizing the mask needs torchvision
        extra_pos_embed_type="learnable",
    )


def cosmos() -> Any:
    torch.manual_seed(1)
    vae = diffusers.AutoencoderKLCosmos(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=2,
        patch_size=4,
        patch_type="haar",
        scaling_factor=1.0,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )
    scheduler = diffusers.EDMEulerScheduler(
        sigma_min=0.002,
        sigma_max=80,
        sigma_data=0.5,
        sigma_schedule="karras",
        num_train_timesteps=1000,
        prediction_type="epsilon",
        rho=7.0,
        final_sigmas_type="sigma_min",
    )
    return diffusers.CosmosTextToWorldPipeline(
        transformer=_cosmos_transformer(4, 4),
        vae=vae,
        scheduler=scheduler,
        safety_checker=NoGuardrail(),
        **_t5_seat(),
    )


def cosmos_2_image() -> Any:
    torch.manual_seed(1)
    return diffusers.Cosmos2TextToImagePipeline(
        transformer=_cosmos_transformer(16, 16),
        vae=_wan_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        safety_checker=NoGuardrail(),
        **_t5_seat(),
    )


# Video pipelines that read a language model


def cosmos_2_5() -> Any:
    torch.manual_seed(1)
    transformer = _cosmos_transformer(17, 16, WIDTH * LAYERS)
    vae = _wan_vae()
    return diffusers.Cosmos2_5_PredictBasePipeline(
        transformer=transformer,
        vae=vae,
        scheduler=diffusers.UniPCMultistepScheduler(),
        safety_checker=NoGuardrail(),
        text_encoder=qwen(),
        tokenizer=qwen_tokenizer(),
    )


def _hunyuan_vae() -> Any:
    return _blocks_vae(
        diffusers.AutoencoderKLHunyuanVideo,
        "HunyuanVideo",
        norm_num_groups=4,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        mid_block_add_attention=True,
    )


def _hunyuan_sizes() -> dict[str, Any]:
    return {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "patch_size_t": 1,
        "guidance_embeds": True,
        "text_embed_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "rope_axes_dim": (2, 4, 4),
    }


def _hunyuan_seats() -> dict[str, Any]:
    return {
        "text_encoder": llama(),
        "tokenizer": llama_tokenizer(),
        "text_encoder_2": clip(),
        "tokenizer_2": clip_tokenizer(),
    }


def hunyuan_video() -> Any:
    torch.manual_seed(1)
    transformer = diffusers.HunyuanVideoTransformer3DModel(**_hunyuan_sizes(), patch_size=1)
    parts = {"transformer": transformer, "vae": _hunyuan_vae(), "scheduler": _flow(), **_hunyuan_seats()}
    return diffusers.HunyuanVideoPipeline(**parts)


def framepack() -> Any:
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(1)
    transformer = diffusers.HunyuanVideoFramepackTransformer3DModel(
        **_hunyuan_sizes(), patch_size=2, has_image_proj=True, image_proj_dim=WIDTH, has_clean_x_embedder=True
    )
    vision = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return diffusers.HunyuanVideoFramepackPipeline(
        transformer=transformer,
        vae=_hunyuan_vae(),
        scheduler=_flow(),
        image_encoder=SiglipVisionModel(vision),
        feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
        **_hunyuan_seats(),
    )


def hunyuan_video_1_5() -> Any:
    torch.manual_seed(1)
    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    return diffusers.HunyuanVideo15Pipeline(
        transformer=transformer,
        vae=vae,
        scheduler=_flow(),
        text_encoder=qwen_text(),
        tokenizer=qwen_tokenizer(),
        text_encoder_2=byt5(),
        tokenizer_2=ByT5Tokenizer(),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=1.0),
    )


def _kandinsky_seats() -> dict[str, Any]:
    return {
        "text_encoder": qwen(),
        "tokenizer": qwen_processor(),
        "text_encoder_2": clip(),
        "tokenizer_2": clip_tokenizer(),
    }


def qwen_processor() -> Any:
    """Kandinsky's "tokenizer" is a processor, whose part for videos needs torchvision; with text it is its tokenizer."""
    if not is_torchvision_available():
        return qwen_tokenizer()
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(), tokenizer=qwen_tokenizer(), video_processor=Qwen2VLVideoProcessor()
    )


def _kandinsky_transformer() -> Any:
    return diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=16,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=16,
        out_visual_dim=16,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(1, 1, 2),
        visual_cond=False,
        attention_type="regular",
    )


def kandinsky_video() -> Any:
    torch.manual_seed(1)
    vae = diffusers.AutoencoderKLHunyuanVideo(
        block_out_channels=[8, 8],
        down_block_types=["HunyuanVideoDownBlock3D"] * 2,
        up_block_types=["HunyuanVideoUpBlock3D"] * 2,
        latent_channels=16,
        layers_per_block=1,
        mid_block_add_attention=False,
        norm_num_groups=4,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
    )
    return diffusers.Kandinsky5T2VPipeline(
        transformer=_kandinsky_transformer(), vae=vae, scheduler=_flow(), **_kandinsky_seats()
    )


def sana_video() -> Any:
    torch.manual_seed(1)
    transformer = diffusers.SanaVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        mlp_ratio=2.5,
        attention_bias=False,
        sample_size=8,
        patch_size=(1, 2, 2),
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    return diffusers.SanaVideoPipeline(
        transformer=transformer,
        vae=_wan_vae(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
        text_encoder=gemma2(),
        tokenizer=gemma_tokenizer(),
    )


def ltx_2() -> Any:
    torch.manual_seed(1)
    transformer = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        qk_norm="rms_norm_across_heads",
        caption_channels=WIDTH,
        rope_double_precision=False,
        rope_type="split",
    )
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

    connectors = LTX2TextConnectors(
        caption_channels=WIDTH,
        text_proj_in_factor=LAYERS + 1,
        video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_theta=10000.0,
        rope_double_precision=False,
        causal_temporal_positioning=False,
        rope_type="split",
    )
    vae = diffusers.AutoencoderKLLTX2Video(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    audio_vae = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        norm_type="pixel",
        causality_axis="height",
        mid_block_add_attention=False,
        sample_rate=16000,
        mel_hop_length=160,
        is_causal=True,
        mel_bins=8,
    )
    vocoder = LTX2Vocoder(
        in_channels=16,
        hidden_channels=32,
        out_channels=2,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        leaky_relu_negative_slope=0.1,
        output_sampling_rate=16000,
    )
    return diffusers.LTX2Pipeline(
        transformer=transformer,
        connectors=connectors,
        vae=vae,
        audio_vae=audio_vae,
        vocoder=vocoder,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=gemma3(),
        tokenizer=gemma_tokenizer(),
    )


# Pipelines that read CLIP


def _clip_seat() -> dict[str, Any]:
    return {"text_encoder": clip(), "tokenizer": clip_tokenizer()}


def _image_vae(**sizes: Any) -> Any:
    sizes = {"block_out_channels": (8, 8), "latent_channels": 4, "norm_num_groups": 4, "sample_size": 16} | sizes
    count = len(sizes["block_out_channels"])
    down, up = ("DownEncoderBlock2D",) * count, ("UpDecoderBlock2D",) * count
    return diffusers.AutoencoderKL(down_block_types=down, up_block_types=up, **sizes)


def _ddim() -> Any:
    return diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False)


def _unet(kind: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": (f"CrossAttnDownBlock{kind}", f"DownBlock{kind}"),
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
    } | ({"up_block_types": (f"UpBlock{kind}", f"CrossAttnUpBlock{kind}")} | changes)


def _motion() -> Any:
    return diffusers.MotionAdapter(
        block_out_channels=(8, 8),
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
        use_motion_mid_block=True,
    )


def animatediff(pipeline: type, **parts: Any) -> Any:
    torch.manual_seed(1)
    parts = {name: build() for name, build in parts.items()}
    channels = 9 if pipeline is diffusers.PIAPipeline else 4  # with the picture's own and its mask
    unet = diffusers.UNet2DConditionModel(**_unet("2D", in_channels=channels))
    return pipeline(unet=unet, motion_adapter=_motion(), vae=_image_vae(), scheduler=_ddim(), **_clip_seat(), **parts)


def _controlnet() -> Any:
    sizes = _unet("2D")
    for name in ("sample_size", "out_channels", "up_block_types"):
        del sizes[name]
    return diffusers.ControlNetModel(**sizes, conditioning_embedding_out_channels=(8, 8))


def _sparse_controlnet() -> Any:
    return diffusers.SparseControlNetModel(
        block_out_channels=(8, 8),
        layers_per_block=1,
        in_channels=4,
        conditioning_channels=3,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        cross_attention_dim=WIDTH,
        conditioning_embedding_out_channels=(8, 8),
        norm_num_groups=4,
        attention_head_dim=2,
        use_simplified_condition_embedding=False,
    )


def text_to_video_sd() -> Any:
    torch.manual_seed(1)
    unet = diffusers.UNet3DConditionModel(**_unet("3D", attention_head_dim=4))
    return diffusers.TextToVideoSDPipeline(unet=unet, vae=_image_vae(), scheduler=_ddim(), **_clip_seat())


def stable_diffusion(pipeline: type) -> Any:
    torch.manual_seed(1)
    changes = {"time_cond_proj_dim": 8} if pipeline is diffusers.LatentConsistencyModelPipeline else {}
    unet = diffusers.UNet2DConditionModel(**_unet("2D", **changes))
    scheduler = diffusers.LCMScheduler(clip_sample=False) if changes else _ddim()
    return pipeline(
        unet=unet,
        vae=_image_vae(),
        scheduler=scheduler,
        **_clip_seat(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(pipeline: type, **parts: Any) -> Any:
    torch.manual_seed(1)
    parts = {name: build() for name, build in parts.items()}
    unet = diffusers.UNet2DConditionModel(
        **_unet(
            "2D",
            cross_attention_dim=2 * WIDTH,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        )
    )
    return pipeline(
        unet=unet,
        vae=_image_vae(),
        scheduler=_ddim(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(True, seed=1),
        tokenizer_2=clip_tokenizer(),
        **parts,
    )


# Picture pipelines with transformers


def _flow_vae(latent_channels: int) -> Any:
    return _image_vae(
        block_out_channels=(4,),
        latent_channels=latent_channels,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )


def sd3() -> Any:
    torch.manual_seed(1)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=32,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
        out_channels=4,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        vae=_flow_vae(4),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=clip(True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(True, seed=1),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(width=2 * WIDTH),
        tokenizer_3=t5_tokenizer(),
    )


def flux() -> Any:
    torch.manual_seed(1)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
    )
    return diffusers.FluxPipeline(
        transformer=transformer,
        vae=_flow_vae(1),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
    )


def chroma(pipeline: type) -> Any:
    torch.manual_seed(1)
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return pipeline(transformer=transformer, vae=_flow_vae(1), scheduler=scheduler, **_t5_seat())


def pixart(pipeline: type) -> Any:
    torch.manual_seed(1)
    transformer = _caption_transformer(diffusers.PixArtTransformer2DModel)
    return pipeline(transformer=transformer, vae=_image_vae(), scheduler=diffusers.DDIMScheduler(), **_t5_seat())


def sana(pipeline: type) -> Any:
    torch.manual_seed(1)
    sprint = pipeline is diffusers.SanaSprintPipeline
    changes = {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True} if sprint else {}
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=WIDTH,
        sample_size=32,
        **changes,
    )
    vae = diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    scheduler = diffusers.SCMScheduler() if sprint else _flow()
    return pipeline(
        transformer=transformer, vae=vae, scheduler=scheduler, text_encoder=gemma2(), tokenizer=gemma_tokenizer()
    )


def qwen_image() -> Any:
    torch.manual_seed(1)
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return diffusers.QwenImagePipeline(
        transformer=transformer,
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=qwen(),
        tokenizer=qwen_tokenizer(),
    )


def hunyuan_image() -> Any:
    torch.manual_seed(1)
    transformer = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        guidance_embeds=False,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        rope_axes_dim=(4, 4),
    )
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        sample_size=128,
    )
    return diffusers.HunyuanImagePipeline(
        transformer=transformer,
        vae=vae,
        scheduler=_flow(),
        text_encoder=qwen(),
        tokenizer=qwen_tokenizer(),
        text_encoder_2=byt5(),
        tokenizer_2=ByT5Tokenizer(),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=1.0),
        ocr_guider=diffusers.ClassifierFreeGuidance(guidance_scale=1.0),
    )


def kandinsky_image() -> Any:
    torch.manual_seed(1)
    vae = _image_vae(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
    pipe = diffusers.Kandinsky5T2IPipeline(
        transformer=_kandinsky_transformer(), vae=vae, scheduler=_flow(), **_kandinsky_seats()
    )
    pipe.resolutions = [(64, 64)]  # it draws no other sizes than those it was trained for
    return pipe


# All of them


def _of(build: Callable[..., Any], name: str, **parts: Any) -> Callable[[], Any]:
    return lambda: build(getattr(diffusers, name), **parts)


def _awake(build: Callable[..., Any]) -> Callable[..., Any]:
    """The builder, with denoisers that heed their text: as initialised, many start with gates that are shut."""

    @functools.wraps(build)
    def built(**options: Any) -> Any:
        pipe = build(**options)
        torch.manual_seed(2)
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module):
                part.eval()
            if name in ("transformer", "transformer_2", "unet") and part is not None:
                with torch.no_grad():
                    for weight in part.parameters():
                        if weight.ndim > 1:
                            weight.normal_(0, weight[0].numel() ** -0.5)
                        elif not weight.any():
                            weight.normal_(0, 0.1)
        return pipe

    return built


PIPELINES: dict[str, Callable[..., Any]] = {
    "WanPipeline": wan,
    "WanVACEPipeline": wan_vace,
    "WanAnimatePipeline": wan_animate,
    "SkyReelsV2Pipeline": _of(skyreels, "SkyReelsV2Pipeline"),
    "SkyReelsV2DiffusionForcingPipeline": _of(skyreels, "SkyReelsV2DiffusionForcingPipeline"),
    "HeliosPipeline": helios,
    "CogVideoXPipeline": cogvideox,
    "LTXPipeline": _of(ltx, "LTXPipeline"),
    "LTXConditionPipeline": _of(ltx, "LTXConditionPipeline"),
    "MochiPipeline": mochi,
    "AllegroPipeline": allegro,
    "LattePipeline": latte,
    "CosmosTextToWorldPipeline": cosmos,
    "Cosmos2TextToImagePipeline": cosmos_2_image,
    "Cosmos2_5_PredictBasePipeline": cosmos_2_5,
    "HunyuanVideoPipeline": hunyuan_video,
    "HunyuanVideoFramepackPipeline": framepack,
    "HunyuanVideo15Pipeline": hunyuan_video_1_5,
    "Kandinsky5T2VPipeline": kandinsky_video,
    "SanaVideoPipeline": sana_video,
    "LTX2Pipeline": ltx_2,
    "AnimateDiffPipeline": _of(animatediff, "AnimateDiffPipeline"),
    "AnimateDiffControlNetPipeline": _of(animatediff, "AnimateDiffControlNetPipeline", controlnet=_controlnet),
    "AnimateDiffSparseControlNetPipeline": _of(
        animatediff, "AnimateDiffSparseControlNetPipeline", controlnet=_sparse_controlnet
    ),
    "AnimateDiffVideoToVideoPipeline": _of(animatediff, "AnimateDiffVideoToVideoPipeline"),
    "PIAPipeline": _of(animatediff, "PIAPipeline"),
    "AnimateDiffSDXLPipeline": _of(sdxl, "AnimateDiffSDXLPipeline", motion_adapter=_motion),
    "TextToVideoSDPipeline": text_to_video_sd,
    "TextToVideoZeroPipeline": _of(stable_diffusion, "TextToVideoZeroPipeline"),
    "StableDiffusionPipeline": _of(stable_diffusion, "StableDiffusionPipeline"),
    "LatentConsistencyModelPipeline": _of(stable_diffusion, "LatentConsistencyModelPipeline"),
    "StableDiffusionXLPipeline": _of(sdxl, "StableDiffusionXLPipeline"),
    "StableDiffusion3Pipeline": sd3,
    "FluxPipeline": flux,
    "ChromaPipeline": _of(chroma, "ChromaPipeline"),
    "ChromaInpaintPipeline": _of(chroma, "ChromaInpaintPipeline"),
    "PixArtAlphaPipeline": _of(pixart, "PixArtAlphaPipeline"),
    "PixArtSigmaPipeline": _of(pixart, "PixArtSigmaPipeline"),
    "SanaPipeline": _of(sana, "SanaPipeline"),
    "SanaSprintPipeline": _of(sana, "SanaSprintPipeline"),
    "QwenImagePipeline": qwen_image,
    "HunyuanImagePipeline": hunyuan_image,
    "Kandinsky5T2IPipeline": kandinsky_image,
}
PIPELINES = {name: _awake(build) for name, build in PIPELINES.items() if hasattr(diffusers, name)}


PICTURE = Image.fromarray(np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8))
_FEW = {
    "height": 16,
    "width": 16,
    "num_inference_steps": 2,
    "num_frames": 5,
    "frames": 5,
    "video_length": 2,
    "use_resolution_binning": False,
}
_PAIR = {"num_frames": 2}
_CALLS: dict[str, dict[str, Any]] = {  # where the few arguments of all are not enough
    "WanVACEPipeline": {"video": [PICTURE] * 5, "mask": [Image.new("L", (32, 32), 255)] * 5},
    "WanAnimatePipeline": {
        "image": PICTURE,
        "pose_video": [PICTURE] * 5,
        "face_video": [PICTURE.resize((16, 16))] * 5,
        "segment_frame_length": 5,
        "prev_segment_conditioning_frames": 1,
    },
    "LTXPipeline": {"height": 32, "width": 32, "num_frames": 9},
    "LTXConditionPipeline": {"height": 32, "width": 32, "num_frames": 9},
    "LTX2Pipeline": {"height": 32, "width": 32},
    "MochiPipeline": {"num_frames": 7},
    "AllegroPipeline": {"num_frames": 8},
    "CosmosTextToWorldPipeline": {"height": 32, "width": 32},
    "Cosmos2TextToImagePipeline": {"height": 32, "width": 32},
    "Cosmos2_5_PredictBasePipeline": {"height": 32, "width": 32},
    "HunyuanVideoFramepackPipeline": {"image": PICTURE, "latent_window_size": 3, "height": 32, "width": 32},
    "Kandinsky5T2VPipeline": {"height": 32, "width": 32},
    "Kandinsky5T2IPipeline": {"height": 64, "width": 64},
    "SanaVideoPipeline": {"height": 32, "width": 32},
    "SanaPipeline": {"height": 32, "width": 32},
    "SanaSprintPipeline": {"height": 32, "width": 32},
    "AnimateDiffPipeline": _PAIR,
    "AnimateDiffControlNetPipeline": _PAIR | {"conditioning_frames": [PICTURE] * 2},
    "AnimateDiffSparseControlNetPipeline": _PAIR | {"conditioning_frames": [PICTURE], "controlnet_frame_indices": [0]},
    "AnimateDiffVideoToVideoPipeline": {"video": [PICTURE] * 2, "strength": 1.0},
    "PIAPipeline": _PAIR | {"image": PICTURE},
    "ChromaInpaintPipeline": {"image": PICTURE, "mask_image": Image.new("L", (32, 32), 255), "strength": 1.0},
    "AnimateDiffSDXLPipeline": _PAIR,
    "TextToVideoSDPipeline": _PAIR,
    "TextToVideoZeroPipeline": {"num_inference_steps": 4, "t0": 1, "t1": 2},
}


def draw(pipe: DiffusionPipeline, prompt: str | list[str], *, seed: int = 0, **changes: Any) -> np.ndarray:
    """One call of the pipeline. Frames [prompts, frames, height, width, 3] or pictures [prompts, height, width, 3]."""
    name = type(pipe).__name__
    pipe.set_progress_bar_config(disable=True)
    known = inspect.signature(pipe.__call__).parameters
    arguments = {key: value for key, value in _FEW.items() if key in known} | _CALLS.get(name, {})
    arguments |= {"generator": torch.Generator().manual_seed(seed), "output_type": "np"} | changes
    drawn = np.asarray(next(iter(pipe(prompt=prompt, **arguments).values())))
    return drawn[None] if name == "TextToVideoZeroPipeline" else drawn  # the one that has no axis for prompts


def save_like_hub(pipe: DiffusionPipeline, folder: Path, *, shards: int = 1) -> Path:
    """The pipeline's folder as the Hub has it, ``text_encoder`` in so many safetensors files with an index.

    Cosmos's is loaded with ``safety_checker=NoGuardrail()``.
    """
    pipe.save_pretrained(folder)
    if shards > 1:
        state = pipe.text_encoder.state_dict()
        total = sum(tensor.nbytes for tensor in state.values())
        sizes = range(total // shards, total, total // 200)
        plans = ((size, split_torch_state_dict_into_shards(state, max_shard_size=size)) for size in sizes)
        size = next(size for size, plan in plans if len(plan.filename_to_tensors) == shards)
        (folder / "text_encoder/model.safetensors").unlink()
        pipe.text_encoder.save_pretrained(folder / "text_encoder", max_shard_size=size)
    return folder
