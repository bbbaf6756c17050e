"""Small random models of the real classes, made in the tests: milliseconds to build, no download."""

import functools
import json
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Gemma3TextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen3Config,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from unlearn_export.artifact import Artifact, write_json
from unlearn_export.onnx.export import OnnxExport, export_onnx

WIDTH, LAYERS, TOKENS, VOCAB = 32, 2, 77, 207
WORDS = ("a", "photo", "of", "pizza", "clown", "car", "the")
WINDOW = 4  # Gemma's sliding window
DECODERS = (
    "LlamaModel",
    "Qwen2_5_VLTextModel",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3Model",
    "Qwen3VLForConditionalGeneration",
    "Gemma2Model",
    "Gemma3TextModel",
    "Gemma3ForConditionalGeneration",
)
FAMILIES = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel", "UMT5EncoderModel", *DECODERS)


def tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's two files with the letters, seven words and the two special tokens."""
    merges, vocab = [], [chr(c) for c in range(33, 127)]
    vocab += [c + "</w>" for c in vocab]
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            vocab.append(parts[0])
    vocab = [*dict.fromkeys(vocab), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in dict.fromkeys(merges))]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


def encoder(family: str = "CLIPTextModel", *, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A random encoder; weights are spread wider than the classes' own initialisation so that words matter."""
    torch.manual_seed(seed)
    if family.startswith("CLIP"):
        sizes = {
            "hidden_size": WIDTH,
            "intermediate_size": 64,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "max_position_embeddings": TOKENS,
            "projection_dim": 16,
            "vocab_size": VOCAB,
            "bos_token_id": VOCAB - 2,
            "eos_token_id": VOCAB - 1,
        }
        kind = CLIPTextModel if family == "CLIPTextModel" else CLIPTextModelWithProjection
        model = kind(CLIPTextConfig(**sizes | changes))
    elif family in DECODERS:
        model = _decoder(family, changes)
    else:
        sizes = {"vocab_size": VOCAB, "d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": LAYERS, "num_heads": 4}
        config, kind = (T5Config, T5EncoderModel) if family == "T5EncoderModel" else (UMT5Config, UMT5EncoderModel)
        model = kind(config(**sizes | changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(0, 0.2)
    return model.eval()


def _decoder(family: str, changes: dict[str, object]) -> PreTrainedModel:
    """A decoder language model with grouped keys, an odd and an even layer, and every rule of its attention in use."""
    sizes: dict[str, object] = {
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "vocab_size": VOCAB,
        "pad_token_id": 0,
        "bos_token_id": VOCAB - 2,
        "eos_token_id": VOCAB - 1,
    }
    vision: dict[str, object] = {"hidden_size": 16, "intermediate_size": 16}
    if family.startswith(("Gemma", "Qwen3")):
        sizes["head_dim"] = 8
    if family.startswith("Gemma"):
        layers = int(changes.get("num_hidden_layers", LAYERS))
        sizes |= {"sliding_window": WINDOW, "query_pre_attn_scalar": 8}
        sizes["layer_types"] = (["sliding_attention", "full_attention"] * layers)[:layers]
    if family == "Gemma2Model":
        sizes |= {"attn_logit_softcapping": 2.0}
    if "VL" in family:
        sizes["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
        vision |= {"depth": 1, "num_heads": 2, "out_hidden_size": WIDTH}
    if family.startswith("Gemma3For"):
        vision |= {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    if family.startswith("Qwen3VL"):
        vision |= {"deepstack_visual_indexes": []}
    kind: type[PreTrainedModel]
    config: type[PreTrainedConfig]
    kind, config = {
        "LlamaModel": (LlamaModel, LlamaConfig),
        "Qwen2_5_VLTextModel": (Qwen2_5_VLTextModel, Qwen2_5_VLTextConfig),
        "Qwen2_5_VLForConditionalGeneration": (Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig),
        "Qwen3Model": (Qwen3Model, Qwen3Config),
        "Qwen3VLForConditionalGeneration": (Qwen3VLForConditionalGeneration, Qwen3VLConfig),
        "Gemma2Model": (Gemma2Model, Gemma2Config),
        "Gemma3TextModel": (Gemma3TextModel, Gemma3TextConfig),
        "Gemma3ForConditionalGeneration": (Gemma3ForConditionalGeneration, Gemma3Config),
    }[family]
    if "Conditional" in family:
        return kind(config(text_config=sizes | changes, vision_config=vision))
    return kind(config(**sizes | changes))


def edited(original: PreTrainedModel) -> PreTrainedModel:
    """A copy of a CLIP encoder with one MLP changed, as an eraser would."""
    copy = type(original)(original.config).eval()
    copy.load_state_dict(original.state_dict())
    weight(copy, "layers.1.mlp.fc2.weight").data.mul_(-2)
    return copy


def weight(model: PreTrainedModel, name: str) -> torch.nn.Parameter:
    """The one parameter whose name ends so: transformers 4 and 5 prefix CLIP's differently."""
    [found] = [parameter for key, parameter in model.named_parameters() if key.endswith(name)]
    return found


@functools.cache
def exported(family: str = "CLIPTextModel") -> tuple[PreTrainedModel, OnnxExport]:
    """``encoder(family)`` and its ONNX export, made once a test run: tracing takes seconds."""
    model, folder = encoder(family), tempfile.TemporaryDirectory()
    model.folder = folder  # removed with the model
    return model, export_onnx(model, Path(folder.name))


def artifact(folder: Path, model: PreTrainedModel) -> Artifact:
    """A sealed artifact folder around the encoder."""
    model.save_pretrained(folder / "text_encoder")
    tokenizer(folder / "tokenizer")
    (folder / "unlearning").mkdir()
    write_json(folder / "unlearning/recipe.json", {"format": 1})
    for name in ("LICENSE", "NOTICE"):
        (folder / name).write_text("text\n")
    sealed = Artifact.open(folder)
    sealed.seal()
    return sealed


def animatediff(tokens: CLIPTokenizer, text_encoder: PreTrainedModel) -> AnimateDiffPipeline:
    """A random AnimateDiff whose VAE halves the picture."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        **_unet(),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    adapter = MotionAdapter(
        block_out_channels=(8, 8), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2
    )
    parts = {"vae": _vae(), "text_encoder": text_encoder, "tokenizer": tokens, "unet": unet, "scheduler": _scheduler()}
    return AnimateDiffPipeline(**parts, motion_adapter=adapter)


def text_to_video(tokens: CLIPTokenizer, text_encoder: PreTrainedModel) -> TextToVideoSDPipeline:
    """A random TextToVideoSD whose VAE halves the picture."""
    torch.manual_seed(2)
    unet = UNet3DConditionModel(
        **_unet() | {"attention_head_dim": 4},
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )
    parts = {"vae": _vae(), "text_encoder": text_encoder, "tokenizer": tokens, "unet": unet, "scheduler": _scheduler()}
    return TextToVideoSDPipeline(**parts)


def _unet() -> dict[str, object]:
    return {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
    }


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False)
