"""What the front end and an engine say to each other: settings, requests, updates, health. No torch here.

The front end knows an engine by ``Engine`` alone, so a distributed one can take the local one's place.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

ATTEMPTS = 2  # times that a request is begun before it is given up
VIDEO, THUMBNAIL = "video.mp4", "thumbnail.webp"  # in a request's folder
States = dict[str, tuple[list[int], bytes]]  # by output name: shape, and float32 values in this machine's byte order
Outcome = Literal["started", "step", "completed", "failed", "cancelled", "requeued"]


@dataclass(frozen=True)
class Settings:
    """Which pipeline a worker loads, and how. What `serve` was asked for, as one value that travels to the worker.

    source: the edited encoder, as ``load_encoder`` reads it; t2v: the pipeline, as ``load_pipeline`` reads it.
    more: further edited encoders over the same pipeline, by the names that requests choose them by.
    threads: of torch; 0 shares the cores among the workers on the CPU that draw.
    scheduler: name of a diffusers scheduler to put in, such as "LCMScheduler". step_cache: name of a diffusers cache
    configuration, such as "FirstBlockCacheConfig"; attention: a diffusers attention backend.
    cached_bytes: of texts' embeddings that a worker keeps in the host's memory.
    allow_original: also answer with the pipeline's own encoder where a request asks for it.
    defaults: of a request's width, height, num_frames, num_inference_steps, guidance_scale and fps, where the
    pipeline's own are not wanted.
    inputs: pictures or clips by argument name, as files or folders, for a pipeline that draws from more than text.
    """

    source: str
    t2v: str
    backend: Literal["torch", "onnx"] = "torch"
    provider: str | None = None
    revision: str | None = None
    encoder_revision: str | None = None
    dtype: str | None = None
    threads: int = 0
    scheduler: str | None = None
    step_cache: str | None = None
    attention: str | None = None
    compile: bool = False
    allow_original: bool = False
    cached_bytes: int = 2**30
    more: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One clip to draw: every choice made, so that the same request gives the same clip. Sizes in pixels.

    encoder: "edited", one of the settings' ``more``, or "original" where they allow it. fingerprint: of that encoder as it was when the clip was
    ordered, the only one that may draw it; "" in an order from before these were pinned, which any may draw.
    folder: where video.mp4 and thumbnail.webp are written.
    """

    id: str
    prompt: str
    width: int
    height: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    fps: int
    seed: int
    folder: str
    negative_prompt: str = ""
    encoder: str = "edited"
    fingerprint: str = ""

    @property
    def pixels(self) -> int:
        """Of all frames: what it takes of memory goes with it."""
        return self.width * self.height * self.num_frames

    @property
    def shape(self) -> tuple[int, int, int, int, float]:
        """Requests of one shape can be drawn as one batch."""
        return self.width, self.height, self.num_frames, self.num_inference_steps, self.guidance_scale


@dataclass(frozen=True)
class Update:
    """What became of a request. ``seconds`` by stage: queue, encode, denoise, decode, write.

    attempts: how often it was begun. code and message: of a failure. fingerprint: of the encoder that drew it.
    """

    id: str
    outcome: Outcome
    step: int = 0
    steps: int = 0
    attempts: int = 0
    code: str = ""
    message: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    batch: int = 1
    fingerprint: str = ""


@dataclass(frozen=True)
class Health:
    """``ready`` only while a worker that loaded its model has answered lately; otherwise the reason in one line.

    reason: for anybody; detail: for who runs the server, with paths, "" where the reason is all. final: it will never be ready, since every worker was refused its model.
    """

    ready: bool
    reason: str = ""
    final: bool = False
    detail: str = ""

    @property
    def told(self) -> str:
        """For who runs the server."""
        return "ready" if self.ready else self.detail or self.reason


class Engine(Protocol):
    """Draws requests. Every submitted request ends in exactly one completed, failed or cancelled update.

    One whose encoder no worker has (any more) fails with the code "encoder_changed".
    """

    settings: Settings

    def start(self, on_update: Callable[[Update], None]) -> None:
        """Begin loading and return at once. ``on_update`` is called from any thread, and must be quick."""

    def submit(self, request: Request, attempts: int = 0) -> None:
        """Queue a request that was begun ``attempts`` times before."""

    def cancel(self, id: str) -> bool:
        """Drop a queued request, stop a running one within a step; False where it is not here (any more)."""

    def progress(self, id: str) -> tuple[int, int]:
        """(steps done, steps in all); (0, 0) while it is not running."""

    def describe(self) -> dict[str, Any]:
        """The model as the workers found it: pipeline, encoder, defaults; empty until one has loaded."""

    def figures(self) -> dict[str, Any]:
        """Counts and sizes for the metrics: see ``metrics``."""

    def health(self) -> Health: ...

    def infer(self, input_ids: list[list[int]]) -> Future[States]:
        """The edited encoder alone on token ids [b, n].

        The future ends with UsageError where the ids are wrong, with another UnlearnExportError where no worker
        answered in time.
        """

    def stop(self, deadline: float) -> list[str]:
        """Finish what runs within ``deadline`` seconds, end the workers; the ids that did not end."""
