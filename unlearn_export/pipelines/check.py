"""Before anything is loaded: may this encoder go into that pipeline, and which of its text paths stay unedited?"""

import contextlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from diffusers import DiffusionPipeline
from diffusers.utils import logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from transformers import PreTrainedModel

from ..artifact import read_json
from ..base import read_index
from ..errors import EncoderError, HubError, UsageError
from ..families import architectures, family_of
from ..families.contract import ReaderContract, differences
from ..families.contracts import contracts_of, nearest
from ..loading import one_line, quiet
from ..net.endpoint import check_endpoint
from ..net.requests import code_of
from ..plugins import found
from ..weights import INDEX, SINGLE, Weights
from .dropin import TABLES, Facts, Readers, check_drop_in, in_files, named, stored
from .encoders import HUB_ID, Backend, Found, architecture_in, check_backend, load_folder, locate

Source: TypeAlias = str | Path | PreTrainedModel


@dataclass(frozen=True)
class Coverage:
    """pipeline: its class. seats: its encoders that are edited. uncovered: its text paths that are not, in words."""

    pipeline: str
    seats: tuple[str, ...]
    uncovered: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the edit reaches every text path of the pipeline."""
        return not self.uncovered

    def to_json(self) -> dict[str, Any]:
        """A plain object, with ``complete``."""
        return {**asdict(self), "complete": self.complete}


@dataclass(frozen=True)
class Edited:
    """An edited encoder that has not been loaded yet, or was.

    load: gives it, on an execution provider. about: what the recipe tells of its edit; {} is not known. named: the seat
    that it is meant for. folder: where it lies, if it is not loaded. anywhere: it may also go into another seat.
    """

    facts: Facts
    load: Callable[[str | None], PreTrainedModel]
    about: Mapping[str, Any]
    named: str
    folder: Path | None = None
    anywhere: bool = False


@dataclass(frozen=True)
class Held:
    """The text side of a pipeline, loaded or not: its class, its text encoders, the names of its components.

    pipeline: it, where it had to be loaded.
    """

    kind: str
    seats: Mapping[str, Facts]
    parts: frozenset[str]
    pipeline: Any = None

    @classmethod
    def of(cls, t2v: str | Path | DiffusionPipeline, revision: str | None = None) -> "Held":
        """t2v: as ``load_pipeline`` takes it. Of a folder or a Hub id only the configs and tables are read.

        Raises UsageError for what is no pipeline, UnlearnExportError where it cannot be read.
        """
        if isinstance(t2v, DiffusionPipeline):
            parts = {name: part for name, part in t2v.components.items() if part is not None}
            seats = {n: Facts.of(p) for n, p in parts.items() if n.startswith("text_encoder")}
            return cls(type(t2v).__name__, seats, frozenset(parts), t2v)
        source = str(t2v)
        if registered(source):
            return cls.of(load_registered(source))
        check_source(source)
        if Path(source).is_dir():
            return cls._within(Path(source), None)
        fetch = partial(_fetch, source, revision)
        folder = fetch(["model_index.json", "*/config.json", f"*/{INDEX}"])
        if not (folder / "model_index.json").is_file():
            raise UsageError(f"{source} is no pipeline: model_index.json is missing")
        return cls._within(folder, fetch)

    @classmethod
    def _within(cls, folder: Path, fetch: Callable[[list[str]], Path] | None) -> "Held":
        index = read_index(folder)
        parts = {n: p[1] for n, p in index.items() if isinstance(p, list) and len(p) == 2 and p[1]}
        tensors = partial(_fetched, fetch) if fetch else None
        seats = {
            name: Facts.within(folder / name, kind, tensors)
            for name, kind in parts.items()
            if name.startswith("text_encoder") and (folder / name / "config.json").is_file()
        }
        return cls(str(index.get("_class_name")), seats, frozenset(parts))


def check(
    source: Source | Mapping[str, Source],
    pipeline: str | Path | DiffusionPipeline,
    *,
    backend: Backend = "torch",
    revision: str | None = None,
    encoder_revision: str | None = None,
) -> Coverage:
    """May this encoder go into that pipeline, and which of its text paths stay unedited? No weights are loaded.

    source, pipeline, backend and revisions: as ``load_pipeline`` takes them. Raises EncoderError where an encoder does
    not belong there: a seat that the pipeline lacks, another class, other sizes, other weights where the edit left them
    alone (see ``check_drop_in``). Of a pipeline on the Hub those are compared that lie in one file with its tables, or in one more file.
    """
    held = Held.of(pipeline, revision)
    return coverage(place(edits(source, backend, encoder_revision), held), held)


def edits(
    source: Source | Mapping[str, Source], backend: Backend = "torch", revision: str | None = None
) -> list[Edited]:
    """The encoders of a source: an artifact's, one folder's, a loaded one, or of a mapping from seats to such."""
    check_backend(backend)
    if isinstance(source, Mapping):
        chosen = {seat: edits(part, backend, revision) for seat, part in source.items()}
        for seat, parts in chosen.items():
            if len(parts) > 1:
                raise UsageError(
                    f"{source[seat]} holds {', '.join(p.named for p in parts)}: name the one folder for the {seat}"
                )
        return [replace(p, named=seat, anywhere=False) for seat, parts in chosen.items() for p in parts]
    if isinstance(source, PreTrainedModel):
        return [Edited(Facts.of(source), lambda _provider: source, {}, "text_encoder", anywhere=True)]
    return edits_in(locate(source, backend, revision), backend)


def edits_in(where: Found, backend: Backend = "torch") -> list[Edited]:
    """The encoders of a source that has been located."""
    found = []
    for seat, folder in where.folders.items():
        about = where.about.get(seat, {})
        kind = about.get("architecture", "")  # a base's model_index.json may say other than its config
        kind = kind if kind in architectures() else architecture_in(folder)
        load = partial(load_folder, folder, backend, architecture=kind)
        found.append(Edited(Facts.within(folder, kind), load, about, seat, folder, where.alone))
    return found


def place(encoders: Sequence[Edited], held: Held) -> dict[str, Edited]:
    """Each encoder's seat in the pipeline. Raises EncoderError for one that has none there or does not belong."""
    if not held.seats:
        raise EncoderError(f"this {held.kind} has no text encoder to replace or to compare with")
    placed = {}
    alone = "; give the folder of the one encoder that belongs there" if len(encoders) > 1 else ""
    for encoder in encoders:
        seat = encoder.named
        own = held.seats.get(seat)
        if encoder.anywhere and (own is None or own.kind != encoder.facts.kind):
            seat = _likely(encoder.facts, held)  # the T5 that FLUX has as its second encoder is CogVideoX's first
        if seat not in held.seats:
            raise EncoderError(
                f"no seat for the {seat} ({encoder.facts.kind}): this {held.kind} has {', '.join(held.seats)}{alone}"
            )
        try:
            check_drop_in(encoder.facts, held.seats[seat], encoder.about.get("changed"))
        except EncoderError as error:
            where = f"{seat}: " if len(held.seats) > 1 or len(encoders) > 1 else ""
            raise EncoderError(f"{where}{error}{alone}") from error
        placed[seat] = encoder
    return placed


def coverage(placed: Mapping[str, Edited], held: Held) -> Coverage:
    """Which text paths of the pipeline these edits leave as they were."""
    rows = {row.seat: row for row in contracts_of(held.kind)}
    if not rows:
        unknown = f"how a {held.kind} reads its text encoder is not known: the nearest that is known is "
        return Coverage(held.kind, tuple(placed), (unknown + nearest(held.kind),))
    paths: list[str] = []
    for seat, encoder in placed.items():
        row = rows.get(seat)
        if row is None:
            paths.append(f"{seat}: how a {held.kind} reads it is not known")
            continue
        paths += _reading(encoder, row, held.kind)
        paths += [words for words in row.unedited if _stays(words, placed, held)]
    told = {name for words in paths for name in _names(words)}
    paths += [
        f"{seat} ({row.weights[0]}): it is not edited"
        for seat, row in rows.items()
        if seat in held.seats and seat not in placed and seat not in told
    ]
    rewriters = sorted(part for part in held.parts if "enhance" in part and not any(part in p for p in paths))
    paths += [f"{part} rewrites the prompt where it is switched on" for part in rewriters]
    return Coverage(held.kind, tuple(placed), tuple(dict.fromkeys(paths)))


def check_source(source: str) -> None:
    """Raise UsageError for what names no pipeline: no folder with a model_index.json, and no Hub id."""
    if Path(source).is_dir():
        if not (Path(source) / "model_index.json").is_file():
            raise UsageError(f"{source} is no pipeline: model_index.json is missing")
    elif not HUB_ID.fullmatch(source):
        names = ", ".join(f"{name}:NAME" for name in found("pipelines"))
        raise UsageError(f"no pipeline at {source}: give a diffusers folder, a Hub id owner/name or {names}")


def registered(source: str) -> bool:
    """Whether a plug-in makes this pipeline, as the demo makes "demo:t2v-motion"."""
    name, colon, _ = source.partition(":")
    return bool(colon) and name in found("pipelines") and not Path(source).is_dir()


def load_registered(source: str) -> Any:
    """The pipeline that a plug-in makes of what follows the colon."""
    name, _, rest = source.partition(":")
    with quiet(), calm():
        return found("pipelines")[name]()(rest)


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Silence diffusers: its bars, its notes on its own plans, and a warning about the name ``torch_dtype``."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _likely(facts: Facts, held: Held) -> str:
    """The seat of an encoder whose name is no seat for it: the first of its class, else the first of all."""
    alike = [seat for seat, own in held.seats.items() if own.kind == facts.kind]
    return (alike or list(held.seats))[0]


def _reading(encoder: Edited, row: ReaderContract, kind: str) -> list[str]:
    """What of this row's own reading the edit was not fitted to."""
    paths = []
    fitted = [
        known
        for name in encoder.about.get("readers", ())
        for known in contracts_of(name)
        if encoder.facts.kind in known.architectures
    ]
    if fitted and not any(not differences(known, row) for known in fitted):
        names = ", ".join(dict.fromkeys(known.pipelines[0] for known in fitted))
        what = " and ".join(min((differences(known, row) for known in fitted), key=lambda d: len(list(d))))
        paths.append(f"{row.seat}: the edit was fitted as {names} reads, and a {kind} reads with another {what}")
    table = family_of(encoder.facts.kind).embedding
    if row.embedding and not any(key.endswith(table) for key in encoder.about.get("changed", ())):
        paths.append(f"{row.seat}: the raw word embeddings (hidden_states[0]), which an edit of layers does not reach")
    return paths


def _names(words: str) -> list[str]:
    """The seats that a description of a text path begins with."""
    return re.findall(r"text_encoder(?:_\d)?", words.partition("(")[0].partition(":")[0])


def _stays(words: str, placed: Mapping[str, Edited], held: Held) -> bool:
    """Whether a path of a contract is there in this pipeline, and still unedited."""
    seats = _names(words)
    return not seats or any(seat in held.parts and seat not in placed for seat in seats)


def _fetch(source: str, revision: str | None, patterns: list[str]) -> Path:
    check_endpoint()
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except (HTTPError, OSError, ValueError) as error:
        told = HubError(f"cannot fetch {source}@{revision or 'main'}: {one_line(error)}")
        told.exit_code = code_of(error)
        raise told from error


def _fetched(fetch: Callable[[list[str]], Path], folder: Path, kind: str) -> Readers:
    """The tensors of an encoder on the Hub; of its shards only those that hold an embedding table are fetched, and where
    they hold nothing else the one that most others are in: a fine-tuned encoder may share its tables with its base.
    """
    listed: dict[str, str] = {}
    if (folder / INDEX).is_file():
        listed = read_json(folder / INDEX).get("weight_map") or {}
        names = named(kind, listed)
        wanted = {listed[key] for name, key in names.items() if name in TABLES.values()}
        others = [listed[key] for name, key in names.items() if name not in TABLES.values()]
        if others and not wanted.intersection(others):
            wanted.add(Counter(others).most_common(1)[0][0])
        listed = {key: file for key, file in listed.items() if file in wanted}
    files = set(listed.values()) or {SINGLE}
    fetch([f"{folder.name}/{file}" for file in sorted(files)])
    for file in files:
        if not (folder / file).is_file():
            raise EncoderError(f"no {file} in {folder.name}/ of the pipeline: its own encoder cannot be told")
    return in_files(Weights(folder, listed), kind) if listed else stored(folder, kind)
