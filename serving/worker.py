"""The worker process: it owns one painter, draws one batch at a time, and tells how it goes over a pipe.

Started by the engine as ``python -m serving.worker FD``. Messages in: ("run", requests), ("cancel", id),
("threads", count), ("infer", token, input_ids). Out: ("ready", about), ("refused", reason), ("beat", age),
("step", ids, step, steps), ("crowded", pixels) of a batch that ran out of memory, ("drawn", figures), ("done", id, seconds, batch), ("failed", id, code, message),
("cancelled", id), ("inferred", token, states or the error as an UnlearnExportError). It ends when the pipe does.
"""

import gc
import os
import queue
import re
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from unlearn_export.errors import UnlearnExportError, UsageError

from .contract import THUMBNAIL, VIDEO, Request, Settings

BEAT = 0.5  # seconds between signs of life
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "failed to allocate memory")
# as torch and ONNX Runtime say it of CUDA and its libraries, and of HIP
BROKEN = ("cuda error", "cuda failure", "cudnn", "cublas", "hip error", "hip failure", "miopen")


class Cancelled(Exception):
    """Raised from within a step once nobody wants the batch any more."""


class Worker:
    """Between the pipe and a painter.

    That one has ``describe()``, ``draw(requests, on_step)``, ``infer(input_ids)``, ``use_threads(count)`` and ``free()``.
    """

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.sending = threading.Lock()
        self.inbox: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self.cancelled: set[str] = set()
        self.short = 0  # times in a row that a single request ran out of memory
        self.threads = 0  # as the engine said last; 0 leaves them alone
        self.tick = time.monotonic()  # when the main thread last did something
        self.writer = ThreadPoolExecutor(1)  # a clip is compressed while the next one is drawn
        self.writing: list[Future[None]] = []  # of the batch drawn last

    def run(self, make: Callable[[Settings, str], Any]) -> None:
        """Load what the first message names, then serve the others for ever."""
        settings, device = self.pipe.recv()
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            self.painter = make(settings, device)
            about = self.painter.describe()
        except Exception as error:
            if out_of_memory(error):
                raise  # there may be more of it after a while
            known = isinstance(error, (UnlearnExportError, ImportError))
            if not known:
                traceback.print_exc()
            self.send("refused", one_line(error) if known else f"{type(error).__name__}: {one_line(error)}")
            return
        self.send("ready", about)
        threading.Thread(target=self._receive, daemon=True).start()
        while True:
            self.tick = time.monotonic()
            try:
                kind, *content = self.inbox.get(timeout=BEAT)
            except queue.Empty:
                continue
            self._use_threads()
            if kind == "run":
                self._run(content[0])
            elif kind == "infer":
                self._infer(*content)

    def send(self, *message: Any) -> None:
        try:
            with self.sending:
                self.pipe.send(message)
        except OSError:
            os._exit(0)  # nobody is left to draw for

    def _receive(self) -> None:
        while True:
            try:
                message = self.pipe.recv()
            except (EOFError, OSError):
                os._exit(0)
            if message[0] == "cancel":
                self.cancelled.add(message[1])
            elif message[0] == "threads":
                self.threads = message[1]
            else:
                self.inbox.put(message)

    def _beat(self) -> None:
        while True:
            self.send("beat", time.monotonic() - self.tick)
            time.sleep(BEAT)

    def _run(self, requests: Sequence[Request]) -> None:
        """Draw a batch; the next may come once the one before this is written, so that frames do not pile up."""
        before, self.writing = self.writing, []
        self._draw(requests)
        wait(before)
        self.send("drawn", {"hits": self.painter.embeddings.hits, "misses": self.painter.embeddings.misses})

    def _draw(self, requests: Sequence[Request]) -> None:
        """Draw a batch; one that fails is drawn again request by request, so that one cannot fail the others."""
        wanted = self._drop_cancelled(list(requests))
        if not wanted:
            return

        def on_step(step: int, steps: int) -> None:
            self._use_threads()
            self.tick = time.monotonic()
            wanted[:] = self._drop_cancelled(wanted)
            if not wanted:
                raise Cancelled
            self.send("step", [r.id for r in wanted], step, steps)

        drawn, failure = list(wanted), ""
        try:
            drawing = self.painter.draw(drawn, on_step)
        except Cancelled:
            return
        except Exception as error:
            failure, full, broken = without_path(error), out_of_memory(error), device_is_broken(error)
        if not failure:
            self.short = 0
            for request, frames in zip(drawn, drawing.frames, strict=True):
                if request in wanted:
                    written = self.writer.submit(self._write, request, frames, dict(drawing.seconds), len(drawn))
                    self.writing.append(written)
        elif len(drawn) > 1 and not broken:
            if full:
                self.send("crowded", sum(request.pixels for request in drawn))
            self._free()
            for request in list(wanted):
                self._draw([request])
        else:
            if len(drawn) == 1:
                self.send("failed", drawn[0].id, "out_of_memory" if full else "failed", failure)
            self._recover(full, broken)

    def _recover(self, full: bool, broken: bool) -> None:
        """After a single request failed. A second one that is out of memory has found what the first one left."""
        self.short += full
        if broken or self.short > 1:
            self._give_up()
        if full:
            self._free()

    def _free(self) -> None:
        """To be called where no error any more holds what was in memory."""
        gc.collect()
        self.painter.free()

    def _use_threads(self) -> None:
        if self.threads:
            self.painter.use_threads(self.threads)

    def _give_up(self) -> None:
        """End, once the clips that are drawn are written: this process is not to be trusted with the next."""
        self.writer.shutdown()
        os._exit(1)

    def _write(self, request: Request, frames: Any, seconds: dict[str, float], batch: int) -> None:
        if not self._drop_cancelled([request]):
            return
        begun = time.perf_counter()
        try:
            write(frames, Path(request.folder), request.fps)
        except Exception as error:
            self.send("failed", request.id, "failed", without_path(error))
            return
        self.send("done", request.id, seconds | {"write": time.perf_counter() - begun}, batch)

    def _drop_cancelled(self, requests: list[Request]) -> list[Request]:
        for request in requests:
            if request.id in self.cancelled:
                self.cancelled.discard(request.id)
                requests = [r for r in requests if r is not request]
                self.send("cancelled", request.id)
        return requests

    def _infer(self, token: int, input_ids: list[list[int]]) -> None:
        full = broken = False
        try:
            answer = self.painter.infer(input_ids)
        except Exception as error:
            kind = UsageError if isinstance(error, UsageError) else UnlearnExportError
            answer, full, broken = kind(without_path(error)), out_of_memory(error), device_is_broken(error)
        self.send("inferred", token, answer)
        self._recover(full, broken)


def write(frames: Any, folder: Path, fps: int) -> None:
    """Put frames [f, h, w, 3] into the folder as video.mp4, the last to appear, and its thumbnail."""
    from PIL import Image

    from unlearn_export.media import save_clip

    shutil.rmtree(folder, ignore_errors=True)  # what an attempt that was cut off left
    folder.mkdir(parents=True)
    middle = frames[len(frames) // 2]
    picture = Image.fromarray((middle * 255).round().astype("uint8"))
    scale = 256 / max(picture.size)
    sides = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture.resize(sides, Image.Resampling.LANCZOS).save(folder / THUMBNAIL, quality=85)
    save_clip(frames, folder / VIDEO, fps=fps, scale=1)


def out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(sign in said(error) for sign in OUT_OF_MEMORY)


def device_is_broken(error: Exception) -> bool:
    """After an error on a GPU, other than that its memory is full, every later call of the process fails as well."""
    return not out_of_memory(error) and any(sign in said(error) for sign in BROKEN)


def said(error: BaseException) -> str:
    """All of it in small letters, with what it was raised from: a message of ours is cut to a line."""
    return f"{error} {error.__cause__ or ''}".lower()


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def without_path(error: BaseException) -> str:
    """For whoever ordered: where the server keeps its files is not their business."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return re.sub(r"(?<!\w)/([^\s/:]+/)+", "", one_line(error))


def main(make: Callable[[Settings, str], Any]) -> None:
    """Serve the pipe whose file descriptor is the first argument."""
    Worker(Connection(int(sys.argv[1]))).run(make)


def _painter(settings: Settings, device: str) -> Any:
    import logging
    import warnings

    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)
    from .painter import Painter

    painter = Painter(settings, device)
    for seated in painter.seats.values():
        for words in seated.told["uncovered"]:
            print(f"warning: not covered by the edit: {words}", file=sys.stderr, flush=True)
    return painter


if __name__ == "__main__":
    main(_painter)
