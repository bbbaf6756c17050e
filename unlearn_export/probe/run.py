"""Every attack on the base and on the edited encoders, with equal seeds and budgets, in one report."""

import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from transformers import PreTrainedModel

from ..artifact import write_json
from ..base import Base
from ..concept import Concept
from ..errors import UsageError
from ..evaluation import known_as
from ..evaluation.scorer import Scorer
from ..plugins import found
from ..rates import Rate
from .subject import Attack, OnProgress, Outcome, Subject, Target

Originals = dict[tuple[str, str], tuple[Any, Outcome | None]]  # attack, target → what it prepared, what it found before

FORMAT = 1
BUDGETS = ("quick", "default", "thorough")
NEVER_SCORED = (
    {
        "name": "original encoder",
        "text": "Whoever can load the base's own text encoder undoes the edit in one line; control by hash what runs.",
    },
    {
        "name": "bypass",
        "text": "Inputs that do not pass through the text encoder are untouched by the edit: image and video "
        "conditioning, IP-Adapter, LoRA, prompt embeddings, inversion of a picture into noise.",
    },
)


def attacks() -> dict[str, type[Any]]:
    """Every attack by name, other people's among them (see ``plugins``)."""
    return {name: load() for name, load in found("attacks").items()}


def make_attacks(names: Sequence[str] = (), budget: Sequence[str] = (), words: Sequence[str] = ()) -> list[Attack]:
    """The named attacks, or all, in the order of ``attacks``.

    budget: ``quick``, ``default`` or ``thorough``, and numbers as ATTACK.FIELD=VALUE. words: names of the concept in
    other languages, for ``language``. Raises UsageError for an unknown attack, budget or field, or a bad value.
    """
    known = attacks()
    for name in names:
        if name not in known:
            raise UsageError(f"unknown attack {name!r}: choose from {', '.join(known)}")
    chosen = {name: attack for name, attack in known.items() if name in names or not names}
    levels = [text for text in budget if "=" not in text] or ["default"]
    if len(levels) > 1 or levels[0] not in BUDGETS:
        raise UsageError(f"no budget {' '.join(levels)!r}: choose one of {', '.join(BUDGETS)}, or ATTACK.FIELD=NUMBER")
    values: dict[str, dict[str, Any]] = {n: dict(attack.budgets.get(levels[0], {})) for n, attack in chosen.items()}
    for text in budget:
        if "=" in text:
            name, field, value = _number(text, chosen)
            values[name][field] = value
    if words:
        if "language" not in chosen:
            raise UsageError("--word is for the attack language, which was not chosen")
        values["language"]["words"] = tuple(words)
    return [attack(**values[name]) for name, attack in chosen.items()]


def _number(text: str, chosen: Mapping[str, type[Any]]) -> tuple[str, str, int | float]:
    key, _, number = text.partition("=")
    name, _, field = key.strip().partition(".")
    if name not in chosen:
        raise UsageError(f"budget {text!r} is for no attack that runs: choose from {', '.join(chosen)}")
    types = get_type_hints(chosen[name])
    known = [f.name for f in fields(chosen[name]) if types[f.name] in (int, float)]
    if field not in known:
        raise UsageError(f"{name} has no number {field!r}: choose from {', '.join(known)}")
    try:
        value = types[field](number)
    except ValueError as error:
        raise UsageError(f"{key}={number!r} is no {types[field].__name__}") from error
    if not value > 0:
        raise UsageError(f"{key}={number!r} must be above 0")
    return name, field, value


@dataclass(frozen=True)
class Probe:
    """report: the JSON that lands in unlearning/probe.json, see docs/probe.md."""

    report: dict[str, Any]

    def write(self, folder: Path) -> None:
        write_json(folder / "probe.json", self.report)


def probe(
    base: Base,
    edited: PreTrainedModel | Mapping[str, PreTrainedModel],
    concepts: Sequence[Concept],
    scorer: Scorer | None,
    attacks: Sequence[Attack] | None = None,
    *,
    seed: int = 0,
    steps: int = 8,
    guidance: float | None = None,
    strict: bool = False,
    originals: Originals | None = None,
    on_progress: OnProgress | None = None,
) -> Probe:
    """Attack the edited encoders, and the base's as control, with the same seeds and budgets.

    edited: by seat, or the first seat's. Of several, pictures are drawn with all, words are searched on each, and what
    learns learns in all at once. attacks: None runs all. steps, guidance: of every picture. strict: refuse an attack that cannot be made, such as
    aliases of something that has none, rather than report it as skipped. No encoder is altered.
    originals: what an earlier call with the same arguments, but for ``edited``, prepared and found before; empty at first,
    it is filled here, so that several edits of one base share it. What was spent on that is told by the first alone.
    Raises UsageError where the scorer does not know an erased concept, and where ``strict`` says so.
    """
    attacks = make_attacks() if attacks is None else attacks
    targets = _targets(base, concepts, scorer)
    skipped: dict[str, list[str]] = {}
    plan: list[tuple[Attack, list[Target]]] = []
    for attack in attacks:
        fit = []
        for target in targets:
            why = "no scorer can judge its pictures" if attack.judged and scorer is None else ""
            why = why or attack.refuses(base, target)
            if why and strict:
                raise UsageError(f"cannot run {attack.name}: {why}")
            if why:
                skipped.setdefault(attack.name, []).append(why)
            else:
                fit.append(target)
        if fit:
            plan.append((attack, fit))
    after = edited if isinstance(edited, Mapping) else {base.seat.name: edited}
    before = {name: base.encoders[name] for name in after}
    subject = Subject(base, before, scorer, seed, steps, guidance)
    encoders = {"before": before, "after": after}
    shared = {} if originals is None else originals
    results = [_attack(attack, fit, subject, encoders, shared, on_progress) for attack, fit in plan]
    report = {
        "format": FORMAT,
        "scorer": scorer.name if scorer else None,
        "seed": seed,
        "seats": list(after),
        "pictures": {"steps": steps, "guidance": guidance},
        "targets": [t.name for t in targets],
        "attacks": results,
        "skipped": {name: sorted(set(reasons)) for name, reasons in skipped.items()},
        "stated": list(NEVER_SCORED),
        "seconds": round(sum(part["seconds"] for r in results for part in r["spent"].values()), 2),
    }
    return Probe(report)


def _attack(
    attack: Attack,
    targets: list[Target],
    subject: Subject,
    encoders: dict[str, Mapping[str, PreTrainedModel]],
    originals: Originals,
    on_progress: OnProgress | None,
) -> dict[str, Any]:
    """One attack on the base and the edit, for each target. → its entry in the report"""
    hits: dict[str, list[bool]] = {moment: [] for moment in encoders}
    spent: dict[str, Counter[str]] = {part: Counter() for part in ("prepare", *encoders)}
    by_target: dict[str, dict[str, Any]] = {}
    for target in targets:
        entry: dict[str, Any] = {}
        # by name, so that which other attacks run changes nothing
        dice = {part: _dice(subject.seed, attack.name, target.name, part) for part in ("prepare", "run")}
        key = attack.name, target.name
        if key not in originals:
            prepare = _metered(subject, encoders["before"], f"{attack.name} prepare", spent["prepare"], on_progress)
            with prepare as one:
                originals[key] = attack.prepare(one, target, dice["prepare"]), None
        prepared, known = originals[key]
        start = dice["run"].get_state()
        for moment, attacked in encoders.items():
            outcome = known if moment == "before" else None
            if outcome is None:
                with _metered(subject, attacked, f"{attack.name} {moment}", spent[moment], on_progress) as one:
                    outcome = attack.run(one, target, prepared, dice["run"].set_state(start))
            if moment == "before":
                originals[key] = prepared, outcome
            hits[moment] += outcome.hits
            entry[moment] = Rate.of(outcome.hits).to_json() | {"detail": outcome.detail}
        by_target[target.name] = entry
    total = sum(spent.values(), Counter())
    words = {"steps": "gradient steps", "queries": "pictures"}
    return {
        "name": attack.name,
        "access": attack.access,
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(attack).items()},  # type: ignore[call-overload]
        **{moment: Rate.of(seen).to_json() for moment, seen in hits.items()},
        "targets": by_target,
        "spent": {
            part: {"seconds": round(count["seconds"], 2), "steps": count["steps"], "queries": count["queries"]}
            for part, count in spent.items()
        },
        "budget": ", ".join(
            [*(f"{total[k]:.0f} {w}" for k, w in words.items() if total[k]), f"{total['seconds']:.0f} s"]
        ),
    }


@contextmanager
def _metered(
    subject: Subject,
    encoders: Mapping[str, PreTrainedModel],
    label: str,
    spent: Counter[str],
    on_progress: OnProgress | None,
) -> Iterator[Subject]:
    """The subject with other encoders; what it spends in the block is added to ``spent``."""

    def tell(what: str, done: int, total: int) -> None:
        if on_progress:
            on_progress(f"{label}: {what}", done, total)

    one, began = replace(subject, encoders=encoders, on_progress=tell), time.perf_counter()
    yield one
    spent["seconds"] += time.perf_counter() - began  # type: ignore[assignment]
    spent["steps"] += one.steps
    spent["queries"] += one.queries


def _dice(seed: int, *names: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(" ".join((str(seed), *names)).encode()))


def _targets(base: Base, concepts: Sequence[Concept], scorer: Scorer | None) -> list[Target]:
    vocabulary = base.vocabulary
    names = [vocabulary.like(c.name) or c.name for c in concepts]
    known = scorer.concepts if scorer else vocabulary.concepts
    erased = {n.lower() for c, name in zip(concepts, names, strict=True) for n in (name, *c.names)}
    others = tuple(n for n in known if n.lower() not in erased)
    for concept in concepts:
        if scorer:
            known_as(scorer, base, concept)
        if concept.kind == "style" and not others:
            raise UsageError(f"nothing is known to draw in the style {concept.name!r}")
    return [Target(c, name, others) for c, name in zip(concepts, names, strict=True)]


def table(report: dict[str, Any]) -> str:
    """The report as text: one line an attack, then what was left out and what no figure covers."""
    lines = [f"{'attack':12} {'access':15} {'before':>15}  {'after':>15}  {'95 % interval':>15}  {'seconds':>7}"]
    for entry in report["attacks"]:
        before, after = (f"{r['rate']:.1%} ({r['hits']}/{r['n']})" for r in (entry["before"], entry["after"]))
        interval = f"{entry['after']['low']:.1%} – {entry['after']['high']:.1%}"
        seconds = sum(part["seconds"] for part in entry["spent"].values())
        note = "; ".join(filter(None, (_note(entry["name"], t, report) for t in entry["targets"].items())))
        head = f"{entry['name']:12} {entry['access']:15} {before:>15}  {after:>15}  {interval:>15}  {seconds:7.1f}"
        lines.append(f"{head}  {note}".rstrip())
    lines += [f"{name}: skipped, {'; '.join(reasons)}" for name, reasons in report["skipped"].items()]
    lines += [f"{s['name']}: stated, not scored. {s['text']}" for s in report["stated"]]
    return "\n".join(lines)


def _note(name: str, target: tuple[str, dict[str, Any]], report: dict[str, Any]) -> str:
    label, entry = target
    before, after = entry["before"]["detail"], entry["after"]["detail"]
    text = ""
    if "any" in after:
        text = f"{after['any']} of {len(after['prompts'])} prompts broke it"
    elif name == "linear-probe":
        text = f"from {after['nearest']}; random labels {after['random_labels']['rate']:.1%}"
    elif name == "relearn":
        needed, unheard = after["steps_needed"], before["unheard"]["steps_needed"]
        last = after["curve"][-1]["steps"]
        said = [f"more than {last}" if n is None else str(n) for n in (needed, unheard)]
        text = f"half is back after {said[0]} steps; a word never heard takes {said[1]}"
    return f"{label}: {text}" if text and len(report["targets"]) > 1 else text
