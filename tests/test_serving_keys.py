import subprocess
import sys

import pytest

from serving import keys
from serving.keys import Keys, add, rotate
from unlearn_export.errors import UsageError


def test_only_the_hash_is_stored_and_only_its_owner_may_read_it(tmp_path):
    path = tmp_path / "keys.json"
    token = add(path, "ann", per_minute=3, per_day=9)
    assert token not in path.read_text() and token.removeprefix("ue-") not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    found = Keys(path).find(token)
    assert (found.name, found.per_minute, found.per_day) == ("ann", 3, 9)
    assert Keys(path).find(token[:-1]) is None and Keys(path).find("") is None
    assert Keys(path).find(found.sha256) is None


def test_keys_come_and_go_while_serving(tmp_path):
    path = tmp_path / "keys.json"
    ann = add(path, "ann")
    live = Keys(path)
    bob = add(path, "bob")
    assert live.find(bob).name == "bob" and live.find(ann).name == "ann"
    path.write_text("{ half a file")
    assert live.find(ann).name == "ann"
    path.unlink()
    assert live.find(ann) is None  # without a file there are no keys
    eve = add(path, "eve")
    assert live.find(ann) is None and live.find(eve).name == "eve"
    path.write_text('{"keys": []}')
    assert live.find(eve) is None


def test_the_allowance_refills_evenly(tmp_path, monkeypatch):
    path, now = tmp_path / "keys.json", [0.0]
    monkeypatch.setattr(keys.time, "monotonic", lambda: now[0])
    token = add(path, "ann", per_minute=2)
    live = Keys(path)
    key = live.find(token)
    assert [live.admit(key) for _ in range(3)] == [0, 0, 30]
    now[0] = 29.0
    assert live.admit(key) == pytest.approx(1)
    now[0] = 31.0
    assert live.admit(key) == 0 and live.admit(key) > 0


def test_a_key_is_replaced_without_a_gap(tmp_path, monkeypatch):
    path, now = tmp_path / "keys.json", [1e9]
    monkeypatch.setattr(keys.time, "time", lambda: now[0])
    old = add(path, "ann", per_minute=2, per_day=9, metrics=True)
    live = Keys(path)
    new = rotate(path, "ann", overlap=60)
    first, second = live.find(old), live.find(new)
    assert first.name == second.name == "ann"
    assert (second.per_minute, second.per_day, second.metrics, second.until) == (2, 9, True, 0)
    assert [live.admit(key) for key in (first, second)] == [0, 0] and live.admit(first) > 0  # one allowance for both
    now[0] += 61
    assert live.find(old) is None and live.find(new).name == "ann"
    newest = rotate(path, "ann", overlap=0)
    assert live.find(new) is None and live.find(newest) and old != new != newest
    assert len(keys.read(path)) == 1  # those that are over are gone from the file
    with pytest.raises(UsageError, match="has no key called bob"):
        rotate(path, "bob", overlap=60)


def test_mistakes_are_told(tmp_path):
    path = tmp_path / "keys.json"
    with pytest.raises(UsageError, match="no keys in .*python -m serving.keys"):
        Keys(path)
    add(path, "ann")
    with pytest.raises(UsageError, match="has a key called ann"):
        add(path, "ann")
    with pytest.raises(UsageError, match="cannot be called"):
        add(path, "a b")
    path.write_text('{"keys": [{"title": "ann"}]}')
    with pytest.raises(UsageError, match="is no file of keys"):
        Keys(path)


def test_a_key_is_made_on_the_command_line(tmp_path):
    path = tmp_path / "keys.json"
    command = [sys.executable, "-m", "serving.keys", path, "ann", "--per-day", "5"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Keys(path).find(made.stdout.strip()).per_day == 5
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and "has a key called ann" in again.stderr and "--rotate" in again.stderr
    changed = subprocess.run([*command[:5], "--rotate", "1"], capture_output=True, text=True, check=True)
    assert Keys(path).find(changed.stdout.strip()).per_day == 5 and Keys(path).find(made.stdout.strip())
    for wrong in (["--rotate", "-1"], ["--rotate", "1", "--per-day", "9"], ["--per-minute", "-1"]):
        refused = subprocess.run([*command[:5], *wrong], capture_output=True, text=True)
        assert refused.returncode == 2 and "Traceback" not in refused.stderr
