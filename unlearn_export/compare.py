"""Evaluated artifacts side by side."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .artifact import Artifact
from .errors import ArtifactError, UsageError
from .gates import figures

WEIGHED = ("erasure", "variants", "retain", "holdout", "styles", "motion", "empty")  # more is better, of each
DIGITS = 3  # of a figure; what two artifacts differ by beyond them is chance


@dataclass(frozen=True)
class Row:
    """One artifact: its figures (see ``gates``), and whether another one is as good in all and better in one."""

    name: str
    concepts: tuple[str, ...]
    method: str
    figures: dict[str, float | None]
    seconds: float | None  # of the edit
    best: bool


@dataclass(frozen=True)
class Comparison:
    """rows: in the order given. unlike: what the evaluations do not share; figures are comparable where it is empty."""

    rows: tuple[Row, ...]
    unlike: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"unlike": list(self.unlike), "rows": [vars(row) for row in self.rows]}

    def cells(self) -> list[list[str]]:
        """A header and a line for each artifact; Pareto-best ones bear a star."""
        shown = [f for f in WEIGHED if any(row.figures[f] is not None for row in self.rows)]
        lines = [["artifact", "erased", "method", *shown, "edit s"]]
        for row in self.rows:
            values = (row.figures[f] for f in shown)
            lines.append(
                [
                    f"{row.name}{' *' if row.best else ''}",
                    ", ".join(row.concepts),
                    row.method,
                    *("-" if v is None else f"{v:.{DIGITS}f}" for v in values),
                    "-" if row.seconds is None else f"{row.seconds:.1f}",
                ]
            )
        return lines

    @property
    def note(self) -> str:
        """What a reader must know beside the table."""
        text = "* no other artifact here is as good in every figure and better in one."
        if self.unlike:
            text += f" Measured differently, so compare with care: {', '.join(self.unlike)}."
        return text

    def to_text(self) -> str:
        lines = self.cells()
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        aligned = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([*aligned, self.note])

    def to_markdown(self) -> str:
        head, *lines = ([cell.replace("|", "\\|").replace("*", "\\*") for cell in line] for line in self.cells())
        rule = ["---", "---", "---", *["---:"] * (len(head) - 3)]
        return "\n".join(["| " + " | ".join(line) + " |" for line in (head, rule, *lines)] + ["", "\\" + self.note])

    def to_html(self) -> str:
        head, *lines = self.cells()

        def row(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        rows = "\n".join([row(head, "th"), *(row(line, "td") for line in lines)])
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Edited encoders compared</title>\n'
            "<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;padding:1rem}"
            "div{overflow-x:auto}th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #8884}</style>"
            f"</head><body><h1>Edited encoders compared</h1>\n<div><table>\n{rows}\n</table></div>\n"
            f"<p>{html.escape(self.note)}</p></body></html>\n"
        )


def compare(artifacts: Sequence[Artifact]) -> Comparison:
    """Hold evaluated artifacts against each other.

    Raises UsageError for fewer than two, ArtifactError for one that was not evaluated.
    """
    if len(artifacts) < 2:
        raise UsageError("nothing to compare: give two artifact folders or more")
    reports = []
    for artifact in artifacts:
        report = artifact.evaluation
        if not report or not report.pipelines:
            raise ArtifactError(
                f"{artifact.path} was not evaluated: run `unlearn-export evaluate {artifact.path}` first"
            )
        reports.append(report)
    values = [figures(report) for report in reports]
    rows = []
    for i, (artifact, report) in enumerate(zip(artifacts, reports, strict=True)):
        recipe = artifact.recipe
        rows.append(
            Row(
                name=str(artifact.path),
                concepts=tuple(c.name for c in recipe.concepts),
                method=recipe.method.name,
                figures=values[i],
                seconds=report.cost.seconds.get("erase") if report.cost else None,
                best=not any(_dominates(other, values[i]) for j, other in enumerate(values) if j != i),
            )
        )
    ways: dict[str, list[Any]] = {
        "base": [a.recipe.base.text_encoder_sha256 for a in artifacts],
        "targets": [r.targets for r in reports],
        "scorer": [r.scorer for r in reports],
        "seed": [r.seed for r in reports],
        "size": [r.size for r in reports],
        "pipelines": [sorted(r.pipelines) for r in reports],
        "held-out concepts": [r.holdout for r in reports],
    }
    return Comparison(tuple(rows), tuple(name for name, all_ in ways.items() if any(way != all_[0] for way in all_)))


def _dominates(one: dict[str, float | None], other: dict[str, float | None]) -> bool:
    """Whether ``one`` is at least as good in every figure that both have, and better in one (Pareto), as they are shown."""
    pairs = [
        (round(a, DIGITS), round(b, DIGITS))
        for f in WEIGHED
        if (a := one[f]) is not None and (b := other[f]) is not None
    ]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
