"""A card's front matter: what the Hub reads of an artifact, through its own classes."""

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .artifact import Artifact
from .licences import KNOWN
from .rates import Rate
from .recipe import BaseRecord

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
RATES = {"erased": "Erased, still seen", "others": "Others", "holdout": "Held out", "styles": "Styles of the others"}


def metadata(artifact: Artifact, declared: str, repo_id: str) -> ModelCardData:
    """The front matter, as the Hub validates it. declared: the licence."""
    recipe = artifact.recipe
    licence: dict[str, Any] = {"license": declared}
    if declared not in KNOWN:
        slug = re.sub(r"[^a-z0-9.]+", "-", declared.lower()).strip("-")
        name = "license-of-the-base" if slug in ("", "other", "unknown") else slug
        licence = {"license": "other", "license_name": name, "license_link": "LICENSE"}
    there, delta = on_hub(recipe.base), artifact.is_delta
    tags = ["unlearning", "concept-erasure", "text-encoder", "text-to-image", "text-to-video", "safetensors"]
    results = _results(artifact)
    return ModelCardData(
        **licence,
        # Not diffusers: for that the Hub offers DiffusionPipeline.from_pretrained(repo), and there is no pipeline here.
        library_name="unlearn-export" if delta else "transformers",
        pipeline_tag="feature-extraction",
        base_model=recipe.base.source if there else None,
        base_model_relation=("adapter" if delta else "finetune") if there else None,
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
                found.append(_result(task, asked, public(name), what, label, before, after))
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


def on_hub(base: BaseRecord) -> bool:
    """A download records its commit; a folder such as models/sd15, which looks like a Hub id, has none."""
    return bool(base.revision) and HUB_ID.fullmatch(base.source) is not None


def public(source: str) -> str:
    """A pipeline's name; of a folder only the last part, since where it lay is nobody's business."""
    return re.split(r"[/\\]", source.rstrip("/\\"))[-1] if re.match(r"[/\\~.]|\w:", source) else source
