"""One way to put encoders into a pipeline."""

import copy
from collections.abc import Mapping
from typing import Any

from ..families.contracts import contracts_of
from .ort import OrtTextEncoder
from .prompts import JOINT


def seated(pipeline: Any, parts: Mapping[str, Any]) -> Any:
    """A copy of the pipeline with these components in the place of its own, by name; all others are shared.

    The given pipeline stays as it is. Arguments that are configuration and no component stay too: building a pipeline
    anew from its components would drop them.
    """
    other = copy.copy(pipeline)
    other.register_modules(**dict(parts))
    other.set_progress_bar_config(disable=True)
    return other


def seat(pipeline: Any, encoders: Mapping[str, Any]) -> Any:
    """A copy of the pipeline with these very encoders, each moved to the dtype and device of the one it replaces.

    Whether they belong there is for ``check.place`` to say.
    """
    for name, encoder in encoders.items():
        own = getattr(pipeline, name)
        encoder.to(own.device, own.dtype)
    other = seated(pipeline, encoders)
    trim_padding(other)
    return other


def trim_padding(pipeline: Any) -> None:
    """Let each ONNX encoder of a pipeline leave padding out where the contract of its seat says that nobody reads it.

    That is where the encoder is given the mask and the denoiser heeds no more than what it covers. Where the negative
    prompt is cut to another prompt's length, its padding is read.
    """
    kind = type(pipeline).__name__
    unread = {
        row.seat
        for row in contracts_of(kind)
        if row.mask and row.reads == "mask" and not row.pooled and kind not in JOINT
    }
    for name, part in pipeline.components.items():
        if isinstance(part, OrtTextEncoder):
            part.trim = name in unread
