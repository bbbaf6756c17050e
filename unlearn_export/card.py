"""The model card of an artifact folder: every number in it is read from the folder."""

import json
import re
import shlex
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from . import phrasing
from .artifact import CARD, DELTA, Artifact, read_json, sha256
from .card_text import marked, merged
from .concept import Concept
from .errors import ArtifactError
from .gates import not_erased
from .licences import KNOWN, check_licence
from .measured import Moment, Report
from .plugins import is_embedded
from .profile import Profile, profile_of
from .rates import Rate
from .recipe import FIRST_CLASS, BaseRecord, Recipe, told
from .release import REASONS

TEMPLATE = "erased_encoder.md.jinja"  # in the folder of templates, model_cards
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
RATES = {"erased": "Erased, still seen", "others": "Others", "holdout": "Held out", "styles": "Styles of the others"}


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
        "front": _metadata(artifact, license, repo_id).to_yaml().rstrip("\n") + "\n",
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
        "on_hub": _on_hub(recipe.base),
        "open_base": "from_single_file" if recipe.base.file else "from_pretrained",
        "base": profile.title or _public(source),
        "usage": _usage(artifact, first),
        "modified": [name for name in files if name.endswith(".safetensors")],
        "has_onnx": artifact.has_onnx,
        "prompt": phrasing.example(first.kind, first.name),
        "report": report,
        "not_erased": not_erased(report),
        "probe": artifact.probe,
        "pipelines": {_public(name): seen for name, seen in pipelines.items()},
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


def _metadata(artifact: Artifact, declared: str, repo_id: str) -> ModelCardData:
    """The front matter, as the Hub validates it. declared: the licence."""
    recipe = artifact.recipe
    licence: dict[str, Any] = {"license": declared}
    if declared not in KNOWN:
        slug = re.sub(r"[^a-z0-9.]+", "-", declared.lower()).strip("-")
        name = "license-of-the-base" if slug in ("", "other", "unknown") else slug
        licence = {"license": "other", "license_name": name, "license_link": "LICENSE"}
    on_hub, delta = _on_hub(recipe.base), artifact.is_delta
    tags = ["unlearning", "concept-erasure", "text-encoder", "text-to-image", "text-to-video", "safetensors"]
    results = _results(artifact)
    return ModelCardData(
        **licence,
        # Not diffusers: for that the Hub offers DiffusionPipeline.from_pretrained(repo), and there is no pipeline here.
        library_name="unlearn-export" if delta else "transformers",
        pipeline_tag="feature-extraction",
        base_model=recipe.base.source if on_hub else None,
        base_model_relation=("adapter" if delta else "finetune") if on_hub else None,
        tags=tags + ["onnx"] * artifact.has_onnx,
        model_name=_named(artifact, repo_id) if results else None,
        eval_results=results or None,
    )


def _results(artifact: Artifact) -> list[EvalResult]:
    """What was measured, for the Hub's tables: the rates of each pipeline after the edit, and of each attack."""
    report, probe = artifact.evaluation, artifact.probe
    found = []
    for name, seen in (report.pipelines if report else {}).items():
        for key, label in RATES.items():
            before, after = getattr(seen.before, key), getattr(seen.after, key)
            if report and after and after.told is not None:
                asked = f"unlearn-export's prompts, seed {report.seed}"
                what = "accuracy" if key != "erased" else "erased-concept-seen"
                task = "text-to-video" if seen.video else "text-to-image"
                found.append(_result(task, asked, _public(name), what, label, before, after))
    for attack in probe["attacks"] if probe else ():
        before, after = Rate.from_json(attack["before"]), Rate.from_json(attack["after"])
        if after.told is not None:
            asked = f"unlearn-export's attacks, seed {probe.get('seed', 0)}" if probe else ""
            label = "Concept brought back"
            found.append(_result("text-to-image", asked, attack["name"], "attack-success", label, before, after))
    return found


def _result(task: str, asked: str, config: str, what: str, label: str, before: Rate | None, after: Rate) -> EvalResult:
    """config: what tells this set of prompts from the others, or the Hub's client takes them for one."""
    counts = {"n": after.n, **({"before": before.told} if before else {})}
    return EvalResult(
        task_type=task,
        dataset_type="unlearn-export",
        dataset_name=asked,
        dataset_config=config,
        metric_type=what,
        metric_name=label,
        metric_value=after.told,
        metric_args=counts,
    )


def _named(artifact: Artifact, repo_id: str) -> str:
    names = "-".join(re.sub(r"[^a-z0-9]+", "-", c.name.lower()).strip("-") for c in artifact.recipe.concepts[:3])
    return repo_id.rpartition("/")[2] or f"text-encoder-without-{names}"


def _on_hub(base: BaseRecord) -> bool:
    """A download records its commit; a folder such as models/sd15, which looks like a Hub id, has none."""
    return bool(base.revision) and HUB_ID.fullmatch(base.source) is not None


def _public(source: str) -> str:
    """A pipeline's name; of a folder only the last part, since where it lay is nobody's business."""
    return re.split(r"[/\\]", source.rstrip("/\\"))[-1] if re.match(r"[/\\~.]|\w:", source) else source


def _commands(recipe: Recipe, report: Report | None, has_onnx: bool) -> str:
    """The command lines that make this artifact again.

    Every hyper-parameter is spelled out, so that the line outlives a change of defaults.
    """
    concepts, base, method = recipe.concepts, recipe.base, recipe.method
    where = ["--base", _public(base.source)]
    if base.file:
        where += ["--base-config", _public(base.file.config)]
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
        words += ["--t2v", _public(seen.source)] if seen.source else []
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
