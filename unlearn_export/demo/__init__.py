"""The embedded demo bases: one text-to-image and two text-to-video pipelines that read one text encoder.

They are stock diffusers and transformers folders, trained by ``scripts/train_demo`` on open emoji sets (see NOTICE).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BaseError
from ..profile import Profile
from ..vocabulary import Vocabulary
from .languages import TRANSLATIONS
from .world import CONCEPTS, MOTIONS, STYLES

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedModel

    from ..base import Base

ROOT = Path(__file__).parent
PIPELINES = {
    "t2i": "StableDiffusionPipeline",
    "t2v-motion": "AnimateDiffPipeline",
    "t2v-unet3d": "TextToVideoSDPipeline",
}
FRAMES = 8
GUIDANCE = 3.0  # these models are small: the pipelines' own default of 7.5 and more burns their pictures

VOCABULARY = Vocabulary(
    concepts=tuple(CONCEPTS),
    styles=tuple(STYLES),
    contexts=("", *(phrase for phrases in MOTIONS.values() for phrase in phrases)),
    aliases={name: synonyms for name, (_, _, synonyms) in CONCEPTS.items()},
    groups={name: group for name, (group, _, _) in CONCEPTS.items()},
    motions=dict(MOTIONS),
)

SNIPPET = """\
from diffusers.utils import export_to_gif
from transformers import CLIPTextModel
from unlearn_export import demo

encoder = {encoder}

pipe = demo.load("t2i", text_encoder=encoder)  # a StableDiffusionPipeline
pipe({prompt}, num_inference_steps=25).images[0].save("picture.png")

pipe = demo.load("t2v-motion", text_encoder=encoder)  # an AnimateDiffPipeline; "t2v-unet3d": a TextToVideoSDPipeline
clip = pipe({prompt}, num_frames=8, num_inference_steps=25, output_type="pil")
export_to_gif(clip.frames[0], "clip.gif")"""

PROFILE = Profile(
    vocabulary=VOCABULARY,
    guidance=GUIDANCE,
    scorer="demo",
    t2v=tuple(f"demo:{name}" for name in PIPELINES if name != "t2i"),
    frames=FRAMES,
    steps=12,
    translations=TRANSLATIONS,
    title="the demo base of unlearn-export",
    note="small models that show the workflow and are no product",
    snippet=SNIPPET,
)


def weight_files() -> list[Path]:
    """The weights of these pipelines and of their scorer; the small Wan beside them is a base of its own."""
    return [f for f in sorted(ROOT.rglob("*.safetensors")) if f.relative_to(ROOT).parts[0] != "wan"]


def load(name: str, text_encoder: "PreTrainedModel | None" = None) -> "DiffusionPipeline":
    """A demo pipeline in float32: ``t2i``, ``t2v-motion`` or ``t2v-unet3d``.

    text_encoder: takes the place of the demo's own. Raises BaseError for another name.
    """
    if name not in PIPELINES:
        raise BaseError(f"no demo pipeline {name!r}: choose one of {', '.join(PIPELINES)}")
    import diffusers
    import torch
    from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    full = torch.float32
    parts = {
        "vae": AutoencoderKL.from_pretrained(ROOT / "vae", torch_dtype=full),
        "tokenizer": CLIPTokenizer.from_pretrained(ROOT / "tokenizer"),
        "text_encoder": text_encoder or CLIPTextModel.from_pretrained(ROOT / "text_encoder", dtype=full),
    }
    if name == "t2v-motion":
        parts["unet"] = UNet2DConditionModel.from_pretrained(ROOT / "t2i" / "unet", torch_dtype=full)
        parts["motion_adapter"] = MotionAdapter.from_pretrained(ROOT / name / "motion_adapter", torch_dtype=full)
    pipeline = getattr(diffusers, PIPELINES[name]).from_pretrained(ROOT / name, torch_dtype=full, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def base(name: str) -> "Base":
    """The base behind the name "demo". Raises BaseError for "demo:" and anything more."""
    if name:
        raise BaseError(f"no base demo:{name}: the embedded one is called demo")
    from ..base import open_base  # brings torch, which who reads the profile alone can do without

    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    return open_base(
        ROOT,
        "demo",
        kind="StableDiffusionPipeline",
        profile=PROFILE,
        license="apache-2.0",
        license_text=text,
        open_pipeline=lambda encoders: load("t2i", encoders["text_encoder"]),
    )
