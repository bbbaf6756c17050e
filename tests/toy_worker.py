"""A worker process without torch: the real protocol around a painter whose clips tell their seed. Misbehaves on demand.

The prompt's first word: "crash" ends the process, "crash-once" the first time only, "hang" blocks a step, "fail", "oom"
and "cuda" raise, "poison" raises for the whole batch unless alone, "roomy" runs out of memory in a batch of more than 1,024 pixels. A request takes 10 ms a step, "slow" ones 100 ms.
Its decoding "takes" as many seconds as it has threads.
The encoder alone refuses ids from 1000 on, and 999 raises as a GPU would. The source "tampered" is refused, "broken"
raises, "full" is out of memory, "dies" ends the process; "once" with a path loads only as long as there is no such file.
The source "other" is an encoder with another fingerprint; "late" with a path loads once there is no such file any more.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from serving import worker
from serving.contract import Request, Settings, States
from unlearn_export.errors import EncoderError, UsageError

DEFAULTS = {"width": 16, "height": 16, "num_frames": 2, "num_inference_steps": 3, "guidance_scale": 3.0, "fps": 8}


def colour(seed: int, encoder: str = "edited") -> tuple[int, int, int]:
    """The one colour of a seed's clip; with the original encoder it is another."""
    red, green, blue = seed * 40 % 256, seed * 90 % 256, seed * 160 % 256
    return (red, green, blue) if encoder == "edited" else (blue, 255 - red, green)


class Toy:
    def __init__(self, settings: Settings, device: str) -> None:
        if settings.source == "tampered":
            raise EncoderError("model.safetensors in tampered was altered")
        if settings.source == "broken":
            raise ValueError("no such\noption")
        if settings.source == "full":
            raise MemoryError("out of memory")
        if settings.source == "dies":
            os._exit(7)
        while settings.source.startswith("late ") and Path(settings.source.removeprefix("late ")).exists():
            time.sleep(0.01)
        if settings.source.startswith("once "):
            try:
                Path(settings.source.removeprefix("once ")).touch(exist_ok=False)
            except FileExistsError as error:
                raise EncoderError("it was replaced") from error
        self.settings, self.device = settings, device
        self.embeddings = SimpleNamespace(hits=0, misses=0)
        self.threads = int(os.environ.get("OMP_NUM_THREADS", 0))

    def use_threads(self, count: int) -> None:
        self.threads = count

    def free(self) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        encoders = {
            name: {
                "fingerprint": ("e" if source == "other" else "f") * 64, "backend": self.settings.backend,
                "provider": "cpu", "states_moved": 0.5, "evaluation": None, "erased": [
                    {"name": "cat" if source == "other" else "pizza", "kind": "object", "aliases": [], "anchor": "hamburger"}
                ],
            }
            for name, source in ({"edited": self.settings.source} | self.settings.more).items()
        }  # fmt: skip
        if self.settings.allow_original:
            told = {"fingerprint": "0" * 64, "backend": "torch", "erased": [], "states_moved": 0.0}
            encoders["original"] = encoders["edited"] | told
        return {
            "pipeline": "Toy", "t2v": self.settings.t2v, "device": self.device, "encoders": encoders, "multiple_of": 8, "max_frames": 32, "defaults": DEFAULTS | self.settings.defaults,
            "pid": os.getpid(),
        }  # fmt: skip

    def draw(self, requests: Sequence[Request], on_step: Callable[[int, int], None]) -> Any:
        self.embeddings.misses += len(requests)
        for step in range(requests[0].num_inference_steps):
            for request in requests:
                self.misbehave(request.prompt.split(" ")[0], Path(request.folder), len(requests))
                if request.prompt == "roomy" and len(requests) > 1 and sum(r.pixels for r in requests) > 1024:
                    raise MemoryError("out of memory")
            time.sleep(0.1 if "slow" in requests[0].prompt else 0.01)
            on_step(step + 1, requests[0].num_inference_steps)
        frames = [np.full((r.num_frames, r.height, r.width, 3), colour(r.seed, r.encoder)) / 255 for r in requests]
        seconds = {"encode": 0.0, "denoise": 0.01, "decode": float(self.threads)}
        return SimpleNamespace(frames=np.stack(frames), seconds=seconds)

    def misbehave(self, word: str, folder: Path, batch: int) -> None:
        mark = folder.parent / "crashed-once"
        if word == "crash" or (word == "crash-once" and not mark.exists()):
            folder.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
            os._exit(9)
        if word == "hang":
            time.sleep(3600)
        if word == "oom":
            raise MemoryError("out of memory")
        if word == "cuda":
            raise RuntimeError("CUDA error: device-side assert triggered")
        if word == "fail" or (word == "poison" and batch > 1):
            raise ValueError("this prompt\ncannot be drawn")

    def infer(self, input_ids: list[list[int]]) -> States:
        if max(map(max, input_ids)) >= 1000:
            raise UsageError("ids are below 1000")
        if max(map(max, input_ids)) == 999:
            raise RuntimeError("CUDA error: device-side assert triggered")
        states = np.array([[[i, 0.0] for i in row] for row in input_ids], np.float32)
        return {"last_hidden_state": (list(states.shape), states.tobytes())}


if __name__ == "__main__":
    worker.main(Toy)
