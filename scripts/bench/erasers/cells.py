"""What one method does to one concept: the edit in a process of its own, then pictures, clips and attacks."""

import resource
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unlearn_export import build, load_base
from unlearn_export.artifact import Artifact, read_json, write_json
from unlearn_export.evaluation import Seen, Size, evaluate
from unlearn_export.measured import Moment, Report
from unlearn_export.probe import make_attacks, probe
from unlearn_export.probe.run import Originals
from unlearn_export.rates import Mean, Rate
from unlearn_export.scorers import load_scorer
from unlearn_export.stages import Hooks, load_t2v, read_encoders

from .concepts import concept
from .methods import ROWS

ATTACKS = ("ring-a-bell", "unlearndiff", "pseudo-word")
KEPT = ("others", "neighbours", "negative", "styles", "motion")
GIB = 2**30


def edit(source: str, row: str, name: str, folder: Path) -> dict[str, Any]:
    """Make the artifact. → seconds of the edit alone, and the process's peak of memory"""
    hooks = Hooks()
    build(load_base(source), [concept(name)], ROWS[row].make(), folder / "artifact", onnx=False, hooks=hooks)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    return {"seconds": hooks.seconds["erase"], "peak_gib": round(peak, 2), "threads": torch.get_num_threads()}


def look(
    source: str, name: str, folders: Mapping[str, Path], size: Size, budget: Sequence[str], seed: int
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Pictures and attacks of every method's artifact; what the base itself draws is seen once.

    → method, stage, what was found. Reports are kept in the folders, and not made again.
    """
    base = load_base(source)
    scorer = load_scorer(base.scorer or "", base)
    t2v = {label.partition(":")[2]: load_t2v(label, base) for label in base.profile.t2v}
    seen: dict[str, Seen] = {}
    attacked: Originals = {}
    # by the plain name for all methods alike: the base knows its other names
    wanted, level = [concept(name)], "-".join(budget) or "default"
    for row, folder in folders.items():
        encoders = read_encoders(base, Artifact.open(folder / "artifact"))
        pictures, attacks = folder / f"pictures-{seed}.json", folder / f"attacks-{level}-{seed}.json"
        if not pictures.is_file():
            report = evaluate(base, encoders, wanted, scorer, t2v=t2v, size=size, seed=seed, originals=seen).report
            write_json(pictures, report.to_json())
        yield row, "pictures", told(Report.from_json(read_json(pictures)))
        if not attacks.is_file():
            chosen, guidance = make_attacks(ATTACKS, budget), base.guidance
            found = probe(base, encoders, wanted, scorer, chosen, seed=seed, guidance=guidance, originals=attacked)
            write_json(attacks, found.report)
        yield (
            row,
            f"attacks-{level}",
            {a["name"]: _pair(a["before"], a["after"]) for a in read_json(attacks)["attacks"]},
        )


def told(report: Report) -> dict[str, Any]:
    """By column the worst pipeline's rate before and after: of what should not be seen the highest after, of what should
    the lowest in parts of before."""
    moments = [(name, p.before, p.after) for name, p in report.pipelines.items()]
    found = {"direct": _most(moments, lambda m: m.erased), "any-frame": _most(moments, lambda m: m.any_frame)}
    for kind in ("alias", "paraphrase", "composition"):
        found[kind] = _most(moments, lambda m, kind=kind: m.variants.get(kind))
    for key in KEPT:
        found[key] = _least(moments, key)
    return {key: value for key, value in found.items() if value}


def _most(moments: Sequence[tuple[str, Moment, Moment]], get: Any) -> dict[str, Any] | None:
    known = [(get(after), get(before), name) for name, before, after in moments if get(after)]
    if not known:
        return None
    after, before, name = max(known, key=lambda k: k[0].told or 0.0)
    return _pair(before.to_json(), after.to_json()) | {"pipeline": name}


def _least(moments: Sequence[tuple[str, Moment, Moment]], key: str) -> dict[str, Any] | None:
    known = []
    for name, before, after in moments:
        old, new = getattr(before, key), getattr(after, key)
        if old is not None and new is not None and _value(old):
            known.append((_value(new) / _value(old), old, new, name))
    if not known:
        return None
    ratio, old, new, name = min(known, key=lambda k: k[0])
    return _pair(old.to_json(), new.to_json()) | {"pipeline": name, "of_before": round(ratio, 4)}


def _value(rate: Rate | Mean) -> float:
    return (rate.rate or 0.0) if isinstance(rate, Rate) else rate.mean


def _pair(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {"before": f"{before['hits']}/{before['n']}", "after": f"{after['hits']}/{after['n']}"}
