"""What each method does to one object, one character, one face and one style: ``python -m scripts.bench.erasure``.

Writes docs/erasure.json and puts the table between the marker lines of README.md. The same seeds before and after.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from unlearn_export import demo
from unlearn_export.artifact import write_json, write_text
from unlearn_export.base import load_base
from unlearn_export.concept import Concept
from unlearn_export.demo.scorer import DemoScorer
from unlearn_export.erase import erase
from unlearn_export.erasers import make_method
from unlearn_export.evaluation import Seen, Size, evaluate

ROOT = Path(__file__).parents[2]
CONCEPTS = (("guitar", "object"), ("ghost", "character"), ("baby", "person"), ("ink", "style"))
METHODS: dict[str, dict[str, str]] = {"anchor": {"holdout": "frog+key+alien"}, "few-shot": {}}
HELD_OUT = ("frog", "key", "alien")  # of every method: no kept prompt names them
SIZE = Size(target_images=60, other_images=9, variant_images=0, target_clips=6, variant_clips=0, guidance=demo.GUIDANCE)
SEED = 40_000


def measure(concept: Concept, methods: Sequence[str]) -> dict[str, Any]:
    """Erase one concept by each method. → method → its evaluation, with the seconds that the edit took"""
    torch.set_num_threads(1)
    base, scorer, found = load_base("demo"), DemoScorer(), {}
    t2v = {name: demo.load(name) for name in demo.PIPELINES if name != "t2i"}
    originals: dict[str, Seen] = {}
    for name in methods:
        erased = erase(base, [concept], make_method(name, METHODS[name]))
        wanted = erased.recipe.concepts
        found[name] = evaluate(
            base, erased.encoder, wanted, scorer, t2v=t2v, holdout=HELD_OUT, size=SIZE, seed=SEED, originals=originals
        ).report.to_json()
        print(concept.name, name, "done", file=sys.stderr, flush=True)
    return found


def table(reports: dict[str, dict[str, Any]]) -> str:
    """Markdown: of each concept, method and pipeline the rates before → after."""
    lines = [
        "| Erased | Method | Pipeline | Still seen | Others | Held out | Styles |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for (name, kind), methods in zip(CONCEPTS, reports.values(), strict=True):
        for method, report in methods.items():
            for pipeline, p in report["pipelines"].items():
                cells = []
                for key in ("erased", "others", "holdout", "styles"):
                    before, after = (p[m][key]["rate"] for m in ("before", "after"))
                    cells.append(f"{100 * before:.1f} → {100 * after:.1f}")
                lines.append(f"| {name} ({kind}) | {method} | {pipeline} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--method", action="append", choices=list(METHODS), help="only this one; the others stay")
    parser.add_argument("--table-only", action="store_true", help="from docs/erasure.json, as it is")
    args = parser.parse_args()
    out = ROOT / "docs" / "erasure.json"
    if not args.table_only:
        concepts = [Concept(name, kind) for name, kind in CONCEPTS]  # type: ignore[arg-type]
        with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
            found = pool.map(partial(measure, methods=args.method or list(METHODS)), concepts)
            reports = json.loads(out.read_text())["reports"] if args.method else {c.name: {} for c in concepts}
            for concept, report in zip(concepts, found, strict=True):
                reports[concept.name] |= report
        write_json(out, {"command": "python -m scripts.bench.erasure", "reports": reports})
    # the order of the table is CONCEPTS' and METHODS', the file's is alphabetical
    stored = json.loads(out.read_text())["reports"]
    reports = {name: {m: stored[name][m] for m in METHODS} for name, _ in CONCEPTS}
    first = reports["guitar"]["anchor"]["pipelines"]
    counts = ", ".join(
        f"{name} {p['after']['erased']['n']} + {p['after']['others']['n']} + {p['after']['holdout']['n']}"
        for name, p in first.items()
    )
    text = (
        f"{table(reports)}\n\nPer cent, before → after, under the same seeds; counted (erased + others + held out): {counts}"
        " pictures or frames.\n`python -m scripts.bench.erasure` measures it again; docs/erasure.json has the intervals."
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    start, end = "<!-- results -->", "<!-- /results -->"
    head, rest = readme.split(start)
    write_text(ROOT / "README.md", f"{head}{start}\n{text}\n{end}{rest.split(end)[1]}")
    print(text)


if __name__ == "__main__":
    main()
