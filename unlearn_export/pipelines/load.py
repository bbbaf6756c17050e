"""A text-to-video pipeline with the edited encoder in its text encoder's seat."""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError
from transformers import PreTrainedModel

from .. import demo
from ..errors import EncoderError, UnlearnExportError, UsageError
from .encoders import HUB_ID, Backend, check_drop_in, load_encoder, quiet

DEMO = "demo:"


def load_pipeline(
    t2v: str | Path | DiffusionPipeline,
    *,
    encoder: str | Path | PreTrainedModel | None = None,
    backend: Backend = "torch",
    provider: str | None = None,
    revision: str | None = None,
    encoder_revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> DiffusionPipeline:
    """Load a pipeline and put ``encoder`` where its own text encoder was; progress bars are off.

    t2v: a diffusers folder, a Hub id (at ``revision``), "demo:NAME", or a loaded pipeline, which stays as it was:
    the returned one is a copy that shares every other component with it.
    encoder: anything ``load_encoder`` reads, with ``backend`` and ``provider``; None keeps the pipeline's own. It
    must pass ``check_drop_in`` against the pipeline's own encoder, whose dtype and device it takes.
    dtype: of a pipeline that is loaded here; a loaded one keeps its own. device: where all of it is moved to.

    Raises EncoderError where the encoder does not belong here, UnlearnExportError where the pipeline cannot be loaded.
    """
    pipe: Any = copy.copy(t2v) if isinstance(t2v, DiffusionPipeline) else _load(str(t2v), revision, dtype)
    if encoder is not None:
        edited = load_encoder(encoder, backend=backend, provider=provider, revision=encoder_revision)
        pipe = seat(pipe, copy.deepcopy(edited) if edited is encoder else edited)
    if device is not None:
        pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seat(pipe: Any, encoder: Any) -> Any:
    """A copy of the pipeline with this very encoder, moved to the dtype and device of the one it replaces.

    Raises EncoderError unless it passes ``check_drop_in``.
    """
    own = getattr(pipe, "text_encoder", None)
    if own is None:
        raise EncoderError(f"this {type(pipe).__name__} has no text encoder to replace or to compare with")
    check_drop_in(encoder, own)
    pipe = copy.copy(pipe)
    pipe.register_modules(text_encoder=encoder.to(own.device, own.dtype))
    return pipe


def _load(t2v: str, revision: str | None, dtype: torch.dtype | None) -> DiffusionPipeline:
    if t2v.startswith(DEMO):
        with quiet(), _calm():
            pipe: Any = demo.load(t2v.removeprefix(DEMO))
        return pipe if dtype is None else pipe.to(dtype)
    if not Path(t2v).is_dir() and not HUB_ID.fullmatch(t2v):
        raise UsageError(f"no pipeline at {t2v}: give a diffusers folder, a Hub id owner/name or demo:NAME")
    if Path(t2v).is_dir() and not (Path(t2v) / "model_index.json").is_file():
        raise UsageError(f"{t2v} is no pipeline: model_index.json is missing")
    options = {} if dtype is None else {"torch_dtype": dtype}
    try:
        with quiet(), _calm():
            return DiffusionPipeline.from_pretrained(t2v, revision=revision, use_safetensors=True, **options)
    except (HTTPError, SafetensorError, OSError, ValueError, RuntimeError, AttributeError) as error:
        raise UnlearnExportError(f"cannot load the pipeline {t2v}: {' '.join(str(error).split())[:200]}") from error


@contextlib.contextmanager
def _calm() -> Iterator[None]:
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
