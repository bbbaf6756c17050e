"""Packages that only some commands need: asked for before any work, and named by the extra that brings them."""

from importlib.util import find_spec

from .errors import DependencyError

SCORERS = {"nudenet": ("nudenet", ("nudenet",)), "face": ("face", ("dlib", "face_recognition_models"))}


def need(what: str, extra: str, *modules: str) -> None:
    """Raise DependencyError unless all modules are installed; nothing is imported. what: who needs them, in words."""
    for module in modules:
        if find_spec(module) is None:
            raise DependencyError(f"{what} needs {module}: pip install 'unlearn-export[{extra}]'")


def need_onnx(what: str = "the ONNX export", without: str = "") -> None:
    """As ``need``, for what exports graphs. without: how to do without one."""
    try:
        need(what, "cpu", "onnx", "onnxscript", "onnxruntime")
    except DependencyError as error:
        raise DependencyError(f"{error}, or [gpu]{without}") from error


def need_scorer(name: str | None) -> None:
    """As ``need``, for a scorer as ``load_scorer`` names it."""
    kind = (name or "").partition(":")[0]
    if kind in SCORERS:
        extra, modules = SCORERS[kind]
        need(f"the scorer {kind}", extra, *modules)
