"""One .safetensors file, as A1111 and ComfyUI keep models, and the text encoders in it.

A whole checkpoint (Stable Diffusion 1 and 2, SDXL) names its encoders as transformers does under a prefix, or as OpenCLIP
does, which diffusers knows how to convert. A file of one encoder has transformers' names. Neither holds a config or a
tokenizer: those come from the folder of a diffusers pipeline or of an encoder.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import BaseError, UsageError
from .families import EncoderFamily, class_of, families, family_of
from .loading import architecture_of, is_tokenizer, one_line, tokenizer_beside
from .weights import DTYPES, SINGLE, sha256

CONFIGS = (".json", ".txt", ".model")  # of configs and tokenizers
OPENCLIP = ".model."  # how a prefix ends under which tensors have OpenCLIP's names
PLACES = {  # seat → the prefixes that it may have in a whole checkpoint
    "text_encoder": (
        "cond_stage_model.transformer.",
        "cond_stage_model.model.",
        "conditioner.embedders.0.transformer.",
    ),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
}
PUBLISHED = {  # (family, width) of an encoder alone → diffusers' name of a pipeline that has its config and tokenizer
    ("clip", 768): "v1",
    ("clip", 1280): "xl_base",
    ("t5", 4096): "ltx-video",
    ("umt5", 4096): "wan-t2v-1.3B",
}
LATER_BIAS = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"  # UMT5 has it, T5 not
VAE = ("first_stage_model.", "vae.", "encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
FLOATS = {name: getattr(torch, dtype.removeprefix("torch.")) for dtype, name in DTYPES.items()}
PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def is_single_file(source: str) -> bool:
    """Whether this names one file, not a folder or a Hub id."""
    path = Path(source)
    return not path.is_dir() and (path.is_file() or path.suffix in (".safetensors", ".gguf", *PICKLES))


@dataclass(frozen=True)
class SingleFile:
    """The header of a file: dtypes, as safetensors names them, and shapes by tensor, and the metadata. No tensor is read."""

    path: Path
    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    @classmethod
    def open(cls, path: Path) -> "SingleFile":
        """Raises BaseError for a pickle, a damaged file, one in 8 bits, and one that holds no text encoder."""
        if path.suffix in PICKLES:
            raise BaseError(
                f"{path} is a pickle, which can run code when it is opened: save it as .safetensors first, with A1111's "
                "Checkpoint Merger (no interpolation) or ComfyUI's Save Checkpoint"
            )
        if not path.is_file():
            raise BaseError(f"there is no file {path}")
        if path.suffix != ".safetensors":
            raise BaseError(f"{path} is no .safetensors file: other formats are not read")
        try:
            with safe_open(path, "pt") as opened:
                slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 (no dict)
                dtypes = {key: str(part.get_dtype()) for key, part in slices.items()}
                shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
                metadata = dict(opened.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise BaseError(f"cannot read {path}: {one_line(error)}: the file is damaged, fetch it again") from error
        file = cls(path, dtypes, shapes, metadata)
        file._check_kind()
        return file

    def _check_kind(self) -> None:
        if not self.whole and self._family() is None:
            keys = list(self.shapes)
            what = f"holds no text encoder that is known (it has {', '.join(keys[:2]) or 'no tensor'})"
            if any("lora_" in key or "_lora." in key for key in keys):
                what = "is a LoRA, which alters a checkpoint"
            elif keys and all(key.startswith(VAE) for key in keys):
                what = "is a VAE and holds no text encoder"
            raise BaseError(f"{self.path} {what}: give the checkpoint, or a file of the encoder alone")
        for key, dtype in self.dtypes.items():
            if dtype.startswith("F8") or key.endswith("scaled_fp8"):
                raise BaseError(f"{self.path} is stored in 8 bits ({key} is {dtype}): give the file in fp16 or bf16")

    @property
    def whole(self) -> bool:
        """Whether it is a checkpoint with its denoiser, rather than one encoder."""
        return any(self.prefix(seat) for seat in PLACES)

    def prefix(self, seat: str) -> str:
        """What the names of this encoder's tensors begin with in a whole checkpoint, "" for one that is not there."""
        return next((p for p in PLACES.get(seat, ()) if any(key.startswith(p) for key in self.shapes)), "")

    def _family(self) -> type[EncoderFamily] | None:
        """Of an encoder alone, by its names; T5's are among UMT5's."""
        for family in families().values():
            try:
                family.stored(self.shapes)
            except UsageError:
                continue
            return families()["umt5"] if family.name == "t5" and LATER_BIAS in self.shapes else family
        return None

    @property
    def published(self) -> str:
        """The Hub id of a diffusers pipeline with the configs and tokenizers for it, as diffusers chooses it.

        Raises BaseError where none is known.
        """
        from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, fetch_diffusers_config

        if self.whole:
            about = fetch_diffusers_config({key: self._empty(key) for key in self.shapes})
            return str(about["pretrained_model_name_or_path"])
        family = self._family()
        assert family is not None, "checked when it was opened"
        width = self.shapes[family.stored(self.shapes)[family.embedding]][-1]
        known = PUBLISHED.get((family.name, width))
        if known is None:
            raise BaseError(
                f"no config is known for {self.path} ({family.name}, {width} wide): give --base-config, a folder or "
                "Hub id with its config.json and tokenizer"
            )
        return str(DIFFUSERS_DEFAULT_PIPELINE_PATHS[known]["pretrained_model_name_or_path"])

    @cached_property
    def sha256(self) -> str:
        """Of all of it, computed once."""
        return sha256(self.path)

    @property
    def license(self) -> str:
        """The licence that its metadata name, as the ModelSpec standard has it, else "other"."""
        return self.metadata.get("modelspec.license") or "other"

    def _empty(self, key: str) -> Tensor:
        """A tensor on the meta device; of a dtype that is no floating-point number's, uint8."""
        return torch.empty(self.shapes[key], dtype=FLOATS.get(self.dtypes[key], torch.uint8), device="meta")

    def names(self, prefix: str) -> list[str]:
        """The tensors under a prefix."""
        return [key for key in self.shapes if key.startswith(prefix)]

    def converted(self, prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Some tensors under a prefix by transformers' names. Only numbers move: nothing is computed or cast.

        Raises BaseError for an OpenCLIP encoder without its last norm.
        """
        if not prefix.endswith(OPENCLIP):
            return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
        from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

        norm = f"{prefix}ln_final.weight"
        if norm not in self.shapes:
            raise BaseError(f"{self.path} is incomplete: it has no tensor {norm}")
        model = SimpleNamespace(config=SimpleNamespace(hidden_size=self.shapes[norm][0]))
        found: dict[str, Tensor] = convert_open_clip_checkpoint(model, dict(tensors), prefix=prefix)
        return found

    def unpack(self, config: Path, index: Mapping[str, Any] | None) -> Path:
        """The folder of its encoders as ``load_base`` reads one, in the cache; made when first asked for.

        config: where configs and tokenizers are; index: its model_index.json, None for an encoder's folder.
        Raises BaseError where they do not fit the file, or it lacks a tensor.
        """
        parts = self._parts(config, index)
        if index is None or not self.whole:
            [part] = parts
            copied = {"config.json": part.config_json, **_texts(part.tokenizer, "tokenizer")}
        else:
            copied = {"model_index.json": (config / "model_index.json").read_bytes()}
            for name, component in index.items():
                if isinstance(component, list) and Path(name).name == name:
                    copied |= _texts(config / name, name)
        digest = hashlib.sha256(repr(sorted(copied.items())).encode()).hexdigest()
        entry = cache() / f"{self.sha256}-{digest[:16]}"
        if not entry.is_dir():
            with _appearing(entry) as folder:
                for name, content in copied.items():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes(content)
                for part in parts:
                    self._write(part, folder / part.target / SINGLE)
        return entry

    def _parts(self, config: Path, index: Mapping[str, Any] | None) -> "list[_Part]":
        if index is None:
            if self.whole:
                raise BaseError(f"{config} has no model_index.json: {self.path} needs the configs of a whole pipeline")
            if not (config / "config.json").is_file():
                raise BaseError(f"{config} has neither model_index.json nor config.json: it is no --base-config")
            return [self._part("", config, architecture_of(config), "", tokenizer_beside(config))]
        seats = {
            n: str(c[1]) for n, c in index.items() if n.startswith("text_encoder") and isinstance(c, list) and c[1]
        }
        if not seats:
            raise BaseError(f"{config} has the configs of no text encoder: give another --base-config")
        if self.whole:
            for seat in seats:
                if not self.prefix(seat):
                    raise BaseError(f"{self.path} has no {seat}, and a {index.get('_class_name')} ({config}) reads one")
            return [
                self._part(self.prefix(seat), config / seat, kind, seat, tokenizer_beside(config / seat))
                for seat, kind in seats.items()
            ]
        faults = []
        for seat, kind in seats.items():
            try:
                return [self._part("", config / seat, kind, "", tokenizer_beside(config / seat))]
            except BaseError as error:
                faults.append(str(error))
        raise BaseError("; ".join(faults))

    def _part(self, prefix: str, folder: Path, architecture: str, target: str, tokenizer: Path) -> "_Part":
        family = family_of(architecture)
        if not is_tokenizer(tokenizer):
            raise BaseError(f"{folder} has no tokenizer in it or beside it: give another --base-config")
        kind = class_of(architecture)
        try:
            about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            settings = kind.config_class.from_pretrained(folder)
        except (OSError, ValueError, AttributeError) as error:
            raise BaseError(f"cannot read {folder / 'config.json'}: {one_line(error)}") from error
        with init_empty_weights():
            model = kind(settings)
        held = self.converted(prefix, {key: self._empty(key) for key in self.names(prefix)})
        try:
            stored = family.stored(held)
        except UsageError as error:
            raise BaseError(f"{self.path} does not fit {folder}: {error}") from error
        names: dict[str, None] = {}
        for name, weight in model.named_parameters():
            own = family.canonical(name)
            key = stored[family.embedding] if own in family.tied else stored.get(own, own)
            if key not in held:
                raise BaseError(f"{self.path} is incomplete: it has no tensor for the {architecture}'s {name}")
            if held[key].shape != weight.shape:
                raise BaseError(
                    f"{self.path} does not fit {folder}: {name} is {list(held[key].shape)} in the file, and by the "
                    f"config {list(weight.shape)}; give another --base-config"
                )
            if str(held[key].dtype) not in DTYPES:
                raise BaseError(
                    f"{self.path} is quantised ({name} is {held[key].dtype}): give the file in fp16 or bf16"
                )
            names[key] = None
        for key in sorted(held.keys() - names.keys()):
            if family.canonical(key).startswith(f"{family.stack}.") and not key.endswith("position_ids"):
                raise BaseError(
                    f"{self.path} does not fit {folder}: it has {key}, for which the config has no place; give another "
                    "--base-config"
                )
        about = json.dumps({**about, "architectures": [architecture]}, indent=2)
        return _Part(prefix, tuple(names), target, tokenizer, about.encode())

    def _write(self, part: "_Part", target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        keys = self.names(part.prefix) if part.prefix.endswith(OPENCLIP) else [part.prefix + n for n in part.names]
        with safe_open(self.path, "pt") as opened:
            tensors = self.converted(part.prefix, {key: opened.get_tensor(key) for key in keys})
            target.touch()
            mode = target.stat().st_mode  # the umask's: safetensors makes its files private
            save_file({name: tensors[name] for name in part.names}, target, metadata={"format": "pt"})
            target.chmod(mode)


@dataclass(frozen=True)
class _Part:
    """One encoder in the file: transformers' names of its tensors, where it goes, and what belongs to it."""

    prefix: str
    names: tuple[str, ...]
    target: str
    tokenizer: Path
    config_json: bytes


def _texts(folder: Path, name: str) -> dict[str, bytes]:
    """The configs and tokenizer files in a folder, by the path that they take under ``name``; no index of shards."""
    if not folder.is_dir():
        return {}
    files = [f for f in folder.iterdir() if f.suffix in CONFIGS and not f.name.endswith(".index.json")]
    return {f"{name}/{file.name}": file.read_bytes() for file in files}


def cache() -> Path:
    """Where the encoders of single files are kept once converted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "unlearn-export" / "single-file"


@contextmanager
def _appearing(entry: Path) -> Iterator[Path]:
    """A folder that is at ``entry`` when the block ends well, and nowhere when it does not."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=entry.parent))
        try:
            yield folder
            if not entry.is_dir():  # another process may have been as quick
                os.replace(folder, entry)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise BaseError(
            f"cannot keep a converted encoder in {entry.parent}: {one_line(error)}; XDG_CACHE_HOME names another place"
        ) from error
