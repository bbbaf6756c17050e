"""The tensors of one encoder on disk: a safetensors file, or shards with an index; read only when asked for."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from .errors import BaseError

if TYPE_CHECKING:  # artifacts are read by the server's front end too, which has no torch
    from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAVY = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".onnx_data", ".gguf", ".h5", ".msgpack")  # weights
CHUNK = 2**20  # bytes read at a time
DTYPES = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16", "torch.float64": "F64"}


@dataclass(frozen=True)
class Weights:
    """An encoder's tensors by the names that the files give them, each with the file that holds it.

    ``get`` maps a tensor into memory and reads no more of it than is touched, so a table of 2 GB costs the rows used.
    """

    folder: Path
    files: Mapping[str, str]

    @classmethod
    def open(cls, folder: Path) -> "Weights":
        """Read the names. Raises BaseError where there are no safetensors, a shard is missing or damaged, or a tensor
        is in the index or in a shard only: what has no place would be left out in silence.
        """
        if (folder / SINGLE).is_file():
            return cls(folder, dict.fromkeys(_names(folder / SINGLE), SINGLE))
        if (folder / INDEX).is_file():
            return cls(folder, _indexed(folder))
        others = sorted(f.name for f in folder.glob("*.safetensors"))
        if len(others) == 1:  # such as model.fp16.safetensors
            return cls(folder, dict.fromkeys(_names(folder / others[0]), others[0]))
        if others:
            raise BaseError(f"{folder} has {len(others)} .safetensors files and no {INDEX}: which tensor is where?")
        raise BaseError(f"no {SINGLE} in {folder}: convert the encoder to safetensors first")

    def get(self, key: str) -> "Tensor":
        """One tensor as stored, mapped from the file: not to be written to."""
        with safe_open(self.folder / self.files[key], "pt") as file:
            return file.get_tensor(key)

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        with safe_open(self.folder / self.files[key], "np") as file:
            return tuple(file.get_slice(key).get_shape())

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The files, sorted."""
        return tuple(sorted(set(self.files.values())))

    @cached_property
    def size(self) -> int:
        """Bytes on disk."""
        return sum((self.folder / name).stat().st_size for name in self.names)

    @cached_property
    def parameters(self) -> int:
        """How many numbers there are in all."""
        return sum(math.prod(self.shape(key)) for key in self.files)

    @cached_property
    def hashes(self) -> dict[str, "Hashes"]:
        """Of each file and of the tensors in it; everything is read, once."""
        return {name: hashes(self.folder / name) for name in self.names}

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of each file."""
        return {name: found.file for name, found in self.hashes.items()}

    @property
    def tensor_digests(self) -> dict[str, str]:
        """``tensor_digest`` of each tensor: the same wherever the tensor is, in whichever file."""
        return {key: digest for found in self.hashes.values() for key, digest in found.tensors.items()}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the one file, or of the list of shards with theirs: bases that share it share every edit."""
        if len(self.digests) == 1:
            return next(iter(self.digests.values()))
        return hashlib.sha256("".join(f"{d}  {n}\n" for n, d in self.digests.items()).encode()).hexdigest()

    def write(self, target: Path, changed: Mapping[str, "Tensor"]) -> None:
        """Copy the files to ``target`` with the tensors in ``changed`` in the place of theirs, one file at a time.

        Shapes and dtypes stay, so only the bytes of those tensors differ and nothing is held but them.
        Raises BaseError for a tensor that is not here, or of another shape or dtype.
        """
        for key in changed:
            if key not in self.files:
                raise BaseError(f"no tensor {key} in {self.folder}: the edit is of another encoder")
        target.mkdir(parents=True, exist_ok=True)
        for name in self.names:
            shutil.copyfile(self.folder / name, target / name)
            mine = {key: tensor for key, tensor in changed.items() if self.files[key] == name}
            if mine:
                patch(target / name, mine)
        if (self.folder / INDEX).is_file() and SINGLE not in self.names:
            shutil.copyfile(self.folder / INDEX, target / INDEX)


def _indexed(folder: Path) -> dict[str, str]:
    try:
        listed = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = {str(key): str(name) for key, name in listed.items()}
    except (ValueError, KeyError, AttributeError) as error:
        raise BaseError(f"{folder / INDEX} is no index of shards: {error}") from error
    for name in sorted(set(files.values())):
        if Path(name).name != name:
            raise BaseError(f"{folder / INDEX} names {name!r}, which is no file beside it")
        if not (folder / name).is_file():
            raise BaseError(f"the shard {name} is missing from {folder}: fetch it again")
        held, said = set(_names(folder / name)), {key for key, file in files.items() if file == name}
        for key in sorted(said ^ held):
            where = f"{INDEX} says" if key in said else "is in no index, though"
            raise BaseError(f"the tensor {key} {where} it is in {folder / name}: fetch the folder again")
    return files


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, "np") as opened:  # names need no torch, which takes seconds to import
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise BaseError(f"cannot load {file}: {' '.join(str(error).split())[:200]}") from error


def sha256(file: Path) -> str:
    """Of a whole file, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@dataclass(frozen=True)
class Hashes:
    """Of one safetensors file. file: its sha256. tensors: by name, see ``hashes``."""

    file: str
    tensors: Mapping[str, str]


def hashes(file: Path) -> Hashes:
    """A file's sha256 and, of each tensor in it, that of a line such as ``F32 [49408, 768]`` and its bytes, in one reading.

    A tensor's hash tells nothing of where it lies: it outlives other shards, another order, another header.
    """
    whole, tensors = hashlib.sha256(), {}
    with file.open("rb") as opened:
        length = opened.read(8)
        header = opened.read(int.from_bytes(length, "little"))
        whole.update(length + header)
        listed = {key: about for key, about in json.loads(header).items() if key != "__metadata__"}
        for key, about in sorted(listed.items(), key=lambda item: item[1]["data_offsets"]):  # as they lie, without gaps
            begin, end = about["data_offsets"]
            digest = _headed(about["dtype"], about["shape"])
            for start in range(begin, end, CHUNK):
                chunk = opened.read(min(CHUNK, end - start))
                whole.update(chunk)
                digest.update(chunk)
            tensors[key] = digest.hexdigest()
    return Hashes(whole.hexdigest(), tensors)


def tensor_digest(tensor: "Tensor") -> str:
    """The hash that ``hashes`` gives this tensor once it is in a file."""
    digest = _headed(DTYPES.get(str(tensor.dtype), str(tensor.dtype)), list(tensor.shape))
    digest.update(_bytes(tensor))
    return digest.hexdigest()


def _headed(dtype: str, shape: list[int]) -> Any:
    return hashlib.sha256(f"{dtype} {shape}\n".encode())


def _bytes(tensor: "Tensor") -> bytes:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def patch(file: Path, tensors: Mapping[str, "Tensor"]) -> None:
    """Overwrite tensors of a safetensors file in place: 8 bytes of length, a JSON header with offsets, the bytes."""
    with file.open("r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        for key, tensor in tensors.items():
            about = header[key]
            if about["shape"] != list(tensor.shape) or about["dtype"] != DTYPES.get(str(tensor.dtype)):
                raise BaseError(
                    f"{key} is {about['dtype']}{about['shape']} in {file.name}, the edit's is "
                    f"{DTYPES.get(str(tensor.dtype), tensor.dtype)}{list(tensor.shape)}"
                )
            opened.seek(8 + length + about["data_offsets"][0])
            opened.write(_bytes(tensor))
        opened.flush()
        os.fsync(opened.fileno())
