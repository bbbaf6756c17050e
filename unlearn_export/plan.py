"""A plan: the concepts to erase, in a file that one command writes and another takes."""

import csv
import io
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

    In a list a name alone stands for an object. .yaml and .yml say the same in YAML; a .csv has the keys as its first line and
    one concept a line, several aliases or retained words with ";" between them.
    Raises UsageError where the file cannot be read or is no plan.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read the plan {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the plan {path} is not UTF-8 text: {error}") from error
    data = _parsed(path, text)
    if isinstance(data, dict) and "method" in data:  # an artifact's recipe.json
        data = data.get("concepts")
    if not isinstance(data, list):
        return [_concept(path, data)]
    if not data:
        raise UsageError(f"the plan {path} names no concept")
    return [_concept(path, {"name": item} if isinstance(item, str) else item) for item in data]


def _parsed(path: Path, text: str) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        table = csv.DictReader(io.StringIO(text), restkey="")
        for column in table.fieldnames or ():
            if column not in _KEYS:
                raise UsageError(f"the plan {path} has an unknown key {column!r}: choose from {', '.join(_KEYS)}")
        rows = list(table)
        if any("" in row for row in rows):
            raise UsageError(
                f"the plan {path} has a line with more cells than columns: quote a cell that holds a comma"
            )
        return [
            {k: [w.strip() for w in v.split(";") if w.strip()] if k in _LISTS else v for k, v in row.items() if v}
            for row in rows
        ]
    if suffix in (".yaml", ".yml"):
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"the plan {path} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"the plan {path} is not JSON: {error}") from error


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
