"""An edited text encoder at work: loaded with torch or ONNX Runtime, dropped into a pipeline, served over HTTP."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearn_export.pipelines.encoders import load_encoder as load_encoder
    from unlearn_export.pipelines.load import load_pipeline as load_pipeline

__all__ = ["load_encoder", "load_pipeline"]
_HOME = {"load_encoder": "unlearn_export.pipelines.encoders", "load_pipeline": "unlearn_export.pipelines.load"}


def __getattr__(name: str) -> Any:
    """Import torch and diffusers on first use: the HTTP front end needs neither."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
