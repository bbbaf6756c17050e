"""The artifact folder: one class that lays it out, writes it, opens it and verifies it."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .delta import Delta
from .errors import ArtifactError, BaseError
from .measured import Report
from .provenance import check_against, check_delta, check_recorded
from .recipe import FIRST, FORMAT, Recipe, SeatRecord, check_format, seat_records
from .weights import HEAVY, Weights

__all__ = [
    "CARD",
    "EVALUATION",
    "FORMAT",
    "MANIFEST",
    "ONNX",
    "RECIPE",
    "Artifact",
    "Recipe",
    "Report",
    "check_free",
    "no_space",
    "read_json",
    "renewed",
    "sha256",
    "staged",
    "write_json",
    "write_text",
]

RECIPE = "unlearning/recipe.json"
EVALUATION = "unlearning/evaluation.json"
PROBE = "unlearning/probe.json"
GOLDEN = "unlearning/golden.json"
DELTA = "unlearning/delta.safetensors"
CERTIFICATE = "unlearning/certificate.json"
SIGNATURE = "model.sig"
CARD_SIGNATURE = "unlearning/card.sig"
SIGNATURES = (SIGNATURE, CARD_SIGNATURE)
MANIFEST = "unlearning/manifest.json"
CARD = "README.md"
WEIGHTS = "text_encoder/model.safetensors"
ONNX = "text_encoder/model.onnx"
REQUIRED = (RECIPE, "LICENSE", "NOTICE")


@dataclass(frozen=True)
class Artifact:
    """An edited text encoder on disk, with everything needed to load, judge and redo it.

    ```
    README.md  LICENSE  NOTICE           the model card, the base's licence, what was changed
    text_encoder/                        config.json, model.safetensors, model.onnx; of a delta config.json alone
    tokenizer/                           byte-equal to the base's
    unlearning/                          recipe.json, evaluation.json, manifest.json, pictures
    ```
    """

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> "Artifact":
        """Open an existing folder. Raises ArtifactError where it is no artifact, or one of a later format."""
        artifact = cls(Path(path))
        if not artifact.path.is_dir():
            raise ArtifactError(f"no artifact folder at {path}: make one with `unlearn-export erase`")
        if not (artifact.path / RECIPE).is_file():
            raise ArtifactError(f"{path} is no artifact: {RECIPE} is missing")
        check_format(read_json(artifact.path / RECIPE), str(path))
        return artifact

    @property
    def recipe(self) -> Recipe:
        """What was asked and done. Raises ArtifactError where it cannot be read."""
        return Recipe.from_json(read_json(self.path / RECIPE))

    @property
    def _edited(self) -> dict[str, SeatRecord]:
        return seat_records(read_json(self.path / RECIPE))

    @property
    def evaluation(self) -> Report | None:
        """The measured effect, or None where the evaluation was skipped. Raises ArtifactError where it cannot be read."""
        path = self.path / EVALUATION
        return Report.from_json(read_json(path)) if path.exists() else None

    @property
    def probe(self) -> dict[str, Any] | None:
        """What attacks achieved, or None where none was tried. Raises ArtifactError where it cannot be read."""
        path = self.path / PROBE
        return read_json(path) if path.exists() else None

    @property
    def seats(self) -> dict[str, str]:
        """The folders of its encoders, each with its tokenizer's."""
        first = {name: about["tokenizer"] for name, about in FIRST.items()}
        return {name: seat.tokenizer for name, seat in self._edited.items()} or first

    @property
    def is_delta(self) -> bool:
        """Whether it holds what changed in place of the weights (see ``delta``)."""
        return (self.path / DELTA).is_file() and not any(
            file for seat in self.seats for file in (self.path / seat).glob("*.safetensors")
        )

    def need_weights(self) -> None:
        """Raise ArtifactError where there are none, but only what changed."""
        if self.is_delta:
            raise ArtifactError(
                f"{self.path} holds only what changed: rebuild the encoder with `unlearn-export apply {self.path}`"
            )

    @property
    def has_onnx(self) -> bool:
        """Whether every encoder has its graph."""
        return all((self.path / seat / "model.onnx").exists() for seat in self.seats)

    def files(self) -> list[str]:
        """Every file's path relative to the folder, sorted, with forward slashes; not what the Hub's client leaves."""
        names = (p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file())
        return sorted(n for n in names if n != ".gitattributes" and not n.startswith(".cache/"))

    def hashed(self) -> list[str]:
        """The files that the manifest covers: all but the manifest itself, the card and signatures."""
        return [name for name in self.files() if name not in (MANIFEST, CARD, *SIGNATURES)]

    def seal(self) -> None:
        """Write the manifest: the sha256 of every file it covers."""
        write_json(self.path / MANIFEST, {"files": {name: sha256(self.path / name) for name in self.hashed()}})

    def verify(self) -> int:
        """Compare every file with the manifest; returns how many were checked.

        Raises ArtifactError naming the first file that is missing, added or altered, or the first tensor that is not
        what the recipe tells of (see ``provenance``).
        """
        for name in (*REQUIRED, *(f"{seat}/config.json" for seat in self.seats)):
            if not (self.path / name).is_file():
                raise ArtifactError(f"{name} is missing from {self.path}")
        weights = {} if self.is_delta else self._check_tensors()
        if not (self.path / MANIFEST).is_file():
            raise ArtifactError(f"{MANIFEST} is missing from {self.path}: nothing vouches for its files")
        expected = read_json(self.path / MANIFEST).get("files")
        if not isinstance(expected, dict):
            raise ArtifactError(f"{MANIFEST} in {self.path} was altered: it lists no files")
        present = self.hashed()
        known = {f"{seat}/{file}": digest for seat, held in weights.items() for file, digest in held.digests.items()}
        for name in sorted({*expected, *present}):
            if name not in present:
                raise ArtifactError(f"{name} is missing from {self.path}")
            if name not in expected:
                raise ArtifactError(f"{name} was added to {self.path} after it was sealed")
            if (known.get(name) or sha256(self.path / name)) != expected[name]:
                raise ArtifactError(f"{name} in {self.path} was altered: its sha256 is not the manifest's")
        graphs = {n for n in present if n.partition("/")[0] in self.seats and n.endswith((".onnx", ".onnx_data"))}
        for name in sorted({*present} - {*known, *graphs, DELTA}):
            if name.endswith(HEAVY):
                raise ArtifactError(
                    f"{name} in {self.path} is none of its weights: no recipe tells whether it was edited"
                )
        recipe = read_json(self.path / RECIPE)
        check_delta(recipe, Delta.open(self.path / DELTA)) if self.is_delta else check_recorded(recipe, weights)
        return len(present)

    def verify_weights(self, base: Mapping[str, Weights] | None = None) -> None:
        """Raise ArtifactError unless the encoders are the edit that the recipe tells of; see ``provenance``.

        base: its encoders' weights, by seat; None compares with what the recipe records of them.
        """
        recipe = read_json(self.path / RECIPE)
        if self.is_delta:
            delta = Delta.open(self.path / DELTA)
            check_delta(recipe, delta)
            if base is not None:
                delta.edit(base)
            return
        weights = self._check_tensors()
        check_recorded(recipe, weights) if base is None else check_against(recipe, weights, base)

    def _check_tensors(self) -> dict[str, Weights]:
        """The encoders' weights. Raises ArtifactError unless each has just the tensors that its base had."""
        edited, found = self._edited, {}
        for name in self.seats:
            if name not in edited and not any((self.path / name).glob("*.safetensors")):
                continue  # format 1 tells of no tensors
            try:
                found[name] = Weights.open(self.path / name)
            except BaseError as error:
                raise ArtifactError(str(error)) from error
            expected = set(edited[name].tensors if name in edited else found[name].files)
            for key in sorted(found[name].files.keys() ^ expected)[:1]:
                what = "lacks" if key in expected else "has, and its base has not,"
                raise ArtifactError(f"{name} in {self.path} {what} the tensor {key}: it is no complete edit")
        return found


@contextmanager
def staged(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when the block ends well, and is gone when it does not.

    Raises ArtifactError where ``check_free`` does, or its parent cannot be written.
    """
    check_free(out, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
        folder = private / "new"
        folder.mkdir()  # in the mode that the umask gives, unlike what is temporary
    except OSError as error:
        raise ArtifactError(f"cannot write beside {out}: {error.strerror or error}") from error
    try:
        yield folder
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
            os.replace(out, old)
            try:
                os.replace(folder, out)
            except BaseException:
                os.replace(old, out)
                raise
            shutil.rmtree(old)
        else:
            os.replace(folder, out)
    except (OSError, SafetensorError) as error:
        full = no_space(error)
        if full or (isinstance(error, OSError) and error.filename and _within(Path(error.filename), folder)):
            reason = "no space is left on the disk" if full else getattr(error, "strerror", None) or error
            raise ArtifactError(f"cannot write {out}: {reason}; nothing was left there") from error
        raise
    finally:
        shutil.rmtree(private, ignore_errors=True)


@contextmanager
def renewed(artifact: Artifact) -> Iterator[Artifact]:
    """A twin of a finished artifact that takes its place when the block ends well: a stage redone, or nothing.

    Files are shared with the original until they are replaced, so they must be written by rename, as all are here.
    Signatures do not come along: they are of what it was before.
    """
    with staged(artifact.path.resolve(), overwrite=True) as folder:
        shutil.copytree(artifact.path, folder, dirs_exist_ok=True, copy_function=_link)
        for name in SIGNATURES:
            (folder / name).unlink(missing_ok=True)
        yield Artifact(folder)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def check_free(out: Path, *, overwrite: bool = False) -> None:
    """Raise ArtifactError where ``out`` exists; with ``overwrite``, where it is no artifact and not empty."""
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise ArtifactError(f"{out} exists already: choose another folder or pass --overwrite")
    ours = (out / RECIPE).is_file() or (out.is_dir() and not any(out.iterdir()))
    if out.resolve() == Path.cwd():
        raise ArtifactError(f"{out.resolve()} cannot be replaced from within: run this from another folder")
    if out.is_symlink() or not ours:
        raise ArtifactError(f"{out} is no artifact that could be replaced: choose another folder")


def no_space(error: BaseException) -> bool:
    """Whether a write failed for want of space or quota; safetensors and ``copytree`` say so in words alone."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in numbers
    return any(f"os error {number}" in str(error) or f"Errno {number}]" in str(error) for number in numbers)


def _within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def sha256(path: Path) -> str:
    """The file's sha256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object. Raises ArtifactError where the file is unreadable or holds none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise ArtifactError(f"cannot read {path}: it holds no JSON object")
    return data


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` with sorted keys, atomically."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
