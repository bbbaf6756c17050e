"""The engine of one machine: a worker process per device, batches of equal shape, cancel, recovery.

No torch here: the workers have it. Threads: one schedules, two for each worker read and write its pipe, so that a
worker that has stopped reading holds nobody up; one tells the updates, so that whoever hears them may call the engine
without a deadlock.
"""

import contextlib
import itertools
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Literal

from unlearn_export.errors import UnlearnExportError
from unlearn_export.openmp import WAITING

from .contract import ATTEMPTS, Health, Outcome, Request, Settings, States, Update

WORKER = (sys.executable, "-m", "serving.worker")
ASKED = 32  # most calls of the encoder alone that may wait
LINGER = 0.5  # seconds that a worker keeps its share of the cores after a batch, since the next one is often near
# What the environment of a worker on the CPU has unless it says otherwise. It keeps up to 1 GiB of the memory that it
# freed, in pieces of up to 32 MiB: glibc would give it back to the system and fetch it again, page by page, several
# thousand times a clip.
TUNING = WAITING | {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
}
LOADING = "the model is being loaded"
REFUSED = "the model was refused: the server's output tells why"
State = Literal["dead", "starting", "idle", "drawing", "refused"]


@dataclass(frozen=True)
class Patience:
    """Seconds. silence: without a sign of life, then the worker is killed; lately: then it is not ready.

    step: one denoising step or the decoding; start: loading. restart: the first pause after a failed start, doubled
    each time up to a minute. infer: for the encoder alone, which waits for the batch that is being drawn.
    deadline: for a request from its beginning to its clip, then it fails. grace: for the step in which all that a worker
    draws is cancelled or late; then the worker is killed.
    """

    silence: float = 20.0
    lately: float = 5.0
    step: float = 600.0
    start: float = 1800.0
    restart: float = 1.0
    infer: float = 60.0
    deadline: float = 1800.0
    grace: float = 30.0


@dataclass
class Ticket:
    """A request on its way. alone: its worker died once, so it takes no others with it the next time.

    stop: why its worker was told to drop it, "cancelled" or "deadline_exceeded". queued, begun, stopped: when.
    """

    request: Request
    attempts: int = 0
    alone: bool = False
    stop: Literal["", "cancelled", "deadline_exceeded"] = ""
    queued: float = field(default_factory=time.monotonic)
    begun: float = 0.0
    stopped: float = 0.0
    waited: float = 0.0
    step: int = 0
    steps: int = 0


@dataclass
class Worker:
    """One worker process as the engine sees it; ``flight`` is what it was given and has not ended."""

    device: str
    state: State = "dead"
    process: subprocess.Popen[bytes] | None = None
    outbox: queue.SimpleQueue[tuple[Any, ...] | None] = field(default_factory=queue.SimpleQueue)
    flight: dict[str, Ticket] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    reason: str = LOADING
    detail: str = ""  # of the reason, as ``Health`` has it
    born: float = 0.0
    seen: float = 0.0
    age: float = 0.0  # of the main thread's last sign, at ``seen``
    rested: float = -math.inf  # when its last batch ended
    threads: int = 0  # as it was told last
    room: float = math.inf  # pixels that a batch may have, as learnt from one that ran out of memory
    failures: int = 0  # starts in a row that did not come to ready
    restart_at: float = 0.0

    @property
    def live(self) -> bool:
        return self.state in ("idle", "drawing")

    def fingerprint(self, encoder: str) -> str:
        """Of one of its encoders; "" where it has no such one."""
        return str(self.about.get("encoders", {}).get(encoder, {}).get("fingerprint", ""))

    def may_draw(self, request: Request) -> bool:
        """Whether it has the encoder that the request was ordered from."""
        return request.fingerprint in ("", self.fingerprint(request.encoder))


class LocalEngine:
    """``contract.Engine`` on this machine.

    devices: one worker for each, such as ("cpu",), ("cpu", "cpu") or ("cuda:0", "cuda:1").
    max_batch: requests of equal shape drawn together; with a step cache always one, since what such a cache skips
    depends on the whole batch. window: seconds that a batch waits for others to join it, where
    the one before had company; a lone request never waits.
    """

    def __init__(
        self,
        settings: Settings,
        devices: Sequence[str] = ("cpu",),
        *,
        max_batch: int = 4,
        window: float = 0.03,
        patience: Patience | None = None,
        command: Sequence[str] = WORKER,
    ) -> None:
        self.settings, self.window, self.command = settings, window, command
        self.max_batch = 1 if settings.step_cache else max_batch
        self.patience = patience or Patience()
        self.workers = [Worker(device) for device in devices]
        self._queue: deque[Ticket] = deque()
        self._changed = threading.Condition(threading.RLock())
        self._closing = self._company = False
        self._asked: dict[int, tuple[Worker, Future[States], float]] = {}  # with the time by which to answer
        self._tokens = itertools.count()
        self._batches: Counter[int] = Counter()
        self._restarts = self._hits = self._misses = 0
        self._updates: queue.SimpleQueue[Update | None] = queue.SimpleQueue()

    def start(self, on_update: Callable[[Update], None]) -> None:
        def tell() -> None:
            for update in iter(self._updates.get, None):
                on_update(update)

        self._teller = threading.Thread(target=tell, name="teller", daemon=True)
        self._teller.start()
        self._scheduler = threading.Thread(target=self._schedule, name="scheduler", daemon=True)
        self._scheduler.start()

    def submit(self, request: Request, attempts: int = 0) -> None:
        with self._changed:
            self._queue.append(Ticket(request, attempts, alone=attempts > 0))
            self._changed.notify_all()

    def cancel(self, id: str) -> bool:
        with self._changed:
            for ticket in self._queue:
                if ticket.request.id == id:
                    self._queue.remove(ticket)
                    break
            else:
                for worker in self.workers:
                    if id in worker.flight:
                        self._stop(worker, worker.flight[id], "cancelled")
                        return True
                return False
        self._tell(ticket, "cancelled")
        return True

    def progress(self, id: str) -> tuple[int, int]:
        for worker in self.workers:
            ticket = worker.flight.get(id)
            if ticket is not None:
                return ticket.step, ticket.steps
        return 0, 0

    def describe(self) -> dict[str, Any]:
        return next((w.about for w in self.workers if w.about), {})

    def figures(self) -> dict[str, Any]:
        """queued, running, restarts, cache hits and misses, batches by their size, rss by pid."""
        with self._changed:
            return {
                "queued": len(self._queue),
                "running": sum(len(w.flight) for w in self.workers),
                "ready": sum(w.live for w in self.workers),
                "restarts": self._restarts,
                "hits": self._hits,
                "misses": self._misses,
                "batches": dict(self._batches),
                "rss": {w.process.pid: rss(w.process.pid) for w in self.workers if w.process and w.state != "dead"},
            }

    def health(self) -> Health:
        now = time.monotonic()
        for worker in self.workers:
            if worker.live and now - worker.seen < self.patience.lately:
                return Health(True)
        first = self.workers[0]
        if first.live:
            return Health(False, f"the worker has been silent for {now - first.seen:.0f} s")
        final = all(worker.state == "refused" for worker in self.workers)
        return Health(False, first.reason, final, first.detail)

    def infer(self, input_ids: list[list[int]]) -> Future[States]:
        """Raises UnlearnExportError where no worker is there, or too many calls wait."""
        future: Future[States] = Future()
        future.set_running_or_notify_cancel()  # whoever gave it up must not keep the answer from being set
        with self._changed:
            live = sorted((w for w in self.workers if w.live), key=lambda w: len(w.flight))
            if not live:
                raise UnlearnExportError(self.health().reason)
            if len(self._asked) >= ASKED:
                raise UnlearnExportError(f"{ASKED} calls of the encoder are waiting already")
            token = next(self._tokens)
            self._asked[token] = live[0], future, time.monotonic() + self.patience.infer
            live[0].outbox.put(("infer", token, input_ids))
        return future

    def stop(self, deadline: float) -> list[str]:
        with self._changed:
            self._closing = True  # nothing new is begun
            end = time.monotonic() + deadline
            while any(w.flight for w in self.workers) and time.monotonic() < end:
                self._changed.wait(0.1)
            left = [t.request.id for w in self.workers for t in w.flight.values()]
            left += [t.request.id for t in self._queue]
            processes = [w.process for w in self.workers if w.process]
        for process in processes:
            process.kill()
            process.wait()
        self._updates.put(None)
        self._teller.join(5)
        return left

    def _schedule(self) -> None:
        with self._changed:
            while not self._closing:
                for worker in self.workers:
                    self._care_for(worker)
                self._answer_the_overdue()
                self._changed.wait(self._dispatch())

    def _care_for(self, worker: Worker) -> None:
        """Start what is dead, kill what hangs."""
        now = time.monotonic()
        if worker.state == "dead" and now >= worker.restart_at:
            self._spawn(worker)
        elif worker.state == "starting" and now - worker.born > self.patience.start:
            self._kill(worker, f"the worker had not loaded after {self.patience.start:.0f} s")
        elif worker.live and now - worker.seen > self.patience.silence:
            self._kill(worker, f"the worker was silent for {self.patience.silence:.0f} s")
        elif worker.state == "drawing" and worker.age > self.patience.step:
            self._kill(worker, f"a step took longer than {self.patience.step:.0f} s")
        elif worker.live and worker.flight:
            self._stop_the_late(worker)

    def _stop(self, worker: Worker, ticket: Ticket, why: Literal["cancelled", "deadline_exceeded"]) -> None:
        if not ticket.stop:
            ticket.stop, ticket.stopped = why, time.monotonic()
            worker.outbox.put(("cancel", ticket.request.id))

    def _stop_the_late(self, worker: Worker) -> None:
        """Stop what is past its deadline; kill the worker where that does not help and nobody waits for the others."""
        now, tickets = time.monotonic(), list(worker.flight.values())
        for ticket in tickets:
            if now - ticket.begun > self.patience.deadline:
                self._stop(worker, ticket, "deadline_exceeded")
        if all(t.stop and now - t.stopped > self.patience.grace for t in tickets):
            self._kill(worker, f"a step did not end within {self.patience.grace:.0f} s")

    def _answer_the_overdue(self) -> None:
        for token, (_, future, end) in list(self._asked.items()):
            if time.monotonic() > end:
                del self._asked[token]
                future.set_exception(UnlearnExportError(f"no worker came to it within {self.patience.infer:.0f} s"))

    def _dispatch(self) -> float:
        """Give every idle worker a batch; → the seconds after which to look again."""
        self._fail_what_nobody_may_draw()
        left, begun = 0.2, []
        for worker in self.workers:
            waiting = [t for t in self._queue if worker.may_draw(t.request)] if worker.state == "idle" else []
            if not waiting:
                continue
            first = waiting[0]
            mates = [t for t in waiting if t.request.shape == first.request.shape and not t.alone]
            share = math.ceil(len(mates) / sum(w.state == "idle" for w in self.workers))
            most = max(1, int(min(self.max_batch, worker.room / first.request.pixels)))
            batch = [first] if first.alone else mates[: min(share, most)]
            early = first.queued + self.window - time.monotonic()
            if self._company and not first.alone and len(mates) < most and early > 0:
                left = early
                break
            for ticket in batch:
                self._queue.remove(ticket)
                ticket.attempts += 1
                ticket.begun = time.monotonic()
                ticket.waited = ticket.begun - ticket.queued
                worker.flight[ticket.request.id] = ticket
            worker.state, worker.age = "drawing", 0.0
            self._company = len(batch) > 1
            self._batches[len(batch)] += 1
            for ticket in batch:
                self._tell(ticket, "started")
            begun.append((worker, [t.request for t in batch]))
        self._share_cores()
        for worker, requests in begun:
            worker.outbox.put(("run", requests))
        return left

    def _fail_what_nobody_may_draw(self) -> None:
        """What was ordered from an encoder that was replaced since: another one has forgotten something else."""
        live = [worker for worker in self.workers if worker.live]
        for ticket in [t for t in self._queue if live and not any(w.may_draw(t.request) for w in live)]:
            self._queue.remove(ticket)
            ordered, here = ticket.request.fingerprint[:12], live[0].fingerprint(ticket.request.encoder)[:12]
            message = (
                f"it was ordered from the encoder {ordered}…, and here is {f'{here}…' if here else 'none such'} now"
            )
            self._tell(ticket, "failed", code="encoder_changed", message=f"{message}: order it again")

    def _share_cores(self) -> None:
        """Tell each worker on the CPU how many threads it may use, so that those that draw have as many cores in all.

        A worker takes it up when it begins something, and after each step. An idle one is told what it would have.
        """
        now = time.monotonic()
        busy = [w for w in self.workers if w.state == "drawing" or now - w.rested < LINGER]
        for worker in self.workers:
            threads = self._threads(worker, busy)
            if worker.live and worker.threads != threads:
                worker.threads = threads
                worker.outbox.put(("threads", threads))

    def _threads(self, worker: Worker, rivals: Sequence[Worker]) -> int:
        """Its share of the cores while the rivals compute too; 0 leaves a GPU's alone."""
        if self.settings.threads or worker.device != "cpu":
            return self.settings.threads
        if self.settings.compile:  # what is compiled is compiled for one number of threads
            rivals = self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // (1 + sum(w is not worker and w.device == "cpu" for w in rivals)))

    def _spawn(self, worker: Worker) -> None:
        ours, theirs = Pipe()
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
        if worker.device == "cpu":
            environment = TUNING | environment
        worker.threads = self._threads(worker, self.workers)  # they may all be loading
        if worker.threads:
            environment["OMP_NUM_THREADS"] = str(worker.threads)
        try:
            with theirs:
                worker.process = subprocess.Popen(
                    [*self.command, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for the front end, which lets running clips finish
                )
        except OSError as error:
            ours.close()
            self._restart_later(worker, "the worker cannot be started", failed=True)
            worker.detail = f"the worker cannot be started: {error}"
            return
        worker.state, worker.reason, worker.detail = "starting", LOADING, ""
        worker.born = worker.seen = time.monotonic()
        worker.room = math.inf
        worker.outbox = queue.SimpleQueue()
        worker.outbox.put((self.settings, worker.device))
        threading.Thread(target=write, args=(worker.outbox, ours), daemon=True).start()
        threading.Thread(target=self._read, args=(worker, worker.process, ours), daemon=True).start()

    def _restart_later(self, worker: Worker, reason: str, failed: bool) -> None:
        """At once, or after a pause where it failed to start."""
        worker.state, worker.reason = "dead", f"{reason}: it is being restarted"
        worker.failures += failed
        pause = min(60.0, self.patience.restart * 2 ** (worker.failures - 1)) if worker.failures else 0.0
        worker.restart_at = time.monotonic() + pause
        self._restarts += 1

    def _kill(self, worker: Worker, reason: str) -> None:
        assert worker.process is not None
        worker.reason, worker.state = reason, "dead"
        worker.restart_at = math.inf  # until the reader has seen the end
        worker.process.kill()

    def _read(self, worker: Worker, process: subprocess.Popen[bytes], pipe: Connection) -> None:
        """One worker process's messages, from its start to its end."""
        while True:
            try:
                kind, *content = pipe.recv()
            except (EOFError, OSError):
                break
            with self._changed:
                worker.seen = time.monotonic()
                getattr(self, f"_on_{kind}")(worker, *content)
                self._changed.notify_all()
        worker.outbox.put(None)
        self._on_end(worker, process.wait())

    def _on_beat(self, worker: Worker, age: float) -> None:
        worker.age = age

    def _on_ready(self, worker: Worker, about: dict[str, Any]) -> None:
        worker.about, worker.failures = about, 0
        self._rest(worker, "starting")

    def _rest(self, worker: Worker, after: State) -> None:
        if worker.state == after:  # else it is being killed, and says this too late
            worker.state, worker.reason = "idle", ""
            worker.rested = time.monotonic() if after == "drawing" else -math.inf

    def _on_refused(self, worker: Worker, reason: str) -> None:
        worker.state, worker.reason, worker.detail, worker.about = "refused", REFUSED, reason, {}

    def _on_step(self, worker: Worker, ids: list[str], step: int, steps: int) -> None:
        for id in ids:
            ticket = worker.flight[id]
            ticket.step, ticket.steps = step, steps
            self._tell(ticket, "step")

    def _on_drawn(self, worker: Worker, counts: dict[str, int]) -> None:
        old = worker.about.get("counts", {"hits": 0, "misses": 0})
        self._hits += counts["hits"] - old["hits"]
        self._misses += counts["misses"] - old["misses"]
        worker.about = worker.about | {"counts": counts}
        self._rest(worker, "drawing")

    def _on_crowded(self, worker: Worker, pixels: int) -> None:
        worker.room = min(worker.room, pixels // 2)

    def _on_done(self, worker: Worker, id: str, seconds: dict[str, float], batch: int) -> None:
        ticket = worker.flight.pop(id)
        drew = worker.fingerprint(ticket.request.encoder)
        self._tell(ticket, "completed", seconds={"queue": ticket.waited} | seconds, batch=batch, fingerprint=drew)

    def _on_failed(self, worker: Worker, id: str, code: str, message: str) -> None:
        self._tell(worker.flight.pop(id), "failed", code=code, message=message)

    def _on_cancelled(self, worker: Worker, id: str) -> None:
        self._tell_stopped(worker.flight.pop(id))

    def _on_inferred(self, worker: Worker, token: int, answer: States | UnlearnExportError) -> None:
        if token not in self._asked:
            return  # too late
        _, future, _ = self._asked.pop(token)
        if isinstance(answer, UnlearnExportError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def _on_end(self, worker: Worker, code: int) -> None:
        """The process is gone: its requests go back to the front of the queue once, then they fail.

        While the engine stops they only go back, for ``stop`` to name them.
        """
        with self._changed:
            killed, started = worker.state == "dead", worker.live
            reason = worker.reason if killed else f"the worker ended with exit code {code}"
            for token in [t for t, (w, _, _) in self._asked.items() if w is worker]:
                self._asked.pop(token)[1].set_exception(UnlearnExportError(reason))
            lost = list(worker.flight.values())
            worker.flight.clear()
            for ticket in reversed(lost):
                ticket.alone, ticket.step = True, 0
                if ticket.stop:
                    self._tell_stopped(ticket)
                elif self._closing:
                    self._queue.appendleft(ticket)
                elif ticket.attempts >= ATTEMPTS:
                    message = f"begun {ticket.attempts} times, and each time the worker died; last: {reason}"
                    self._tell(ticket, "failed", code="worker_died", message=message)
                else:
                    self._queue.appendleft(ticket)
                    self._tell(ticket, "requeued")
            if worker.state != "refused":
                self._restart_later(worker, reason, failed=not started)
            worker.about.pop("counts", None)
            self._changed.notify_all()

    def _tell_stopped(self, ticket: Ticket) -> None:
        if ticket.stop == "cancelled":
            self._tell(ticket, "cancelled")
        else:
            message = f"not drawn within {self.patience.deadline:.0f} s: ask for fewer pixels, frames or steps"
            self._tell(ticket, "failed", code=ticket.stop, message=message)

    def _tell(self, ticket: Ticket, outcome: Outcome, **more: Any) -> None:
        update = Update(ticket.request.id, outcome, ticket.step, ticket.steps, attempts=ticket.attempts, **more)
        self._updates.put(update)


def write(outbox: queue.SimpleQueue[tuple[Any, ...] | None], pipe: Connection) -> None:
    """Send what is put into the outbox to one worker process, until its reader has seen its end and puts None."""
    with pipe:
        for message in iter(outbox.get, None):
            with contextlib.suppress(OSError):  # it died
                pipe.send(message)


def rss(pid: int | Literal["self"] = "self") -> int:
    """Resident bytes of a process; 0 where the system does not tell."""
    try:
        with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123 (this is no path of ours)
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
