"""An edited text encoder from disk or the Hub, on torch or ONNX Runtime, and the check that it fits a pipeline."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Model,
    Gemma3ForConditionalGeneration,
    Gemma3TextModel,
    LlamaModel,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLTextModel,
    Qwen3Model,
    Qwen3VLForConditionalGeneration,
    T5EncoderModel,
    UMT5EncoderModel,
)
from transformers.utils import logging

from ..artifact import MANIFEST, Artifact, read_json, sha256
from ..errors import ArtifactError, EncoderError, HubError, UsageError
from .ort import OrtTextEncoder, class_name, one_line, open_session, text_config

Backend = Literal["torch", "onnx"]
CLASSES: dict[str, Any] = {
    c.__name__: c
    for c in (
        CLIPTextModel,
        CLIPTextModelWithProjection,
        T5EncoderModel,
        UMT5EncoderModel,
        LlamaModel,
        Qwen2_5_VLTextModel,
        Qwen2_5_VLForConditionalGeneration,
        Qwen3Model,
        Qwen3VLForConditionalGeneration,
        Gemma2Model,
        Gemma3TextModel,
        Gemma3ForConditionalGeneration,
    )
}
SIZES = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
)
# An edit rewrites how words are read, never which rows they are looked up in: these tell the base.
FINGERPRINT = {
    "token_embedding.weight": "token_embedding",
    "shared.weight": "token_embedding",
    "embed_tokens.weight": "token_embedding",
    "position_embedding.weight": "position_embedding",
}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = {
    "torch": ("text_encoder/model.safetensors", "text_encoder/model-*.safetensors"),
    "onnx": (
        "text_encoder/model.onnx",
        "text_encoder/model.onnx_data",
        "text_encoder/model.safetensors",
        "text_encoder/model-*.safetensors",
    ),
}


def load_encoder(
    source: str | Path | PreTrainedModel,
    *,
    backend: Backend = "torch",
    revision: str | None = None,
    provider: str | None = None,
    like: PreTrainedModel | None = None,
) -> PreTrainedModel:
    """Load a text encoder, complete and unaltered or not at all.

    source: an artifact folder, a ``text_encoder`` folder, a Hub id ``owner/name`` (at ``revision``), or a loaded
    model, which is returned as it is. Files that a manifest covers are hashed first.
    backend: "torch" gives the class that config.json names; "onnx" an OrtTextEncoder that is called the same way,
    on the execution ``provider`` (default CPUExecutionProvider).
    like: the encoder that this one will replace; it must pass ``check_drop_in``.

    Raises EncoderError for tensors that are missing, unexpected, of another shape or not finite, ArtifactError for
    altered files, HubError for a failed download, DependencyError where the provider cannot be had.
    """
    if backend not in HUB_FILES:
        raise UsageError(f"backend is {backend!r}: choose torch or onnx")
    if isinstance(source, PreTrainedModel):
        encoder = source
    else:
        encoder = load_folder(locate(source, backend, revision), backend, provider)
    if like is not None:
        check_drop_in(encoder, like)
    return encoder


def load_folder(folder: Path, backend: Backend = "torch", provider: str | None = None) -> PreTrainedModel:
    """Load the encoder in a folder that ``locate`` gave; errors as ``load_encoder``'s."""
    name = _architecture(folder)
    if backend == "torch":
        return _load_torch(folder, name)
    return open_session(folder, CLASSES[name].config_class.from_pretrained(folder), provider)


def check_drop_in(encoder: PreTrainedModel, original: PreTrainedModel) -> None:
    """Raise EncoderError unless ``encoder`` is an edit of the very weights in ``original``.

    Compared are the class, the sizes, and the embedding tables, which an edit leaves alone; the tables may differ by
    one rounding to half precision. T5-XXL, UMT5-XXL and others share all of their sizes, so sizes are not enough.
    """
    _compare("class", class_name(encoder), class_name(original))
    for field in SIZES:
        _compare(field, *(getattr(text_config(e.config), field, None) for e in (encoder, original)))
    ours, theirs = _fingerprint(encoder), _fingerprint(original)
    for name, table in theirs.items():
        if name not in ours or not _equal(ours[name], table):
            raise EncoderError(
                f"the encoder is of another base: its {name} differs from the pipeline's own; erase from the base that "
                "this pipeline shares its text encoder with"
            )


def locate(source: str | Path, backend: Backend = "torch", revision: str | None = None) -> Path:
    """The ``text_encoder`` folder of a source, its files verified wherever a manifest vouches for them.

    Raises EncoderError where there is none, ArtifactError for altered files, HubError for a failed download.
    """
    path = Path(source)
    if path.is_dir():
        folder = path / "text_encoder" if (path / "text_encoder").is_dir() else path
        if folder.name == "text_encoder" and (folder.parent / "unlearning").is_dir():
            Artifact.open(folder.parent).verify()
        return folder
    if path.exists() or not HUB_ID.fullmatch(str(source)):
        raise EncoderError(f"no text encoder at {source}: give an artifact folder, a text_encoder folder or owner/name")
    patterns = ["unlearning/*.json", "text_encoder/*.json", *HUB_FILES[backend]]
    try:
        root = Path(snapshot_download(str(source), revision=revision, allow_patterns=patterns))
    except (HTTPError, OSError, ValueError) as error:
        raise HubError(f"cannot fetch {source}@{revision or 'main'}: {one_line(error)}") from error
    if (root / MANIFEST).is_file():
        _verify_present(root)
    return root / "text_encoder"


def _verify_present(root: Path) -> None:
    """Compare the encoder's files in a partial download with the manifest."""
    expected = read_json(root / MANIFEST)["files"]
    for file in sorted((root / "text_encoder").rglob("*")):
        name = file.relative_to(root).as_posix()
        if file.is_file() and expected.get(name) != sha256(file):
            raise ArtifactError(f"{name} of {root} is not what its manifest vouches for: delete it and fetch again")


def _architecture(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise EncoderError(f"no text encoder in {folder}: config.json is missing")
    names = read_json(folder / "config.json").get("architectures") or ["nothing"]
    if names[0] not in CLASSES:
        raise EncoderError(f"{folder / 'config.json'} names {names[0]}: expected {', '.join(CLASSES)}")
    return str(names[0])


def _load_torch(folder: Path, name: str) -> PreTrainedModel:
    if not any(folder.glob("*.safetensors")):
        raise EncoderError(f"no .safetensors in {folder}: other formats can run code and are not read")
    try:
        with quiet():
            encoder, info = CLASSES[name].from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they come back in the info, to be refused by name
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise EncoderError(f"cannot load {folder}: {one_line(error)}") from error
    for fault in ("missing", "unexpected", "mismatched"):
        keys = [key[0] if isinstance(key, tuple) else key for key in info[f"{fault}_keys"]]
        keys = sorted(key for key in keys if not key.endswith("position_ids"))  # a buffer in old checkpoints
        if keys:
            raise EncoderError(f"{folder} is no complete {name}: {len(keys)} {fault} tensors, the first is {keys[0]}")
    for key, tensor in encoder.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise EncoderError(f"{key} in {folder} has values that are not finite: the file is damaged")
    return encoder.eval()


def _compare(field: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise EncoderError(f"the encoder does not fit this pipeline: its {field} is {ours}, its own has {theirs}")


def _fingerprint(encoder: PreTrainedModel) -> dict[str, Tensor]:
    """The embedding tables by name; an ONNX encoder's come from the safetensors beside the graph."""
    if not isinstance(encoder, OrtTextEncoder):
        tables = {_table(key): tensor for key, tensor in encoder.state_dict().items()}
    else:
        files = sorted(encoder.folder.glob("model*.safetensors"))
        if not files:
            raise EncoderError(f"no model.safetensors beside {encoder.folder / 'model.onnx'}: its base cannot be told")
        tables = {}
        for file in files:
            with safe_open(file, framework="pt") as tensors:
                names = [name for name in tensors.keys() if _table(name)]  # noqa: SIM118 (no dict)
                tables |= {_table(name): tensors.get_tensor(name) for name in names}
    return {name: tensor for name, tensor in tables.items() if name}


def _table(key: str) -> str:
    if "vision" in key:  # Gemma 3's image tower has positions too
        return ""
    return next((name for suffix, name in FINGERPRINT.items() if key.endswith(suffix)), "")


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    """Bit-equal, or equal once both are rounded to a half precision: one of the two was stored in it."""
    if ours.shape != theirs.shape:
        return False
    ours, theirs = ours.cpu(), theirs.cpu()
    return any(torch.equal(ours.to(d), theirs.to(d)) for d in (torch.float32, torch.float16, torch.bfloat16))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' bars and load reports; what they say is checked and raised."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
