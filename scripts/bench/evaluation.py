"""How long `evaluate` takes at its default size, and what it finds, for ten concepts: ``python -m scripts.bench.evaluation``.

Writes docs/ten.json and prints a table. Times mean something on an idle machine only.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from unlearn_export import build, load_base
from unlearn_export.artifact import read_json, write_json
from unlearn_export.concept import Concept
from unlearn_export.erasers import Anchor
from unlearn_export.gates import figures
from unlearn_export.stages import Assessment, measure

OUT = Path(__file__).parents[2] / "docs" / "ten.json"
TEN = {
    "pizza": "object",
    "carrot": "object",
    "cat": "object",
    "octopus": "object",
    "guitar": "object",
    "car": "object",
    "robot": "character",
    "clown": "character",
    "princess": "person",
    "flat": "style",
}
COLUMNS = ("erasure", "any_frame", "variants", "retain", "neighbours", "far", "styles")


def measured(name: str) -> dict[str, Any]:
    """Erase one concept, then time its evaluation alone."""
    with tempfile.TemporaryDirectory() as folder:
        concept = Concept(name, TEN[name])  # type: ignore[arg-type]
        artifact = build(load_base("demo"), [concept], Anchor(), Path(folder) / "out", onnx=False)
        begun = time.perf_counter()
        report = measure(artifact, Assessment()).report
        found = {k: None if v is None else round(v, 4) for k, v in figures(report).items()}
        return {"seconds": round(time.perf_counter() - begun, 1), "kind": TEN[name], "figures": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("concepts", nargs="*", help=f"of {', '.join(TEN)}; all where none is named")
    parser.add_argument(
        "--busy", action="store_true", help="this machine does other work: leave the seconds as they were"
    )
    args = parser.parse_args()
    known = read_json(OUT)["concepts"] if OUT.is_file() else {}
    found = known if args.concepts else {}
    for name in args.concepts or TEN:
        kept = {"seconds": known[name]["seconds"]} if args.busy and name in known else {}
        found[name] = measured(name) | kept
        print(name, found[name]["seconds"], "s", file=sys.stderr, flush=True)
        write_json(OUT, {"command": "python -m scripts.bench.evaluation", "concepts": found})
    print("| Concept | Seconds |", " | ".join(COLUMNS), "|")
    print("| --- | ---: |", " | ".join("---:" for _ in COLUMNS), "|")
    for name, row in found.items():
        cells = ["–" if row["figures"][c] is None else f"{100 * row['figures'][c]:.1f}" for c in COLUMNS]
        print(f"| {name} | {row['seconds']:.0f} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
