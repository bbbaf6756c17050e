"""What one encoder of full size costs: each stage in a process of its own, so that its peak memory is its own."""

import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from unlearn_export import Concept, erase, load_base
from unlearn_export.base import Base
from unlearn_export.erase import Erased, write_encoder
from unlearn_export.erasers import make_method
from unlearn_export.evaluation.states import measure_states
from unlearn_export.families.tokens import tokenise
from unlearn_export.onnx.export import export_onnx
from unlearn_export.pipelines.ort import open_session
from unlearn_export.stages import read_layers
from unlearn_export.vocabulary import GENERAL

STATES = 3e12  # multiplications that the states of a large encoder are measured with: a few prompts
PROMPT = "a photo of a cat and a chair in a garden, in the style of a watercolour painting"


def edit(folder: Path, concepts: int, options: dict[str, str], device: str) -> dict[str, Any]:
    """Open, edit and write. loss: of the fit, before and after. floor: seconds that the counted products alone take at
    the rate that this machine multiplies matrices of 1024."""
    begun = time.perf_counter()
    base = load_base(folder, device=device)
    opened = time.perf_counter()
    done, seconds, cpu = _timed(lambda: _erased(base, concepts, options))
    peak = _peak()
    out = folder.with_name(f"{folder.name}-edited")
    shutil.rmtree(out, ignore_errors=True)
    _, writing, _ = _timed(lambda: write_encoder(base, done, out))
    shutil.rmtree(out)
    first, best = done.edit.loss[base.seat.name]
    floor = make_method("anchor", options).cost(base.seat).flops / matrix_rate(device)
    return {
        "parameters": base.seat.weights.parameters,
        "gb": round(base.seat.weights.size / 1e9, 2),
        "open_s": round(opened - begun, 1),
        "edit_s": round(seconds, 1),
        "edit_cpu_s": round(cpu, 1),
        "edit_floor_s": round(floor, 1),
        "edit_peak_gib": round(peak, 2),
        "write_s": round(writing, 1),
        "delta_mb": round(sum(t.nbytes for part in done.edit.tensors.values() for t in part.values()) / 1e6, 1),
        "loss": [round(first, 4), round(best, 4)],
    }


def states(folder: Path, concepts: int, options: dict[str, str], device: str) -> dict[str, Any]:
    """How far final states moved, as ``evaluate`` measures it: of other prompts, and of the concept's to the anchor's."""
    base = load_base(folder, device=device)
    done = _erased(base, concepts, options)
    work = {"work": STATES} if base.seat.large else {}
    found, seconds, _ = _timed(lambda: measure_states(base, done.measurable, done.recipe.concepts, **work))
    reader = found.seats[base.seat.name].readers[0]
    gap = reader.gap
    return {
        "states_s": round(seconds, 1),
        "states_peak_gib": round(_peak(), 2),
        "prompts": sum(reader.prompts.values()),
        "others_moved": reader.drift["retained"] and reader.drift["retained"].mean,
        "others_apart": reader.apart and reader.apart.mean,
        "concept_to_anchor": gap and [gap.before.mean, gap.after.mean],
    }


def onnx(folder: Path, device: str) -> dict[str, Any]:
    """Export, parity, and milliseconds a prompt on torch and ONNX Runtime: in full length, and cut to the text's own."""
    base = load_base(folder)
    seat = base.seat
    out = folder.with_name(f"{folder.name}-onnx")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors"))
    export, seconds, _ = _timed(lambda: export_onnx(base.encoder, out, layers=read_layers(seat)))
    session = open_session(out, seat.config)
    found: dict[str, Any] = {
        "export_s": round(seconds, 1),
        "onnx_gb": round(export.size / 1e9, 2),
        "max_abs_diff": export.max_abs_diff,
    }
    for label, trim in (("full", False), ("trimmed", True)):
        tokens = tokenise(seat.tokenizer, [PROMPT], seat.contract, trim=trim)
        given = {"input_ids": tokens.ids} | ({"attention_mask": tokens.mask} if seat.contract.mask else {})
        for backend, encoder in (("torch", base.encoder), ("onnx", session)):
            if trim and tokens.ids.shape[1] == found["length_full"]:
                continue
            found[f"{backend}_{label}_ms"] = round(1000 * _fastest(lambda: encoder(**given)), 1)  # noqa: B023
        found[f"length_{label}"] = tokens.ids.shape[1]
    shutil.rmtree(out)
    return found


def matrix_rate(device: str) -> float:
    """Floating-point operations a second of float32 products of 1024 × 1024 matrices, the fastest of some."""
    a = torch.randn(1024, 1024, device=device)
    return 2 * 1024**3 / _fastest(lambda: _settled(a @ a, device), 20)


def _erased(base: Base, concepts: int, options: dict[str, str]) -> Erased:
    names = [c for c in GENERAL.concepts if c != "chair"]
    words = [*names, *(f"{one} {other}" for one in names for other in names if one != other)][:concepts]
    return erase(base, [Concept(word, anchor="chair") for word in words], make_method("anchor", options))


@torch.no_grad()
def _fastest(call: Callable[[], Any], times: int = 5) -> float:
    call()
    return min(_timed(call)[1] for _ in range(times))


def _settled(x: torch.Tensor, device: str) -> torch.Tensor:
    if device != "cpu":
        torch.cuda.synchronize()
    return x


def _timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """→ the answer, seconds, seconds of the processor"""
    begun, cpu = time.perf_counter(), time.process_time()
    return call(), time.perf_counter() - begun, time.process_time() - cpu


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
