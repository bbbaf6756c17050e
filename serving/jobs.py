"""Jobs: what the store remembers and the engine does, kept in step; the queue's bound, retention, recovery."""

import contextlib
import json
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from unlearn_export.errors import UnlearnExportError

from .contract import ATTEMPTS, VIDEO, Engine, Health, Request, Update
from .store import Job, Store, unusable

ENDS = ("completed", "failed", "cancelled")
ROOM = 2**24  # bytes that must be free for a clip
RESERVE = 2**20  # bytes that the store is sure of for deleting
log = logging.getLogger(__name__)
Listener = Callable[[Update], None]


class QueueFull(UnlearnExportError):
    """No place left; ``retry_after`` seconds from now there should be."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} jobs are waiting already: try again in {retry_after} s")
        self.retry_after = retry_after


class KeyReused(UnlearnExportError):
    """The idempotency key stands for another request."""


@dataclass(frozen=True)
class Retention:
    """What is kept of ended jobs: the newest ``count``, none older than ``age`` seconds, ``bytes`` of files in all."""

    count: int = 1000
    age: float = 7 * 86400.0
    bytes: int = 10_000_000_000


class Jobs:
    """The service behind the API. Methods are safe to call from any thread, and wait for the store: not for an event loop,
    but for ``listening``, which waits for nothing.
    """

    def __init__(self, folder: Path, engine: Engine, *, waiting: int = 100, retention: Retention | None = None) -> None:
        """Take up what an earlier process left. Raises UnlearnExportError where the folder cannot be used."""
        self.folder, self.engine, self.waiting = folder, engine, waiting
        self.retention = retention or Retention()
        self.store = Store(folder / "jobs.sqlite3")
        self.clips = folder / "clips"
        self.reserve = folder / "reserve"  # given up on a full disk, so that something can be deleted
        self.on_end: Listener = lambda update: None  # hears each job's end once
        self.pace = 1.0  # seconds from one clip's end to the next's, while there is work; for Retry-After
        self._unrecorded: deque[Update] = deque()  # ends that the store could not take yet
        self._listeners: dict[str, set[Listener]] = {}
        self._lock = threading.Lock()  # one order at a time
        self._hearing = threading.Lock()
        self.fault = ""  # why nothing can be written, in one line
        try:
            self._left = self._take_up()
            self._noted = self.store.noted("model") or "[{}, {}]"
            asked, about = json.loads(self._noted)
            self._known: dict[str, Any] = about if asked == asdict(engine.settings) else {}
        except (sqlite3.Error, OSError) as error:
            raise unusable(self.store.path, error) from error

    def _take_up(self) -> list[Job]:
        """What an earlier process left to be drawn; what it left that is of no use is removed."""
        for job in self.store.unended():
            if job.over:  # it cannot be read
                self.store.fail(job.id, job.code, job.message)
            elif job.attempts >= ATTEMPTS:
                self.store.fail(job.id, "interrupted", f"begun {job.attempts} times and cut off each time")
        kept = self.store.completed()
        for folder in self.clips.iterdir() if self.clips.is_dir() else ():
            if folder.name not in kept:  # of a job that is gone, or cut off while it was written
                shutil.rmtree(folder, ignore_errors=True)
        self.store.requeue(job.id for job in self.store.unended())
        return self.store.unended()

    def start(self) -> None:
        """Serve, beginning with what was taken up."""
        self.check()
        self.engine.start(self._on_update)
        for job in self._left:
            here = replace(job.request, folder=str(self.folder_of(job).absolute()))  # the folder may have been moved
            self.engine.submit(here, job.attempts)

    def stop(self, deadline: float) -> None:
        """Let what runs finish within ``deadline`` seconds; the rest waits for the next start."""
        left = self.engine.stop(deadline)
        try:
            self.store.requeue(left, forgive=True)
        except sqlite3.Error as error:  # they are taken up as cut off
            log.error("the end of %d jobs was not recorded: %s", len(left), error)
        self.store.close()

    def describe(self) -> dict[str, Any]:
        """The model as the engine found it; while it is loaded, as it was found when the same was loaded last."""
        return self.engine.describe() or self._known

    def remember(self) -> None:
        """Keep what the engine found, so that the next process takes orders while it loads."""
        about = {key: value for key, value in self.engine.describe().items() if key not in ("counts", "pid")}
        noted = json.dumps([asdict(self.engine.settings), about])
        if about and noted != self._noted:
            self.store.note("model", noted)
            self._noted = noted

    def health(self) -> Health:
        """The engine's, or why jobs and clips cannot be written. No order is to be taken while it has such a reason."""
        health = self.engine.health()
        return Health(False, self.fault) if health.ready and self.fault else health

    def check(self) -> None:
        """Find out whether jobs and clips can be written, for ``health`` to tell; keep some room for deleting."""
        probe = self.clips / ".room"
        try:
            self.clips.mkdir(exist_ok=True)
            try:
                allocate(probe, ROOM)
            finally:
                probe.unlink(missing_ok=True)
            allocate(self.reserve, RESERVE)
            self.store.note("checked", str(time.time()))
            self.fault = ""
        except (sqlite3.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.fault = f"jobs and clips cannot be written: {reason}"

    def create(
        self, request: Request, owner: str = "", model: str = "", idempotency: str | None = None, body: str = ""
    ) -> tuple[Job, bool]:
        """Queue a request, whose id and folder are chosen here; → the job, and whether it is new.

        Raises QueueFull, and KeyReused where the idempotency key came with another ``body`` before.
        """
        with self._lock:
            if idempotency and (earlier := self.store.ordered(idempotency, owner)):
                if earlier.body != body:
                    raise KeyReused(
                        f"the idempotency key {idempotency!r} was used for another request: choose a new one"
                    )
                return earlier, False
            queued = self.store.count()["queued"]
            if queued >= self.waiting:
                raise QueueFull(queued, max(1, round(self.pace)))
            id = f"video_{uuid4().hex}"
            request = replace(request, id=id, folder=str((self.clips / id).absolute()))
            job = self.store.add(request, owner, model, idempotency, body)
        self.engine.submit(request)
        return job, True

    def cancel(self, id: str) -> None:
        """Drop or stop a job; one that ended stays as it is."""
        job = self.store.get(id)
        if job is None or job.over:
            return
        self.engine.cancel(id)
        self._on_update(Update(id, "cancelled"))  # the engine follows within a step; what it still draws is dropped

    def delete(self, id: str) -> None:
        """Cancel a job that has not ended; its clip and its record are gone."""
        self.cancel(id)
        shutil.rmtree(self.clips / id, ignore_errors=True)  # first: on a full disk this makes room for the other
        try:
            self.store.delete(id)
        except sqlite3.Error:
            self.reserve.unlink(missing_ok=True)
            self.store.delete(id)

    def folder_of(self, job: Job) -> Path:
        return self.clips / job.id

    def file(self, job: Job) -> Path:
        return self.folder_of(job) / VIDEO

    def prune(self) -> None:
        """Remove what retention does not keep."""
        keep = self.retention
        for id in self.store.surplus(keep.count, keep.age, keep.bytes):
            self.delete(id)

    def tend(self) -> None:
        """To be called now and then, and once it is ready: record the ends that could not be written before, and prune.

        Raises sqlite3.Error or OSError where that cannot be done yet.
        """
        if self.fault:
            self.check()
        self.remember()
        for _ in range(len(self._unrecorded)):
            self._on_update(self._unrecorded.popleft())
        self.prune()
        self.store.forget_uses()

    @contextlib.contextmanager
    def listening(self, id: str, listener: Listener) -> Iterator[None]:
        """Within the block, ``listener`` hears every update of the job, from another thread."""
        with self._hearing:
            self._listeners.setdefault(id, set()).add(listener)
        try:
            yield
        finally:
            with self._hearing:
                heard = self._listeners.get(id, set())
                heard.discard(listener)
                if not heard:
                    self._listeners.pop(id, None)

    def _on_update(self, update: Update) -> None:
        try:
            self._record(update)
        except (sqlite3.Error, OSError) as error:
            log.error("job %s: %s was not recorded: %s", update.id, update.outcome, error)
            if update.outcome in ENDS:
                self._unrecorded.append(update)
            self.check()
        if update.code == "failed":  # it may be the disk that failed it
            self.check()
        with self._hearing:
            listeners = list(self._listeners.get(update.id, ()))
        for listener in listeners:
            listener(update)

    def _record(self, update: Update) -> None:
        if update.outcome == "started":
            self.store.begin(update.id, update.attempts)
        elif update.outcome == "requeued":
            self.store.requeue([update.id])
        if update.outcome not in ENDS:
            return
        folder = self.clips / update.id
        if update.outcome == "completed":
            size = sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0
            if self.store.complete(update.id, update.seconds, update.batch, size, update.fingerprint):
                busy = sum(v for stage, v in update.seconds.items() if stage != "queue") / update.batch
                self.pace = 0.8 * self.pace + 0.2 * busy
                self.on_end(update)
        else:
            code, message = update.code or "cancelled", update.message or "cancelled on request"
            if self.store.fail(update.id, code, message):
                self.on_end(replace(update, code=code))
        job = self.store.get(update.id)
        if job is None or job.status != "completed":  # deleted or cancelled, or a worker died while it wrote
            shutil.rmtree(folder, ignore_errors=True)
        self.prune()


def allocate(path: Path, size: int) -> None:
    """Have a file of so many bytes, whatever is in them. Raises OSError where there is no room."""
    with path.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, size)
