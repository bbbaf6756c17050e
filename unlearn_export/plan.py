"""A plan: the concepts to erase, in a file that one command writes and another takes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from .artifact import write_json
from .concept import Concept
from .errors import UsageError

_KEYS = tuple(field.name for field in fields(Concept))
_LISTS = ("aliases", "retain")


def write_plan(path: Path, concepts: Sequence[Concept]) -> None:
    """Write one object, or a list where there are several concepts, atomically."""
    objects = [asdict(concept) for concept in concepts]
    write_json(path, objects[0] if len(objects) == 1 else objects)


def read_plan(path: Path) -> list[Concept]:
    """The concepts of a plan: an object or a list of them, whose keys are the fields of ``Concept``, or a recipe.

    Raises UsageError where the file cannot be read or is no plan.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the plan {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"the plan {path} is not JSON: {error}") from error
    if isinstance(data, dict) and "method" in data:  # an artifact's recipe.json
        data = data.get("concepts")
    objects = data if isinstance(data, list) else [data]
    if not objects:
        raise UsageError(f"the plan {path} names no concept")
    return [_concept(path, item) for item in objects]


def _concept(path: Path, item: Any) -> Concept:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise UsageError(f'the plan {path} needs objects with a "name", such as {{"name": "pizza"}}')
    for key, value in item.items():
        if key not in _KEYS:
            raise UsageError(f"the plan {path} has an unknown key {key!r}: choose from {', '.join(_KEYS)}")
        if key in _LISTS:
            if not isinstance(value, list) or not all(isinstance(word, str) and word.strip() for word in value):
                raise UsageError(f"the plan {path} needs a list of words for {key!r}, not {value!r}")
        elif not isinstance(value, str):
            raise UsageError(f"the plan {path} needs a string for {key!r}, not {value!r}")
    values: dict[str, Any] = {key: tuple(value) if key in _LISTS else value for key, value in item.items()}
    return Concept(**values)
