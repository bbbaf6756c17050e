"""An artifact without its weights, and back: what changed is published, and whoever has the base makes the encoder of it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from .artifact import CARD, DELTA, MANIFEST, SIGNATURES, Artifact, read_json, sha256, staged, write_json
from .base import HUB_ID, Base
from .certificate import certify
from .delta import Delta, write_delta
from .errors import ArtifactError
from .net.download import fetched
from .stages import base_of, card
from .weights import Weights

REBUILT = "rebuilt"  # in a delta's manifest: the sha256 of the weight files that it gives


@dataclass(frozen=True)
class Applied:
    """artifact: with its weights. identical: its weight files are those of the artifact that the delta was made of, to
    the last byte; else the base lies in other files, and the tensors alone are equal, each to the last bit.
    """

    artifact: Artifact
    identical: bool


def without_weights(artifact: Artifact, base: Base, out: Path) -> Artifact:
    """Write an artifact anew with ``unlearning/delta.safetensors`` in place of weights and graphs.

    Raises ArtifactError for an artifact of another base or with an older recipe, and what ``staged`` does.
    """
    artifact.need_weights()
    if any(not seat.tensor_sha256 for seat in artifact.recipe.seats.values()) or not artifact.recipe.seats:
        raise ArtifactError(
            f"{artifact.path} records no hashes of its base's tensors: erase anew to make a delta of it"
        )
    edited = {name: Weights.open(artifact.path / name) for name in artifact.seats}
    left_out = {f"{name}/{file}" for name, weights in edited.items() for file in weights.names}
    left_out |= {f"{name}/model.{rest}" for name in edited for rest in ("safetensors.index.json", "onnx", "onnx_data")}
    with staged(out) as folder:
        for name in artifact.files():
            if name not in left_out and name not in SIGNATURES:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact.path / name, folder / name)
        write_delta(folder / DELTA, {name: base.seats[name].weights for name in edited}, edited)
        twin = Artifact(folder)
        certify(twin)
        files = {f"{name}/{file}": digest for name, held in edited.items() for file, digest in held.digests.items()}
        write_json(folder / MANIFEST, read_json(folder / MANIFEST) | {REBUILT: files})
        card(twin)
    return Artifact.open(out)


def apply(
    source: str | Path,
    out: Path,
    base: str | None = None,
    config: str | None = None,
    *,
    revision: str | None = None,
    overwrite: bool = False,
) -> Applied:
    """Rebuild an artifact that holds only what changed, bit for bit, or not at all.

    source: its folder, or a Hub id (at ``revision``). base, config: where its base is now, as ``base_of`` takes them.
    Raises ArtifactError where it is whole already, was altered, or the base is another one. There is no ONNX graph in
    the result; ``export`` makes one.
    """
    artifact = Artifact.open(_folder(str(source), revision))
    if not artifact.is_delta:
        raise ArtifactError(f"{source} is whole already: it has its weights, and nothing is to be applied")
    artifact.verify()
    made = base_of(artifact, base, config, same_files=False)
    edit = Delta.open(artifact.path / DELTA).edit({name: seat.weights for name, seat in made.seats.items()})
    expected = read_json(artifact.path / MANIFEST).get(REBUILT) or {}
    with staged(out, overwrite=overwrite) as folder:
        for name in artifact.files():
            if name not in (DELTA, *SIGNATURES):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact.path / name, folder / name)
        for name, tensors in edit.tensors.items():
            made.seats[name].weights.write(folder / name, tensors)
        twin = Artifact(folder)
        certify(twin)
        twin.verify()
        card(twin)
        same = bool(expected) and all(
            (folder / name).is_file() and sha256(folder / name) == digest for name, digest in expected.items()
        )
    return Applied(Artifact.open(out), same)


def _folder(source: str, revision: str | None) -> Path:
    if Path(source).exists() or not HUB_ID.fullmatch(source):
        return Path(source)
    weights = ["text_encoder*/*.safetensors", "*.onnx", "*.onnx_data"]  # of a whole one, which is refused
    folder = fetched(source, revision, ["*"], ignore=weights, fails_as=ArtifactError)
    if not (folder / CARD).is_file() and not (folder / MANIFEST).is_file():
        raise ArtifactError(f"{source} is no artifact: it has no {MANIFEST}")
    return folder
