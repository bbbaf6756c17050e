"""Real sizes with random weights: what an edit takes. ``python -m scripts.bench.fullsize clip-l umt5-xxl``

Each case is laid out on disk as its published encoder is (bfloat16 shards with an index above 5 GB), then edited,
written, measured, exported and run, each stage in a process of its own. Figures are for cost alone: random weights have
nothing to forget. ``--device cuda`` does the same on a GPU. Writes docs/fullsize.json; rows of other cases stay.
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

from . import reference, stages
from .cases import CASES, lay_out

OUT = Path(__file__).parents[3] / "docs" / "fullsize.json"
STAGES = ("layout", "edit", "states", "onnx", "reference")
DEFAULT = ("edit", "states", "onnx")


def run(stage: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One stage, in this process. Beyond what a machine holds at ease, onnx answers why it did nothing."""
    options = dict(text.split("=", 1) for text in args.options)
    if stage == "layout":
        lay_out(folder.name, folder)
        return {}
    if stage == "edit":
        return stages.edit(folder, args.concepts[0], options, args.device)
    if stage == "states":
        return stages.states(folder, args.concepts[0], options, args.device)
    from unlearn_export import load_base

    base = load_base(folder)
    if stage == "reference":
        return reference.recipe(base.encoder, args.device, args.timed)
    if base.seat.large:
        return {
            "onnx": f"a float32 graph of {4e-9 * base.seat.weights.parameters:.0f} GB is written where it is asked for"
        }
    return stages.onnx(folder, args.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="by default all")
    parser.add_argument("--concepts", type=int, nargs="+", default=[1], help="a row for each number of them")
    parser.add_argument("--stage", action="append", choices=STAGES, help=f"by default {', '.join(DEFAULT)}")
    parser.add_argument("-O", dest="options", action="append", default=[], metavar="KEY=VALUE", help="of the method")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--timed", type=int, default=2, help="of the reference, how many of each sort of step")
    parser.add_argument("--work", type=Path, default=Path("build/fullsize"), help="where the weights are laid out")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run(args.stage[0], args.work / args.cases[0], args)))
        return
    about = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {args.device}"
    rows: dict[str, Any] = read_json(OUT)["rows"] if OUT.is_file() else {}
    for name in args.cases or CASES:
        for count in args.concepts:
            row = rows.setdefault(f"{name}, {count}" if count > 1 else name, {})
            stages = args.stage or DEFAULT if count == 1 else ("edit",)
            for stage in ("layout", *stages):  # apart too: a process hands its own peak of memory on to those it starts
                command = [sys.executable, "-m", "scripts.bench.fullsize", name, "--one", "--stage", stage]
                command += ["--concepts", str(count), "--device", args.device, "--work", str(args.work)]
                command += ["--timed", str(args.timed), *(word for o in args.options for word in ("-O", o))]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                row |= json.loads(done.stdout.splitlines()[-1]) | {"machine": about}
                print(name, count, stage, done.stdout.splitlines()[-1], flush=True)
                write_json(OUT, {"command": "python -m scripts.bench.fullsize", "rows": rows})


if __name__ == "__main__":
    main()
