"""ffmpeg in a process of its own: it ends with the task that waits for it, and in time."""

import asyncio
import os
from pathlib import Path

import pytest

from serving import convert
from unlearn_export.errors import UnlearnExportError


@pytest.fixture
def slow_ffmpeg(tmp_path, monkeypatch):
    """An ffmpeg that would go on for ever; → the file where it leaves its process id."""
    program, pid = tmp_path / "ffmpeg", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    (tmp_path / "video.mp4").write_bytes(b"clip")
    return pid


def gone(pid: Path) -> bool:
    return not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_it_ends_with_the_task_that_waits_for_it(slow_ffmpeg, tmp_path):
    async def cancel_it():
        task = asyncio.create_task(convert.convert(tmp_path / "video.mp4", "webp", 4))
        while not slow_ffmpeg.exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_it())
    assert gone(slow_ffmpeg) and not list(tmp_path.glob(".convert-*"))


def test_it_is_not_waited_for_for_ever(slow_ffmpeg, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "PATIENCE", 0.5)
    with pytest.raises(UnlearnExportError, match=r"cannot write video.gif within"):
        asyncio.run(convert.convert(tmp_path / "video.mp4", "gif", 4))
    assert gone(slow_ffmpeg) if slow_ffmpeg.exists() else True


def test_what_ffmpeg_leaves_half_written_is_no_clip(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text(
        f'#!/bin/sh\nfor last; do :; done\necho half > "$last"; echo "{tmp_path}/video.mp4: disk full" >&2; exit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    (tmp_path / "video.mp4").write_bytes(b"clip")
    with pytest.raises(UnlearnExportError, match=r"cannot write video.webp: video.mp4: disk full"):
        asyncio.run(convert.convert(tmp_path / "video.mp4", "webp", 4))
    assert sorted(os.listdir(tmp_path)) == ["ffmpeg", "video.mp4"]
