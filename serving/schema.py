"""What goes over the wire: requests with their limits, jobs as OpenAI's clients know them, refusals."""

from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

MOST = 1_000_000  # of any number here; what the server really allows is in its ``Limits``

USUAL = 16  # times the cost of the pipeline's own choices


@dataclass(frozen=True)
class Limits:
    """The most that one request may ask for. pixels: width × height; body: bytes of the request.

    cost: pixels × frames × steps; None is ``USUAL`` times what the pipeline's own choices come to, where it makes them.
    """

    prompt: int = 2000
    frames: int = 128
    steps: int = 100
    pixels: int = 1280 * 1280
    cost: int | None = None
    fps: int = 60
    guidance: float = 30.0
    body: int = 1_000_000


class VideoRequest(BaseModel):
    """What to draw. Whatever is left out is the pipeline's own choice: see `/v1/models`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    prompt: str = Field(min_length=1)
    model: str | None = Field(None, description="One of `/v1/models`")
    seconds: float | None = Field(None, gt=0, le=3600, description="Length of the clip; `num_frames` is more exact")
    size: str | None = Field(None, pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$", description="WIDTHxHEIGHT in pixels")
    num_frames: int | None = Field(None, ge=1, le=MOST)
    fps: int | None = Field(None, ge=1, le=MOST)
    num_inference_steps: int | None = Field(None, ge=1, le=MOST)
    guidance_scale: float | None = Field(None, ge=0, le=MOST)
    negative_prompt: str = ""
    seed: int | None = Field(None, ge=0, lt=2**63, description="Same seed, same clip; drawn by lot where left out")


class Video(BaseModel):
    """A job. `error.code` is `cancelled` for one that was cancelled. `seconds_by_stage` tells where the time went.

    `encoder_fingerprint` is that of the encoder that the clip was ordered from, and which alone draws it.
    """

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    prompt: str
    seconds: str
    size: str
    error: dict[str, str] | None
    remixed_from_video_id: str | None = None
    negative_prompt: str
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    step: int
    attempts: int
    batch_size: int
    encoder_fingerprint: str | None
    seconds_by_stage: dict[str, float]


class VideoList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class Refused(HTTPException):
    """An answer other than 2xx in OpenAI's form."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.code = code


async def read_request(request: Request) -> VideoRequest:
    """The body, JSON or multipart as OpenAI's client sends it. Raises Refused with the first fault."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
            async with request.form(max_files=1, max_fields=50) as form:
                if form.get("input_reference"):
                    message = "input_reference is not taken: a reference picture would bypass the text encoder"
                    raise Refused(400, "unsupported", message)
                return VideoRequest.model_validate(dict(form.items()))
        if kind in ("application/json", ""):
            return VideoRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise Refused(400, "invalid_request", first_fault(list(error.errors(include_context=False)))) from error
    raise Refused(400, "invalid_request", f"content type {kind!r} is not taken: send JSON or multipart/form-data")


def first_fault(faults: Any) -> str:
    fault = faults[0]
    where = ".".join(str(part) for part in fault["loc"] if part not in ("body", "query", "path"))
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])


def refusal(status: int, code: str, message: str, headers: Any = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status, headers)
