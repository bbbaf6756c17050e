"""An eraser's hyper-parameters: what each means, and the check of its numbers."""

import math
from collections.abc import Sequence
from dataclasses import field, fields
from typing import Any

from ..errors import UsageError


def option(default: Any, meaning: str) -> Any:
    """A dataclass field that tells what it means, for `unlearn-export methods`."""
    return field(default=default, metadata={"meaning": meaning})


def check_range(method: Any, *, above: Sequence[str], least: Sequence[str] = ()) -> None:
    """Raise UsageError unless the fields ``above`` are finite and above 0, and ``least`` finite and at least 0, and for
    a string where several words belong.
    """
    for about in fields(method):
        value = getattr(method, about.name)
        if isinstance(about.default, tuple) and isinstance(value, str):
            raise UsageError(f"{about.name} are several words, not the string {value!r}: give ({value!r},)")
    for names, ends in ((above, False), (least, True)):
        for name in names:
            value = getattr(method, name)
            if value is None:  # left to the method
                continue
            if not math.isfinite(value) or value < 0 or (value == 0 and not ends):
                raise UsageError(f"{name}={value}: it must be {'at least' if ends else 'above'} 0 and finite")
