"""A text-to-video pipeline with edited encoders in its text encoders' seats."""

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError
from transformers import PreTrainedModel

from ..errors import UncoveredWarning, UnlearnExportError
from ..loading import one_line, quiet
from ..net.endpoint import check_endpoint
from ..plugins import found
from ..profile import UNKNOWN, Profile
from .check import Held, Source, calm, check_source, coverage, edits, load_registered, place, registered
from .encoders import Backend
from .seat import seat, trim_padding


def load_pipeline(
    t2v: str | Path | DiffusionPipeline,
    *,
    encoder: Source | Mapping[str, Source] | None = None,
    backend: Backend = "torch",
    provider: str | None = None,
    revision: str | None = None,
    encoder_revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> DiffusionPipeline:
    """Load a pipeline and put every encoder of ``encoder`` where its own was; progress bars are off.

    t2v: a diffusers folder, a Hub id (at ``revision``), a plug-in's such as "demo:NAME", or a loaded pipeline, which
    stays as it was: the returned one is a copy that shares every other component with it.
    encoder: anything ``load_encoder`` reads, with ``backend`` and ``provider``, or a mapping from seats such as
    "text_encoder_2" to such; None keeps the pipeline's own. Every encoder of an artifact goes into the seat that its
    folder is named after, must pass ``check_drop_in`` there, and takes the dtype and device of the one it replaces,
    which is not loaded. An ONNX encoder computes no padding where the pipeline reads none (see ``trim_padding``).
    dtype: of a pipeline that is loaded here; a loaded one keeps its own. device: where all of it is moved to.

    Warns with ``UncoveredWarning`` of the text paths that the edit does not reach (see ``check``). Raises EncoderError
    where an encoder does not belong here, UnlearnExportError where the pipeline cannot be loaded.
    """
    if encoder is None:
        pipe: Any = copy.copy(t2v) if isinstance(t2v, DiffusionPipeline) else open_pipeline(str(t2v), revision, dtype)
    else:
        held = Held.of(t2v, revision)
        placed = place(edits(encoder, backend, encoder_revision), held)
        told = coverage(placed, held)
        if told.uncovered:
            warnings.warn(f"not covered by the edit: {'; '.join(told.uncovered)}", UncoveredWarning, stacklevel=2)
        given = encoder.values() if isinstance(encoder, Mapping) else [encoder]
        loaded = {}
        for name, edited in placed.items():
            model = edited.load(provider)
            loaded[name] = copy.deepcopy(model) if any(model is g for g in given) else model
        if held.pipeline is not None:
            pipe = held.pipeline if dtype is None or isinstance(t2v, DiffusionPipeline) else held.pipeline.to(dtype)
            pipe = seat(pipe, loaded)
        else:
            for name, model in loaded.items():
                model.to(dtype or _dtype(held, name))
            pipe = open_pipeline(str(t2v), revision, dtype, loaded)
            trim_padding(pipe)
    if device is not None:
        pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def open_pipeline(
    t2v: str, revision: str | None, dtype: torch.dtype | None, parts: Mapping[str, PreTrainedModel] | None = None
) -> Any:
    """The pipeline of a folder, a Hub id or a plug-in, in silence. parts: components that are not to be loaded.

    Raises UsageError for what is no pipeline, UnlearnExportError where it cannot be loaded.
    """
    if registered(t2v):
        pipe: Any = load_registered(t2v)
        return pipe if dtype is None else pipe.to(dtype)
    check_source(t2v)
    if not Path(t2v).is_dir():
        check_endpoint()
    options: dict[str, Any] = dict(parts or {}) | ({} if dtype is None else {"torch_dtype": dtype})
    try:
        with quiet(), calm():
            return DiffusionPipeline.from_pretrained(t2v, revision=revision, use_safetensors=True, **options)
    except (HTTPError, SafetensorError, OSError, ValueError, RuntimeError, AttributeError, ImportError) as error:
        raise UnlearnExportError(f"cannot load the pipeline {t2v}: {one_line(error)}") from error


def _dtype(held: Held, name: str) -> torch.dtype:
    """What the pipeline's own encoder would be loaded in: as it is stored."""
    return next(iter(held.seats[name].tensors().values()))().dtype


def profile_of(t2v: str) -> Profile:
    """What the owner of a base knows of this pipeline, by its name; nothing where none does."""
    for name, load in found("bases").items():
        if t2v.partition(":")[0] == name:
            profile: Profile = load()("").profile
            return profile
    return UNKNOWN
