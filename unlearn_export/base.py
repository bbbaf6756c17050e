"""The frozen text-to-image base: tokenizer, text encoder, denoiser, VAE, scheduler."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from . import demo
from .errors import BaseError, UsageError
from .vocabulary import GENERAL, Vocabulary

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# what of a Hub repository is needed, and never a pickle
HUB_FILES = [
    *("model_index.json", "README.md", "LICENSE*", "scheduler/*", "tokenizer/*"),
    *(f"{part}/{file}" for part in ("text_encoder", "unet", "vae") for file in ("config.json", "*.safetensors")),
]
TOKENIZER_FILES = (("vocab.json", "merges.txt"), ("tokenizer.json",))  # either holds all of a CLIP tokenizer
HUB_COPIES = ["*.fp16.*", "*.non_ema.*"]  # of the same weights


@dataclass(frozen=True)
class Base:
    """source: "demo", a Hub id, or "./" and the name of a folder: the way to it is nobody's business.

    revision: the commit of a Hub id. Nothing here is ever altered.

    text_encoder_folder, tokenizer_folder: the files that an artifact copies its names and bytes from.
    license: the identifier that the base declares, "other" where it declares none; license_text: its full text.
    """

    source: str
    revision: str | None
    pipeline: StableDiffusionPipeline
    text_encoder_folder: Path
    tokenizer_folder: Path
    vocabulary: Vocabulary
    license: str
    license_text: str

    @property
    def encoder(self) -> PreTrainedModel:
        return self.pipeline.text_encoder

    @property
    def guidance(self) -> float | None:
        """The guidance scale that its pictures are drawn with; None is the pipeline's own."""
        return demo.GUIDANCE if self.source == "demo" else None

    @property
    def scorer(self) -> str | None:
        """Who judges its pictures unless told otherwise, as ``load_scorer`` names it; None where nobody is known."""
        return "demo" if self.source == "demo" else None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one picture's latents."""
        unet = self.pipeline.unet.config
        return unet.in_channels, unet.sample_size, unet.sample_size

    @cached_property
    def noise_scheduler(self) -> DDPMScheduler:
        """The training schedule behind whatever sampler the pipeline carries."""
        return DDPMScheduler.from_config(self.pipeline.scheduler.config)

    @property
    def weights_file(self) -> Path:
        """The text encoder's safetensors file."""
        return next(f for f in _weight_files(self.text_encoder_folder))

    @property
    def fingerprint(self) -> str:
        """sha256 of the text encoder's weights file: two bases that share it share every edit."""
        with self.weights_file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def tokens(self, prompts: list[str]) -> Tensor:
        """Token ids [n, length], padded and cut as the pipeline does."""
        tokenizer = self.pipeline.tokenizer
        return tokenizer(
            prompts,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids

    @property
    def tokenizer_fingerprint(self) -> str:
        """sha256 of the tokenizer's words and merges."""
        digest = hashlib.sha256()
        names = next(n for n in TOKENIZER_FILES if all((self.tokenizer_folder / name).is_file() for name in n))
        for name in names:
            digest.update((self.tokenizer_folder / name).read_bytes())
        return digest.hexdigest()

    def key_names(self) -> list[str]:
        """The tensor names in the base's own weights file; they differ between transformers 4 and 5."""
        with safe_open(self.weights_file, "pt") as file:
            return list(file.keys())


def _weight_files(folder: Path) -> list[Path]:
    files = [folder / "model.safetensors", *sorted(folder.glob("*.safetensors"))]
    found = [f for f in files if f.is_file()]
    if not found:
        raise BaseError(f"no model.safetensors in {folder}: convert the encoder to safetensors first")
    return found


def load_base(source: str, revision: str | None = None, device: str = "cpu") -> Base:
    """Load a Stable Diffusion base in float32: ``demo``, a local diffusers folder, or a Hub id.

    Raises BaseError where it is not found, is incomplete, or is a pipeline whose encoder cannot be edited here, and
    UsageError where torch has no such device.
    """
    if source == "demo":
        pipeline = demo.load("t2i")
        folders = demo.ROOT / "text_encoder", demo.ROOT / "tokenizer"
        text = (demo.ROOT / "LICENSE").read_text(encoding="utf-8")
        return Base("demo", None, _frozen(pipeline, device), *folders, demo.VOCABULARY, "apache-2.0", text)
    folder = Path(source)
    if source and folder.is_dir():
        revision = None
    else:
        folder, revision = _download(source, revision)
    index = folder / "model_index.json"
    if not index.is_file():
        raise BaseError(f"{source} is no diffusers pipeline: it has no model_index.json")
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except ValueError as error:
        raise BaseError(f"{index} is not JSON: {error}") from error
    if kind not in ("StableDiffusionPipeline", "LatentConsistencyModelPipeline"):
        raise BaseError(f"{source} is a {kind}: an edit needs a StableDiffusionPipeline (SD 1.x or 2.x)")
    _weight_files(folder / "text_encoder")
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            torch_dtype=torch.float32,
            use_safetensors=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise BaseError(f"cannot load {source}: {str(error).splitlines()[0]}") from error
    pipeline.set_progress_bar_config(disable=True)
    _check_complete(source, folder, pipeline)
    name, text = _license(folder)
    return Base(
        source if revision else f"./{folder.resolve().name}",
        revision,
        _frozen(pipeline, device),
        folder / "text_encoder",
        folder / "tokenizer",
        GENERAL,
        name,
        text,
    )


def _check_complete(source: str, folder: Path, pipeline: StableDiffusionPipeline) -> None:
    """Raise BaseError where a part lacks weights: diffusers leaves those empty, transformers makes them up."""
    stored: set[str] = set()
    for file in _weight_files(folder / "text_encoder"):
        with safe_open(file, "pt") as opened:
            stored |= {bare(key) for key in opened.keys()}  # noqa: SIM118
    absent = [f"text_encoder's {n}" for n, _ in pipeline.text_encoder.named_parameters() if bare(n) not in stored]
    for name in ("unet", "vae"):
        absent += [f"{name}'s {n}" for n, weight in getattr(pipeline, name).named_parameters() if weight.is_meta]
    if absent:
        raise BaseError(f"{source} is incomplete: its files have no tensor for the {absent[0]}")
    tokenizer = folder / "tokenizer"
    if not any(all((tokenizer / name).is_file() for name in names) for names in TOKENIZER_FILES):
        raise BaseError(f"{source} is incomplete: {tokenizer} has neither vocab.json and merges.txt nor tokenizer.json")


def bare(key: str) -> str:
    """A tensor's name without the prefix that transformers 4 has and 5 has not."""
    return key.removeprefix("text_model.")


def _frozen(pipeline: StableDiffusionPipeline, device: str) -> StableDiffusionPipeline:
    try:
        pipeline.to(device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"cannot use the device {device!r}: {first}; --device cpu works everywhere") from error
    for part in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
        part.requires_grad_(False).eval()
    return pipeline


def _download(source: str, revision: str | None) -> tuple[Path, str]:
    if not HUB_ID.fullmatch(source):
        raise BaseError(f'no base {source!r}: give "demo", a diffusers folder, or a Hub id such as owner/name')
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(source, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=HUB_COPIES)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {revision}" if revision else ""
        raise BaseError(
            f"cannot get {source}{at}: no such folder, and the Hub says: {str(error).splitlines()[0]}"
        ) from error
    return folder, folder.name  # a snapshot's folder is named after its commit


def _license(folder: Path) -> tuple[str, str]:
    name = "other"
    card = folder / "README.md"
    if card.is_file():
        import yaml

        parts = card.read_text(encoding="utf-8").split("---")
        try:
            meta: Any = yaml.safe_load(parts[1]) if len(parts) > 2 else None
        except yaml.YAMLError:
            meta = None
        if isinstance(meta, dict) and isinstance(meta.get("license"), str):
            name = meta["license"]
    for file in sorted(folder.glob("LICENSE*")):
        return name, file.read_text(encoding="utf-8")
    return name, f"The base model declares the licence {name!r} and ships no licence text; its terms apply.\n"
