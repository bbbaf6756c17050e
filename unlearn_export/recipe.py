"""unlearning/recipe.json: what was asked and done, so that it can be told, checked, and done again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .concept import Concept
from .errors import ArtifactError, UsageError
from .records import fields_as_json, frozen, values_of

FORMAT = 3
READABLE = (1, 2, 3)  # 1: one encoder, without "seats" and the base's "kind". 2: without the base's tensors' hashes
FIRST: Mapping[str, Mapping[str, Any]] = {  # what "seats" would say in format 1; the class is in the encoder's config
    "text_encoder": {"tokenizer": "tokenizer", "readers": ("StableDiffusionPipeline",)}
}
FIRST_CLASS = "CLIPTextModel"  # that it had, as far as this tool made it
WHERE = "unlearning/recipe.json"


@dataclass(frozen=True)
class FileRecord:
    """What a base that was one .safetensors file is told by. sha256: of all of it. config: where its configs and
    tokenizers came from, a Hub id with its commit, or "./" and the name of a folder.
    """

    sha256: str
    config: str
    config_revision: str | None


@dataclass(frozen=True)
class BaseRecord:
    """The base as it was found. revision: the commit of a Hub id, else None. kind: its pipeline's class, "" for an
    encoder alone, None where the recipe is of format 1. The hashes are of its first encoder and that one's tokenizer.
    file: only of a base that was a single file, whose name ``source`` has then.
    """

    source: str
    revision: str | None
    license: str
    text_encoder_sha256: str
    tokenizer_sha256: str
    kind: str | None = None
    file: FileRecord | None = None

    def to_json(self) -> dict[str, Any]:
        absent = [name for name in ("kind", "file") if getattr(self, name) is None]
        return {key: value for key, value in fields_as_json(self).items() if key not in absent}

    @classmethod
    def from_json(cls, data: Any) -> "BaseRecord":
        values = values_of(cls, data, f"base in {WHERE}")
        if "file" in values:
            values["file"] = FileRecord(**values_of(FileRecord, data["file"], f"the base's file in {WHERE}"))
        return cls(**values)


@dataclass(frozen=True)
class SeatRecord:
    """One edited encoder. sha256: of the weights that the edit applies to. readers: the pipelines it was fitted to.

    changed: the tensors that differ; tensors: all there are. loss: of the fit, first and best, if there was one.
    tensor_sha256: of each of the base's tensors, as ``weights.hashes`` gives it; empty before format 3.
    """

    architecture: str
    family: str
    sha256: str
    tokenizer: str
    tokenizer_sha256: str
    readers: tuple[str, ...]
    changed: tuple[str, ...]
    tensors: tuple[str, ...]
    parameters: int
    loss: tuple[float, float] | None = None
    tensor_sha256: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in fields_as_json(self).items() if key != "tensor_sha256" or value}


@dataclass(frozen=True)
class MethodRecord:
    """The eraser by name, and its hyper-parameters: numbers, strings, and tuples of strings."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Changed:
    """The tensors of all encoders that differ from the base's, and how many numbers they hold."""

    tensors: tuple[str, ...]
    parameters: int


@dataclass(frozen=True)
class Recipe:
    """Everything needed to make an edit again, and to know what it belongs to.

    images: for each concept where its pictures came from, {"file", "sha256"} or what the base was asked.
    parameters: of the edited encoders in all. versions: of the packages and of Python. seats: by name, empty in format 1.
    """

    base: BaseRecord
    concepts: tuple[Concept, ...]
    method: MethodRecord
    seed: int
    images: tuple[tuple[Mapping[str, Any], ...], ...]
    changed: Changed
    parameters: int
    versions: Mapping[str, str]
    seats: Mapping[str, SeatRecord] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """As it is written; of format 1 what that format has."""
        data = fields_as_json(self)
        return data if self.format > 1 else {k: v for k, v in data.items() if k != "seats"}

    @classmethod
    def from_json(cls, data: Any) -> "Recipe":
        """Read every format so far. Raises ArtifactError for another one, a key that is missing, or one that is unknown:
        a later version that adds a key takes another format.
        """
        check_format(data, WHERE)
        values = values_of(cls, data, WHERE)
        try:
            return cls(
                **values
                | {
                    "base": BaseRecord.from_json(data["base"]),
                    "concepts": tuple(
                        Concept(**values_of(Concept, c, f"a concept in {WHERE}")) for c in data["concepts"]
                    ),
                    "method": MethodRecord(**values_of(MethodRecord, data["method"], f"method in {WHERE}")),
                    "changed": Changed(**values_of(Changed, data["changed"], f"changed in {WHERE}")),
                    "images": frozen(data["images"]),
                    "seats": seat_records(data),
                }
            )
        except (TypeError, UsageError) as error:
            raise ArtifactError(f"{WHERE} is no recipe: {error}") from error


def check_format(data: Any, where: str) -> None:
    """Raise ArtifactError unless a recipe's JSON says that it is of a format that is read here."""
    found = data.get("format") if isinstance(data, Mapping) else None
    if found not in READABLE:
        raise ArtifactError(f"{where} has format {found!r}, this version reads up to {FORMAT}: update unlearn-export")


def told(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a recipe's JSON tells of each edited encoder, by the names of ``SeatRecord``'s fields. Of format 1 that is
    the tokenizer, the readers and, where the recipe has them, the changed tensors.
    """
    if seats := data.get("seats"):
        return dict(seats)
    changed = {"changed": data["changed"]["tensors"]} if data.get("changed") else {}
    return {name: {**about, **changed} for name, about in FIRST.items()}


def seat_records(data: Mapping[str, Any]) -> dict[str, SeatRecord]:
    """The edited encoders of a recipe's JSON alone, whatever else it holds: a damaged artifact is named by its files
    first. Raises ArtifactError where they cannot be read.
    """
    seats = data.get("seats") or {}
    if not isinstance(seats, Mapping):
        raise ArtifactError(f"seats in {WHERE} is no JSON object")
    return {name: SeatRecord(**values_of(SeatRecord, about, f"{name} in {WHERE}")) for name, about in seats.items()}
