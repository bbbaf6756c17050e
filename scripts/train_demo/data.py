"""Pictures, clips and captions: emoji from open icon sets, drawn on a white canvas, still or moving."""

import io
import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unlearn_export.demo.world import (
    CONCEPTS,
    MOTIONS,
    NOTHING_TEMPLATES,
    STYLE_TEMPLATES,
    STYLES,
    SUBJECT_TEMPLATES,
)

SIZE = 64
FRAMES = 8
SPRITE = 96  # side of a sprite at twice the canvas resolution: 48 of 64 pixels
NAMES = list(CONCEPTS)
STYLE_NAMES = list(STYLES)
MOTION_NAMES = list(MOTIONS)
PACKAGES = {
    "noto": "1.2.9",
    "fluent-emoji-flat": "1.2.6",
    "fluent-emoji-high-contrast": "1.2.6",
    "twemoji": "1.2.5",
}


def install_icons(folder: Path) -> Path:
    """Fetch the icon packages with npm into ``folder`` unless they are there."""
    root = folder / "node_modules" / "@iconify-json"
    if not all((root / name / "icons.json").exists() for name in PACKAGES):
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [f"@iconify-json/{name}@{version}" for name, version in PACKAGES.items()]
        subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *wanted],
            check=True,
        )
    return root


def _render(icons: dict, name: str) -> np.ndarray | None:
    aliases = icons.get("aliases", {})
    while name in aliases:
        name = aliases[name]["parent"]
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="black" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE, height=SPRITE))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


@dataclass
class Sprites:
    """``known``: [concepts, styles, 4, s, s] uint8 RGBA; ``others``: [n, 4, s, s], emoji that are no concept."""

    known: Tensor
    others: Tensor


def load_sprites(folder: Path, others: int = 360) -> Sprites:
    """Render every concept in every style and ``others`` pictures of each set that show none of them."""
    cache = folder / "sprites.npz"
    if not cache.exists():
        root = install_icons(folder)
        rng = random.Random(0)
        sets = {name: json.loads((root / name / "icons.json").read_text()) for name in PACKAGES}
        known = np.stack([np.stack([_render(sets[STYLES[s]], CONCEPTS[c][1]) for s in STYLE_NAMES]) for c in NAMES])
        taken = [icon for _, icon, _ in CONCEPTS.values()]
        words = {w for icon in taken for w in icon.split("-")} - {"face", "man", "old", "without", "snow"}
        rest = []
        for icons in sets.values():
            names = [n for n in sorted(icons["icons"]) if n not in taken and not words & set(n.split("-"))]
            rest += [_render(icons, n) for n in rng.sample(names, others)]
        square = [picture for picture in rest if picture.shape == (SPRITE, SPRITE, 4)]
        np.savez(cache, known=known, others=np.stack(square))
    arrays = np.load(cache)
    known, other = (torch.from_numpy(arrays[k]) for k in ("known", "others"))
    return Sprites(known.permute(0, 1, 4, 2, 3).contiguous(), other.permute(0, 3, 1, 2).contiguous())


def draw(sprites: Tensor, scale: Tensor, x: Tensor, y: Tensor, angle: Tensor) -> Tensor:
    """Place sprites [n, 4, s, s] on white. scale: 1 = 48 of 64 pixels; x, y in pixels; angle in radians.

    Returns [n, 3, 64, 64] in [-1, 1], drawn at twice the size and averaged down.
    """
    n, canvas = len(sprites), 2 * SIZE
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    ratio = canvas / SPRITE
    dx, dy = -2 * x / SIZE, -2 * y / SIZE
    theta = torch.stack(
        [torch.stack([cos, sin, cos * dx + sin * dy], 1), torch.stack([-sin, cos, -sin * dx + cos * dy], 1)], 1
    )
    grid = F.affine_grid(theta * ratio, [n, 4, canvas, canvas], align_corners=False)
    rgba = sprites.float() / 255
    rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1)
    rgba = F.avg_pool2d(F.grid_sample(rgba, grid, align_corners=False), 2)
    return (rgba[:, :3] + 1 - rgba[:, 3:]) * 2 - 1


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def still_pose(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A still: near the centre, near its natural size, upright. → scale, x, y, angle, each [n]."""
    return (
        uniform(n, 0.88, 1.08, generator),
        uniform(n, -3, 3, generator),
        uniform(n, -3, 3, generator),
        torch.zeros(n),
    )


def motion_pose(
    motion: str | None, generator: torch.Generator, frames: int = FRAMES
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One clip's path. → scale, x, y, angle, each [frames]."""
    s = torch.linspace(0, 1, frames)
    u = 2 * s - 1
    scale, x, y, _ = (v.expand(frames).clone() for v in still_pose(1, generator))
    angle = torch.zeros(frames)
    reach = float(uniform(1, 7, 10, generator))
    if motion in ("left", "right"):
        x = x / 2 + (u if motion == "right" else -u) * reach
    elif motion in ("up", "down"):
        y = y / 2 + (u if motion == "down" else -u) * reach
    elif motion in ("growing", "shrinking"):
        scale = scale * torch.exp(u * (1 if motion == "growing" else -1) * reach / 22) * 0.88
    elif motion == "bouncing":
        y = y / 2 + reach * 0.7 - 1.5 * reach * torch.sin(2 * torch.pi * s).abs()
    elif motion == "spinning":
        angle = 2 * torch.pi * torch.arange(frames) / frames
    return scale, x, y, angle


def caption(concept: str | None, style: str | None, motion: str | None, rng: random.Random) -> str:
    """A caption with the given attributes; a concept is called by a synonym one time in four."""
    if concept is None:
        text = rng.choice(NOTHING_TEMPLATES)
    else:
        aliases = CONCEPTS[concept][2]
        text = rng.choice(SUBJECT_TEMPLATES).format(rng.choice(aliases) if aliases and rng.random() < 0.25 else concept)
    words = [rng.choice(STYLE_TEMPLATES).format(style)] if style else []
    if motion:
        words.append(rng.choice(MOTIONS[motion]))
    rng.shuffle(words)
    if len(words) == 2 and rng.random() < 0.5:
        return f"{text} {words[0]}, {words[1]}"
    return " ".join([text, *words])
