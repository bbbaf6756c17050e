"""The front end's process: from an engine to a listening server."""

import asyncio
import contextlib
import fcntl
import logging
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from unlearn_export.errors import UnlearnExportError, UsageError

from .api import create_app
from .contract import Engine, Health
from .guard import LOOPBACK
from .jobs import Jobs, Retention
from .keys import Keys
from .schema import Limits


@dataclass(frozen=True)
class Options:
    """How to serve. folder: of the jobs and clips. waiting: jobs that may queue. grace: seconds at shutdown.

    silence: seconds in which a connection must have sent a whole request. streams: of events that a caller may follow.
    """

    folder: Path
    name: str = "t2v"
    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    waiting: int = 100
    grace: float = 20.0
    silence: float = 30.0
    streams: int = 64
    limits: Limits = field(default_factory=Limits)
    retention: Retention = field(default_factory=Retention)


def serve(engine: Engine, options: Options, say: Callable[[str], None]) -> None:
    """Serve what an engine draws, until a signal. ``say`` hears the address, then "ready" or why not, whenever that changes.

    Raises UsageError where the address or the folder is taken, or where others could call without a key, and
    UnlearnExportError with the reason where the model can never be loaded: what was ordered waits for the next start.
    """
    if options.keys is None and options.host not in LOOPBACK:
        raise UsageError(f"--host {options.host} lets others in: make keys with python -m serving.keys and pass --keys")
    keys = Keys(options.keys) if options.keys else None
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        lock = (options.folder / "lock").open("w")
    except OSError as error:
        raise UsageError(f"cannot write to {options.folder}: {error.strerror}; choose another --data folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"{options.folder} is in use by another server: choose another --data folder") from error
        jobs = Jobs(options.folder, engine, waiting=options.waiting, retention=options.retention)
        never = ""

        def hear(health: Health) -> None:
            nonlocal never
            if health.final:
                never, server.should_exit = health.told, True
            else:
                say(health.told)

        app = create_app(
            jobs,
            name=options.name,
            keys=keys,
            limits=options.limits,
            grace=options.grace,
            silence=options.silence,
            streams=options.streams,
            on_change=hear,
        )
        listening = listen(options.host, options.port)
        host, port = listening.getsockname()[:2]
        say(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        config = uvicorn.Config(
            app,
            http=Impatient,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            timeout_keep_alive=math.ceil(options.silence),
            timeout_graceful_shutdown=3,
        )
        server = uvicorn.Server(config)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn passes on the signal that ended it
            server.run(sockets=[listening])
    if never:
        raise UnlearnExportError(never)


class Impatient(H11Protocol):
    """HTTP over connections that are closed where they send no whole head of a request within the keep-alive time.

    uvicorn's own patience begins with the end of a response and ends with the next byte. What comes after the head is
    ``Guard``'s.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(self.timeout_keep_alive, self._close_unless_used, None)

    def _close_unless_used(self, before: object) -> None:
        """before: the request that was answered last when this was looked at before."""
        if self.transport.is_closing():
            return
        answered = self.cycle if self.cycle is None or self.cycle.response_complete else object()  # like none before
        if answered is before:
            self.transport.close()
        else:
            self.loop.call_later(self.timeout_keep_alive, self._close_unless_used, answered)


def listen(host: str, port: int) -> socket.socket:
    """A socket that is connected to at once. Raises UsageError where the address cannot be had."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        # asyncio sends at once only on sockets that name their protocol; on others an answer waits 40 ms for its rest
        listening = socket.socket(family, kind, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"
        ) from error
    return listening
