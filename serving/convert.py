"""A finished clip in other formats, by ffmpeg in a process of its own: pictures stay out of the front end's memory."""

import asyncio
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from unlearn_export.errors import DependencyError, UnlearnExportError

from .contract import THUMBNAIL, VIDEO


@dataclass(frozen=True)
class Format:
    file: str
    media_type: str
    options: tuple[str, ...] = ()


FORMATS = {
    "mp4": Format(VIDEO, "video/mp4"),
    "thumbnail": Format(THUMBNAIL, "image/webp"),
    "webp": Format("video.webp", "image/webp", ("-c:v", "libwebp_anim", "-quality", "90", "-loop", "0")),
    "gif": Format("video.gif", "image/gif", ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse", "-loop", "0")),
    "spritesheet": Format("spritesheet.png", "image/png", ("-vf", "tile={side}x{side}", "-frames:v", "1")),
}
PATIENCE = 300.0  # seconds for one conversion
_one_at_a_time = asyncio.Lock()


async def convert(video: Path, kind: str, frames: int) -> int:
    """Write the video in another format beside it, atomically, unless it is there; → the bytes that were added.

    Raises UnlearnExportError where there is no ffmpeg, where it fails, or where it takes longer than PATIENCE.
    """
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        ffmpeg = get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise DependencyError("other formats than mp4 need ffmpeg: pip install imageio-ffmpeg") from error
    target = video.with_name(FORMATS[kind].file)
    options = [option.format(side=math.ceil(frames**0.5)) for option in FORMATS[kind].options]
    async with _one_at_a_time:
        if target.is_file():
            return 0
        try:
            with tempfile.TemporaryDirectory(prefix=".convert-", dir=video.parent) as temp:
                part = Path(temp) / target.name
                if fault := await run(ffmpeg, "-v", "error", "-nostdin", "-i", str(video), *options, str(part)):
                    fault = fault.replace(f"{video.parent}/", "")
                    raise UnlearnExportError(f"cannot write {target.name}: {fault}")
                os.replace(part, target)
                return target.stat().st_size
        except TimeoutError as error:
            raise UnlearnExportError(f"cannot write {target.name} within {PATIENCE:.0f} s") from error
        except OSError as error:
            raise UnlearnExportError(f"cannot write {target.name}: {error.strerror}") from error


async def run(*command: str) -> str:
    """Run a program to its end, and end it with the task that waits for it; → why it failed, "" where it did not.

    Raises TimeoutError after PATIENCE.
    """
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(PATIENCE):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    fault = " ".join(said.decode(errors="replace").split())[-200:]
    return (fault or f"exit code {process.returncode}") if process.returncode else ""
