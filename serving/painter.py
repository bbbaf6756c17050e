"""One pipeline that draws batches of requests, with the edited encoders proven to be the ones at work."""

import copy
import hashlib
import inspect
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from unlearn_export.artifact import EVALUATION, MANIFEST, read_json, sha256
from unlearn_export.errors import EncoderError, ParityError, UnlearnExportError, UsageError
from unlearn_export.families import family_of
from unlearn_export.families.contract import ReaderContract
from unlearn_export.families.contracts import contracts_of, readers_of
from unlearn_export.families.tokens import final_states, read_states, tokenise
from unlearn_export.pipelines.call import (
    check_needed,
    defaults,
    frame_rule,
    frames_argument,
    frames_of,
    longest_clip,
    multiple_of,
    named,
    own_choices,
    read_inputs,
    stepping,
)
from unlearn_export.pipelines.check import Held, coverage, edits_in, place
from unlearn_export.pipelines.encoders import load_folder, locate
from unlearn_export.pipelines.load import load_pipeline, profile_of
from unlearn_export.pipelines.ort import OrtTextEncoder, class_name, text_config
from unlearn_export.pipelines.prompts import ALONE, JOINT, RETURNS
from unlearn_export.pipelines.seat import seat

from .contract import Request, Settings, States

TOLERANCE = 1e-4
VALUES = 2**22  # most numbers in the states of one ``infer``
ON_GPU = tuple(f"{name}ExecutionProvider" for name in ("CUDA", "Tensorrt", "ROCM", "MIGraphX"))
STEP_CACHES = ("FirstBlockCacheConfig", "TaylorSeerCacheConfig")  # those of diffusers that need no more than a name


@dataclass(frozen=True)
class Drawing:
    """frames: [b, f, h, w, 3] of floats 0..1. seconds by stage. hits, misses: of the embedding cache."""

    frames: np.ndarray
    seconds: dict[str, float]
    hits: int
    misses: int


@dataclass
class Embeddings:
    """What the encoders made of each text lately, oldest out first. A key holds the encoders' fingerprint.

    room: most bytes, for one text of LTX-2's takes 200 MB and more. texts: in the host's memory, each part with the
    device that it came from and goes back to.
    """

    room: int = 2**30
    texts: OrderedDict[tuple[Any, ...], list[tuple[Any, Any]]] = field(default_factory=OrderedDict)
    hits: int = 0
    misses: int = 0
    held: int = 0

    def get(self, key: tuple[Any, ...], make: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        if key in self.texts:
            self.hits += 1
            self.texts.move_to_end(key)
            return tuple(part.to(device) if device is not None else part for part, device in self.texts[key])
        self.misses += 1
        made = make()
        kept = [(part.to("cpu"), part.device) if isinstance(part, Tensor) else (part, None) for part in made]
        self.texts[key] = kept
        self.held += _bytes(kept)
        while self.held > self.room and len(self.texts) > 1:
            self.held -= _bytes(self.texts.popitem(last=False)[1])
        return made


def _bytes(parts: list[tuple[Any, Any]]) -> int:
    return sum(part.nbytes for part, _ in parts if isinstance(part, Tensor))


@dataclass(frozen=True)
class Seated:
    """A pipeline with encoders in it, which shares all else with the others.

    folders: of its edited encoders, by component. told: what `/v1/models` says of them, with their fingerprint.
    """

    pipe: Any
    folders: dict[str, Path]
    told: dict[str, Any]


class Painter:
    """Loads what the settings name, complete and unaltered or not at all; not to be shared between threads.

    Raises EncoderError, ArtifactError, ParityError, UsageError … in one line each.
    """

    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        self.settings, self.device = settings, device
        dtype = getattr(torch, settings.dtype) if settings.dtype else None
        own: Any = load_pipeline(settings.t2v, revision=settings.revision, dtype=dtype, device=device)
        self.pipe: Any = own
        self.call = defaults(own)
        self.inputs = read_inputs(settings.inputs)
        self._check_clips()
        held = Held.of(own)
        sources = {"edited": settings.source} | settings.more
        self.seats = {name: self._seated(source, own, held) for name, source in sources.items()}
        self.pipe = self.seats["edited"].pipe  # it draws, with what any of them encodes
        if settings.allow_original:
            folders = {name: folder for seated in self.seats.values() for name, folder in seated.folders.items()}
            self.seats["original"] = original(own, folders)
        self._tune()
        self.embeddings = Embeddings(settings.cached_bytes)
        self.encoding = 0.0  # seconds spent in it so far
        self.rows: Sequence[Request] = ()
        if hasattr(self.pipe, "encode_prompt"):
            self.own_encoding = inspect.signature(type(self.pipe).encode_prompt)
            self.pipe.encode_prompt = self._encode_prompt
        elif len(self.seats) > 1:
            raise UsageError(f"{type(self.pipe).__name__} has no encode_prompt: it takes one encoder at a time")

    def _seated(self, source: str, own: Any, held: Held) -> "Seated":
        """The pipeline with one artifact's encoders, which are proven to be the ones that it names."""
        backend, provider = self.settings.backend, provider_on(self.settings.provider, self.device)
        where = locate(source, backend, self.settings.encoder_revision)
        placed = place(edits_in(where, backend), held)
        folders = {name: edited.folder for name, edited in placed.items() if edited.folder is not None}
        pipe: Any = seat(own, {name: edited.load(provider) for name, edited in placed.items()})
        erased = concepts_of(where.recipe)
        names = [str(concept["name"]) for concept in erased]
        if backend == "onnx":
            check_parity(pipe, folders, ["", *names])
        prints = {name: fingerprint(folder, backend) for name, folder in folders.items()}
        first = next(iter(folders))
        evaluation = folders[first].parent / EVALUATION
        told = {
            "fingerprint": _of_all(prints),
            "erased": erased,
            "states_moved": states_moved(pipe, own, folders, names, source),
            "evaluation": read_json(evaluation) if evaluation.is_file() else None,
            "seats": prints,
            "uncovered": list(coverage(placed, held).uncovered),
        }
        return Seated(pipe, folders, told | at_work(getattr(pipe, first)))

    def describe(self) -> dict[str, Any]:
        """What is really at work, for people and for the front end's checks."""
        pipe = self.pipe
        return {
            "pipeline": type(pipe).__name__,
            "t2v": self.settings.t2v,
            "device": str(pipe.device),
            "dtype": str(denoiser_of(pipe).dtype).removeprefix("torch."),
            "scheduler": type(pipe.scheduler).__name__,
            "encoders": {name: seated.told for name, seated in self.seats.items()},
            "multiple_of": multiple_of(pipe),
            "frame_rule": frame_rule(pipe),
            "max_frames": longest_clip(pipe),
            "defaults": own_choices(pipe) | self._profile() | self.settings.defaults,
            "pid": os.getpid(),
        }

    @torch.inference_mode()
    def draw(self, requests: Sequence[Request], on_step: Callable[[int, int], None] | None = None) -> Drawing:
        """Draw requests of one shape together; each clip is what it would have been alone.

        on_step(step, steps) is called after every denoising step and may raise to break off.
        """
        begun, encoded = time.perf_counter(), self.encoding
        hits, misses = self.embeddings.hits, self.embeddings.misses
        kind = type(self.pipe).__name__
        together = kind in RETURNS and kind not in ALONE and not self.inputs
        groups = [requests] if together else [[request] for request in requests]
        told, last = 0, time.perf_counter()

        def step(_done: int, steps: int) -> None:
            nonlocal told, last
            last, told = time.perf_counter(), told + 1
            if on_step is not None:
                on_step(told, max(told, steps * len(groups)))

        frames = np.concatenate([self._paint(group, step) for group in groups])
        if not np.isfinite(frames).all():
            raise EncoderError("the pipeline drew values that are not finite")
        encoded = self.encoding - encoded
        seconds = {"encode": encoded, "denoise": last - begun - encoded, "decode": time.perf_counter() - last}
        return Drawing(frames, seconds, self.embeddings.hits - hits, self.embeddings.misses - misses)

    def _paint(self, requests: Sequence[Request], step: Callable[[int, int], None]) -> np.ndarray:
        """One call of the pipeline, which finds the texts' embeddings in the cache."""
        first, self.rows = requests[0], requests
        for request in requests:
            if request.encoder not in self.seats:
                raise UsageError(f"no {request.encoder} encoder here: it is {', '.join(self.seats)}")
        texts: dict[str, Any] = {"prompt": [r.prompt for r in requests]}
        if "negative_prompt" in self.call and any(r.negative_prompt for r in requests):
            texts["negative_prompt"] = [r.negative_prompt for r in requests]
        generators = [torch.Generator().manual_seed(r.seed) for r in requests]
        if len(requests) == 1:
            texts, generators = {name: text[0] for name, text in texts.items()}, generators[0]  # type: ignore[assignment]
        choices = named(
            self.pipe,
            frames=first.num_frames,
            steps=first.num_inference_steps,
            guidance=first.guidance_scale,
            width=first.width,
            height=first.height,
        )
        try:
            with stepping(self.pipe, step) as callbacks:
                output = self.pipe(
                    **texts, **choices, **callbacks, **self.inputs, generator=generators, output_type="np"
                )
        finally:
            self.rows = ()
            self.pipe.maybe_free_model_hooks()  # else what a step cache kept would leak into the next clip
        return frames_of(output)

    def free(self) -> None:
        """Give memory of the device that nothing holds any more back to it."""
        torch.cuda.empty_cache()

    def use_threads(self, count: int) -> None:
        """From now on compute with this many threads; for the thread that draws to call."""
        if count != torch.get_num_threads():
            torch.set_num_threads(count)

    @torch.inference_mode()
    def infer(self, input_ids: list[list[int]]) -> States:
        """The edited encoder's states of token ids [b, n]. Raises UsageError for ids that it does not know."""
        encoder = getattr(self.pipe, next(iter(self.seats["edited"].folders)))
        config, ids = text_config(encoder.config), torch.tensor(input_ids)
        longest = getattr(config, "max_position_embeddings", None) or ids.shape[1]
        most = VALUES // config.hidden_size
        if int(ids.max()) >= config.vocab_size:  # on a GPU such an id would end the process
            raise UsageError(f"input_ids has {int(ids.max())}: ids are below {config.vocab_size}")
        if ids.shape[1] > longest or ids.numel() > most:
            raise UsageError(f"input_ids is {list(ids.shape)}: at most {longest} a row and {most} in all")
        alone = encoder.model if class_name(encoder).endswith("ForConditionalGeneration") else encoder
        out = alone(ids.to(encoder.device))
        states = {name: state.float().cpu() for name, state in out.items() if isinstance(state, Tensor)}
        if not all(bool(state.isfinite().all()) for state in states.values()):
            raise EncoderError("the encoder computed values that are not finite")
        return {name: (list(state.shape), state.numpy().tobytes()) for name, state in states.items()}

    def _encode_prompt(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Stands in for the pipeline's ``encode_prompt``: the same results, each text encoded once.

        Each is encoded alone, by the encoder that its request asks for: with int8 weights a text's batch-mates would
        change it. A negative prompt that is not given is whatever the pipeline makes of none.
        """
        if not self.rows:  # somebody calls the pipeline directly
            return tuple(type(self.pipe).encode_prompt(self.pipe, *args, **kwargs))
        begun = time.perf_counter()
        try:
            told = dict(self.own_encoding.bind(self.pipe, *args, **kwargs).arguments)
            told.pop("self")
            told |= told.pop("kwargs", {})
            names = RETURNS.get(type(self.pipe).__name__)
            rows = [self._row(i, told, names) for i in range(len(self.rows))]
        finally:
            self.encoding += time.perf_counter() - begun
        if len(rows) == 1:
            return rows[0]
        return tuple(None if part[0] is None else torch.cat(part) for part in zip(*rows, strict=True))

    def _row(self, i: int, told: Mapping[str, Any], names: tuple[str, ...] | None) -> tuple[Any, ...]:
        """What ``encode_prompt`` returns for one row of a batch, by name where the pipeline's names are known."""
        told = {name: _at(value, i) if "prompt" in name else value for name, value in told.items()}
        if "batch_size" in told:
            told["batch_size"] = 1
        if names is None or type(self.pipe).__name__ in JOINT:
            return self._cached(i, told)
        guided = told.get("do_classifier_free_guidance", "do_classifier_free_guidance" in self.own_encoding.parameters)
        if not guided:
            return self._cached(i, told)
        against = [name.startswith("negative_") for name in names]
        for_it = {name: value for name, value in told.items() if name != "negative_prompt"}
        made = self._cached(i, for_it | {"do_classifier_free_guidance": False}, [not no for no in against])
        away = told | {"prompt": ""}
        if not self.rows[i].negative_prompt and len(self.rows) > 1:
            away["negative_prompt"] = self.call["negative_prompt"]
        kept = self._cached(i, away, against)
        return tuple(no if is_no else yes for yes, no, is_no in zip(made, kept, against, strict=True))

    def _cached(self, i: int, told: Mapping[str, Any], keep: Sequence[bool] = ()) -> tuple[Any, ...]:
        """What ``encode_prompt`` returns for one row, None in place of the results that are not kept."""
        seated = self.seats[self.rows[i].encoder]
        pipe: Any = seated.pipe
        key = (
            seated.told["fingerprint"],
            *sorted((name, repr(value)) for name, value in told.items() if name != "device"),
        )

        def make() -> tuple[Any, ...]:
            made = type(pipe).encode_prompt(pipe, **told)
            return tuple(part if kept else None for part, kept in zip(made, keep or [True] * len(made), strict=True))

        return self.embeddings.get(key, make)

    def _check_clips(self) -> None:
        """Raise UsageError for a pipeline that draws no clips, or none of text and the given pictures."""
        check_needed(self.pipe, self.inputs)
        if frames_argument(self.pipe) is None and not self.inputs:
            raise UsageError(f"{type(self.pipe).__name__} draws no clips: give a text-to-video pipeline")

    def _profile(self) -> dict[str, Any]:
        """What the pipeline's owner would choose."""
        known = profile_of(self.settings.t2v)
        chosen = {
            "num_frames": known.frames,
            "guidance_scale": known.guidance,
            "num_inference_steps": known.steps,
        }
        return {name: value for name, value in chosen.items() if value is not None}

    def _tune(self) -> None:
        """Speed that diffusers and torch offer, where the settings ask for it and this pipeline takes it."""
        settings, pipe = self.settings, self.pipe
        denoiser = denoiser_of(pipe)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        if settings.scheduler:
            kind = getattr(diffusers, settings.scheduler, None)
            if kind is None:
                raise UsageError(f"diffusers has no {settings.scheduler}")
            pipe.register_modules(scheduler=kind.from_config(pipe.scheduler.config))
        for option, method in (("step_cache", "enable_cache"), ("attention", "set_attention_backend")):
            if getattr(settings, option) and not hasattr(denoiser, method):
                raise UsageError(f"{type(denoiser).__name__} takes no {option}: leave it out")
        if settings.step_cache:
            if settings.step_cache not in STEP_CACHES:
                raise UsageError(f"step_cache is {settings.step_cache!r}: choose {' or '.join(STEP_CACHES)}")
            denoiser.enable_cache(getattr(diffusers, settings.step_cache)())
            if not any(m._diffusers_hook.hooks for m in denoiser.modules() if hasattr(m, "_diffusers_hook")):
                raise UsageError(
                    f"{settings.step_cache} finds nothing to keep in {type(denoiser).__name__}: leave it out"
                )
        if settings.attention:
            denoiser.set_attention_backend(settings.attention)
        if settings.compile:
            denoiser.compile()
        elif isinstance(denoiser, diffusers.UNet3DConditionModel):
            denoiser.transformer_in.forward = once_for_both(denoiser.transformer_in.forward)


def original(own: Any, folders: Mapping[str, Path]) -> Seated:
    """The pipeline's own encoders, of those that are edited elsewhere."""
    print_ = _of_all({name: state_hash(getattr(own, name)) for name in folders})
    told = {"fingerprint": print_, "erased": [], "states_moved": 0.0, "evaluation": None, "seats": {}, "uncovered": []}
    return Seated(own, {}, told | at_work(getattr(own, next(iter(folders)))))


def concepts_of(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a recipe says it has erased, each with its anchor."""
    concepts = [{k: c.get(k) for k in ("name", "kind", "aliases", "anchor")} for c in recipe.get("concepts", [])]
    for concept, anchor in zip(concepts, recipe.get("anchors") or [], strict=False):
        concept["anchor"] = concept["anchor"] or anchor
    return concepts


def check_parity(pipe: Any, folders: Mapping[str, Path], texts: Sequence[str]) -> None:
    """Raise ParityError unless each graph computes what the safetensors beside it do, in float32."""
    for name, folder in folders.items():
        reader = reader_of(pipe, name)
        graph = copy.deepcopy(getattr(pipe, name)).to("cpu", torch.float32)
        reference: Any = load_folder(folder).float()
        for text in texts:
            theirs, ours = (states(pipe, encoder, reader, text) for encoder in (reference, graph))
            diff = float((ours - theirs).abs().max() / max(1.0, float(theirs.abs().max())))
            if not diff <= TOLERANCE:
                raise ParityError(
                    f"{folder / 'model.onnx'} is {diff:.1e} from its safetensors on {text!r}: export it again"
                )


def states_moved(pipe: Any, own: Any, names: Iterable[str], texts: Sequence[str], source: str) -> float | None:
    """‖edited − original‖ / ‖original‖ over what is read of the erased concepts; None where no recipe names them.

    names: of the edited components. Raises EncoderError where one's are the same in some seat: such an encoder has not
    erased it.
    """
    apart = whole = 0.0
    for name in names:
        reader = reader_of(pipe, name)
        for text in texts:
            ours, theirs = (states(each, getattr(each, name), reader, text) for each in (pipe, own))
            change, size = float((ours - theirs).square().sum()), float(theirs.square().sum())
            if not change > TOLERANCE**2 * size:
                raise EncoderError(f"{source} still has {text!r}: its {name} reads it as the original")
            apart, whole = apart + change, whole + size
    return round((apart / whole) ** 0.5, 6) if texts else None


def once_for_both(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of UNet3DConditionModel's ``transformer_in``, run once where both halves of a guided batch are alike.

    Classifier-free guidance draws every sample twice, with the text and without; until the first layer that reads the
    text the two are the same numbers. samples: [b · num_frames, c, h, w].
    """

    def forward_once(samples: Tensor, *, num_frames: int, **kwargs: Any) -> Any:
        half = len(samples) // 2
        if len(samples) % (2 * num_frames) or not torch.equal(samples[:half], samples[half:]):
            return forward(samples, num_frames=num_frames, **kwargs)
        (out,) = forward(samples[:half], num_frames=num_frames, **kwargs)
        return (torch.cat([out, out]),)

    return forward_once


def denoiser_of(pipe: Any) -> Any:
    """The model that a pipeline's steps go through."""
    return getattr(pipe, "transformer", None) or getattr(pipe, "transformer_2", None) or pipe.unet


def reader_of(pipe: Any, name: str) -> ReaderContract:
    """How the pipeline reads this seat; of one that is not known, how another reads an encoder of this class."""
    rows = [row for row in contracts_of(type(pipe).__name__) if row.seat == name]
    rows = rows or list(readers_of(class_name(getattr(pipe, name))))
    if not rows:
        raise UnlearnExportError(f"how a {type(pipe).__name__} reads its {name} is not known")
    return rows[0]


@torch.inference_mode()
def states(pipe: Any, encoder: Any, reader: ReaderContract, text: str) -> Tensor:
    """What a pipeline reads of an encoder's answer to one text, in float32: the states, else the pooled vector."""
    words = getattr(pipe, reader.tokenizer, None) or pipe.tokenizer
    tokens = tokenise(words, [text], reader, trim=True).to(encoder.device)
    out = family_of(class_name(encoder)).call(encoder, tokens, reader.mask)
    if reader.layers:
        return read_states(final_states(out), tokens, reader).float()
    pooled: Tensor = out["text_embeds"] if "text_embeds" in out else out["pooler_output"]
    return pooled.float()


def provider_on(provider: str | None, device: str) -> str | None:
    """The execution provider with the device of the worker, where it is one that takes a device and names none."""
    kind, colon, index = device.partition(":")
    return f"{provider}:{index}" if kind == "cuda" and colon and provider in ON_GPU else provider


def at_work(encoder: Any) -> dict[str, str]:
    """Backend and provider that really compute the encoder."""
    if isinstance(encoder, OrtTextEncoder):
        return {"backend": "onnx", "provider": encoder.session.get_providers()[0]}
    return {"backend": "torch", "provider": str(encoder.device)}


def state_hash(encoder: Any) -> str:
    """sha256 of the weights in memory, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint(folder: Path, backend: str) -> str:
    """sha256 of the weights that this backend reads: of the one file, as in the manifest, or of the list of them."""
    names = "model*.safetensors" if backend == "torch" else "model.onnx*"
    manifest = folder.parent / MANIFEST
    vouched = read_json(manifest).get("files", {}) if manifest.is_file() else {}  # verified when it was located
    files = sorted(folder.glob(names))
    return _of_all({file.name: vouched.get(f"{folder.name}/{file.name}") or sha256(file) for file in files})


def _of_all(sums: Mapping[str, str]) -> str:
    """One fingerprint for several; of a single one its own."""
    if len(sums) == 1:
        return next(iter(sums.values()))
    return hashlib.sha256("".join(f"{s}  {n}\n" for n, s in sums.items()).encode()).hexdigest()


def _at(value: Any, i: int) -> Any:
    """Row i of what is given once for all rows, or as a list with one for each."""
    return value[i] if isinstance(value, list) else value
