"""Run an eraser on a base, with a seed and a recipe, and write the result into an artifact folder."""

import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from .artifact import FORMAT, RECIPE, WEIGHTS, write_json, write_text
from .base import Base, bare
from .concept import Concept
from .erasers import Method, OnStep
from .errors import ImagesError, UnlearnExportError, UsageError
from .images import FewShot, read_images, sample_images

PACKAGES = ("unlearn-export", "torch", "diffusers", "transformers", "safetensors")


@dataclass(frozen=True)
class ErasedEncoder:
    """encoder: the edited copy, in float32. recipe: everything needed to make it again."""

    encoder: PreTrainedModel
    recipe: dict[str, Any]


def erase(
    base: Base,
    concepts: Sequence[Concept],
    method: Method,
    *,
    images: Path | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> ErasedEncoder:
    """Erase ``concepts`` from a copy of the base's text encoder; the base stays bit-equal.

    images: a folder of pictures of the concept (of several concepts: one sub-folder each, by name) in place of the
    base's own samples. seed: same seed, same bytes, on one machine. Raises UsageError, ImagesError, and
    UnlearnExportError where the edit ended in numbers that are none.
    """
    if not concepts:
        raise UsageError("nothing to erase: name a concept, such as pizza")
    names = [name.lower() for c in concepts for name in c.names]
    if len(set(names)) < len(names):
        raise UsageError(f"a name occurs in two concepts: {', '.join(names)}")
    generator = torch.Generator().manual_seed(seed)
    concepts = method.resolve(base, concepts)
    shots = _few_shot(base, concepts, method, images, generator)
    encoder = method.edit(base, concepts, [s.latents for s in shots], generator=generator, on_step=on_step)
    state, original = encoder.state_dict(), base.encoder.state_dict()
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise UnlearnExportError("the edit diverged to NaN: lower the learning rate, for example -O lr=1e-5")
    changed = sorted(name for name in state if not torch.equal(state[name], original[name]))
    recipe = {
        "format": FORMAT,
        "base": {
            "source": base.source,
            "revision": base.revision,
            "license": base.license,
            "text_encoder_sha256": base.fingerprint,
            "tokenizer_sha256": base.tokenizer_fingerprint,
        },
        "concepts": [asdict(c) for c in concepts],
        "method": {"name": type(method).name, "options": asdict(method)},  # type: ignore[call-overload]
        "seed": seed,
        "images": [list(s.sources) for s in shots],
        "changed": {"tensors": changed, "parameters": sum(state[n].numel() for n in changed)},
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
    }
    return ErasedEncoder(encoder, json.loads(json.dumps(recipe)))


def _few_shot(
    base: Base, concepts: Sequence[Concept], method: Method, folder: Path | None, generator: torch.Generator
) -> list[FewShot]:
    if folder is not None and not method.images:
        raise UsageError(f"the method {type(method).name} looks at no pictures: leave --images out")  # type: ignore[attr-defined]
    if not method.images:
        return []
    if folder is None:
        return [sample_images(base, c, method.images, generator) for c in concepts]
    if len(concepts) == 1:
        return [read_images(base, folder)]
    absent = [c.name for c in concepts if not (folder / c.name).is_dir()]
    if absent:
        raise ImagesError(f"no folder {absent[0]!r} in {folder}: several concepts need one each, by name")
    return [read_images(base, folder / c.name) for c in concepts]


def write_encoder(base: Base, erased: ErasedEncoder, folder: Path) -> None:
    """Write text_encoder/, tokenizer/, the recipe, LICENSE and NOTICE into ``folder``.

    Tensors keep the base's own names, which differ between transformers 4 and 5: a file with the other names loads
    as random weights in one of them.
    """
    (folder / RECIPE).parent.mkdir(parents=True, exist_ok=True)
    target = folder / "text_encoder"
    target.mkdir()
    for file in base.text_encoder_folder.iterdir():
        if file.suffix == ".json" and "index" not in file.name:
            shutil.copy(file, target)
    save_file(_named_like(base, erased.encoder), folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copytree(base.tokenizer_folder, folder / "tokenizer")
    _complete_tokenizer(folder / "tokenizer")
    write_json(folder / RECIPE, erased.recipe)
    write_text(folder / "LICENSE", base.license_text)
    names = ", ".join(c["name"] for c in erased.recipe["concepts"])
    write_text(
        folder / "NOTICE",
        f"This folder holds a modified copy of the text encoder of {base.source.removeprefix('./')}"
        + (f" at revision {base.revision}" if base.revision else "")
        + f".\nModified: {WEIGHTS}, so that prompts naming {names} should no longer draw it; {RECIPE} tells how.\n"
        f"Unmodified: tokenizer/ and text_encoder/config.json. The base's licence ({base.license}) is in LICENSE\n"
        "and applies to this copy, with its use restrictions where it has any.\n",
    )


def _complete_tokenizer(folder: Path) -> None:
    """Write vocab.json and merges.txt from tokenizer.json where they lack: older readers know no other files."""
    if (folder / "vocab.json").is_file():
        return
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    write_text(folder / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False))
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")


def _named_like(base: Base, encoder: PreTrainedModel) -> dict[str, Tensor]:
    state = {bare(k): v for k, v in encoder.state_dict().items()}
    return {k: state[bare(k)].cpu().contiguous() for k in base.key_names() if bare(k) in state}
