"""Artifacts of small pipelines: their own encoders with one weight edited, sealed as ``erase`` would, with graphs."""

import copy
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from unlearn_export.artifact import Artifact, write_json
from unlearn_export.families.contracts import contracts_of
from unlearn_export.onnx.export import export_onnx
from unlearn_export.recipe import SeatRecord
from unlearn_export.weights import Weights

EDITED = ("wo.weight", "fc2.weight", "down_proj.weight")  # what ends a layer's perceptron, by family


def edited(encoder: PreTrainedModel) -> PreTrainedModel:
    """A copy with one weight of its second layer turned round."""
    twin = copy.deepcopy(encoder)
    named = dict(twin.named_parameters())
    with torch.no_grad():
        named[next(filter(turned, named))].mul_(-2)
    return twin


def turned(key: str) -> bool:
    """Whether a tensor's name is of the kind that is edited: the first such one is."""
    return ".1." in key and key.endswith(EDITED) and "vision" not in key and "visual" not in key


def artifact(
    folder: Path,
    pipe: Any,
    seats: Sequence[str] = ("text_encoder",),
    *,
    onnx: bool = False,
    readers: Sequence[str] = (),
    changed: Sequence[str] = (),
) -> Artifact:
    """A sealed artifact that has erased pizza from these seats of a pipeline, fitted under its own way of reading.

    changed: parameters of the first seat whose leading rows are edited as well.
    """
    about = {}
    for seat in seats:
        own = getattr(pipe, seat)
        row = next(c for c in contracts_of(type(pipe).__name__) if c.seat == seat)
        twin = edited(own)
        for name in changed if seat == seats[0] else ():
            twin.get_parameter(name).data[:200] += 1
        twin.save_pretrained(folder / seat)
        if onnx:
            shutil.copy(_graph(_digest(twin), twin), folder / seat / "model.onnx")
        read = tuple(readers) or (row.pipelines[0],)
        keys = tuple(Weights.open(folder / seat).files)
        told = (next(filter(turned, keys)), *changed)
        record = SeatRecord(type(own).__name__, "", "", row.tokenizer, "", read, told, keys, 0)
        about[seat] = asdict(record)
    (folder / "unlearning").mkdir()
    write_json(folder / "unlearning/recipe.json", {"format": 2, "seats": about, "concepts": [{"name": "pizza"}]})
    for name in ("LICENSE", "NOTICE"):
        (folder / name).write_text("text\n")
    made = Artifact.open(folder)
    made.seal()
    return made


class Shared:
    """Hashes alike with every encoder of the same weights."""

    def __init__(self, digest: str, encoder: PreTrainedModel) -> None:
        self.digest, self.encoder = digest, encoder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shared) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def _graph(digest: str, encoder: PreTrainedModel) -> Path:
    return _exported(Shared(digest, encoder))[0]


@functools.cache
def _exported(shared: Shared) -> tuple[Path, Any]:
    """Made once for all pipelines that share the weights: tracing takes seconds."""
    folder = tempfile.TemporaryDirectory()
    return export_onnx(shared.encoder, Path(folder.name)).path, folder


def _digest(encoder: PreTrainedModel) -> str:
    digest = hashlib.sha256(type(encoder).__name__.encode())
    for _, tensor in sorted(encoder.state_dict().items()):
        digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
