"""Edited text encoders from disk or the Hub, on torch or ONNX Runtime."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from transformers import PreTrainedModel

from ..artifact import DELTA, MANIFEST, RECIPE, Artifact, read_json, sha256
from ..errors import ArtifactError, EncoderError, HubError, UsageError
from ..families import architectures, class_of
from ..loading import load_torch, one_line, quiet
from ..net.endpoint import check_endpoint
from ..net.requests import code_of
from ..recipe import told
from .dropin import check_drop_in
from .ort import OrtTextEncoder, open_session

__all__ = [
    "Backend",
    "Found",
    "OrtTextEncoder",
    "check_drop_in",
    "load_encoder",
    "load_folder",
    "locate",
    "quiet",
]

Backend = Literal["torch", "onnx"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS = ("text_encoder*/model.safetensors", "text_encoder*/model-*.safetensors")
HUB_FILES = {"torch": _WEIGHTS, "onnx": ("text_encoder*/model.onnx", "text_encoder*/model.onnx_data", *_WEIGHTS)}


@dataclass(frozen=True)
class Found:
    """folders: each encoder's by the seat that it is named after. recipe: how they were edited; {} is not known.

    alone: one encoder's own folder was given, not a whole artifact.
    """

    folders: Mapping[str, Path]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False

    @property
    def about(self) -> dict[str, Mapping[str, Any]]:
        """What the recipe tells of each seat."""
        return told(self.recipe) if self.recipe else {}


def load_encoder(
    source: str | Path | PreTrainedModel,
    *,
    backend: Backend = "torch",
    revision: str | None = None,
    provider: str | None = None,
    like: PreTrainedModel | None = None,
    base: str | Path | None = None,
) -> PreTrainedModel:
    """Load a text encoder, complete and unaltered or not at all; of several in one artifact, the first.

    source: an artifact folder, a ``text_encoder`` folder, a Hub id ``owner/name`` (at ``revision``), or a loaded
    model, which is returned as it is. Files that a manifest covers are hashed first.
    backend: "torch" gives the class that config.json names; "onnx" an OrtTextEncoder that is called the same way,
    on the execution ``provider`` (default CPUExecutionProvider).
    like: the encoder that this one will replace; it must pass ``check_drop_in``.
    base: for an artifact that holds only what changed, its base, as ``load_base`` takes it; on torch alone.

    Raises EncoderError for tensors that are missing, unexpected, of another shape or not finite, ArtifactError for
    altered files, HubError for a failed download, DependencyError where the provider cannot be had.
    """
    check_backend(backend)
    about: Mapping[str, Any] = {}
    if isinstance(source, PreTrainedModel):
        encoder = source
    elif base is not None:
        encoder, about = _of_delta(source, str(base), backend, revision)
    else:
        where = locate(source, backend, revision)
        seat, folder = next(iter(where.folders.items()))
        encoder, about = load_folder(folder, backend, provider), where.about.get(seat, {})
    if like is not None:
        check_drop_in(encoder, like, about.get("changed"))
    return encoder


def _of_delta(
    source: str | Path, base: str, backend: Backend, revision: str | None
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """→ the base's first encoder with the edit in it, in the base's dtype, and what the recipe tells of it"""
    from ..base import load_base
    from ..delta import Delta

    if backend != "torch":
        raise UsageError("a delta has no graph: apply it and export one, or take the backend torch")
    root = Path(source) if Path(source).is_dir() else _downloaded(source, revision, ["unlearning/*.json", DELTA])
    artifact = Artifact.open(root)
    artifact.verify() if Path(source).is_dir() else artifact.verify_weights()
    if not artifact.is_delta:
        raise UsageError(f"{source} is whole, and its base is not needed: leave base out")
    seats = load_base(base).seats
    edit = Delta.open(root / DELTA).edit({name: seat.weights for name, seat in seats.items()})
    name = next(iter(artifact.seats))
    encoder = load_torch(seats[name].folder, seats[name].architecture)
    edit.only(name).apply({name: encoder})
    return encoder, told(read_json(root / RECIPE))[name]


def load_folder(
    folder: Path, backend: Backend = "torch", provider: str | None = None, architecture: str = ""
) -> PreTrainedModel:
    """Load the encoder in a folder that ``locate`` gave, as the class that is named or its config.json names.

    Errors as ``load_encoder``'s.
    """
    name = architecture or architecture_in(folder)
    if backend == "torch":
        return load_torch(folder, name)
    return open_session(folder, class_of(name).config_class.from_pretrained(folder), provider)


def check_backend(backend: str) -> None:
    """Raise UsageError for one that is not known."""
    if backend not in HUB_FILES:
        raise UsageError(f"backend is {backend!r}: choose torch or onnx")


def locate(source: str | Path, backend: Backend = "torch", revision: str | None = None) -> Found:
    """The encoders' folders of a source, their files verified wherever a manifest vouches for them.

    Raises EncoderError where there is none, ArtifactError for altered files, HubError for a failed download.
    """
    path = Path(source)
    if path.is_dir():
        return _within(path)
    root = _downloaded(source, revision, ["unlearning/*.json", DELTA, "text_encoder*/*.json", *HUB_FILES[backend]])
    if (root / MANIFEST).is_file():
        _verify_present(root)
    if (root / RECIPE).is_file():
        artifact = Artifact.open(root)
        artifact.need_weights()
        artifact.verify_weights()
        return Found({seat: root / seat for seat in artifact.seats}, read_json(root / RECIPE))
    return Found(_seats_in(root) or {"text_encoder": root / "text_encoder"})


def _downloaded(source: str | Path, revision: str | None, patterns: list[str]) -> Path:
    if Path(source).exists() or not HUB_ID.fullmatch(str(source)):
        raise EncoderError(f"no text encoder at {source}: give an artifact folder, a text_encoder folder or owner/name")
    check_endpoint()
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=patterns))
    except (HTTPError, OSError, ValueError) as error:
        told = HubError(f"cannot fetch {source}@{revision or 'main'}: {one_line(error)}")
        told.exit_code = code_of(error)
        raise told from error


def _within(path: Path) -> Found:
    """The encoders of a local folder: an artifact's, a pipeline's, or the one that it is itself."""
    root = path.resolve()
    if (root / "unlearning").is_dir():
        artifact = Artifact.open(path)
        artifact.verify()
        artifact.need_weights()
        return Found({seat: path / seat for seat in artifact.seats}, read_json(root / RECIPE))
    if seats := _seats_in(path):
        return Found(seats)
    name = root.name if re.fullmatch(r"text_encoder(_\d)?", root.name) else "text_encoder"
    recipe: Mapping[str, Any] = {}
    if (root.parent / "unlearning").is_dir():
        artifact = Artifact.open(path.parent if path.name else root.parent)
        artifact.verify()
        recipe = read_json(root.parent / RECIPE)
    return Found({name: path}, recipe, alone=True)


def _seats_in(root: Path) -> dict[str, Path]:
    return {f.parent.name: f.parent for f in sorted(root.glob("text_encoder*/config.json"))}


def _verify_present(root: Path) -> None:
    """Compare the encoders' files in a partial download with the manifest."""
    expected = read_json(root / MANIFEST)["files"]
    for file in sorted(file for folder in root.glob("text_encoder*") for file in folder.rglob("*")):
        name = file.relative_to(root).as_posix()
        if file.is_file() and expected.get(name) != sha256(file):
            raise ArtifactError(f"{name} of {root} is not what its manifest vouches for: delete it and fetch again")


def architecture_in(folder: Path) -> str:
    """The class that an encoder's config.json names. Raises EncoderError for none, or one of no family."""
    if not (folder / "config.json").is_file():
        raise EncoderError(f"no text encoder in {folder}: config.json is missing")
    names = read_json(folder / "config.json").get("architectures") or ["nothing"]
    if names[0] not in (known := architectures()):
        raise EncoderError(f"{folder / 'config.json'} names {names[0]}: expected {', '.join(known)}")
    return str(names[0])
