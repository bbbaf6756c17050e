"""Serving against the loop that a user would write: one ``pipe(...)`` per request behind FastAPI.

Everything in one run, so that the ratios hold whatever the machine: clips a minute at several concurrencies, torch and
ONNX encoder, embedding cache cold and warm, memory by process, and what the API itself costs a request. The loop is
measured as it comes, with one thread, and in the environment that the server gives its workers (``TUNING``); the ratios
are given to each.

    python -m scripts.bench.serving out --t2v demo:t2v-unet3d --json figures.json
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from serving.engine import TUNING, rss

GUIDANCE = 3.0
PROMPTS = [
    f"a {colour} {thing}" for thing in ("cat", "car", "frog", "house") for colour in ("red", "blue", "big", "small")
]


def plain_loop(source: str, t2v: str, steps: int, frames: int) -> None:
    """The loop: load, lock, draw, answer with the file."""
    import torch
    import uvicorn
    from fastapi import FastAPI, Response

    import serving
    from serving.server import listen
    from unlearn_export.media import save_clip

    pipe: Any = serving.load_pipeline(t2v, encoder=source)
    app, lock = FastAPI(), threading.Lock()

    @app.get("/draw")
    def draw(prompt: str, seed: int) -> Response:
        with lock, tempfile.TemporaryDirectory() as folder:  # two threads in one pipeline break it
            generator = torch.Generator().manual_seed(seed)
            clip = pipe(
                prompt,
                num_frames=frames,
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                generator=generator,
                output_type="np",
            ).frames[0]
            return Response(save_clip(clip, Path(folder) / "clip.mp4", scale=1).read_bytes(), media_type="video/mp4")

    listening = listen("127.0.0.1", 0)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


class Service:
    """A server in a process of its own, for the time of a ``with`` block, and how a clip is got from it."""

    def __init__(
        self,
        command: list[str],
        draw: Callable[[httpx.Client, str, int], bytes],
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
        assert self.process.stdout
        self.url, self.draw = self.process.stdout.readline().strip(), draw

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=600)

    def rate(self, concurrency: int, clips: int, offset: int = 0) -> float:
        """Clips a minute, by clients that each order the next one when they have theirs."""
        numbers, faults = iter(range(clips)), []
        lock = threading.Lock()

        def work() -> None:
            with self.client() as http:
                while True:
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    try:
                        assert self.draw(http, PROMPTS[(number + offset) % len(PROMPTS)], number)[4:8] == b"ftyp"
                    except Exception as error:
                        faults.append(error)

        threads = [threading.Thread(target=work) for _ in range(concurrency)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if faults:
            raise faults[0]
        return clips / (time.perf_counter() - begun) * 60


def from_loop(http: httpx.Client, prompt: str, seed: int) -> bytes:
    return http.get("/draw", params={"prompt": prompt, "seed": seed}).raise_for_status().content


class Jobs:
    """How clips are ordered from the server under test."""

    def __init__(self, steps: int, frames: int) -> None:
        self.choices = {"num_inference_steps": steps, "num_frames": frames, "guidance_scale": GUIDANCE}

    def order(self, http: httpx.Client, prompt: str, seed: int) -> str:
        order = {"prompt": prompt, "seed": seed} | self.choices
        return str(http.post("/v1/videos", json=order).raise_for_status().json()["id"])

    def follow(self, http: httpx.Client, id: str) -> None:
        with http.stream("GET", f"/v1/videos/{id}/events") as events:
            for _ in events.iter_lines():
                pass

    def draw(self, http: httpx.Client, prompt: str, seed: int) -> bytes:
        id = self.order(http, prompt, seed)
        self.follow(http, id)
        return http.get(f"/v1/videos/{id}/content").raise_for_status().content

    def encode(self, http: httpx.Client, prompt: str, seed: int) -> float:
        """Milliseconds that the encoding of this clip's texts took."""
        id = self.order(http, prompt, seed)
        self.follow(http, id)
        return float(http.get(f"/v1/videos/{id}").json()["seconds_by_stage"]["encode"]) * 1000


def timed(calls: Sequence[Callable[[], Any]]) -> tuple[list[float], list[Any]]:
    """Milliseconds of each call, and what it gave."""
    times, given = [], []
    for call in calls:
        begun = time.perf_counter()
        given.append(call())
        times.append((time.perf_counter() - begun) * 1000)
    return times, given


def cache(service: Service, frames: int, clips: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of a clip of one step and of its encoding, one clip after the other: with prompts that are
    new to the server, then with the same again."""
    jobs, rows = Jobs(1, frames), {}
    with service.client() as http:
        for state in ("cold", "warm"):
            calls = [partial(jobs.encode, http, f"a cat and {i} cars", i) for i in range(clips)]
            times, encoding = timed(calls)
            rows[state] = {
                "clip_ms": round(statistics.median(times), 1),
                "encode_ms": round(statistics.median(encoding), 2),
            }
    return rows


def overhead(service: Service, frames: int, requests: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a request on an idle server, by kind: half of them and nineteen in twenty are within."""
    jobs, rows = Jobs(1, frames), {}
    with service.client() as http:
        id = http.get("/v1/videos?limit=1").json()["data"][0]["id"]
        rows["GET"], _ = timed([partial(http.get, f"/v1/videos/{id}")] * requests)
        rows["POST"] = []
        for number in range(requests // 4):
            times, [made] = timed([partial(jobs.order, http, PROMPTS[0], number)])
            rows["POST"] += times
            jobs.follow(http, made)  # the next order comes when nothing is drawn
    return {
        kind: {
            "median_ms": round(statistics.median(times), 2),
            "p95_ms": round(statistics.quantiles(times, n=20)[-1], 2),
        }
        for kind, times in rows.items()
    }


def memory(service: Service) -> dict[str, float]:
    """Resident MB by process."""
    with service.client() as http:
        metrics = http.get("/metrics").text  # the loop has none
    found = dict(re.findall(r'unlearn_resident_bytes\{process="([\w-]+)"\} (\S+)', metrics))
    found = found or {"loop": rss(service.process.pid)}
    return {name: round(float(size) / 1e6, 1) for name, size in found.items()}


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.serving", description=__doc__)
    parser.add_argument("source", help="artifact folder with its ONNX graph")
    parser.add_argument("--t2v", default="demo:t2v-unet3d")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--clips", type=int, default=64, help="of each figure at the highest concurrency")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--max-batch", type=int, default=4)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--loop", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.loop:
        plain_loop(args.source, args.t2v, args.steps, args.frames)
        return
    loop = [sys.executable, "-m", "scripts.bench.serving", args.source, "--t2v", args.t2v, "--loop"]
    loop += ["--steps", str(args.steps), "--frames", str(args.frames)]
    figures: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0], "clips_per_minute": {}}

    def measure(name: str, service: Service) -> None:
        served, begun = name.startswith("jobs"), time.perf_counter()
        with service, service.client() as http:
            if served:
                until(lambda: http.get("/health/ready").status_code == 200)
                figures.setdefault("seconds_to_ready", {})[name] = round(time.perf_counter() - begun, 1)
                until(lambda: f"unlearn_workers {float(args.workers)}" in http.get("/metrics").text)
                figures.setdefault("cache", {})[name] = cache(service, args.frames, args.clips // 2)
            service.rate(args.workers, 2 * args.workers)
            row = {}
            for concurrency in (1, 4, 16):
                row[concurrency] = round(service.rate(concurrency, max(4, args.clips * concurrency // 16)), 2)
                print(f"{name:24} concurrency {concurrency:2}: {row[concurrency]:7.1f} clips a minute", flush=True)
            figures["clips_per_minute"][name] = row
            figures.setdefault("memory_mb", {})[name] = memory(service)
            if served:
                figures.setdefault("api_overhead", {})[name] = overhead(service, args.frames, 200)

    loops = {"plain loop": {}, "plain loop, 1 thread": {"OMP_NUM_THREADS": "1"}, "plain loop, tuned": TUNING}
    with tempfile.TemporaryDirectory() as data:
        for name, environment in loops.items():
            measure(name, Service(loop, from_loop, environment))
        for backend in ("torch", "onnx"):
            command = [sys.executable, "-m", "unlearn_export", "serve", args.source, "--t2v", args.t2v, "--port", "0"]
            command += ["--backend", backend, "--data", f"{data}/{backend}", "--max-batch", str(args.max_batch)]
            command += ["--device", "cpu"] * args.workers
            measure(f"jobs, {backend}", Service(command, Jobs(args.steps, args.frames).draw))
    rates = figures["clips_per_minute"]
    figures["ratio_to"] = {
        name: {to: {c: round(row[c] / rates[to][c], 2) for c in row} for to in loops}
        for name, row in rates.items()
        if name not in loops
    }
    figures["load_after"] = os.getloadavg()[0]
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
