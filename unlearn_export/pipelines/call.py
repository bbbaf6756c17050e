"""What a pipeline's call takes, told by its signature: frames, sizes, guidance, a callback for each step."""

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..loading import one_line

FRAMES = ("num_frames", "frames", "video_length")  # what the number of frames is called
RATES = ("frame_rate", "fps")
TEMPORAL = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor")
SPATIAL = (
    "vae_scale_factor_spatial",
    "vae_spatial_compression_ratio",
    "vae_spatial_scale_factor",
    "vae_scale_factor",
)
# These round up to whole chunks by themselves.
CHUNKED = ("HeliosPipeline", "HeliosPyramidPipeline", "HunyuanVideoFramepackPipeline")
ONE_PICTURE = ("image", "last_image", "cond_image")


def defaults(pipe: Any) -> dict[str, Any]:
    """Every argument of the call with its default; ``inspect.Parameter.empty`` where it must be given."""
    return {name: p.default for name, p in inspect.signature(pipe.__call__).parameters.items()}


def frames_argument(pipe: Any) -> str | None:
    """What the call names the number of frames; None for a pipeline that draws stills or takes a clip's own number."""
    takes = defaults(pipe)
    return next((name for name in FRAMES if name in takes), None)


def needed(pipe: Any) -> tuple[str, ...]:
    """Pictures or clips that the pipeline cannot draw without."""
    takes = defaults(pipe)
    musts = [n for n, default in takes.items() if default is inspect.Parameter.empty and n not in ("prompt", "kwargs")]
    musts += [name for name in ("conditioning_frames",) if name in takes]
    if "video" in takes and "video" not in musts and frames_argument(pipe) is None:
        musts.append("video")
    return tuple(musts)


def check_needed(pipe: Any, inputs: Mapping[str, Any]) -> None:
    """Raise UsageError for an input that is missing, or that the pipeline does not take."""
    takes = defaults(pipe)
    for name in inputs:
        if name not in takes:
            raise UsageError(f"{type(pipe).__name__} takes no {name}: it takes {', '.join(takes)}")
    if missing := [name for name in needed(pipe) if name not in inputs]:
        raise UsageError(
            f"{type(pipe).__name__} draws from more than text: give --input {missing[0]}=FILE"
            + (f", and {', '.join(missing[1:])}" if missing[1:] else "")
        )


def read_inputs(sources: Mapping[str, str]) -> dict[str, Any]:
    """Pictures by argument name, from files and folders: one PIL picture, or a list of frames.

    A folder's pictures are the frames of a clip, in order of their names; so are an animated file's. Raises UsageError
    for what cannot be read.
    """
    from PIL import Image, ImageSequence, UnidentifiedImageError

    read: dict[str, Any] = {}
    for name, source in sources.items():
        path = Path(source)
        files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
        try:
            frames = [f.convert("RGB") for file in files for f in ImageSequence.Iterator(Image.open(file))]
        except (OSError, UnidentifiedImageError) as error:
            raise UsageError(f"cannot read {source} as pictures for {name}: {error}") from error
        if not frames:
            raise UsageError(f"no pictures in {source} for {name}")
        read[name] = frames[0] if name in ONE_PICTURE else frames
    return read


def check_frames(pipe: Any, frames: int) -> None:
    """Raise UsageError for a number of frames that the pipeline would change or cannot draw, naming those nearby."""
    kind = type(pipe).__name__
    denoiser = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    only = getattr(getattr(denoiser, "config", None), "video_length", None)
    if kind == "LattePipeline" and only and frames != only:
        raise UsageError(f"{frames} frames do not fit this {kind}: it draws {only}")
    longest = longest_clip(pipe)
    if longest and frames > longest:
        raise UsageError(f"{frames} frames are more than the {longest} that this {kind}'s motion adapter knows")
    step, rest = frame_rule(pipe)
    if frames % step != rest % step:
        below = (frames - rest) // step * step + rest
        near = " or ".join(str(n) for n in (below, below + step) if n > 0)
        rule = f"{step}·n+{rest}" if rest else f"{step}·n"
        raise UsageError(f"{frames} frames do not fit a {kind}: it draws {rule}, such as {near}")


def frame_rule(pipe: Any) -> tuple[int, int]:
    """(step, rest): clips have step · n + rest frames. The first frame has a latent of its own, except Allegro's."""
    kind = type(pipe).__name__
    if frames_argument(pipe) is None or kind in CHUNKED:
        return 1, 0
    step = int(next((getattr(pipe, name) for name in TEMPORAL if getattr(pipe, name, None)), 1))
    return step, 0 if kind == "AllegroPipeline" or step == 1 else 1


def longest_clip(pipe: Any) -> int | None:
    """The most frames that an AnimateDiff's motion adapter has positions for; None elsewhere."""
    parts = (getattr(pipe, name, None) for name in ("motion_adapter", "unet"))
    configs = (getattr(part, "config", {}) for part in parts)
    return next((c["motion_max_seq_length"] for c in configs if c.get("motion_max_seq_length")), None)


def own_choices(pipe: Any) -> dict[str, Any]:
    """What the pipeline itself would choose: width, height, num_frames, num_inference_steps, guidance_scale, fps.

    None where it makes no choice.
    """
    takes = defaults(pipe)
    height, width = (takes.get(side) or _side(pipe, side) for side in ("height", "width"))
    if height is None and hasattr(pipe, "default_aspect_ratio"):  # HunyuanVideo 1.5
        height, width = pipe.video_processor.calculate_default_height_width(
            pipe.default_aspect_ratio[1], pipe.default_aspect_ratio[0], pipe.target_size
        )
    frames = takes.get(frames_argument(pipe) or "") or _own_frames(pipe)
    guider = getattr(pipe, "guider", None)
    return {
        "width": width,
        "height": height,
        "num_frames": frames,
        "num_inference_steps": takes.get("num_inference_steps"),
        "guidance_scale": takes.get("guidance_scale", getattr(guider, "guidance_scale", None)),
        "fps": round(next((takes[name] for name in RATES if takes.get(name)), 8)),
    }


def named(
    pipe: Any,
    *,
    frames: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    width: int | None = None,
    height: int | None = None,
) -> dict[str, Any]:
    """The choices that are made, under the names of this pipeline's call; those that it does not take are left out.

    A guidance scale that is no argument is the guider's, which the pipeline then holds with it.
    """
    takes = defaults(pipe)
    counted = frames_argument(pipe)
    wanted = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "width": width,
        "height": height,
        **({counted: frames} if counted else {}),
    }
    if guidance is not None and "guidance_scale" not in takes and hasattr(pipe, "guider"):
        pipe.guider = copy.copy(pipe.guider)
        pipe.guider.guidance_scale = guidance
    if "use_resolution_binning" in takes and None not in (width, height):
        wanted["use_resolution_binning"] = False  # which would draw another size and then stretch it
    return {name: value for name, value in wanted.items() if name in takes and value is not None}


def check_choices(
    pipe: Any,
    *,
    frames: int | None = None,
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
) -> None:
    """Raise UsageError for a choice that the pipeline cannot follow, with the nearest that it can."""
    if frames is not None:
        check_frames(pipe, frames)
    multiple = multiple_of(pipe)
    for side, value in (("width", width), ("height", height)):
        if value is not None and value % multiple:
            near = max(multiple, round(value / multiple) * multiple)
            raise UsageError(
                f"{side} is {value}: a {type(pipe).__name__} draws multiples of {multiple}, such as {near}"
            )
    takes = defaults(pipe)
    for name, chosen in (("num_inference_steps", steps), ("guidance_scale", guidance)):
        if chosen is not None and name not in takes and not (name == "guidance_scale" and hasattr(pipe, "guider")):
            raise UsageError(f"a {type(pipe).__name__} takes no {name}: leave it out")


def draw(
    pipe: Any,
    prompt: str,
    *,
    negative_prompt: str | None = None,
    generator: Any = None,
    on_step: Callable[[int, int], None] = lambda done, steps: None,
    inputs: Mapping[str, Any] | None = None,
    **choices: Any,
) -> np.ndarray:
    """One clip [f, h, w, 3] of floats 0..1 from whatever pipeline this is; of one that draws stills, a clip of one.

    choices: as ``named`` takes them; what is None is left to the pipeline. inputs: pictures by argument name.
    Raises UsageError where the pipeline refuses the call.
    """
    texts = {"prompt": prompt} | ({} if negative_prompt is None else {"negative_prompt": negative_prompt})
    if "negative_prompt" in texts and "negative_prompt" not in defaults(pipe):
        raise UsageError(f"a {type(pipe).__name__} takes no negative prompt: leave it out")
    with stepping(pipe, on_step) as callbacks:
        try:
            output = pipe(
                **texts, **named(pipe, **choices), **callbacks, **inputs or {}, generator=generator, output_type="np"
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"the {type(pipe).__name__} refuses: {one_line(error)}") from error
    frames = frames_of(output)
    return frames[0] if frames.ndim == 5 else frames


def frames_of(output: Any) -> np.ndarray:
    """What a call drew with ``output_type="np"``: clips [b, f, h, w, 3], or stills [b, h, w, 3], of floats 0..1."""
    drawn = np.asarray(next(iter(output.values())))
    return drawn[None] if type(output).__name__ == "TextToVideoPipelineOutput" and drawn.ndim == 4 else drawn


@contextmanager
def stepping(pipe: Any, on_step: Callable[[int, int], None]) -> Iterator[dict[str, Any]]:
    """Arguments for the call that make it tell ``on_step(done, steps)`` after each denoising step.

    A pipeline without a callback is told by its scheduler. What ``on_step`` raises breaks the call off.
    """
    takes, done = defaults(pipe), 0

    def tell() -> None:
        nonlocal done
        done += 1
        on_step(done, max(done, len(pipe.scheduler.timesteps)))

    def at_end(_pipe: Any, _step: int, _time: Any, _states: dict[str, Any]) -> dict[str, Any]:
        tell()
        return {}

    if "callback_on_step_end" in takes:
        yield {"callback_on_step_end": at_end}
        return
    if "callback" in takes:
        yield {"callback": lambda _step, _time, _latents: tell()}
        return
    inner = pipe.scheduler.step

    def step(*args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        tell()
        return result

    pipe.scheduler.step = step
    try:
        yield {}
    finally:
        del pipe.scheduler.step


def multiple_of(pipe: Any) -> int:
    """Sides must be a multiple of this many pixels: of 8 for every pipeline, and of the denoiser's patches."""
    denoiser = getattr(pipe, "transformer", None) or getattr(pipe, "transformer_2", None) or pipe.unet
    patch = getattr(denoiser.config, "patch_size", None) or 1
    return math.lcm(8, _scale(pipe) * (patch if isinstance(patch, int) else patch[-1]))


def _side(pipe: Any, side: str) -> int | None:
    """A side in pixels, of the denoiser's own size where the call has no default."""
    own = getattr(pipe, f"default_{side}", None)
    denoiser = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    config = getattr(denoiser, "config", {})
    size = config.get(f"sample_{side}") or config.get("sample_size")
    if isinstance(size, list | tuple):
        size = size[side == "width"]
    return own or (size * _scale(pipe) if size else None)


def _own_frames(pipe: Any) -> int | None:
    config = getattr(getattr(pipe, "transformer", None), "config", {})
    frames = config.get("sample_frames")
    if frames and type(pipe).__name__ == "AllegroPipeline":
        return int(frames * pipe.vae_scale_factor_temporal)
    return frames or (121 if type(pipe).__name__.startswith("LTX2") else None)


def _scale(pipe: Any) -> int:
    """Pixels to a side of one latent."""
    return int(next((getattr(pipe, name) for name in SPATIAL if getattr(pipe, name, None)), 8))
