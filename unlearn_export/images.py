"""The few pictures that show a concept, as latents: sampled from the base itself, or read from a folder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .base import Base
from .concept import Concept
from .errors import ImagesError
from .phrasing import style_templates

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class FewShot:
    """latents: [n, c, h, w], scaled as the denoiser reads them. sources: what each is, for the recipe. prompts: what each
    was drawn of; empty of a folder's.
    """

    latents: Tensor
    sources: tuple[dict[str, str], ...]
    prompts: tuple[str, ...] = ()


@torch.no_grad()
def sample_images(
    base: Base, concept: Concept, n: int, generator: torch.Generator, steps: int = 25, *, subjects: Sequence[str] = ()
) -> FewShot:
    """Let the base draw the concept (Liu & Tan 2024, arXiv:2407.14209); the latents never become pixels. subjects: what a
    style is shown on, where that is to be said."""
    prompts = concept.prompts()
    if concept.kind == "style" and subjects:
        templates = style_templates(subjects)
        prompts = [template.format(name) for name in concept.names for template in templates]
    stride = max(1, len(prompts) // n)
    chosen = [prompts[(i * stride) % len(prompts)] for i in range(n)]
    latents = base.denoiser.sample(chosen, steps=steps, generator=generator)
    digests = (hashlib.sha256(x.cpu().numpy().tobytes()).hexdigest() for x in latents)
    sources = tuple({"prompt": p, "sha256": d} for p, d in zip(chosen, digests, strict=True))
    return FewShot(latents, sources, tuple(chosen))


@torch.no_grad()
def read_images(base: Base, folder: Path) -> FewShot:
    """Read every PNG, JPEG and WebP of a folder, sorted by name, turned as EXIF says, cut square and encoded.

    Raises ImagesError where the folder is absent or empty, or a file is no picture.
    """
    files = _picture_files(folder)
    latents = base.denoiser.latents(torch.stack([_pixels(file, base.denoiser.side) for file in files]))
    sources = ({"file": f.name, "sha256": hashlib.sha256(f.read_bytes()).hexdigest()} for f in files)
    return FewShot(latents, tuple(sources))


def read_references(base: Base, folder: Path) -> Tensor:
    """The pictures of a folder at the base's own size, [n, 3, h, w] in [0, 1]. Raises ImagesError as above."""
    return torch.stack([_pixels(file, base.denoiser.side) for file in _picture_files(folder)]) / 2 + 0.5


def _picture_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ImagesError(f"no folder of pictures at {folder}")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in ENDINGS)
    if not files:
        raise ImagesError(f"no pictures in {folder}: expected {', '.join(ENDINGS)} files")
    return files


def _pixels(file: Path, side: int) -> Tensor:
    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("RGBA", "LA", "P"):  # transparency becomes white paper
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
            square = ImageOps.fit(upright.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise ImagesError(f"cannot read the picture {file}: {error}") from error
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1).float() / 127.5 - 1
