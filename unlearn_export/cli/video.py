"""Commands that draw clips: generate, serve."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..errors import UncoveredWarning, UsageError
from ..extras import need
from ..plugins import found
from .common import SEED, Bars, json_option, main, print_result, quiet_libraries

INPUT = {
    "multiple": True,
    "metavar": "NAME=FILE",
    "help": "A picture, an animated file or a folder of frames that the pipeline takes, such as image=cat.png; repeatable.",
}


@main.command()
@click.argument("prompt")
@click.option(
    "--t2v", "--pipeline", "pipeline", required=True, help='"demo:t2v-motion", a diffusers folder, or a Hub id.'
)
@click.option("--revision", help="Commit, tag or branch of a pipeline on the Hub.")
@click.option("--encoder", help="Artifact folder or Hub id. [default: the pipeline's own encoders]")
@click.option("--encoder-revision", help="Commit, tag or branch of an encoder on the Hub.")
@click.option("--backend", type=click.Choice(["torch", "onnx"]), default="torch", help="What runs the encoder.")
@click.option("--device", default="cpu", help="Where all of it computes.")
@click.option("--dtype", type=click.Choice(["float16", "bfloat16", "float32"]), help="Of the pipeline.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help=".mp4, .gif, .webp, or a .png sheet.")
@click.option("--negative-prompt", help="What to stay away from.")
@click.option("--steps", type=click.IntRange(min=1), help="Denoising steps. [default: the pipeline's]")
@click.option("--frames", type=click.IntRange(min=1), help="Frames of the clip. [default: the pipeline's]")
@click.option("--width", type=click.IntRange(min=8), help="In pixels. [default: the pipeline's]")
@click.option("--height", type=click.IntRange(min=8), help="In pixels. [default: the pipeline's]")
@click.option("--fps", type=click.IntRange(min=1), help="Frames per second. [default: the pipeline's, else 8]")
@click.option("--guidance", type=float, help="Classifier-free guidance scale. [default: the pipeline's]")
@click.option("--input", "inputs", **INPUT)  # type: ignore[arg-type]
@click.option("--seed", default=0, type=SEED, help="Of the noise.")
@json_option
def generate(
    prompt: str,
    pipeline: str,
    revision: str | None,
    encoder: str | None,
    encoder_revision: str | None,
    backend: Any,
    device: str,
    dtype: str | None,
    out: Path,
    negative_prompt: str | None,
    steps: int | None,
    frames: int | None,
    width: int | None,
    height: int | None,
    fps: int | None,
    guidance: float | None,
    inputs: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Draw a clip with an edited encoder in a text-to-video pipeline; a still with a text-to-image one.

    Every pipeline that `unlearn-export families` lists will do. What the edit does not reach is told on stderr.

    Example: unlearn-export generate "a pizza moving left" --t2v demo:t2v-motion --encoder out -o clip.mp4
    """
    from ..media import ENDINGS, save_clip

    if out.suffix.lower() not in ENDINGS:
        raise UsageError(f"cannot write a clip as {out.name}: the name must end in {', '.join(ENDINGS)}")
    if backend == "onnx" and not encoder:
        raise UsageError("--backend onnx needs --encoder: the folder or Hub id that has the graph")
    if backend == "onnx":
        need("--backend onnx", "cpu", "onnxruntime")
    given = pairs(inputs)
    quiet_libraries()
    import torch

    from ..pipelines.call import check_choices, check_needed, draw, frames_argument, own_choices, read_inputs
    from ..pipelines.load import load_pipeline, profile_of

    known = profile_of(pipeline)
    with told_on_stderr():
        pipe = load_pipeline(
            pipeline,
            encoder=encoder,
            backend=backend,
            revision=revision,
            encoder_revision=encoder_revision,
            dtype=getattr(torch, dtype) if dtype else None,
            device=None if device == "cpu" else device,
        )
    clip = frames_argument(pipe) is not None
    choices: dict[str, Any] = {
        "frames": (frames or known.frames) if clip else None,
        "steps": steps or known.steps,
        "guidance": known.guidance if guidance is None else guidance,
        "width": width,
        "height": height,
    }
    pictures = read_inputs(given)
    check_needed(pipe, pictures)
    check_choices(pipe, **choices)
    bars = Bars()
    with bars:
        images = draw(
            pipe,
            prompt,
            negative_prompt=negative_prompt,
            generator=torch.Generator().manual_seed(seed),
            on_step=lambda done, of: bars.show("generate", done, of),
            inputs=pictures,
            **choices,
        )
    save_clip(images, out, fps=fps or own_choices(pipe)["fps"])
    print_result({"path": str(out), "frames": len(images)}, as_json, lambda: str(out))


@main.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--t2v", required=True, metavar="PIPELINE", help='"demo:t2v-unet3d", a diffusers folder, or a Hub id.')
@click.option("--revision", help="Commit, tag or branch of a pipeline on the Hub.")
@click.option("--encoder-revision", help="Commit, tag or branch of an encoder on the Hub.")
@click.option("--backend", type=click.Choice(["torch", "onnx"]), default="torch", help="What runs the encoder.")
@click.option(
    "--provider", help="Execution provider of ONNX Runtime, on the worker's device. [default: CPUExecutionProvider]"
)
@click.option("--device", "devices", multiple=True, default=["cpu"], help="One worker for each; repeatable.")
@click.option("--dtype", type=click.Choice(["float16", "bfloat16", "float32"]), help="Of the pipeline.")
@click.option(
    "--threads",
    default=0,
    type=click.IntRange(min=0),
    help="Of torch in a worker. [default: the cores, shared by the workers that draw]",
)
@click.option("--scheduler", help="A diffusers scheduler to put in, such as LCMScheduler.")
@click.option("--step-cache", help="A diffusers cache, such as FirstBlockCacheConfig.")
@click.option("--attention", help="A diffusers attention backend, such as flash.")
@click.option("--compile", is_flag=True, help="Compile the denoiser.")
@click.option("--allow-original", is_flag=True, help="Also serve the pipeline's own encoder, as a second model.")
@click.option("--max-batch", default=4, type=click.IntRange(min=1), help="Requests of equal shape drawn together.")
@click.option("--max-prompt", default=2000, type=click.IntRange(min=1), help="Characters of a request's prompt.")
@click.option("--max-frames", default=128, type=click.IntRange(min=1), help="Frames of a request's clip.")
@click.option("--max-pixels", default=1280 * 1280, type=click.IntRange(min=1), help="Of a frame: width × height.")
@click.option("--max-steps", default=100, type=click.IntRange(min=1), help="Denoising steps of a request.")
@click.option(
    "--max-cost",
    type=click.IntRange(min=1),
    help="Of a request: pixels × frames × steps. [default: 16 times that of the pipeline's own choices]",
)
@click.option(
    "--max-seconds",
    default=1800.0,
    type=click.FloatRange(min=0, min_open=True),
    help="For drawing one clip, then the job fails.",
)
@click.option("--max-waiting", default=100, type=click.IntRange(min=1), help="Jobs that may queue; then 429.")
@click.option("--keep-jobs", default=1000, type=click.IntRange(min=1), help="Ended jobs that are kept.")
@click.option("--keep-days", default=7.0, type=click.FloatRange(min=0, min_open=True), help="For how long.")
@click.option("--keep-gb", default=10.0, type=click.FloatRange(min=0, min_open=True), help="In all.")
@click.option("--data", default="served", type=click.Path(path_type=Path), help="Folder of the jobs and clips.")
@click.option("--input", "inputs", **INPUT)  # type: ignore[arg-type]
@click.option("--keys", type=click.Path(path_type=Path), help="File of keys; without it, loopback only.")
@click.option(
    "--public-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Serve only what was signed by this key, PEM; see `sign`.",
)
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", default=8000, type=click.IntRange(0, 65535), help="0 takes a free one.")
def serve(
    sources: tuple[str, ...],
    t2v: str,
    devices: tuple[str, ...],
    max_batch: int,
    max_prompt: int,
    max_frames: int,
    max_pixels: int,
    max_steps: int,
    max_cost: int | None,
    max_seconds: float,
    max_waiting: int,
    keep_jobs: int,
    keep_days: float,
    keep_gb: float,
    data: Path,
    keys: Path | None,
    public_key: Path | None,
    inputs: tuple[str, ...],
    host: str,
    port: int,
    **choices: Any,
) -> None:
    """Serve text-to-video over HTTP with the edited encoder SOURCE: an artifact folder or a Hub id.

    With several SOURCES over one pipeline an order chooses by `model`; the first one is for those that choose none.

    The page is at /, the API at /docs. Keys are made by `python -m serving.keys FILE NAME`.

    Example: unlearn-export serve out --t2v demo:t2v-unet3d --backend onnx
    """
    from ..errors import DependencyError

    try:
        from serving.contract import Settings
        from serving.engine import LocalEngine, Patience
        from serving.jobs import Retention
        from serving.schema import Limits
        from serving.server import Options
        from serving.server import serve as serve_http
    except ImportError as error:
        raise DependencyError(f"serving needs {error.name}: pip install 'unlearn-export[serve]'") from error
    if choices["backend"] == "onnx":
        need("--backend onnx", "cpu", "onnxruntime")
    for what, where in (*(("encoder", source) for source in sources), ("pipeline", t2v)):
        named = what == "pipeline" and where.partition(":")[0] in found("pipelines")
        if "/" not in where and not named and not Path(where).is_dir():
            raise UsageError(f"no {what} at {where}: there is no such folder, and a Hub id is owner/name")
    options = Options(
        folder=data,
        name=t2v.rpartition(":")[2].rstrip("/").rpartition("/")[2] or "t2v",
        host=host,
        port=port,
        keys=keys,
        waiting=max_waiting,
        limits=Limits(prompt=max_prompt, frames=max_frames, steps=max_steps, pixels=max_pixels, cost=max_cost),
        retention=Retention(keep_jobs, keep_days * 86400, int(keep_gb * 1e9)),
    )
    source, *others = sources
    if others and choices["encoder_revision"]:
        raise UsageError("--encoder-revision is of one SOURCE: leave it out, or serve them apart")
    if public_key is not None:
        from ..signature import signed_source

        for each in sources:
            if others and not Path(each).is_dir():
                raise UsageError(
                    f"{each}: of several SOURCES --public-key takes folders: download it, or serve it apart"
                )
            choices["encoder_revision"] = signed_source(each, choices["encoder_revision"], public_key)
    settings = Settings(source, t2v, more=named_by_folder(others), inputs=pairs(inputs), **choices)
    patience = Patience(deadline=max_seconds)
    engine = LocalEngine(settings, devices, max_batch=max_batch, patience=patience)
    serve_http(engine, options, say=click.echo)


def named_by_folder(sources: list[str]) -> dict[str, str]:
    """Sources by the last part of their folder or Hub id. Raises UsageError where two would have one name."""
    named: dict[str, str] = {}
    for source in sources:
        name = source if "/" in source and not Path(source).exists() else Path(source).resolve().name
        name = name.rpartition("/")[2]
        if name in (*named, "edited", "original"):
            raise UsageError(f"{source}: an order could not choose it by the name {name}, rename the folder")
        named[name] = source
    return named


def pairs(inputs: tuple[str, ...]) -> dict[str, str]:
    """NAME=FILE as a mapping. Raises UsageError for another form, or a file that is not there."""
    read = {}
    for given in inputs:
        name, equals, file = given.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--input {given}: give NAME=FILE, such as image=cat.png")
        if not Path(file).exists():
            raise UsageError(f"--input {given}: there is no {file}")
        read[name] = file
    return read


@contextmanager
def told_on_stderr() -> Iterator[None]:
    """What an edit does not reach, in one line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UncoveredWarning)
        yield
    for warning in caught:
        click.echo(f"warning: {warning.message}", err=True)
