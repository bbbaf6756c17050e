"""The job store: one SQLite file (WAL) beside the clips, so that jobs survive any process's end."""

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from unlearn_export.errors import UnlearnExportError

from .contract import Request

log = logging.getLogger(__name__)
Status = Literal["queued", "in_progress", "completed", "failed"]
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    model TEXT NOT NULL,
    request TEXT NOT NULL,
    status TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    code TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    seconds TEXT NOT NULL DEFAULT '{}',
    batch INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    fingerprint TEXT NOT NULL DEFAULT '',
    idempotency TEXT,
    body TEXT NOT NULL DEFAULT '',
    UNIQUE (owner, idempotency)
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status);
CREATE TABLE IF NOT EXISTS uses (owner TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS uses_by_owner ON uses (owner, at);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
DAY = 86400.0


@dataclass(frozen=True)
class Job:
    """One clip from its order to its end. Times in seconds since 1970; ``seq`` counts up in order of arrival.

    fingerprint: of the encoder it was ordered from, else of the one that drew it.
    body: a digest of what was asked, to tell a repeated order from another one under the same idempotency key.
    """

    seq: int
    id: str
    owner: str
    model: str
    request: Request
    status: Status
    created: float
    started: float | None
    ended: float | None
    attempts: int
    code: str
    message: str
    seconds: dict[str, float]
    batch: int
    bytes: int
    fingerprint: str
    idempotency: str | None
    body: str

    @property
    def over(self) -> bool:
        return self.status in ("completed", "failed")


COLUMNS = ", ".join(column.name for column in fields(Job))
REQUEST, SECONDS = TypeAdapter(Request), TypeAdapter(dict[str, float])
UNREADABLE = Request("", "", 1, 1, 1, 1, 0.0, 1, 0, "")  # in the place of one that is


class Store:
    """Every change is one transaction, and moves a job only from where it can be moved: nothing ends twice.

    Reads have a connection of their own, so that they do not wait for a change that waits for another process.
    """

    def __init__(self, path: Path) -> None:
        """Raises UnlearnExportError where the file cannot be opened or is no job store."""
        self.path = path
        self._lock, self._reading = threading.Lock(), threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db, self._reads = connect(path), connect(path)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(SCHEMA)
            if "fingerprint" not in [row["name"] for row in self._db.execute("PRAGMA table_info(jobs)")]:
                self._db.execute("ALTER TABLE jobs ADD COLUMN fingerprint TEXT NOT NULL DEFAULT ''")
        except (sqlite3.Error, OSError) as error:
            raise unusable(path, error) from error

    def close(self) -> None:
        with self._lock, self._reading:
            self._db.close()
            self._reads.close()

    def add(
        self, request: Request, owner: str = "", model: str = "", idempotency: str | None = None, body: str = ""
    ) -> Job:
        """Queue a request. Raises sqlite3.IntegrityError where the owner used the idempotency key before."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            now = time.time()
            self._db.execute(
                "INSERT INTO jobs (id, owner, model, request, status, created, fingerprint, idempotency, body) "
                "VALUES (?, ?, ?, ?, 'queued', ?, ?, ?, ?)",
                (request.id, owner, model, json.dumps(asdict(request)), now, request.fingerprint, idempotency, body),
            )
            self._db.execute("INSERT INTO uses VALUES (?, ?)", (owner, now))
        job = self.get(request.id)
        assert job is not None
        return job

    def get(self, id: str, owner: str | None = None) -> Job | None:
        """owner: None sees everybody's."""
        jobs = self._select("id = ? AND (? IS NULL OR owner = ?)", (id, owner, owner))
        return jobs[0] if jobs else None

    def ordered(self, idempotency: str, owner: str) -> Job | None:
        jobs = self._select("idempotency = ? AND owner = ?", (idempotency, owner))
        return jobs[0] if jobs else None

    def page(
        self, owner: str | None = None, *, after: str | None = None, limit: int = 20, ascending: bool = False
    ) -> list[Job]:
        """Up to ``limit`` jobs in order of arrival, newest first unless ``ascending``, beyond the job ``after``.

        Raises KeyError where there is no such job.
        """
        where, values = "(? IS NULL OR owner = ?)", [owner, owner]
        if after is not None:
            last = self.get(after, owner)
            if last is None:
                raise KeyError(after)
            where += f" AND seq {'>' if ascending else '<'} {last.seq}"
        return self._select(f"{where} ORDER BY seq {'ASC' if ascending else 'DESC'} LIMIT {int(limit)}", values)

    def unended(self) -> list[Job]:
        return self._select("status IN ('queued', 'in_progress') ORDER BY seq", ())

    def count(self) -> dict[str, int]:
        """Jobs by status."""
        rows = self._read("SELECT status, COUNT(*) FROM jobs GROUP BY status", ())
        return {"queued": 0, "in_progress": 0, "completed": 0, "failed": 0} | {row[0]: row[1] for row in rows}

    def use(self, owner: str) -> None:
        """Count something that is no job against the owner's day."""
        with self._lock, self._db:
            self._db.execute("INSERT INTO uses VALUES (?, ?)", (owner, time.time()))

    def forget_uses(self) -> None:
        """Those of which no quota asks any more."""
        with self._lock, self._db:
            self._db.execute("DELETE FROM uses WHERE at < ?", (time.time() - DAY,))

    def used(self, owner: str) -> int:
        """What counts against the owner's day: jobs, deleted ones included, and calls of the encoder alone."""
        rows = self._read("SELECT COUNT(*) FROM uses WHERE owner = ? AND at > ?", (owner, time.time() - DAY))
        return int(rows[0][0])

    def begin(self, id: str, attempts: int) -> bool:
        values = (time.time(), attempts, id)
        return self._change(
            "status = 'in_progress', started = ?, attempts = ? WHERE id = ? AND status IN ('queued', 'in_progress')",
            values,
        )

    def requeue(self, ids: Iterable[str], *, forgive: bool = False) -> None:
        """Back into the queue; ``forgive`` does not count the attempt that was cut off."""
        for id in ids:
            cut = " - 1" if forgive else ""
            self._change(f"status = 'queued', attempts = attempts{cut} WHERE id = ? AND status = 'in_progress'", (id,))

    def complete(self, id: str, seconds: dict[str, float], batch: int, bytes: int, fingerprint: str = "") -> bool:
        return self._change(
            "status = 'completed', ended = ?, seconds = ?, batch = ?, bytes = ?, fingerprint = ? "
            "WHERE id = ? AND status IN ('queued', 'in_progress')",
            (time.time(), json.dumps(seconds), batch, bytes, fingerprint, id),
        )

    def fail(self, id: str, code: str, message: str) -> bool:
        return self._change(
            "status = 'failed', ended = ?, code = ?, message = ? WHERE id = ? AND status IN ('queued', 'in_progress')",
            (time.time(), code, message, id),
        )

    def grow(self, id: str, bytes: int) -> None:
        """Files were added to an ended job's."""
        self._change("bytes = bytes + ? WHERE id = ?", (bytes, id))

    def delete(self, id: str) -> bool:
        with self._lock, self._db:
            return self._db.execute("DELETE FROM jobs WHERE id = ?", (id,)).rowcount == 1

    def surplus(self, count: int, age: float, bytes: int) -> list[str]:
        """Ended jobs beyond the newest ``count``, older than ``age`` seconds, or beyond ``bytes`` in all."""
        rows = self._read(
            "SELECT id FROM (SELECT id, ended, ROW_NUMBER() OVER newest AS nth, SUM(bytes) OVER newest AS total "
            "FROM jobs WHERE status IN ('completed', 'failed') WINDOW newest AS (ORDER BY ended DESC, seq DESC)) "
            "WHERE nth > ? OR total > ? OR ended < ?",
            (count, bytes, time.time() - age),
        )
        return [row[0] for row in rows]

    def note(self, name: str, value: str) -> None:
        """Remember a fact in place of what had this name."""
        with self._lock, self._db:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def noted(self, name: str) -> str | None:
        rows = self._read("SELECT value FROM facts WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def completed(self) -> set[str]:
        """The ids of all jobs that have a clip."""
        return {row[0] for row in self._read("SELECT id FROM jobs WHERE status = 'completed'", ())}

    def _change(self, assignment: str, values: Sequence[Any]) -> bool:
        with self._lock, self._db:
            return self._db.execute(f"UPDATE jobs SET {assignment}", values).rowcount == 1

    def _read(self, query: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        with self._reading:
            return self._reads.execute(query, values).fetchall()

    def _select(self, where: str, values: Sequence[Any]) -> list[Job]:
        return [read_job(row) for row in self._read(f"SELECT {COLUMNS} FROM jobs WHERE {where}", values)]


def read_job(row: sqlite3.Row) -> Job:
    """A row as a job. What a later version added is passed over; one that cannot be read is a failed job."""
    try:
        request = REQUEST.validate_json(row["request"])
        return Job(**dict(row) | {"request": request, "seconds": SECONDS.validate_json(row["seconds"])})
    except ValueError as error:
        log.warning("job %s cannot be read: %s", row["id"], " ".join(str(error).split())[:200])
        told = {"status": "failed", "code": "unreadable", "message": "the record of this job cannot be read"}
        return Job(**dict(row) | {"request": UNREADABLE, "seconds": {}} | told)


def connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
    db.row_factory = sqlite3.Row
    db.text_factory = lambda text: text.decode(errors="replace")  # else one such text fails a whole list
    return db


def unusable(path: Path, error: Exception) -> UnlearnExportError:
    """What to do about a store that cannot be opened, read or written at the start."""
    passing = isinstance(error, (sqlite3.OperationalError, OSError))  # a full disk, a lock, a folder that is read-only
    step = "make room or let this user write" if passing else "move it away"
    return UnlearnExportError(f"cannot use the job store {path}: {error}; {step}, or choose another --data folder")
