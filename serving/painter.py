"""One pipeline that draws batches of requests, with the edited encoder proven to be the one at work."""

import copy
import hashlib
import inspect
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from unlearn_export.artifact import EVALUATION, RECIPE, read_json, sha256
from unlearn_export.errors import EncoderError, ParityError, UsageError
from unlearn_export.pipelines.encoders import OrtTextEncoder, load_folder, locate
from unlearn_export.pipelines.load import load_pipeline, seat

from .contract import Request, Settings, States

TOLERANCE = 1e-4
VALUES = 2**22  # most numbers in the states of one ``infer``
STEP_CACHES = ("FirstBlockCacheConfig", "TaylorSeerCacheConfig")  # those of diffusers that need no more than a name
# What encode_prompt returns, by the number of its results, under the names that a pipeline's call takes.
EMBEDDINGS = {
    2: ("prompt_embeds", "negative_prompt_embeds"),
    4: ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"),
}


@dataclass(frozen=True)
class Drawing:
    """frames: [b, f, h, w, 3] of floats 0..1. seconds by stage. hits, misses: of the embedding cache."""

    frames: np.ndarray
    seconds: dict[str, float]
    hits: int
    misses: int


@dataclass
class Embeddings:
    """What the encoder made of each text lately, oldest out first. The key holds the encoder's fingerprint."""

    size: int
    texts: OrderedDict[tuple[str, ...], tuple[Tensor, ...]] = field(default_factory=OrderedDict)
    hits: int = 0
    misses: int = 0

    def get(self, key: tuple[str, ...], make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        if key in self.texts:
            self.hits += 1
            self.texts.move_to_end(key)
            return self.texts[key]
        self.misses += 1
        made = self.texts[key] = make()
        if len(self.texts) > self.size:
            self.texts.popitem(last=False)
        return made


class Painter:
    """Loads what the settings name, complete and unaltered or not at all; not to be shared between threads.

    Raises EncoderError, ArtifactError, ParityError, UsageError … in one line each.
    """

    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        self.settings = settings
        dtype = getattr(torch, settings.dtype) if settings.dtype else None
        folder = locate(settings.source, settings.backend, settings.encoder_revision)
        own: Any = load_pipeline(settings.t2v, revision=settings.revision, dtype=dtype, device=device)
        self.pipe: Any = seat(own, load_folder(folder, settings.backend, settings.provider))
        self.call = inspect.signature(self.pipe.__call__).parameters
        if "num_frames" not in self.call:
            raise UsageError(
                f"{type(self.pipe).__name__} draws no clips of num_frames frames: give a text-to-video one"
            )
        self.evaluation = folder.parent / EVALUATION
        self.recipe = read_json(folder.parent / RECIPE) if (folder.parent / RECIPE).is_file() else {}
        self.fingerprint = fingerprint(folder, settings.backend)
        if settings.backend == "onnx":
            self._check_parity(folder)
        self.moved = self._states_moved(own)
        self.seats = {"edited": (self.pipe, self.fingerprint)}
        if settings.allow_original:
            self.seats["original"] = (own, state_hash(own.text_encoder))
        self._tune()
        self.embeddings = Embeddings(settings.cached_prompts)

    def describe(self) -> dict[str, Any]:
        """What is really at work, for people and for the front end's checks."""
        pipe = self.pipe
        encoders = {
            name: {"backend": backend, "provider": provider, "fingerprint": print_}
            for name, (seated, print_) in self.seats.items()
            for backend, provider in [at_work(seated.text_encoder)]
        }
        concepts = [
            {k: c.get(k) for k in ("name", "kind", "aliases", "anchor")} for c in self.recipe.get("concepts", [])
        ]
        anchors = self.recipe.get("anchors") or []
        for concept, anchor in zip(concepts, anchors, strict=False):
            concept["anchor"] = concept["anchor"] or anchor
        return {
            "pipeline": type(pipe).__name__,
            "t2v": self.settings.t2v,
            "encoder": str(self.settings.source),
            "fingerprint": self.fingerprint,
            "erased": concepts,
            "states_moved": self.moved,
            "evaluation": read_json(self.evaluation) if self.evaluation.is_file() else None,
            "backend": encoders["edited"]["backend"],
            "provider": encoders["edited"]["provider"],
            "device": str(pipe.device),
            "dtype": str(pipe.dtype).removeprefix("torch."),
            "scheduler": type(pipe.scheduler).__name__,
            "encoders": encoders,
            "multiple_of": self._multiple(),
            "max_frames": getattr(self._denoiser().config, "motion_max_seq_length", None),
            "defaults": self._defaults() | self.settings.defaults,
            "pid": os.getpid(),
        }

    @torch.inference_mode()
    def draw(self, requests: Sequence[Request], on_step: Callable[[int, int], None] | None = None) -> Drawing:
        """Draw requests of one shape together; each clip is what it would have been alone.

        on_step(step, steps) is called after every denoising step and may raise to break off.
        """
        first, begun = requests[0], time.perf_counter()
        hits, misses = self.embeddings.hits, self.embeddings.misses
        guided = first.guidance_scale > 1
        conditions = self._conditions(requests, guided)
        encoded = last = time.perf_counter()

        def step(done: int, steps: int) -> None:
            nonlocal last
            last = time.perf_counter()
            if on_step is not None:
                on_step(done, steps)

        try:
            with stepping(self.pipe.scheduler, step):
                output = self.pipe(
                    **conditions,
                    width=first.width,
                    height=first.height,
                    num_frames=first.num_frames,
                    num_inference_steps=first.num_inference_steps,
                    guidance_scale=first.guidance_scale,
                    generator=[torch.Generator().manual_seed(r.seed) for r in requests],
                    output_type="np",
                )
        finally:
            self.pipe.maybe_free_model_hooks()  # else what a step cache kept would leak into the next clip
        frames = np.asarray(output.frames)
        if not np.isfinite(frames).all():
            raise EncoderError("the pipeline drew values that are not finite")
        seconds = {"encode": encoded - begun, "denoise": last - encoded, "decode": time.perf_counter() - last}
        return Drawing(frames, seconds, self.embeddings.hits - hits, self.embeddings.misses - misses)

    def use_threads(self, count: int) -> None:
        """From now on compute with this many threads; for the thread that draws to call."""
        if count != torch.get_num_threads():
            torch.set_num_threads(count)

    @torch.inference_mode()
    def infer(self, input_ids: list[list[int]]) -> States:
        """The edited encoder's states of token ids [b, n]. Raises UsageError for ids that it does not know."""
        encoder = self.pipe.text_encoder
        config, ids = encoder.config, torch.tensor(input_ids)
        longest = getattr(config, "max_position_embeddings", None) or ids.shape[1]
        most = VALUES // config.hidden_size
        if int(ids.max()) >= config.vocab_size:  # on a GPU such an id would end the process
            raise UsageError(f"input_ids has {int(ids.max())}: ids are below {config.vocab_size}")
        if ids.shape[1] > longest or ids.numel() > most:
            raise UsageError(f"input_ids is {list(ids.shape)}: at most {longest} a row and {most} in all")
        out = encoder(ids.to(encoder.device))
        states = {name: state.float().cpu() for name, state in out.items() if isinstance(state, Tensor)}
        if not all(bool(state.isfinite().all()) for state in states.values()):
            raise EncoderError("the encoder computed values that are not finite")
        return {name: (list(state.shape), state.numpy().tobytes()) for name, state in states.items()}

    def _conditions(self, requests: Sequence[Request], guided: bool) -> dict[str, Any]:
        """The texts as the call takes them: embeddings, or plain strings where the pipeline is of another kind."""
        parts = [self._embed(r.prompt, r.encoder) for r in requests]
        names = EMBEDDINGS.get(2 * len(parts[0])) if parts[0] else None
        if not names or not set(names) <= set(self.call):
            if any(r.encoder == "original" for r in requests):
                raise UsageError(
                    f"{type(self.pipe).__name__} takes no embeddings: it cannot serve the original encoder"
                )
            texts: dict[str, Any] = {"prompt": [r.prompt for r in requests]}
            return texts | ({"negative_prompt": [r.negative_prompt for r in requests]} if guided else {})
        half = len(names) // 2
        conditions = dict(zip(names[:half], map(torch.cat, zip(*parts, strict=True)), strict=True))
        if guided:
            away = [self._embed(r.negative_prompt, r.encoder) for r in requests]
            conditions |= dict(zip(names[half:], map(torch.cat, zip(*away, strict=True)), strict=True))
        return conditions

    def _embed(self, text: str, seat: str) -> tuple[Tensor, ...]:
        """One text's embedding and, where the family has one, its mask; a prompt's and a negative prompt's are one.

        Each is encoded alone: with int8 weights a text's batch-mates would change it.
        """
        if seat not in self.seats:
            raise UsageError(f"no {seat} encoder here: it is {', '.join(self.seats)}")
        pipe, print_ = self.seats[seat]
        return self.embeddings.get((print_, text), lambda: encode(pipe, text))

    def _check_parity(self, folder: Path) -> None:
        """Raise ParityError unless the graph computes what the safetensors beside it do, in float32."""
        graph = copy.deepcopy(self.pipe.text_encoder).to("cpu", torch.float32)
        reference: Any = load_folder(folder).float()
        for text in self._probes():
            theirs = states(self.pipe.tokenizer, reference, text)
            ours = states(self.pipe.tokenizer, graph, text)
            diff = float((ours - theirs).abs().max() / max(1.0, float(theirs.abs().max())))
            if not diff <= TOLERANCE:
                raise ParityError(
                    f"{folder / 'model.onnx'} is {diff:.1e} from its safetensors on {text!r}: export it again"
                )

    def _states_moved(self, own: Any) -> float | None:
        """‖edited − original‖ / ‖original‖ over the erased concepts' states; None where no recipe names them.

        Raises EncoderError where one's are the same: such an encoder has not erased it.
        """
        texts = self._probes()[1:]
        if not texts:
            return None
        apart = whole = 0.0
        for text in texts:
            ours, theirs = (
                (encode(pipe, text) or (states(pipe.tokenizer, pipe.text_encoder, text),))[0].float()
                for pipe in (self.pipe, own)
            )
            change, size = float((ours - theirs).square().sum()), float(theirs.square().sum())
            if not change > TOLERANCE**2 * size:
                raise EncoderError(f"{self.settings.source} still has {text!r}: its encoder reads it as the original")
            apart, whole = apart + change, whole + size
        return round((apart / whole) ** 0.5, 6)

    def _probes(self) -> list[str]:
        return ["", *(c["name"] for c in self.recipe.get("concepts", []))]

    def _tune(self) -> None:
        """Speed that diffusers and torch offer, where the settings ask for it and this pipeline takes it."""
        settings, pipe = self.settings, self.pipe
        denoiser = self._denoiser()
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

    def _defaults(self) -> dict[str, Any]:
        """What the pipeline itself would choose."""
        side = getattr(self._denoiser().config, "sample_size", None)
        square = side * self._scale() if isinstance(side, int) else None
        known = {
            "width": self.call["width"].default or square,
            "height": self.call["height"].default or square,
            "fps": 8,
        }
        names = ("num_frames", "num_inference_steps", "guidance_scale")
        return known | {name: self.call[name].default for name in names}

    def _denoiser(self) -> Any:
        return getattr(self.pipe, "transformer", None) or self.pipe.unet

    def _multiple(self) -> int:
        """Sides must be a multiple of this many pixels: of 8 for every pipeline, and of the denoiser's patches."""
        patch = getattr(self._denoiser().config, "patch_size", None) or 1
        return math.lcm(8, self._scale() * (patch if isinstance(patch, int) else patch[-1]))

    def _scale(self) -> int:
        """Pixels to a side of one latent."""
        for name in ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio"):
            if hasattr(self.pipe, name):
                return int(getattr(self.pipe, name))
        return 8


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


def encode(pipe: Any, text: str) -> tuple[Tensor, ...]:
    """What ``encode_prompt`` makes of one text without guidance; () where the pipeline's is of an unknown kind."""
    if not hasattr(pipe, "encode_prompt"):
        return ()
    taken = inspect.signature(pipe.encode_prompt).parameters
    wanted = {
        "prompt": text,
        "device": pipe.device,
        "do_classifier_free_guidance": False,
        "num_images_per_prompt": 1,
        "num_videos_per_prompt": 1,
    }
    with torch.inference_mode():
        made = pipe.encode_prompt(**{name: value for name, value in wanted.items() if name in taken})
    kept = made[: len(made) // 2]
    if len(made) not in EMBEDDINGS or not all(isinstance(part, Tensor) for part in kept):
        return ()
    return tuple(kept)


def states(tokenizer: Any, encoder: Any, text: str) -> Tensor:
    """The encoder's own states [1, n, d] of one text, padded and without a mask."""
    length = min(77, tokenizer.model_max_length)
    ids = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    with torch.inference_mode():
        out: Tensor = encoder(ids.to(encoder.device)).last_hidden_state
    return out


def at_work(encoder: Any) -> tuple[str, str]:
    """Backend and provider that really compute the encoder."""
    if isinstance(encoder, OrtTextEncoder):
        return "onnx", encoder.session.get_providers()[0]
    return "torch", str(encoder.device)


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
    sums = {file.name: sha256(file) for file in sorted(folder.glob(names))}
    if len(sums) == 1:
        return next(iter(sums.values()))
    return hashlib.sha256("".join(f"{s}  {n}\n" for n, s in sums.items()).encode()).hexdigest()


@contextmanager
def stepping(scheduler: Any, on_step: Callable[[int, int], None]) -> Any:
    """Call ``on_step(done, steps)`` after each of the scheduler's steps; not every pipeline has a callback of its own."""
    inner, done = scheduler.step, 0

    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        result = inner(*args, **kwargs)
        done += 1
        on_step(done, len(scheduler.timesteps))
        return result

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step
