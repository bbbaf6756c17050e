"""Bearer keys: hashed at rest, with a rate and a daily quota each.

A key is made with ``python -m serving.keys keys.json NAME``, which prints it once and stores its sha256, and replaced with
``--rotate HOURS``.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from unlearn_export.artifact import write_json
from unlearn_export.errors import UsageError


@dataclass(frozen=True)
class Key:
    """name: the owner that jobs are filed under; one that is being replaced has two keys for a while.

    per_minute, per_day: videos that may be ordered; 0 is no limit. metrics: whether it may read those of everybody.
    until: when it ends, in seconds since 1970; 0 is never.
    """

    name: str
    sha256: str
    per_minute: int = 0
    per_day: int = 0
    metrics: bool = False
    until: float = 0.0


class Keys:
    """The keys of a file, read again when it changes, so that a key can be added or withdrawn while serving."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError where the file cannot be read as keys, or has none."""
        self.path = path
        self._allowance: dict[str, tuple[float, float]] = {}
        self._read()
        if not self._keys:
            raise UsageError(f"no keys in {path}: make one with python -m serving.keys {path} NAME")

    def find(self, token: str) -> Key | None:
        """The key that this token is, if it is one. Only hashes are compared: a lookup tells nothing about a token."""
        with contextlib.suppress(OSError, UsageError):  # a file that is being edited leaves the keys as they were
            if self._changed() != self._stamp:
                self._read()
        key = self._keys.get(digest(token))
        return key if key is None or not key.until or key.until > time.time() else None

    def admit(self, key: Key) -> float:
        """Take one from the key's allowance, which refills evenly; → 0, or the seconds until there is one."""
        if not key.per_minute:
            return 0.0
        now = time.monotonic()
        left, then = self._allowance.get(key.name, (float(key.per_minute), now))
        left = min(float(key.per_minute), left + (now - then) * key.per_minute / 60)
        admitted = left >= 1
        self._allowance[key.name] = (left - admitted, now)
        return 0.0 if admitted else (1 - left) * 60 / key.per_minute

    def _read(self) -> None:
        stamp = self._changed()
        self._keys = {key.sha256: key for key in read(self.path)}
        self._stamp = stamp

    def _changed(self) -> int:
        """When the file was changed; 0 where there is none."""
        return self.path.stat().st_mtime_ns if self.path.exists() else 0


def digest(token: str) -> str:
    """sha256: enough for keys of 256 random bits, which nobody can guess."""
    return hashlib.sha256(token.encode()).hexdigest()


def read(path: Path) -> list[Key]:
    if not path.exists():
        return []
    try:
        return [Key(**entry) for entry in json.loads(path.read_text())["keys"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is no file of keys: {error}") from error


def add(path: Path, name: str, per_minute: int = 0, per_day: int = 0, metrics: bool = False) -> str:
    """Make a key and file its hash, readable by its owner alone; → the key itself, which is kept nowhere."""
    if not re.fullmatch(r"[\w.@-]{1,64}", name):
        raise UsageError(f"a key cannot be called {name!r}: use up to 64 letters, digits, '.', '@', '_' and '-'")
    keys = read(path)
    if any(key.name == name for key in keys):
        raise UsageError(
            f"{path} has a key called {name} already: choose another name, remove that entry, or replace it by --rotate"
        )
    token = f"ue-{secrets.token_urlsafe(32)}"
    write(path, [*keys, Key(name, digest(token), per_minute, per_day, metrics)])
    return token


def rotate(path: Path, name: str, overlap: float) -> str:
    """Make a key in the place of ``name``'s, which ends in ``overlap`` seconds; → the new key itself.

    Raises UsageError where there is none of that name.
    """
    now, keys = time.time(), read(path)
    old = [key for key in keys if key.name == name]
    if not old:
        raise UsageError(f"{path} has no key called {name}: make one without --rotate")
    token = f"ue-{secrets.token_urlsafe(32)}"
    ending = [replace(k, until=min(k.until or math.inf, now + overlap)) if k in old else k for k in keys]
    left = [key for key in ending if not key.until or key.until > now]
    write(path, [*left, replace(old[-1], sha256=digest(token), until=0.0)])
    return token


def write(path: Path, keys: list[Key]) -> None:
    part = path.with_name(f"{path.name}.new")
    write_json(part, {"keys": [asdict(key) for key in keys]})
    part.chmod(0o600)
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.keys", description="Make a key; it is printed once.")
    parser.add_argument("file", type=Path)
    parser.add_argument("name")
    parser.add_argument("--per-minute", type=amount, default=0, help="videos a minute; 0: no limit")
    parser.add_argument("--per-day", type=amount, default=0, help="videos a day; 0: no limit")
    parser.add_argument("--metrics", action="store_true", help="the key may read /metrics, which are of everybody")
    parser.add_argument(
        "--rotate", type=amount, metavar="HOURS", help="in the place of NAME's key, which goes on for so many hours"
    )
    args = parser.parse_args()
    try:
        if args.rotate is None:
            print(add(args.file, args.name, args.per_minute, args.per_day, args.metrics))
        elif args.per_minute or args.per_day or args.metrics:
            raise UsageError("--rotate keeps what the key may do: give it alone, or edit the file")
        else:
            print(rotate(args.file, args.name, args.rotate * 3600))
    except UsageError as error:
        parser.error(str(error))


def amount(text: str) -> int:
    """A whole number from 0, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0")
    return int(text)


if __name__ == "__main__":
    main()
