"""The model card of an artifact folder: every number in it is read from the folder."""

import json
import re
import shlex
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from . import phrasing
from .artifact import CARD, DELTA, Artifact, read_json, sha256
from .card_front import RATES, metadata, on_hub, public
from .card_text import marked, merged
from .concept import Concept
from .errors import ArtifactError
from .gates import not_erased
from .licences import check_licence
from .measured import Moment, Report
from .plugins import is_embedded
from .profile import Profile, profile_of
from .rates import Rate
from .recipe import FIRST_CLASS, Recipe, told
from .release import REASONS

TEMPLATE = "erased_encoder.md.jinja"  # in the folder of templates, model_cards


@dataclass(frozen=True)
class Published:
    """What a card tells of how it was published. despite: reasons of ``release`` that whoever published it named.

    license: what the copy is published under; "" is the base's own.
    """

    despite: tuple[str, ...] = ()
    license: str = ""


def renewed_card(
    artifact: Artifact, repo_id: str = "", *, replace: bool = False, published: Published | None = None
) -> str:
    """The card anew, with what somebody wrote around the generated part of the one that the folder has.

    replace: without that. Raises what ``render`` does, and ArtifactError where what is there cannot be kept.
    """
    text, there = render(artifact, repo_id, published), artifact.path / CARD
    if replace or not there.is_file():
        return text
    try:
        return merged(text, there.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot keep what is in {there}: {error}; mend it, or pass --replace-card") from error


def render(artifact: Artifact, repo_id: str = "", published: Published | None = None) -> str:
    """The card as Markdown with YAML front matter; the same folder and ``repo_id`` give the same text.

    The body is between two marks (see ``card_text``): what is written outside of them stays when it is rendered again.

    repo_id: the Hub id that the usage snippets load from; "" makes them load from a folder called ``out``.
    Raises ArtifactError where the recipe or the evaluation lacks something that the card tells, and UsageError for a
    licence that the base's does not let a copy have.
    """
    environment = Environment(
        loader=FileSystemLoader(str(files("model_cards"))),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown is no HTML: `md` escapes what came from a user
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": _escape, "py": _literal, "url": quote}
    environment.filters |= {
        "rated": Rate.from_json,
        "rate": _rate,
        "count": lambda n: f"{int(n):,}",
        "percent": lambda x: f"{100 * x:.2f}%",
    }
    try:
        return marked(environment.get_template(TEMPLATE).render(_facts(artifact, repo_id, published or Published())))
    except (KeyError, UndefinedError) as error:
        raise ArtifactError(f"{artifact.path} lacks what its card must tell: {error}") from error


def _facts(artifact: Artifact, repo_id: str, published: Published) -> dict[str, Any]:
    recipe, report, files = artifact.recipe, artifact.evaluation, artifact.hashed()
    first, source = recipe.concepts[0], recipe.base.source
    profile = profile_of(source)
    pipelines = report.pipelines if report else {}
    if published.license:
        check_licence(published.license, recipe.base.license)
    license = published.license or recipe.base.license
    return {
        "front": metadata(artifact, license, repo_id).to_yaml().rstrip("\n") + "\n",
        "despite": [REASONS[reason] for reason in published.despite],
        "license": license,
        "terms": [name for name in files if "/" not in name and name not in ("LICENSE", "NOTICE")],
        "repo": "out" if artifact.is_delta else repo_id or "out",
        "is_local": artifact.is_delta or not repo_id,
        "delta": {"from": repo_id or "DELTA", "bytes": (artifact.path / DELTA).stat().st_size}
        if artifact.is_delta
        else None,
        "recipe": recipe,
        "concepts": recipe.concepts,
        "names": [c.name for c in recipe.concepts],
        "profile": profile,
        "is_embedded": is_embedded(source),
        "on_hub": on_hub(recipe.base),
        "open_base": "from_single_file" if recipe.base.file else "from_pretrained",
        "base": profile.title or public(source),
        "usage": _usage(artifact, first),
        "modified": [name for name in files if name.endswith(".safetensors")],
        "has_onnx": artifact.has_onnx,
        "prompt": phrasing.example(first.kind, first.name),
        "report": report,
        "not_erased": not_erased(report),
        "probe": artifact.probe,
        "pipelines": {public(name): seen for name, seen in pipelines.items()},
        "rates": {k: v for k, v in RATES.items() if any(_counted(p.before, k) for p in pipelines.values())},
        "by_concept": sorted({c for p in pipelines.values() for c in p.before.by_concept}),
        "options": {k: _option(v) for k, v in recipe.method.options.items()},
        "commands": _commands(recipe, report, artifact.has_onnx),
        "files": [(name, (artifact.path / name).stat().st_size, sha256(artifact.path / name)) for name in files],
        "names_of_files": files,
    }


def _usage(artifact: Artifact, concept: Concept) -> dict[str, Any]:
    """What the snippets are written from. seats: what is told of each encoder, its class among it. contract: how the
    first one is read, with its tokenizer's class and ``max_length`` and the prompt in its template. AutoTokenizer looks
    for an encoder's config beside the tokenizer, and fails without a network: it stands only where no class is named.

    width: of an encoder of Stable Diffusion 1 or 2, for which published video pipelines are known by it; else None.
    """
    from .families.contracts import contracts_of

    kind, seats = artifact.recipe.base.kind, told(artifact.recipe.to_json())
    seats = {name: {"architecture": FIRST_CLASS, **about} for name, about in seats.items()}
    name, seat = next(iter(seats.items()))
    readers = [c for r in seat["readers"] for c in contracts_of(r) if seat["architecture"] in c.architectures]
    if not readers:
        raise ArtifactError(f"nothing is known here of how {', '.join(seat['readers'])} read a {seat['architecture']}")
    contract = readers[0]
    pipeline = kind or contract.pipelines[0]
    config = read_json(artifact.path / name / "config.json")
    about = artifact.path / seat["tokenizer"] / "tokenizer_config.json"
    named = str(read_json(about).get("tokenizer_class", "")) if about.is_file() else ""
    return {
        "width": config.get("hidden_size") if pipeline == "StableDiffusionPipeline" else None,
        "pipeline": pipeline,
        "video": contract.video,
        "seats": seats,
        "classes": sorted({about["architecture"] for about in seats.values()}),
        "readers": list(dict.fromkeys(r for about in seats.values() for r in about["readers"])),
        "contract": contract,
        "tokenizer": named if "Tokenizer" in named and named != "TokenizersBackend" else "AutoTokenizer",
        "max_length": contract.length + (contract.crop or 0),
        "asked": contract.template.format(phrasing.example(concept.kind, concept.name)),
    }


def _commands(recipe: Recipe, report: Report | None, has_onnx: bool) -> str:
    """The command lines that make this artifact again.

    Every hyper-parameter is spelled out, so that the line outlives a change of defaults.
    """
    concepts, base, method = recipe.concepts, recipe.base, recipe.method
    where = ["--base", public(base.source)]
    if base.file:
        where += ["--base-config", public(base.file.config)]
    revision = base.file.config_revision if base.file else base.revision
    where += [*(["--revision", revision] if revision else []), "-o", "out"]
    if len(concepts) > 1:
        start, words = ["--plan", "recipe.json"], []
    else:
        [only] = concepts
        start, words = [only.name], ["--kind", only.kind]
        words += [part for alias in only.aliases for part in ("--alias", alias)]
        words += ["--anchor", only.anchor] if only.anchor else []
        words += [part for name in only.retain for part in ("--retain", name)]
    options = ["--method", method.name]
    for key, value in method.options.items():
        if value not in ((), None):  # None is left to the method
            options += ["-O", f"{key}={_option(value)}"]
    end = ["--seed", str(recipe.seed)]
    if any("file" in image for images in recipe.images for image in images):
        end += ["--images", "pictures"]
    end += ["--no-evaluate"] if has_onnx else ["--no-onnx", "--no-evaluate"]
    parts = (["unlearn-export", "erase", *start, *where], words, options, end)
    erase = " \\\n  ".join(shlex.join(part) for part in parts if part)
    evaluate = [_evaluate(report, profile_of(base.source))] if report else []
    return "\n".join([erase, *evaluate, "unlearn-export verify out"])


def _option(value: Any) -> Any:
    """A hyper-parameter as ``-O`` takes it; "" where it is left to the method."""
    return "" if value is None else "+".join(value) if isinstance(value, tuple) else value


def _evaluate(report: Report, profile: Profile) -> str:
    words = ["unlearn-export", "evaluate", "out", "--seed", str(report.seed)]
    for seen in report.pipelines.values():
        words += ["--t2v", public(seen.source)] if seen.source else []
    size = ["--references", "references"] if report.references else []
    for name, default in (("scorer", profile.scorer), ("features", None)):
        judge = (report.judges or {}).get(name)
        size += [f"--{name}", judge] if judge not in (default, None) else []
    for key, value in report.size.items():
        if value is not None and key != "frames":
            size += [f"--{key.replace('_', '-')}", str(value)]
    return f"{shlex.join(words)} \\\n  {shlex.join(size)}"


def _escape(value: object) -> str:
    """A value as plain text in Markdown, in a table too."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(str(value).split()))


def _literal(text: str) -> str:
    """A Python string literal."""
    return json.dumps(text, ensure_ascii=False)


def _counted(moment: Moment, name: str) -> int:
    rate: Rate | None = getattr(moment, name)
    return rate.n if rate else 0


def _rate(rate: Rate | None) -> str:
    return "–" if rate is None or rate.told is None else f"{rate.hits}/{rate.n} ({rate.told:.1%})"
