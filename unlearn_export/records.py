"""What the typed records of an artifact share: reading a dataclass's fields out of a JSON object, and writing them."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from .errors import ArtifactError


def values_of(cls: Any, data: Any, where: str) -> dict[str, Any]:
    """The fields of a dataclass by name, as a JSON object has them; lists become tuples.

    where: how the object is called in an error. A field with a default may be absent. An unknown key is refused, as it
    is of a later version that may mean more by it than this one would keep.
    Raises ArtifactError in one line for no object, an unknown key, or one that is missing.
    """
    if not isinstance(data, Mapping):
        raise ArtifactError(f"{where} is no JSON object")
    known = {f.name: f for f in fields(cls)}
    for key in data:
        if key not in known:
            raise ArtifactError(f"{where} has the key {key!r}, which this version does not know: update unlearn-export")
    for name, field in known.items():
        if name not in data and field.default is MISSING and field.default_factory is MISSING:
            raise ArtifactError(f"{where} lacks {name!r}")
    return {key: frozen(value) for key, value in data.items()}


def frozen(value: Any) -> Any:
    """JSON with tuples for lists."""
    if isinstance(value, list | tuple):
        return tuple(frozen(v) for v in value)
    return {k: frozen(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def as_json(value: Any) -> Any:
    """A record, and all in it, as JSON writes it: by its own ``to_json``, or field by field."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value):
        return fields_as_json(value)
    if isinstance(value, Mapping):
        return {k: as_json(v) for k, v in value.items()}
    return [as_json(v) for v in value] if isinstance(value, list | tuple) else value


def fields_as_json(record: Any) -> dict[str, Any]:
    """The fields of one record in their order, for a ``to_json`` that leaves some out."""
    return {f.name: as_json(getattr(record, f.name)) for f in fields(record)}
