"""Bearer keys: hashed at rest, with a rate and a daily quota each.

A key is made with ``python -m serving.keys keys.json NAME``, which prints it once and stores its sha256.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from unlearn_export.artifact import write_json
from unlearn_export.errors import UsageError


@dataclass(frozen=True)
class Key:
    """name: the owner that jobs are filed under. per_minute, per_day: videos that may be ordered; 0 is no limit."""

    name: str
    sha256: str
    per_minute: int = 0
    per_day: int = 0


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
        return self._keys.get(digest(token))

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


def add(path: Path, name: str, per_minute: int = 0, per_day: int = 0) -> str:
    """Make a key and file its hash, readable by its owner alone; → the key itself, which is kept nowhere."""
    if not re.fullmatch(r"[\w.@-]{1,64}", name):
        raise UsageError(f"a key cannot be called {name!r}: use up to 64 letters, digits, '.', '@', '_' and '-'")
    keys = read(path)
    if any(key.name == name for key in keys):
        raise UsageError(f"{path} has a key called {name} already: choose another name, or remove that entry")
    token = f"ue-{secrets.token_urlsafe(32)}"
    keys.append(Key(name, digest(token), per_minute, per_day))
    part = path.with_name(f"{path.name}.new")
    write_json(part, {"keys": [asdict(key) for key in keys]})
    part.chmod(0o600)
    os.replace(part, path)
    return token


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.keys", description="Make a key; it is printed once.")
    parser.add_argument("file", type=Path)
    parser.add_argument("name")
    parser.add_argument("--per-minute", type=int, default=0, help="videos a minute; 0: no limit")
    parser.add_argument("--per-day", type=int, default=0, help="videos a day; 0: no limit")
    args = parser.parse_args()
    try:
        print(add(args.file, args.name, args.per_minute, args.per_day))
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
