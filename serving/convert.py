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
_one_at_a_time = asyncio.Lock()


async def convert(video: Path, kind: str, frames: int) -> int:
    """Write the video in another format beside it, atomically, unless it is there; → the bytes that were added."""
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
        with tempfile.TemporaryDirectory(prefix=".convert-", dir=video.parent) as temp:
            part = Path(temp) / target.name
            command = [ffmpeg, "-v", "error", "-nostdin", "-i", str(video), *options, str(part)]
            process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
            _, said = await process.communicate()
            if process.returncode or not part.is_file():
                reason = " ".join(said.decode(errors="replace").split())[-200:]
                raise UnlearnExportError(f"cannot write {target.name}: {reason}")
            os.replace(part, target)
    return target.stat().st_size
