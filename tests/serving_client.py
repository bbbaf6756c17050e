"""A front end in a process of its own, and what tests ask of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

TESTS = Path(__file__).parent


class Server:
    """A running server: ``http`` speaks to it."""

    def __init__(self, command: list[Any], wait: float = 60) -> None:
        environment = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://"), self.process.communicate()
        self.http = httpx.Client(base_url=self.url, timeout=wait)

    def ready(self, seconds: float = 60) -> "Server":
        self.until(lambda: self.http.get("/health/ready").status_code == 200, seconds)
        return self

    def until(self, condition: Any, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited in vain: {self.http.get('/health/ready').text}"
            time.sleep(0.02)

    def order(self, prompt: str = "a car", **changes: Any) -> dict[str, Any]:
        answer = self.http.post("/v1/videos", json={"prompt": prompt} | changes)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def get(self, id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/v1/videos/{id}").json())

    def ended(self, id: str, seconds: float = 60) -> dict[str, Any]:
        self.until(lambda: self.get(id)["status"] in ("completed", "failed"), seconds)
        return self.get(id)

    def metric(self, name: str) -> float:
        """A figure of /metrics by its full name with labels."""
        lines = self.http.get("/metrics").text.splitlines()
        return next(float(line.removeprefix(f"{name} ")) for line in lines if line.startswith(f"{name} "))

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for task in (tasks if children.exists() else ()) for pid in task.read_text().split()]

    def ends(self, seconds: float = 60) -> tuple[int, str]:
        """Wait until it ends by itself; → its exit code, and what it said on stderr."""
        self.http.close()
        try:
            _, said = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, said

    def end(self, sign: int = signal.SIGTERM, seconds: float = 30) -> int:
        self.http.close()
        self.process.send_signal(sign)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            for stream in (self.process.stdout, self.process.stderr):
                if stream:
                    stream.close()


@contextlib.contextmanager
def running(command: list[Any]) -> Iterator[Server]:
    """A server for the time of the block, ended whatever happens in it."""
    server = Server(command)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end()


@contextlib.contextmanager
def toy_server(folder: Path, **options: Any) -> Iterator[Server]:
    """The front end over toy workers, for the time of the block."""
    with running([sys.executable, TESTS / "toy_server.py", folder, json.dumps(options)]) as server:
        yield server.ready() if options.get("source") is None else server
