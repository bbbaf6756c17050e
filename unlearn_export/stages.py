"""The stages of making an artifact, together or one at a time: edit, ONNX, evaluation, card."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from transformers import PreTrainedModel

from . import golden
from .artifact import CARD, CARD_SIGNATURE, GOLDEN, ONNX, Artifact, renewed, staged, write_json, write_text
from .base import Base, load_base
from .card import renewed_card
from .card_text import generated as generated_part
from .certificate import certify
from .concept import Concept
from .erase import erase, write_encoder
from .erasers import Eraser, OnStep
from .errors import ArtifactError, BaseError, EncoderError, UsageError
from .evaluation import Evaluation, Features, OnProgress, Scorer, Size, evaluate, known_as, picture_files
from .images import read_references
from .loading import load_torch
from .measured import Cost
from .onnx.export import LIMIT, OnnxExport, export_onnx
from .plugins import found
from .recipe import Recipe
from .report import write_report
from .scorers import load_features, load_scorer
from .seat import Seat
from .single_file import is_single_file
from .streaming import streamed
from .weights import Weights

SMALL_GRAPH = 2_000_000_000  # bytes of weights below which a graph gives every hidden state


@dataclass(frozen=True)
class Assessment:
    """How an edit is judged.

    t2v: pipelines beside the base, as ``load_t2v`` names them. scorer: as ``load_scorer`` names it. None: the
    one that the base's profile names, else none, and without a scorer nothing is drawn. references: a folder of protected
    pictures, for the copyright metric. features: as ``load_features`` names it, for the distribution distance; None
    is the scorer itself. seed: of the noise, before and after alike.
    """

    size: Size = field(default_factory=Size)
    t2v: Sequence[str] | None = None
    scorer: str | None = None
    references: Path | None = None
    features: str | None = None
    seed: int = 1000


@dataclass
class Hooks:
    """Where progress goes: steps of the edit, samples of the evaluation, names of stages."""

    on_step: OnStep | None = None
    on_progress: OnProgress | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


def build(
    base: Base,
    concepts: Sequence[Concept],
    method: Eraser,
    out: Path,
    *,
    images: Path | None = None,
    seed: int = 0,
    onnx: bool = True,
    evaluation: Assessment | None = None,
    seats: Sequence[str] = (),
    overwrite: bool = False,
    hooks: Hooks | None = None,
) -> Artifact:
    """Erase and write the whole artifact folder at ``out``; it appears complete or not at all.

    onnx: export the graphs too, unless an encoder's would be larger than ``export_onnx`` makes without being asked. seats: the encoders to edit, all by default. evaluation: how to judge it; None skips that.
    """
    hooks = hooks or Hooks()
    with staged(out, overwrite=overwrite) as folder:
        jury = None if evaluation is None else _Jury.gather(base, concepts, evaluation)
        with hooks.stage("erase"):
            erased = erase(base, concepts, method, images=images, seed=seed, seats=seats, on_step=hooks.on_step)
        write_encoder(base, erased, folder)
        states = golden.record(base.seats, erased.measurable, erased.recipe.concepts, base.device)
        write_json(folder / GOLDEN, states)
        if onnx and not too_large(base, erased.edit.tensors):
            with hooks.stage("onnx"):
                for name, encoder in erased.encoders.items():
                    export_onnx(encoder, folder / name, layers=read_layers(base.seats[name]))
        if jury is not None:
            with hooks.stage("evaluate"):
                result = jury.judge(base, erased.encoders if jury.scorer else erased.measurable, erased.recipe, hooks)
            result = result.with_cost(_cost(erased.recipe, hooks.seconds))
            result.write(folder / "unlearning")
        finish(Artifact(folder))
    return Artifact.open(out)


def too_large(base: Base, seats: Iterable[str]) -> list[str]:
    """Those of the encoders whose float32 graph would pass the export's limit."""
    return [name for name in seats if 4 * base.seats[name].weights.parameters > LIMIT]


def read_layers(seat: Seat) -> list[int] | None:
    """The hidden states that a graph must give to the covered readers; None for all: of a small encoder, or by need."""
    layers: set[int] = set()
    for contract in seat.contracts:
        if contract.layers == "all" or seat.weights.size < SMALL_GRAPH:
            return None
        layers |= set(contract.layers)
    return sorted(layers)


def export(
    artifact: Artifact, source: str | None = None, limit: int = LIMIT, *, config: str | None = None
) -> OnnxExport:
    """Write the ONNX graphs of an existing artifact anew. source, config: as ``base_of`` takes them.

    limit: bytes of float32 weights above which none is written; see ``export_onnx``.
    """
    with renewed(artifact) as twin:
        base = base_of(artifact, source, config)
        done = [
            export_onnx(e, twin.path / name, layers=read_layers(base.seats[name]), limit=limit)
            for name, e in read_encoders(base, artifact).items()
        ]
        finish(twin)
        result = done[0]
    return replace(result, path=artifact.path / ONNX)


def measure(
    artifact: Artifact,
    how: Assessment,
    hooks: Hooks | None = None,
    *,
    source: str | None = None,
    config: str | None = None,
) -> Evaluation:
    """Evaluate an existing artifact anew. source, config: as ``base_of`` takes them."""
    hooks = hooks or Hooks()
    with renewed(artifact) as twin:
        base = base_of(artifact, source, config)
        jury = _Jury.gather(base, artifact.recipe.concepts, how)
        with hooks.stage("evaluate"):
            result = jury.judge(base, read_encoders(base, artifact, whole=bool(jury.scorer)), artifact.recipe, hooks)
        earlier = artifact.evaluation
        spent = earlier.cost.seconds if earlier and earlier.cost else {}
        result = result.with_cost(_cost(artifact.recipe, {**spent, **hooks.seconds}))
        for name in earlier.pipelines if earlier else ():
            for file in picture_files(name).values():
                (twin.path / "unlearning" / file).unlink(missing_ok=True)
        result.write(twin.path / "unlearning")
        finish(twin)
    return result


def card(artifact: Artifact, repo_id: str = "", *, replace: bool = False) -> str:
    """Render the model card of an existing artifact anew, for ``repo_id`` where it is known. → its text

    What somebody wrote around its generated part stays, unless ``replace``. A signature of another generated part goes.
    """
    text = renewed_card(artifact, repo_id, replace=replace)
    signature, there = artifact.path / CARD_SIGNATURE, artifact.path / CARD
    if signature.exists() and (
        not there.is_file() or generated_part(there.read_text(encoding="utf-8")) != generated_part(text)
    ):
        signature.unlink()
    write_text(artifact.path / CARD, text)
    return text


def base_of(
    artifact: Artifact,
    source: str | None = None,
    config: str | None = None,
    device: str = "cpu",
    *,
    same_files: bool = True,
) -> Base:
    """The base that an artifact was made from, with the readers that the edit was fitted to. source: where it is now,
    for one that was a local folder or file. config: where a file's configs are now, for such as were in a local folder.

    Raises ArtifactError where it is not found or has another text encoder. same_files: without it, the caller compares.
    """
    recipe = artifact.recipe
    made_from = recipe.base
    where = source or made_from.source
    if where.startswith("./") and not Path(where).exists():
        what = "file" if made_from.file else "folder"
        raise ArtifactError(f"{artifact.path} was made from a local {what} {where[2:]!r}: say where it is with --base")
    revision = None if source else made_from.revision
    if made_from.file and config is None and is_single_file(where):
        config, revision = made_from.file.config, made_from.file.config_revision
        if config.startswith("./") and not Path(config).is_dir():
            raise ArtifactError(
                f"{artifact.path} was made with the configs in a local folder {config[2:]!r}: say where it is with "
                "--base-config"
            )
    base = load_base(where, revision, device, config=config)
    own = {c.pipelines[0] for seat in base.seats.values() for c in seat.contracts}
    if asked := [name for seat in recipe.seats.values() for name in seat.readers if name not in own]:
        base = load_base(where, revision, device, asked, config)
    made = {name: seat.sha256 for name, seat in recipe.seats.items()}
    for name, digest in (made or {base.seat.name: made_from.text_encoder_sha256}).items() if same_files else ():
        if name not in base.seats or base.seats[name].weights.fingerprint != digest:
            raise ArtifactError(f"{artifact.path} was made from another text encoder than {where} has")
    return base


def read_encoders(base: Base, artifact: Artifact, *, whole: bool = True) -> dict[str, PreTrainedModel]:
    """The artifact's encoders in float32, by seat. Raises ArtifactError for other tensors than the base's.

    whole: without it large ones are streamed, for whoever looks at states alone.
    """
    artifact.need_weights()
    encoders = {}
    for name in artifact.seats:
        seat = base.seats.get(name)
        if seat is None:
            raise ArtifactError(f"{artifact.path} has a {name}, its base has {', '.join(base.seats)}")
        weights = Weights.open(artifact.path / name)
        odd = sorted(weights.files.keys() ^ seat.weights.files.keys())
        if odd:
            raise ArtifactError(f"{name} in {artifact.path} does not fit its base: {odd[0]} is in one of them only")
        if seat.large and not whole:
            encoders[name] = streamed(replace(seat, folder=artifact.path / name, weights=weights), device=base.device)
            continue
        encoders[name] = load_torch(artifact.path / name, seat.architecture, torch.float32).requires_grad_(False)
    return encoders


def load_t2v(source: str, base: Base) -> DiffusionPipeline:
    """``demo:NAME``, or whatever diffusers loads from a folder or Hub id, where the base is.

    Raises what ``serving.load_pipeline`` raises, and BaseError where the pipeline's text encoder is not the base's: no
    edit of this base has any part in what it draws.
    """
    from .pipelines.encoders import check_drop_in
    from .pipelines.load import load_pipeline

    pipeline = load_pipeline(source, device=base.device)
    own = getattr(pipeline, "text_encoder", None)
    try:
        if own is None:
            raise EncoderError("it has none")
        check_drop_in(base.encoder, own, changed=())
    except EncoderError as error:
        raise BaseError(f"{source} does not share its text encoder with {base.source}: {error}") from error
    return pipeline


def _cost(recipe: Recipe, seconds: Mapping[str, float]) -> Cost:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Cost(dict(seconds), peak, recipe.changed.parameters, recipe.parameters)


@dataclass(frozen=True)
class _Jury:
    """Everything that an assessment needs, loaded: what is missing or wrong is known before any work is done."""

    how: Assessment
    size: Size
    scorer: Scorer | None
    sources: dict[str, str]
    t2v: dict[str, DiffusionPipeline]
    references: Tensor | None
    features: Features | None
    judges: dict[str, str | None]  # how scorer and features were named, the way to a folder left out

    @classmethod
    def gather(cls, base: Base, concepts: Sequence[Concept], how: Assessment) -> "_Jury":
        size, t2v, name = how.size, how.t2v, how.scorer or base.scorer
        if size.guidance is None:
            size = replace(size, guidance=base.guidance)
        if t2v is None:
            t2v = base.profile.t2v
        sources = {_label(source): source for source in t2v or ()}
        if len(sources) < len(t2v or ()):
            raise UsageError(f"two of the pipelines are called alike: {', '.join(t2v or ())}")
        if name and not base.draws:
            raise UsageError(
                f"{base.source} is an encoder alone and draws nothing to judge: leave --scorer out, "
                "or give the pipeline's folder as --base"
            )
        scorer = load_scorer(name, base, concepts) if name else None
        if scorer:
            for concept in concepts:
                known_as(scorer, base, concept)
        references = None if how.references is None else read_references(base, how.references)
        if references is not None and not all(hasattr(scorer, part) for part in ("features", "feature_maps")):
            judge = f"the scorer {scorer.name!r} gives" if scorer else "there is no scorer for this base to give"
            raise UsageError(f"--references needs features and feature maps, and {judge} none: leave it out")
        features = load_features(how.features) if how.features else None
        pipelines = {label: load_t2v(source, base) for label, source in sources.items()}
        judges = {"scorer": _without_folder(name), "features": how.features}
        return cls(how, size, scorer, sources, pipelines, references, features, judges)

    def judge(self, base: Base, edited: Mapping[str, PreTrainedModel], recipe: Recipe, hooks: Hooks) -> Evaluation:
        result = evaluate(
            base,
            edited,
            recipe.concepts,
            self.scorer,
            t2v=self.t2v,
            holdout=recipe.method.options.get("holdout", ()),
            references=self.references,
            features=self.features,
            size=self.size,
            seed=self.how.seed,
            on_progress=hooks.on_progress,
        )
        pipelines = dict(result.report.pipelines)
        for label, source in self.sources.items():
            if label in pipelines:
                named = f"./{label}" if Path(source).is_dir() else source
                pipelines[label] = replace(pipelines[label], source=named)
        return replace(result, report=replace(result.report, judges=self.judges, pipelines=pipelines))


def _without_folder(scorer: str | None) -> str | None:
    """A scorer's name without the way to its folder, which is nobody's business."""
    kind, _, rest = (scorer or "").partition(":")
    return f"{kind}:./{Path(rest).resolve().name}" if rest and Path(rest).is_dir() else scorer


def _label(name: str) -> str:
    """A pipeline's name as one file's name can hold it; of a plug-in's what follows the colon."""
    if Path(name).is_dir():
        return Path(name).name
    kind, _, rest = name.partition(":")
    return (rest if rest and kind in found("pipelines") else name).replace("/", "--")


def finish(artifact: Artifact) -> None:
    """Write the report, the statement and the seal over all that is there now, and the card, which lists it."""
    if artifact.evaluation:
        write_report(artifact)
    certify(artifact)
    card(artifact)


def summary(artifact: Artifact) -> dict[str, Any]:
    """What a command reports about an artifact, as one JSON object."""
    recipe, evaluation = artifact.recipe, artifact.evaluation
    return {
        "path": str(artifact.path),
        "concepts": [c.name for c in recipe.concepts],
        "anchors": [c.anchor for c in recipe.concepts],
        "method": recipe.method.name,
        "onnx": artifact.has_onnx,
        "files": len(artifact.files()),
        "evaluation": evaluation.to_json() if evaluation else None,
    }
