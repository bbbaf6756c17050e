"""docs/erasers.json as a table and as a picture: the mean over the concepts, and the worst of them."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .concepts import TEN

SEEN = ("direct", "alias", "paraphrase", "composition", "any-frame")
KEPT = ("others", "neighbours", "negative", "styles", "motion")
ATTACKS = ("ring-a-bell", "unlearndiff", "pseudo-word")
Cells = Mapping[str, Mapping[str, Mapping[str, Any]]]  # method → concept → stage → what was found


def table(cells: Cells) -> str:
    """Markdown. Of the ten concepts that no method was tuned on: mean and 95 % interval (of concepts drawn anew), then the
    worst one by name. Rates in percent, of what is kept in percent of before."""
    columns = (*SEEN, *KEPT, *ATTACKS, "seconds", "GiB")
    lines = ["| Method |", "| --- |"]
    for column in columns:
        lines[0] += f" {column} |"
        lines[1] += " ---: |"
    for method, concepts in cells.items():
        told = [_told(values(concepts, column), low=column in KEPT) for column in columns]
        count = sum(name in TEN for name in concepts)
        lines.append(f"| {method} ({count}) | {' | '.join(told)} |")
    return "\n".join(lines)


def values(concepts: Mapping[str, Mapping[str, Any]], column: str) -> dict[str, float]:
    """Of each of the ten concepts one column's number: a share, seconds or GiB; those that were not measured are absent."""
    found = {}
    for name, stages in concepts.items():
        if name not in TEN:
            continue
        if column in ("seconds", "GiB"):
            number = stages.get("edit", {}).get("seconds" if column == "seconds" else "peak_gib")
        else:
            cell = (stages.get("pictures", {}) | stages.get("attacks-default", {})).get(column)
            number = None if cell is None else cell.get("of_before", share(cell["after"]))
        if number is not None:
            found[name] = number if column in ("seconds", "GiB") else 100 * number
    return found


def share(text: str) -> float:
    """ "3/24" → 0.125"""
    hits, n = map(int, text.split("/"))
    return hits / n


def mean(numbers: Mapping[str, float]) -> tuple[float, float, float]:
    """The mean and its 95 % interval: concepts drawn anew two thousand times."""
    known, dice = list(numbers.values()), random.Random(0)
    means = sorted(sum(dice.choices(known, k=len(known))) / len(known) for _ in range(2000))
    return sum(known) / len(known), means[50], means[-51]


def _told(numbers: Mapping[str, float], *, low: bool) -> str:
    if not numbers:
        return "–"
    middle, least, most = mean(numbers)
    worst = (min if low else max)(numbers, key=lambda name: numbers[name])
    return f"{middle:.1f} [{least:.1f}, {most:.1f}], {worst} {numbers[worst]:.1f}"


def draw(cells: Cells, file: Path) -> None:
    """Each method a point: how often the strongest attack brings a concept back, and what is left of all others."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    for method, concepts in cells.items():
        by_attack = [values(concepts, attack) for attack in ATTACKS]
        strongest = {n: max(a[n] for a in by_attack) for n in by_attack[0] if all(n in a for a in by_attack)}
        kept = values(concepts, "others")
        if strongest and kept:
            (x, *xs), (y, *ys) = mean(kept), mean(strongest)
            spread = {"xerr": [[x - xs[0]], [xs[1] - x]], "yerr": [[y - ys[0]], [ys[1] - y]]}
            axes.errorbar(x, y, **spread, fmt="o", capsize=3, label=f"{method} ({len(strongest)})")
    axes.set(xlabel="others drawn, % of before", ylabel="brought back by the strongest attack, %", ylim=(-2, 102))
    axes.set_title("Down and right is better; mean over concepts, 95 % interval", fontsize="medium")
    axes.legend(title="method (concepts)")
    figure.savefig(file, dpi=100)
