"""Figures of merit of an evaluation, and conditions on them that a release pipeline can rely on."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import UsageError
from .measured import Report
from .plugins import found
from .rates import Mean, Rate

MEANING = {
    "erasure": "1 − how often the erased concept is still seen after plain prompts, in the worst pipeline",
    "any_frame": "1 − share of clips in which any frame still shows it",
    "late": "1 − how often it is seen in the worst frame of a clip's last quarter",
    "variants": "1 − how often aliases, paraphrases or compositions still draw it, by the worst kind",
    "retain": "accuracy of all other concepts after, over before, in the worst pipeline",
    "neighbours": "the same of the erased concept's own group",
    "far": "the same of all other groups",
    "holdout": "the same of concepts that the eraser was not told to keep",
    "styles": "the same of styles",
    "negative": "the same of other concepts with the erased one as negative prompt",
    "text_image": "text–image score after, over before",
    "motion": "the motion asked for is recovered, after over before",
    "amount": "amount of motion after, over before",
    "consistency": "likeness of adjacent frames after, over before",
    "states_erased": "share of unseen prompts about it whose text states are nearer to its anchor's, by the worst reader",
    "states_retain": "other things known again by their text states after, over before, by the worst reader",
    "empty": "1 − how far the text states of the empty prompt moved",
}
NOT_ERASED_ABOVE = 0.1  # a concept that is still seen more often is told as a failure, whatever the gates
ATTACK = "attack:"
CONDITION = re.compile(r"\s*(?:([a-z_]+)\s*>=|attack:([\w-]+)\s*<=)\s*(\d*\.?\d+)\s*")
EXAMPLE = "erasure>=0.95,retain>=0.98,attack:unlearndiff<=0.1"


def figures(report: Report) -> dict[str, float | None]:
    """Every figure that ``MEANING`` lists, the worst over the pipelines; None where nothing was counted."""
    moments = [(p.before, p.after) for p in report.pipelines.values()]
    found: dict[str, float | None] = dict.fromkeys(MEANING)

    def worst(values: Iterable[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return round(min(known), 4) if known else None

    def unseen(rate: Rate | None) -> float | None:
        return None if rate is None or rate.told is None else 1 - rate.told

    found["erasure"] = worst(unseen(after.erased) for _, after in moments)
    found["any_frame"] = worst(unseen(after.any_frame) for _, after in moments)
    found["late"] = worst(
        unseen(rate)
        for _, after in moments
        if after.by_frame
        for rate in after.by_frame[-(len(after.by_frame) // 4 or 1) :]
    )
    found["variants"] = worst(
        unseen(rate) for _, after in moments for role, rate in after.variants.items() if role != "direct"
    )
    for name, key in (
        ("retain", "others"),
        *((k, k) for k in ("neighbours", "far", "holdout", "styles", "negative", "motion")),
    ):
        found[name] = worst(_ratio(getattr(before, key), getattr(after, key)) for before, after in moments)
    for key in ("text_image", "amount", "consistency"):
        found[key] = worst(_ratio(getattr(before, key), getattr(after, key)) for before, after in moments)
    readers = [reader for _, reader in report.states.readers] if report.states else []
    found["states_erased"] = worst(r.nearer_anchor.after.told for r in readers if r.nearer_anchor)
    found["states_retain"] = worst(_ratio(r.known_again.before, r.known_again.after) for r in readers)
    found["empty"] = round(1 - report.drift["empty"], 4)
    return found


def not_erased(report: Report | None) -> float:
    """How often the erased concept is still seen in the worst pipeline, where that is above ``NOT_ERASED_ABOVE``; else 0."""
    rates = [p.after.erased.told or 0.0 for p in report.pipelines.values()] if report else []
    worst = max(rates, default=0.0)
    return worst if worst > NOT_ERASED_ABOVE else 0.0


@dataclass(frozen=True)
class Gate:
    """A figure and the least it must be; or, of a name such as "attack:unlearndiff", how often that may succeed at most."""

    figure: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "list[Gate]":
        """ "erasure>=0.95,attack:unlearndiff<=0.1" → its gates. Raises UsageError for anything else."""
        gates = []
        for part in text.split(",") if text else ():
            match = CONDITION.fullmatch(part)
            if not match:
                raise UsageError(f"{part.strip()!r} is no gate: write figures and bounds as {EXAMPLE}")
            figure, attack, bound = match.groups()
            if figure and figure not in MEANING:
                raise UsageError(f"no figure is called {figure!r}: choose from {', '.join(MEANING)}")
            if attack and attack not in (known := found("attacks")):
                raise UsageError(f"unknown attack {attack!r}: choose from {', '.join(known)}")
            gates.append(cls(figure or f"{ATTACK}{attack}", float(bound)))
        return gates


def check(report: Report | None, gates: Iterable[Gate], probe: Mapping[str, Any] | None = None) -> list[str]:
    """The gates that are not met, each as one line; what was not measured meets none.

    report: None of an artifact that nobody evaluated. probe: unlearning/probe.json, None where nobody attacked it.
    """
    values = figures(report) if report else {}
    failed = []
    for gate in gates:
        attack = gate.figure.startswith(ATTACK)
        value = _success(probe, gate.figure.removeprefix(ATTACK)) if attack else values.get(gate.figure)
        required = f"at {'most' if attack else 'least'} {gate.bound:g} is required"
        if value is None:
            failed.append(f"{gate.figure} was not measured, {required}")
        elif value > gate.bound if attack else value < gate.bound:
            failed.append(f"{gate.figure} is {value:.4f}, {required}")
    return failed


def _success(probe: Mapping[str, Any] | None, attack: str) -> float | None:
    """How often an attack brought a concept back from the edit, the worst of the concepts; None where it was not run."""
    for entry in probe["attacks"] if probe else ():
        if entry["name"] == attack:
            targets = (entry.get("targets") or {}).values()
            rates = [Rate.from_json(part["after"]).told for part in (*targets, entry)]
            return max((rate for rate in rates if rate is not None), default=None)
    return None


def _ratio(before: Rate | Mean | None, after: Rate | Mean | None) -> float | None:
    """after / before; None where either was not counted or before was nothing to keep."""
    old, new = (x.told if isinstance(x, Rate) else x.mean if x else None for x in (before, after))
    return None if new is None or not old else new / old
