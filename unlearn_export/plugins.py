"""Parts that plug in: erasers, families, attacks, scorers, bases and pipelines, ours and other people's, found by name.

Another package adds one through an entry point of the group ``unlearn_export.KIND``, for example in its pyproject.toml::

    [project.entry-points."unlearn_export.families"]
    my-encoder = "my_package.family:MyFamily"

See docs/plugins.md for one of each kind.
"""

import functools
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from .errors import UnlearnExportError

# kind → name → module:attribute; nothing here is imported before it is asked for
OURS: Mapping[str, Mapping[str, str]] = {
    "erasers": {
        "anchor": "unlearn_export.erasers.anchor:Anchor",
        "robust": "unlearn_export.erasers.robust:Robust",
        "few-shot": "unlearn_export.erasers.few_shot:FewShotAscent",
    },
    "families": {
        "clip": "unlearn_export.families.clip:Clip",
        "t5": "unlearn_export.families.t5:T5",
        "umt5": "unlearn_export.families.t5:UMT5",
        "llama": "unlearn_export.families.decoder:Llama",
        "qwen2.5-vl": "unlearn_export.families.decoder:Qwen25VL",
        "qwen3": "unlearn_export.families.decoder:Qwen3",
        "qwen3-vl": "unlearn_export.families.decoder:Qwen3VL",
        "gemma2": "unlearn_export.families.decoder:Gemma2",
        "gemma3": "unlearn_export.families.decoder:Gemma3",
    },
    "bases": {"demo": "unlearn_export.demo:base"},
    "profiles": {"demo": "unlearn_export.demo:PROFILE"},  # what is known of a base by its name, without opening it
    "pipelines": {"demo": "unlearn_export.demo:load"},  # "demo:NAME" is what it makes of NAME
    "attacks": {
        "direct": "unlearn_export.probe.words:Direct",
        "unrelated": "unlearn_export.probe.words:Unrelated",
        "alias": "unlearn_export.probe.words:Alias",
        "paraphrase": "unlearn_export.probe.words:Paraphrase",
        "misspelling": "unlearn_export.probe.words:Misspelling",
        "language": "unlearn_export.probe.words:Language",
        "composition": "unlearn_export.probe.words:Composition",
        "ring-a-bell": "unlearn_export.probe.ring_a_bell:RingABell",
        "unlearndiff": "unlearn_export.probe.unlearn_diff:UnlearnDiff",
        "pseudo-word": "unlearn_export.probe.pseudo_word:PseudoWord",
        "state-space": "unlearn_export.probe.state_space:StateSpace",
        "linear-probe": "unlearn_export.probe.linear_probe:LinearProbe",
        "relearn": "unlearn_export.probe.relearn:Relearn",
    },
    "scorers": {
        "demo": "unlearn_export.demo.scorer:scorer",
        "clip": "unlearn_export.scorers.named:clip",
        "nudenet": "unlearn_export.scorers.named:nudenet",
        "face": "unlearn_export.scorers.named:face",
    },
}


@functools.cache
def found(kind: str) -> dict[str, Callable[[], Any]]:
    """Every part of a kind by name, as a loader. Ours come first; a foreign one of the same name is refused.

    Raises UnlearnExportError for two parts of one name.
    """
    parts: dict[str, Callable[[], Any]] = {name: functools.partial(_ours, where) for name, where in OURS[kind].items()}
    for entry in entry_points(group=f"unlearn_export.{kind}"):
        if entry.name in parts:
            raise UnlearnExportError(f"two {kind} are called {entry.name!r}: uninstall {entry.value} or the other one")
        parts[entry.name] = functools.partial(_theirs, kind, entry)
    return parts


def theirs(kind: str) -> dict[str, Callable[[], Any]]:
    """The parts of a kind that other packages bring, by name, as loaders. Raises what ``found`` raises."""
    return {name: loader for name, loader in found(kind).items() if name not in OURS[kind]}


def is_embedded(source: str) -> bool:
    """Whether a plug-in makes this base: it is a name such as "demo", or one with more behind a colon."""
    return source.partition(":")[0] in found("bases")


def load(kind: str, name: str) -> Any:
    """The part itself. Raises KeyError for an unknown name, UnlearnExportError where a foreign one cannot be imported."""
    return found(kind)[name]()


def _ours(where: str) -> Any:
    module, _, attribute = where.partition(":")
    return getattr(import_module(module), attribute)


def _theirs(kind: str, entry: Any) -> Any:
    try:
        return entry.load()
    except Exception as error:  # whatever their import raises
        line = " ".join(str(error).split())[:200]
        raise UnlearnExportError(f"cannot load the plug-in {entry.name!r} of {kind} ({entry.value}): {line}") from error
