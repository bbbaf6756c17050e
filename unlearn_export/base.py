"""The frozen base: one or several text encoders with their tokenizers, and the pipeline around them where one is asked for."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from .denoisers import Denoiser, denoiser_of
from .errors import BaseError, UsageError
from .families import family_of
from .families.contract import ReaderContract
from .families.contracts import contracts_of, nearest, readers_of
from .families.tokens import Tokens, tokenise
from .lazy import Lazy
from .licences import NO_TEXT, PATTERNS, Licence
from .loading import architecture_of, is_tokenizer, one_line, tokenizer_beside
from .plugins import found
from .profile import UNKNOWN, Profile
from .recipe import FileRecord
from .seat import Seat
from .single_file import CONFIGS, SingleFile, is_single_file
from .vocabulary import Vocabulary
from .weights import Weights

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_COPIES = ["*.fp16.*", "*.non_ema.*"]  # of the same weights
ABOUT = ["model_index.json", "config.json", "README.md", *PATTERNS]
DRAWS_AS = {"LatentConsistencyModelPipeline": "StableDiffusionPipeline"}  # the same parts, without its own sampler


@dataclass(frozen=True)
class Base:
    """source: "demo", a Hub id, or "./" and the name of a folder or a file: the way to it is nobody's business.

    revision: the commit of a Hub id. kind: the pipeline's class; "" for an encoder alone. Nothing here is ever altered.
    file: of a base that is a single file, what tells it and its configs again.
    license: the identifier that the base declares, "other" where it declares none; license_text: its full text.
    terms: further files that bind whoever uses it, such as a policy of use, by name.
    """

    source: str
    revision: str | None
    kind: str
    seats: Mapping[str, Seat]
    license: str
    license_text: str
    profile: Profile = UNKNOWN
    device: str = "cpu"
    open_pipeline: Callable[[Mapping[str, PreTrainedModel]], Any] | None = field(default=None, repr=False)
    file: FileRecord | None = None
    terms: Mapping[str, str] = field(default_factory=dict)

    @property
    def seat(self) -> Seat:
        """The first encoder, the only one of most bases."""
        return next(iter(self.seats.values()))

    @cached_property
    def encoders(self) -> Mapping[str, PreTrainedModel]:
        """Every encoder, whole, in float32, on the device; each loaded when first asked for."""
        return Lazy(self.seats, lambda name: _to(self.seats[name].load(), self.device))

    @property
    def encoder(self) -> PreTrainedModel:
        """The first encoder, whole."""
        return self.encoders[self.seat.name]

    @property
    def draws(self) -> bool:
        """Whether there is a pipeline around the encoders."""
        return self.open_pipeline is not None

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline with these encoders in it, in float32; loaded when first asked for.

        Raises UsageError for an encoder alone, BaseError for a pipeline that is incomplete.
        """
        if self.open_pipeline is None:
            raise UsageError(
                f"{self.source} is an encoder alone and draws nothing: give the pipeline's folder as --base"
            )
        pipeline = self.open_pipeline(self.encoders)
        pipeline.set_progress_bar_config(disable=True)
        _check_filled(self.source, pipeline)
        _to(pipeline, self.device)
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).eval()
        return pipeline

    @cached_property
    def denoiser(self) -> Denoiser:
        """The denoiser with its loss. Raises UsageError where there is none, or its loss is not known."""
        return denoiser_of(self.pipeline, guidance=self.guidance)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.profile.vocabulary

    @property
    def guidance(self) -> float | None:
        """The guidance scale that its pictures are drawn with; None is the pipeline's own."""
        return self.profile.guidance

    @property
    def scorer(self) -> str | None:
        """Who judges its pictures unless told otherwise, as ``load_scorer`` names it; None where nobody is known."""
        return self.profile.scorer if self.draws else None

    @property
    def fingerprint(self) -> str:
        """Of the first encoder's weights: two bases that share it share every edit."""
        return self.seat.weights.fingerprint

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids [n, length] of the first encoder, padded and cut as its own pipeline does."""
        return tokenise(self.seat.tokenizer, list(prompts), self.seat.contract).ids

    def tokenised(self, prompts: Sequence[str]) -> Tokens:
        """The same with the mask and what is read."""
        return tokenise(self.seat.tokenizer, list(prompts), self.seat.contract)


def load_base(
    source: str | Path,
    revision: str | None = None,
    device: str = "cpu",
    readers: Sequence[str] = (),
    config: str | Path | None = None,
) -> Base:
    """Open a base: one that is embedded (``demo``), a diffusers folder, an encoder's folder, a Hub id, or one
    .safetensors file: a checkpoint of Stable Diffusion 1 or 2 or SDXL, or an encoder alone.

    A pipeline may be a text-to-image or a text-to-video one; of a Hub repository only what is needed is fetched.
    revision: of the Hub id, for a file of its config's. config: where a file's configs and tokenizers are, a folder or
    a Hub id in the layout of a diffusers pipeline, by default what diffusers takes for such a file. A file's encoders
    are converted into a cache (see ``single_file.cache``), its other parts when ``Base.pipeline`` is asked for.
    device: where it computes. readers: pipelines beside the base's own whose way of reading the edit shall cover.
    Nothing large is read before it is asked for. Raises BaseError where it is not found, is incomplete, or is of no
    known family, and UsageError for an unknown reader or where torch has no such device.
    """
    source = str(source)
    name, _, rest = source.partition(":")
    _check_device(device)
    if name in found("bases") and not Path(source).is_dir() and config is None:
        return replace(found("bases")[name]()(rest), device=device)
    folder = Path(source)
    if is_single_file(source):
        return _of_file(SingleFile.open(folder), revision, device, readers, config)
    if config is not None:
        raise UsageError(f"--base-config belongs to one .safetensors file, and {source} is none: leave it out")
    if source and folder.is_dir():
        return _local(folder, f"./{folder.resolve().name}", None, device, readers)
    folder, commit = download(source, revision, ABOUT)
    wanted = []
    for part in _parts(folder, source):
        wanted += [f"{part}/*.json", f"{part}/*.safetensors", f"{part}/*.txt", f"{part}/*.model"]
    download(source, commit, wanted or ["*.json", "*.safetensors", "*.txt", "*.model"])
    return _local(folder, source, commit, device, readers)


def open_base(folder: Path, source: str, *, kind: str, **facts: Any) -> Base:
    """An embedded base: the encoders and tokenizers in ``folder``, the pipeline class that reads them, and the fields of
    ``Base`` that are given.
    """
    index = read_index(folder) if (folder / "model_index.json").is_file() else {}
    seats = {}
    for contract in _rows(kind, source):
        seat = _seat_of(folder, index, contract)
        seats[seat.name] = replace(seat, contracts=covered(seat, ()))
    return Base(source=source, revision=None, kind=kind, seats=seats, **facts)


def _local(folder: Path, source: str, revision: str | None, device: str, readers: Sequence[str]) -> Base:
    if (folder / "model_index.json").is_file():
        index = read_index(folder)
        kind = str(index.get("_class_name"))
        seats = {c.seat: _seat_of(folder, index, c) for c in _rows(kind, source)}
        licensed = folder

        def open_pipeline(encoders: Mapping[str, PreTrainedModel]) -> Any:
            where = (
                folder
                if revision is None
                else download(source, revision, ["*.json", "*.safetensors", "*.txt", "*.model"])[0]
            )
            return _pipeline(where, source, kind, index, encoders)

    elif (folder / "config.json").is_file():
        kind, open_pipeline = "", None  # type: ignore[assignment]
        licensed = folder if (folder / "README.md").is_file() else folder.parent
        seats = {"text_encoder": _seat_alone(folder)}
    else:
        raise BaseError(
            f"{source} is no diffusers pipeline and no encoder: it has neither model_index.json nor config.json"
        )
    seats = {name: replace(seat, contracts=covered(seat, readers)) for name, seat in seats.items()}
    for seat in seats.values():
        _check_complete(source, seat)
    about = Licence.of(licensed)
    return Base(
        source,
        revision,
        kind,
        seats,
        about.name,
        about.text,
        UNKNOWN,
        device,
        open_pipeline,
        terms=about.terms,
    )


def _of_file(
    file: SingleFile, revision: str | None, device: str, readers: Sequence[str], config: str | Path | None
) -> Base:
    given = file.published if config is None else str(config)
    folder, commit = _configs(given, revision, file)
    index = read_index(folder) if (folder / "model_index.json").is_file() else None
    unpacked = file.unpack(folder, index)
    base = _local(unpacked, f"./{file.path.name}", None, device, readers)
    about = FileRecord(file.sha256, given if commit else f"./{folder.resolve().name}", commit)
    declared = "no licence" if file.license == "other" else f"the licence {file.license!r}"
    text = f"The file {file.path.name} declares {declared} and {NO_TEXT}; its terms apply.\n"
    base = replace(base, license=file.license, license_text=text, file=about, terms={})
    if not file.whole:
        return base

    def open_pipeline(encoders: Mapping[str, PreTrainedModel]) -> Any:
        return _pipeline(unpacked, base.source, base.kind, read_index(unpacked), encoders, file.path)

    return replace(base, open_pipeline=open_pipeline)


def _configs(given: str, revision: str | None, file: SingleFile) -> tuple[Path, str | None]:
    """The folder that has a file's configs and tokenizers, and of a Hub id the commit."""
    if Path(given).is_dir():
        return Path(given), None
    if not HUB_ID.fullmatch(given):
        raise BaseError(
            f"no configs at {given!r}: --base-config takes a diffusers folder, or a Hub id such as owner/name"
        )
    try:
        return download(given, revision, [f"*{ending}" for ending in CONFIGS])
    except BaseError as error:
        told = BaseError(f"the configs for {file.path}: {error}; --base-config FOLDER gives them from here")
        told.exit_code = error.exit_code
        raise told from error


def covered(seat: Seat, readers: Sequence[str]) -> tuple[ReaderContract, ...]:
    """The seat's own reader, those asked for, and where padding may be masked or not, one that does it the other way.

    Raises UsageError for a reader that is unknown or reads another class.
    """
    rows = list(seat.contracts)
    for reader in readers:
        known = [c for c in contracts_of(reader) if seat.architecture in c.architectures]
        if not contracts_of(reader):
            raise UsageError(f"unknown reader {reader!r}: did you mean {nearest(reader)}? `families` lists all")
        rows += known
    if not seat.family.causal:
        same = [c for c in readers_of(seat.architecture) if set(c.weights) & set(rows[0].weights) and c.video]
        if all(c.mask == rows[0].mask for c in rows):
            rows += [c for c in same if c.mask != rows[0].mask][:1]
    return tuple(dict.fromkeys(rows))


def read_index(folder: Path) -> dict[str, Any]:
    """A pipeline folder's model_index.json. Raises BaseError where it is not JSON."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseError(f"{folder / 'model_index.json'} is not JSON: {error}") from error
    if not isinstance(index, dict):
        raise BaseError(f"{folder / 'model_index.json'} holds no JSON object")
    return index


def _rows(kind: str, source: str) -> tuple[ReaderContract, ...]:
    rows = contracts_of(kind)
    if not rows:
        raise BaseError(
            f"{source} is a {kind}, and how that reads its text encoder is not known: the nearest that is known is "
            f"{nearest(kind)}; `unlearn-export families` lists all"
        )
    return rows


def _parts(folder: Path, source: str) -> list[str]:
    """The sub-folders of a pipeline's repository that hold encoders and tokenizers; none of an encoder's own."""
    if not (folder / "model_index.json").is_file():
        return []
    rows = _rows(str(read_index(folder).get("_class_name")), source)
    return list(dict.fromkeys(name for c in rows for name in (c.seat, c.tokenizer)))


def _seat_of(folder: Path, index: Mapping[str, Any], contract: ReaderContract) -> Seat:
    listed = index.get(contract.seat) or [None, contract.architectures[0]]
    words = index.get(contract.tokenizer) or [None, "AutoTokenizer"]
    return Seat(
        contract.seat,
        folder / contract.seat,
        contract.tokenizer,
        folder / contract.tokenizer,
        str(listed[1]),
        (contract,),
        Weights.open(folder / contract.seat),
        str(words[1]),
    )


def _seat_alone(folder: Path) -> Seat:
    kind = architecture_of(folder)
    family_of(kind)
    rows = readers_of(kind)
    first = [c for c in rows if c.video and c.layers] or list(rows)
    if not first:
        raise BaseError(f"{folder} holds a {kind}, which no known pipeline reads")
    tokenizer = tokenizer_beside(folder)
    return Seat("text_encoder", folder, "tokenizer", tokenizer, kind, (first[0],), Weights.open(folder))


def _check_complete(source: str, seat: Seat) -> None:
    """Raise BaseError where an encoder lacks a tensor or its tokenizer: transformers would make it up."""
    try:
        stored = seat.stored
    except UsageError as error:
        raise BaseError(f"{source}: {error}") from error
    for name, _ in seat.family.skeleton(seat.config).named_parameters():
        if name not in stored:
            raise BaseError(f"{source} is incomplete: its files have no tensor for the {seat.name}'s {name}")
    if not is_tokenizer(seat.tokenizer_folder):
        raise BaseError(
            f"{source} is incomplete: {seat.tokenizer_folder} has neither vocab.json and merges.txt nor tokenizer.json"
        )
    largest = max(len(seat.tokenizer), 1)
    rows = seat.weights.shape(stored[seat.family.embedding])[0]
    if largest > rows:
        raise BaseError(
            f"the tokenizer in {seat.tokenizer_folder} does not belong: it has {largest} tokens, the encoder knows {rows}"
        )


def _pipeline(
    folder: Path,
    source: str,
    kind: str,
    index: Mapping[str, Any],
    encoders: Mapping[str, PreTrainedModel],
    file: Path | None = None,
) -> Any:
    """file: what holds the weights, where the folder has only the configs."""
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    extra: dict[str, Any] = dict(encoders)
    if "safety_checker" in index:
        extra |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = getattr(diffusers, DRAWS_AS.get(kind, kind))
    try:
        if file is not None:
            return pipeline.from_single_file(
                str(file), config=str(folder), torch_dtype=torch.float32, local_files_only=True, **extra
            )
        return pipeline.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True, **extra)
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        AttributeError,
        SafetensorError,
        SingleFileComponentError,
    ) as error:
        raise BaseError(f"cannot load {source}: {one_line(error)}") from error


def _check_filled(source: str, pipeline: Any) -> None:
    """Raise BaseError where a part lacks weights: diffusers leaves those empty."""
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            for key, weight in part.named_parameters():
                if weight.is_meta:
                    raise BaseError(f"{source} is incomplete: its files have no tensor for the {name}'s {key}")


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"cannot use the device {device!r}: {one_line(error)}; --device cpu works everywhere"
        ) from error


def _to(part: Any, device: str) -> Any:
    return part if device == "cpu" else part.to(device)


def download(source: str, revision: str | None, patterns: Sequence[str]) -> tuple[Path, str]:
    """Fetch the files of a Hub repository that match. → the snapshot's folder and its commit

    Raises BaseError for what is no Hub id, or where the Hub has it not or is out of reach.
    """
    if not HUB_ID.fullmatch(source):
        names = ", ".join(f'"{name}"' for name in found("bases"))
        raise BaseError(f"no base {source!r}: give {names}, a diffusers folder, or a Hub id such as owner/name")
    from .net.download import fetched

    folder = fetched(source, revision, patterns, ignore=HUB_COPIES, fails_as=BaseError)
    return folder, folder.name  # a snapshot's folder is named after its commit
