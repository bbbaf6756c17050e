"""One way to put encoders into a pipeline."""

import copy
from collections.abc import Mapping
from typing import Any

from ..errors import EncoderError
from .dropin import check_drop_in


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

    Raises EncoderError for a seat that the pipeline lacks, or unless every one passes ``check_drop_in``.
    """
    for name, encoder in encoders.items():
        own = getattr(pipeline, name, None)
        if own is None:
            raise EncoderError(f"this {type(pipeline).__name__} has no {name} to replace or to compare with")
        check_drop_in(encoder, own)
        encoder.to(own.device, own.dtype)
    return seated(pipeline, encoders)
