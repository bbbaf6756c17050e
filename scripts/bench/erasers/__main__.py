"""Methods and peers against each other: ``python -m scripts.bench.erasers``.

Each method erases each concept, in a process of its own; then pictures, clips and attacks of all methods are looked at,
a process a concept. What is done is kept in build/erasers and not done again: stop it and start it at will. Writes
docs/erasers.json; ``--table`` prints it as a table, ``--picture`` draws robustness against retention.
Seconds mean something on an idle machine only.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from unlearn_export.artifact import read_json, write_json
from unlearn_export.evaluation import Size

from . import cells
from .concepts import TEN, TUNING
from .methods import ROWS
from .table import draw, table

ROOT = Path(__file__).parents[3]
OUT = ROOT / "docs" / "erasers.json"
SEED = 70_000  # of the noise of every picture: no method was tuned on it
SIZE = Size(variant_images=16, variant_clips=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help=f"of {', '.join(ROWS)}; by default all")
    parser.add_argument("--concept", action="append", choices=[*TEN, *TUNING], help="by default the ten")
    parser.add_argument("--base", default="demo")
    parser.add_argument("--budget", action="append", default=[], help="of the attacks, as probe takes it")
    parser.add_argument("--busy", action="store_true", help="this machine does other work: tell no seconds")
    parser.add_argument("--work", type=Path, default=Path("build/erasers"))
    parser.add_argument("--table", action="store_true", help="of docs/erasers.json, as it is")
    parser.add_argument("--picture", action="store_true", help="likewise")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := [m for m in args.methods if m not in ROWS]:
        parser.error(f"no method {unknown[0]!r}: choose from {', '.join(ROWS)}")
    if args.one:
        row, name = args.one
        print(json.dumps(cells.edit(args.base, row, name, args.work / args.base / name / row)))
        return
    if not (args.table or args.picture):
        run(args)
    found = read_json(OUT)["cells"]
    if args.picture:
        draw(found[args.base], OUT.with_suffix(".png"))
    print(table(found[args.base]))


def run(args: argparse.Namespace) -> None:
    methods = args.methods or list(ROWS)
    for name in args.concept or TEN:
        folders = {row: args.work / args.base / name / row for row in methods}
        for row, folder in folders.items():
            if not (folder / "artifact").exists():
                command = [sys.executable, "-m", "scripts.bench.erasers", "--one", row, name]
                command += ["--base", args.base, "--work", str(args.work)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                cost = json.loads(done.stdout.splitlines()[-1])
                if args.busy:
                    del cost["seconds"]
                keep(args.base, row, name, "edit", cost)
        for row, stage, found in cells.look(args.base, name, folders, SIZE, args.budget, SEED):
            keep(args.base, row, name, stage, found)


def keep(base: str, row: str, name: str, stage: str, found: dict[str, Any]) -> None:
    """One cell's figures, into docs/erasers.json."""
    print(name, row, stage, json.dumps(found), file=sys.stderr, flush=True)
    report = read_json(OUT) if OUT.is_file() else {"command": "python -m scripts.bench.erasers", "cells": {}}
    report["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    report["cells"].setdefault(base, {}).setdefault(row, {}).setdefault(name, {})[stage] = found
    write_json(OUT, report)


if __name__ == "__main__":
    main()
