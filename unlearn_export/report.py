"""unlearning/report.html: the whole evaluation on one page that opens from disk, without a network."""

import base64
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .artifact import Artifact, read_json, write_text
from .errors import ArtifactError
from .evaluation import picture_files
from .gates import MEANING, figures, not_erased
from .rates import Rate, Spread

TEMPLATE = "report.html.jinja"
REPORT = "unlearning/report.html"
PROBE = "unlearning/probe.json"
RATES = {
    "erased": "erased concept still seen",
    "others": "other concepts",
    "neighbours": "of its own group",
    "far": "of other groups",
    "holdout": "held out",
    "styles": "styles",
    "negative": "others, with it as negative prompt",
    "motion": "motion asked for",
}
GROUPS = {
    "empty": "empty prompt",
    "concept": "prompts about it",
    "concept_held_out": "about it in unseen words",
    "retained": "other things, plainly",
    "held_out": "other things in unseen words",
    "contexts": "other things in random contexts",
    "words": "other things' names alone",
}
VARIANTS = {"direct": "plain prompts", "alias": "aliases", "paraphrase": "paraphrases", "composition": "compositions"}


def write_report(artifact: Artifact) -> Path:
    """Render the page of an evaluated artifact, pictures and clips inside it. → its path"""
    path = artifact.path / REPORT
    write_text(path, render_report(artifact))
    return path


def render_report(artifact: Artifact) -> str:
    """The page as HTML; the same folder gives the same text. Every number is read from the folder's JSON."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "interval": _interval, "curve": _curve, "relearned": _relearned}
    environment.filters |= {"rated": Rate.from_json, "spread": _spread}
    recipe, report = artifact.recipe, artifact.evaluation
    if report is None:
        raise ArtifactError(f"{artifact.path} was not evaluated: there is nothing to report")
    values = figures(report)
    probe = artifact.path / PROBE
    return environment.get_template(TEMPLATE).render(
        names=[c.name for c in recipe.concepts],
        recipe=recipe,
        report=report,
        not_erased=not_erased(report),
        figures={name: (values[name], MEANING[name]) for name in MEANING if values[name] is not None},
        rates=RATES,
        variants=VARIANTS,
        groups=GROUPS,
        pictures={name: _pictures(artifact.path / "unlearning", name) for name in report.pipelines},
        probe=read_json(probe) if probe.is_file() else None,
    )


def _pictures(folder: Path, name: str) -> dict[str, str]:
    """sheet, before and after of a pipeline as data URIs; "" for what is not there, such as clips of a still."""
    files = picture_files(name).items()
    return {key: _data_uri(folder / file) if (folder / file).is_file() else "" for key, file in files}


def _data_uri(file: Path) -> str:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _spread(values: Spread) -> str:
    if values.low is None:
        return f"{values.n} prompt"
    return f"{values.n} prompts, 95 % interval {values.low:.4f} to {values.high:.4f}"


def _percent(rate: Rate | None) -> str:
    return "–" if rate is None or rate.told is None else f"{rate.told:.1%}"


def _interval(rate: Rate | None) -> str:
    if rate is None or rate.told is None:
        return "not measured"
    low, high = (rate.to_json()[end] for end in ("low", "high"))
    return f"{rate.hits} of {rate.n}, 95 % interval {low:.1%} to {high:.1%}"


def _curve(rates: Sequence[Rate]) -> str:
    """Points of an SVG polyline in a box of 100 × 40, one a frame."""
    return _points(range(len(rates)), rates)


def _relearned(rates: Sequence[dict[str, Any]]) -> str:
    """The same of the rates of an attack by their ``steps``."""
    return _points([rate["steps"] for rate in rates], [Rate.from_json(rate) for rate in rates])


def _points(places: Sequence[int], rates: Sequence[Rate]) -> str:
    last = max(1, places[-1])
    return " ".join(f"{100 * x / last:.1f},{40 - 40 * (r.told or 0):.1f}" for x, r in zip(places, rates, strict=True))
