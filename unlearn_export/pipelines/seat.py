"""One way to put encoders into a pipeline."""

import copy
from collections.abc import Mapping
from typing import Any


def seated(pipeline: Any, parts: Mapping[str, Any]) -> Any:
    """A copy of the pipeline with these components in the place of its own, by name; all others are shared.

    The given pipeline stays as it is. Arguments that are configuration and no component stay too: building a pipeline
    anew from its components would drop them.
    """
    other = copy.copy(pipeline)
    other.register_modules(**dict(parts))
    other.set_progress_bar_config(disable=True)
    return other
