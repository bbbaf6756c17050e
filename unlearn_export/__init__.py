"""Erase a concept from a text encoder that text-to-image and text-to-video models share, and ship the result."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifact import Artifact
    from .base import Base, load_base
    from .concept import Concept
    from .edit import Edit
    from .erase import Erased, erase
    from .erasers import make_method
    from .evaluation import Evaluation, evaluate
    from .hub import push
    from .onnx.export import export_onnx
    from .stages import build

_HOMES = {
    "Artifact": "artifact",
    "Base": "base",
    "Concept": "concept",
    "Edit": "edit",
    "Erased": "erase",
    "Evaluation": "evaluation",
    "build": "stages",
    "erase": "erase",
    "evaluate": "evaluation",
    "export_onnx": "onnx.export",
    "load_base": "base",
    "make_method": "erasers",
    "push": "hub",
}
__all__ = [
    "Artifact",
    "Base",
    "Concept",
    "Edit",
    "Erased",
    "Evaluation",
    "build",
    "erase",
    "evaluate",
    "export_onnx",
    "load_base",
    "make_method",
    "push",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and diffusers take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            return  # importing the submodule ``erase`` must not put it in the place of the function
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
