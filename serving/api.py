"""The HTTP front end: OpenAI-compatible video jobs over any engine. No torch in this process.

``create_app`` needs nothing but a ``Jobs``: on a distributed engine it is the same application.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import secrets
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from unlearn_export.errors import UnlearnExportError

from . import kserve
from .contract import Health, Update
from .contract import Request as Clip
from .convert import FORMATS, convert
from .guard import Guard
from .jobs import Jobs, KeyReused, QueueFull
from .keys import Keys
from .metrics import Metrics
from .schema import (
    USUAL,
    Limits,
    Refused,
    Video,
    VideoDeleted,
    VideoList,
    VideoRequest,
    first_fault,
    read_request,
    refusal,
)
from .store import Job

log = logging.getLogger(__name__)
PAGE = Path(__file__).parent / "page" / "index.html"
POLL_MS = "500"
TEND = 10.0  # seconds between rounds of what is due now and then
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"description": text}
    for code, text in {
        400: "The request is wrong; the message says where",
        401: "No key, or an unknown one",
        403: "Not for this caller; the message says why",
        404: "There is no such thing, or it is somebody else's",
        409: "The job is not in the state for this",
        408: "The body did not come in time",
        413: "The body is too large",
        429: "Too much at once: see Retry-After",
        503: "Not ready: the message says why",
    }.items()
}


def create_app(
    jobs: Jobs,
    *,
    name: str = "t2v",
    keys: Keys | None = None,
    limits: Limits | None = None,
    grace: float = 20.0,
    silence: float = 30.0,
    streams: int = 64,
    on_change: Callable[[Health], None] | None = None,
) -> FastAPI:
    """The application around ``jobs``, which it starts and stops.

    name: the model's id. keys: who may call; None lets anybody on this machine, and nobody else (see ``guard``).
    grace: seconds that running jobs get to finish at shutdown. silence: seconds in which the body of a request must come.
    streams: event streams that a caller may have at once. on_change hears how it is, whenever that changes.
    """
    limits = limits or Limits()
    metrics = Metrics(jobs)
    following: Counter[str] = Counter()  # event streams by owner
    charging = threading.Lock()  # what a key has left is read and taken in one

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.start()
        chores = asyncio.create_task(do_chores())
        yield
        chores.cancel()
        await asyncio.to_thread(jobs.stop, grace)

    async def do_chores() -> None:
        said: Health | None = None
        tended = -math.inf
        while True:
            health = jobs.health()
            if on_change is not None and health != said:
                on_change(health)
            if time.monotonic() - tended > TEND or (health.ready and health != said):
                tended = time.monotonic()
                try:
                    await asyncio.to_thread(jobs.tend)
                except (sqlite3.Error, OSError) as error:
                    log.error("nothing can be pruned for now: %s", error)
                    await asyncio.to_thread(jobs.check)
            said = health
            await asyncio.sleep(0.2)

    app = FastAPI(
        title="unlearn-export",
        summary="Text-to-video with a text encoder that has forgotten what it was told to.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.add_middleware(Guard, body=limits.body, loopback=keys is None, silence=silence)

    def caller(request: Request) -> str:
        """The name of the key that came with the request; "" where keys are not in use."""
        if keys is None:
            return ""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        key = keys.find(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise Refused(401, "invalid_api_key", "give a key: Authorization: Bearer …", {"WWW-Authenticate": "Bearer"})
        request.state.key = key
        return key.name

    Caller = Annotated[str, Depends(caller)]

    def models() -> dict[str, dict[str, Any]]:
        """By id: what the pipeline and each of its encoders are; the first is the one for orders that choose none."""
        about = jobs.describe()
        hidden = ("t2v", "pid", "encoders", "counts")
        public = {key: value for key, value in about.items() if key not in hidden}
        return {
            name if encoder == "edited" else f"{name}-{encoder}": public | its
            for encoder, its in about.get("encoders", {}).items()
        }

    def encoder_of(model: str) -> str:
        return "edited" if model == name else model.removeprefix(f"{name}-")

    def model_view(id: str, about: dict[str, Any]) -> dict[str, Any]:
        link = f"/v1/models/{id}/evaluation" if about["evaluation"] else None
        return {"id": id, "object": "model", "created": 0, "owned_by": "unlearn-export", **about, "evaluation": link}

    def choose(asked: VideoRequest) -> tuple[Clip, str]:
        """Every choice made, and within the limits."""
        known = models()
        if not known:
            reason = jobs.engine.health().reason
            raise Refused(503, "not_ready", f"not ready: {reason}", {"Retry-After": "2"})
        model = asked.model or name
        if model not in known:
            raise Refused(404, "model_not_found", f"no model {model!r} here: there is {', '.join(known)}")
        usual = known[model]["defaults"]
        width, height = (int(s) for s in asked.size.split("x")) if asked.size else (usual["width"], usual["height"])
        fps = asked.fps or usual["fps"]
        frames = asked.num_frames or (max(1, round(asked.seconds * fps)) if asked.seconds else usual["num_frames"])
        steps = asked.num_inference_steps or usual["num_inference_steps"]
        guidance = usual["guidance_scale"] if asked.guidance_scale is None else asked.guidance_scale
        most_frames = min(limits.frames, known[model].get("max_frames") or limits.frames)
        for what, value, most in (
            ("prompt", len(asked.prompt), limits.prompt),
            ("negative_prompt", len(asked.negative_prompt), limits.prompt),
            ("num_frames", frames, most_frames),
            ("num_inference_steps", steps, limits.steps),
            ("fps", fps, limits.fps),
            ("guidance_scale", guidance, limits.guidance),
            ("size", width and height and width * height, limits.pixels),
        ):
            if value is None:
                raise Refused(400, "invalid_request", f"{what}: this pipeline makes no choice of its own, so give one")
            if value > most:
                unit = " characters" if "prompt" in what else " pixels" if what == "size" else ""
                raise Refused(400, "limit_exceeded", f"{what} is {value:g}{unit}: the most is {most:g}")
        check_cost(usual, width * height, frames, steps)
        step, rest = known[model].get("frame_rule") or (1, 0)
        if frames % step != rest % step:
            below = (frames - rest) // step * step + rest
            near = " or ".join(str(n) for n in (below, below + step) if n > 0)
            raise Refused(400, "invalid_frames", f"num_frames is {frames}: this pipeline draws {near}")
        multiple = known[model]["multiple_of"]
        if width % multiple or height % multiple:
            raise Refused(400, "invalid_size", f"size is {width}x{height}: both sides must be multiples of {multiple}")
        if not asked.prompt.strip():
            raise Refused(400, "invalid_prompt", "the prompt is empty")
        clip = Clip(
            id="",
            folder="",
            prompt=asked.prompt,
            negative_prompt=asked.negative_prompt,
            width=width,
            height=height,
            num_frames=frames,
            num_inference_steps=steps,
            guidance_scale=guidance,
            fps=fps,
            seed=secrets.randbits(32) if asked.seed is None else asked.seed,
            encoder=encoder_of(model),
            fingerprint=known[model]["fingerprint"],
        )
        return clip, model

    def check_cost(usual: dict[str, Any], pixels: int, frames: int, steps: int) -> None:
        """What is within each limit may still hold a worker for hours."""
        own = [usual[name] for name in ("width", "height", "num_frames", "num_inference_steps")]
        most = limits.cost or (USUAL * math.prod(own) if all(own) else None)
        cost = pixels * frames * steps
        if most is not None and cost > most:
            counted = f"{pixels} pixels × {frames} frames × {steps} steps is {cost}"
            raise Refused(400, "limit_exceeded", f"{counted}: the most is {most}, so ask for fewer of one")

    def view(job: Job) -> Video:
        step, steps = jobs.engine.progress(job.id) if job.status == "in_progress" else (0, 0)
        clip, done = job.request, job.status == "completed"
        return Video(
            id=job.id,
            model=job.model,
            status=job.status,
            progress=100 if done else math.floor(99 * step / steps) if steps else 0,
            created_at=int(job.created),
            completed_at=int(job.ended) if done and job.ended else None,
            expires_at=int(job.ended + jobs.retention.age) if done and job.ended else None,
            prompt=clip.prompt,
            seconds=f"{clip.num_frames / clip.fps:g}",
            size=f"{clip.width}x{clip.height}",
            error={"code": job.code, "message": job.message} if job.status == "failed" else None,
            negative_prompt=clip.negative_prompt,
            num_frames=clip.num_frames,
            fps=clip.fps,
            num_inference_steps=clip.num_inference_steps,
            guidance_scale=clip.guidance_scale,
            seed=clip.seed,
            step=clip.num_inference_steps if done else step,
            attempts=job.attempts,
            batch_size=job.batch,
            encoder_fingerprint=job.fingerprint or None,
            seconds_by_stage={stage: round(s, 4) for stage, s in job.seconds.items()},
        )

    def find(id: str, owner: str) -> Job:
        job = jobs.store.get(id, owner)
        if job is None:
            raise Refused(404, "not_found", f"no video {id}")
        return job

    @app.post(
        "/v1/videos",
        response_model=Video,
        responses=REFUSALS,
        tags=["videos"],
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    kind: {"schema": VideoRequest.model_json_schema()}
                    for kind in ("application/json", "multipart/form-data")
                },
            },
            "parameters": [
                {
                    "in": "header",
                    "name": "Idempotency-Key",
                    "description": "The same key and request again give the same job",
                    "schema": {"type": "string", "maxLength": 255},
                }
            ],
        },
    )
    async def create(request: Request, response: Response, owner: Caller) -> Video:
        """Order a clip. It is drawn in its turn: poll it, or follow its events."""
        return await run_in_threadpool(place, await read_request(request), request, response, owner)

    def place(asked: VideoRequest, request: Request, response: Response, owner: str) -> Video:
        idempotency = request.headers.get("idempotency-key")
        if idempotency is not None and not 0 < len(idempotency) <= 255:
            raise Refused(400, "invalid_idempotency_key", "an idempotency key has 1 to 255 characters")
        if jobs.fault:
            raise Refused(503, "not_ready", f"not ready: {jobs.fault}", {"Retry-After": "10"})
        body = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()
        clip, model = choose(asked)
        try:
            with charging:
                if not (idempotency and jobs.store.ordered(idempotency, owner)):
                    charge(request)
                job, new = jobs.create(clip, owner, model, idempotency, body)
        except QueueFull as error:
            raise Refused(429, "queue_full", str(error), {"Retry-After": str(error.retry_after)}) from error
        except KeyReused as error:
            raise Refused(409, "idempotency_key_reused", str(error)) from error
        response.headers["openai-poll-after-ms"] = POLL_MS
        response.headers["Idempotent-Replayed"] = str(not new).lower()
        return view(job)

    def charge(request: Request) -> None:
        if keys is None:
            return
        key = request.state.key
        if key.per_day and jobs.store.used(key.name) >= key.per_day:
            message = f"{key.per_day} videos and calls of the encoder a day are this key's quota"
            raise Refused(429, "quota_exceeded", message, {"Retry-After": "3600"})
        if wait := keys.admit(key):
            message = f"{key.per_minute} videos and calls of the encoder a minute are this key's rate"
            raise Refused(429, "rate_limit_exceeded", message, {"Retry-After": str(math.ceil(wait))})

    def charge_infer(request: Request) -> None:
        if keys is not None:
            with charging:
                charge(request)
                jobs.store.use(request.state.key.name)

    @app.get("/v1/videos", response_model=VideoList, responses=REFUSALS, tags=["videos"])
    def listed(
        owner: Caller,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        """The caller's jobs in order of arrival."""
        try:
            found = jobs.store.page(owner, after=after, limit=limit + 1, ascending=order == "asc")
        except KeyError as error:
            raise Refused(404, "not_found", f"no video {after} to go on from") from error
        page = [view(job) for job in found[:limit]]
        first, last = (page[0].id, page[-1].id) if page else (None, None)
        return VideoList(data=page, first_id=first, last_id=last, has_more=len(found) > limit)

    @app.get("/v1/videos/{id}", response_model=Video, responses=REFUSALS, tags=["videos"])
    def retrieve(id: str, response: Response, owner: Caller) -> Video:
        """A job as it is now."""
        response.headers["openai-poll-after-ms"] = POLL_MS
        return view(find(id, owner))

    @app.delete("/v1/videos/{id}", response_model=VideoDeleted, responses=REFUSALS, tags=["videos"])
    def delete(id: str, owner: Caller) -> VideoDeleted:
        """Remove a job with its clip, cancelled first if it has not ended."""
        find(id, owner)
        jobs.delete(id)
        return VideoDeleted(id=id)

    @app.post("/v1/videos/{id}/cancel", response_model=Video, responses=REFUSALS, tags=["videos"])
    def cancel(id: str, owner: Caller) -> Video:
        """Drop a job from the queue, or stop it within one step. One that has ended stays as it is."""
        find(id, owner)
        jobs.cancel(id)
        return view(find(id, owner))

    @app.get("/v1/videos/{id}/content", response_class=FileResponse, responses=REFUSALS, tags=["videos"])
    async def content(
        id: str,
        request: Request,
        owner: Caller,
        variant: Literal["video", "thumbnail", "spritesheet"] = "video",
        format: Literal["mp4", "webp", "gif"] | None = None,
    ) -> FileResponse:
        """The clip as a file: mp4, or webp or gif by `format` or `Accept`."""
        job = await run_in_threadpool(find, id, owner)
        if job.status != "completed":
            raise Refused(409, "not_completed", f"video {id} is {job.status}: there is nothing to download")
        kind = variant if variant != "video" else format or preferred(request.headers.get("accept", ""))
        file, media_type = jobs.folder_of(job) / FORMATS[kind].file, FORMATS[kind].media_type
        if not file.is_file():
            try:
                added = await convert(jobs.file(job), kind, job.request.num_frames)
            except UnlearnExportError as error:
                if jobs.file(job).is_file():
                    raise
                raise Refused(404, "not_found", f"the files of video {id} are gone") from error
            await run_in_threadpool(jobs.store.grow, id, added)
        return FileResponse(
            file, media_type=media_type, filename=f"{id}{file.suffix}", content_disposition_type="inline"
        )

    @app.get("/v1/videos/{id}/events", response_class=StreamingResponse, responses=REFUSALS, tags=["videos"])
    async def events(id: str, owner: Caller) -> StreamingResponse:
        """The job after every step, as server-sent events, until it ends."""
        await run_in_threadpool(find, id, owner)
        if following[owner] >= streams:
            message = f"you have {streams} event streams open already: close one, or poll"
            raise Refused(429, "too_many_streams", message, {"Retry-After": "10"})
        return StreamingResponse(
            follow(id, owner), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    @contextlib.contextmanager
    def counted(owner: str) -> Iterator[None]:
        following[owner] += 1
        try:
            yield
        finally:
            following[owner] -= 1

    async def follow(id: str, owner: str) -> AsyncIterator[str]:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def hear(_: Update) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(changed.set)

        with jobs.listening(id, hear), counted(owner):
            while True:
                changed.clear()
                job = await run_in_threadpool(jobs.store.get, id, owner)
                if job is None:
                    yield 'event: deleted\ndata: {"id": ' + json.dumps(id) + "}\n\n"
                    return
                yield f"event: {job.status}\ndata: {view(job).model_dump_json()}\n\n"
                if job.over:
                    return
                while not changed.is_set():
                    try:
                        await asyncio.wait_for(changed.wait(), 10)
                    except TimeoutError:
                        yield ": still here\n\n"

    @app.get("/v1/models", responses=REFUSALS, tags=["models"])
    def list_models(owner: Caller) -> dict[str, Any]:
        """What is served: pipeline, encoder, what it has forgotten, backend and provider really in use."""
        return {"object": "list", "data": [model_view(id, about) for id, about in models().items()]}

    @app.get("/v1/models/{id}", responses=REFUSALS, tags=["models"])
    def model(id: str, owner: Caller) -> dict[str, Any]:
        known = models()
        if id not in known:
            raise Refused(404, "model_not_found", f"no model {id!r} here: there is {', '.join(known) or 'none yet'}")
        return model_view(id, known[id])

    @app.get("/v1/models/{id}/evaluation", responses=REFUSALS, tags=["models"])
    def evaluation(id: str, owner: Caller) -> dict[str, Any]:
        """What erasing did, as measured before and after."""
        known = models()
        if id not in known or not known[id]["evaluation"]:
            raise Refused(404, "not_found", f"no evaluation of {id!r} here")
        return dict(known[id]["evaluation"])

    @app.get("/health/live", tags=["health"])
    async def live() -> dict[str, str]:
        """This process answers."""
        return {"status": "live"}

    @app.get("/health/ready", tags=["health"], responses={503: REFUSALS[503]})
    async def ready(response: Response) -> dict[str, str]:
        """A worker with the model has answered lately; else the reason."""
        health = jobs.health()
        response.status_code = 200 if health.ready else 503
        return {"status": "ready"} if health.ready else {"status": "not ready", "reason": health.reason}

    @app.get(
        "/metrics", response_class=Response, tags=["health"], responses={code: REFUSALS[code] for code in (401, 403)}
    )
    def prometheus(request: Request, owner: Caller) -> Response:
        """For Prometheus: figures of everybody's jobs, for keys made with `--metrics`."""
        if keys is not None and not request.state.key.metrics:
            raise Refused(403, "forbidden", "the metrics are of everybody: make a key with --metrics to read them")
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> FileResponse:
        policy = "default-src 'self' 'unsafe-inline'; media-src 'self' blob:; img-src 'self' blob: data:; frame-ancestors 'none'"
        return FileResponse(PAGE, media_type="text/html", headers={"Content-Security-Policy": policy})

    app.include_router(kserve.router(jobs.engine, name, caller, charge_infer))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return refusal(error.status_code, getattr(error, "code", "error"), str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return refusal(400, "invalid_request", first_fault(error.errors()))

    @app.exception_handler(UnlearnExportError)
    async def failed(_: Request, error: UnlearnExportError) -> JSONResponse:
        return refusal(503, "unavailable", str(error))

    @app.exception_handler(sqlite3.Error)
    async def unwritten(_: Request, error: sqlite3.Error) -> JSONResponse:
        await run_in_threadpool(jobs.check)
        return refusal(503, "unavailable", f"the job store cannot be used: {error}")

    return app


def preferred(accept: str) -> str:
    """The format that an Accept header names first; mp4 where it names none of ours."""
    for part in accept.split(","):
        kind = part.partition(";")[0].strip().lower()
        for name in ("mp4", "webp", "gif"):
            if kind == FORMATS[name].media_type:
                return name
    return "mp4"
