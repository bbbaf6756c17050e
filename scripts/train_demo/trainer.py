"""One loop for every stage: AdamW, cosine with warm-up, gradient clipping, weight averaging, checkpoints."""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def train(
    name: str,
    model: nn.Module,
    loss_fn: Callable[[int], Tensor],
    folder: Path,
    *,
    steps: int,
    lr: float,
    warmup: int = 100,
    ema: float = 0.995,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    every: float = 60.0,
) -> nn.Module:
    """Train the parameters of ``model`` that require gradients; resume from ``folder/name.safetensors``.

    loss_fn(step) returns a scalar. Afterwards the model holds its averaged weights. A stage that has done
    ``steps`` already only loads them; raising ``steps`` later goes on from there.
    """
    path = folder / f"{name}.safetensors"
    params = {k: p for k, p in model.named_parameters() if p.requires_grad}
    averaged = {k: p.detach().clone() for k, p in params.items()}
    optimizer = torch.optim.AdamW(params.values(), lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay)
    start = _load(path, params, averaged, optimizer)
    log = (folder / f"{name}.log").open("a")
    began = saved = time.time()
    total, count = 0.0, 0
    for step in range(start, steps):
        scale = min(1.0, (step - start + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = lr * scale
        loss = loss_fn(step)
        loss.backward()
        nn.utils.clip_grad_norm_(params.values(), clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(averaged.values()), list(params.values()), 1 - decay)
        total, count = total + loss.item(), count + 1
        if (step + 1) % 50 == 0 or step + 1 == steps:
            rate = (step + 1 - start) / (time.time() - began)
            line = f"{name} {step + 1}/{steps} loss {total / count:.4f} {rate:.2f} it/s left {(steps - step - 1) / rate:.0f}s"
            print(line, file=sys.stderr, flush=True)
            print(line, file=log, flush=True)
            total, count = 0.0, 0
        if time.time() - saved > every or step + 1 == steps:
            _save(path, step + 1, params, averaged, optimizer)
            saved = time.time()
    with torch.no_grad():
        for key, value in averaged.items():
            params[key].copy_(value)
    return model


def _save(path: Path, step: int, params: dict, averaged: dict, optimizer: torch.optim.Optimizer) -> None:
    tensors = {}
    for key, p in params.items():
        state = optimizer.state[p]
        tensors |= {
            f"param.{key}": p.detach(),
            f"ema.{key}": averaged[key],
            f"exp_avg.{key}": state["exp_avg"],
            f"exp_avg_sq.{key}": state["exp_avg_sq"],
        }
    part = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata={"state": json.dumps({"step": step})})
    os.replace(part, path)


def _load(path: Path, params: dict, averaged: dict, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file, torch.no_grad():
        step = json.loads(file.metadata()["state"])["step"]
        for key, p in params.items():
            p.copy_(file.get_tensor(f"param.{key}"))
            averaged[key].copy_(file.get_tensor(f"ema.{key}"))
            optimizer.state[p] = {
                "step": torch.tensor(float(step)),
                "exp_avg": file.get_tensor(f"exp_avg.{key}").to(p.device, copy=True),
                "exp_avg_sq": file.get_tensor(f"exp_avg_sq.{key}").to(p.device, copy=True),
            }
    return int(step)
