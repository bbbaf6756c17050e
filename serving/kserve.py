"""The text encoder alone over the KServe v2 inference protocol, for clients and gateways that speak it.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

import asyncio
import json
from array import array
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from unlearn_export.errors import UsageError

from .contract import Engine, States

TOKENS = 65536  # most token ids of one request
PIECE = 4096  # numbers written at once


class Tensor(BaseModel):
    name: str
    shape: list[Annotated[int, Field(ge=1, le=TOKENS)]] = Field(min_length=2, max_length=2)
    datatype: Literal["INT64", "INT32"]
    data: list[Any]


class Output(BaseModel):
    name: str


class Infer(BaseModel):
    id: str = ""
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[Output] = []


def router(engine: Engine, name: str, caller: Callable[[Request], str], charge: Callable[[Request], None]) -> APIRouter:
    """The routes under /v2; ``name`` with "-text-encoder" is the model's. charge: raises where a key's rate is spent."""
    name = f"{name}-text-encoder"
    routes = APIRouter(prefix="/v2", tags=["encoder"])
    Caller = Annotated[str, Depends(caller)]

    def check(asked: str) -> None:
        if asked != name:
            raise HTTPException(404, f"no model {asked!r} here: there is {name}")

    @routes.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/health/ready")
    async def ready(response: Response) -> dict[str, bool]:
        is_ready = engine.health().ready
        response.status_code = 200 if is_ready else 503
        return {"ready": is_ready}

    @routes.get("")
    def server() -> dict[str, Any]:
        return {"name": "unlearn-export", "version": "2", "extensions": []}

    @routes.get("/models/{model}")
    def metadata(model: str, owner: Caller) -> dict[str, Any]:
        check(model)
        backend = engine.describe().get("encoders", {}).get("edited", {}).get("backend", "")
        return {
            "name": name,
            "versions": ["1"],
            "platform": "onnxruntime_onnx" if backend == "onnx" else "pytorch",
            "inputs": [{"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}],
            "outputs": [{"name": "last_hidden_state", "datatype": "FP32", "shape": [-1, -1, -1]}],
        }

    @routes.get("/models/{model}/ready")
    def model_ready(model: str, response: Response, owner: Caller) -> dict[str, Any]:
        check(model)
        is_ready = engine.health().ready
        response.status_code = 200 if is_ready else 503
        return {"name": name, "ready": is_ready}

    @routes.post("/models/{model}/infer", response_class=StreamingResponse)
    async def infer(model: str, body: Infer, request: Request, owner: Caller) -> StreamingResponse:
        """Token ids in, states out."""
        check(model)
        if not engine.health().ready:
            raise HTTPException(503, f"not ready: {engine.health().reason}")
        tensor = body.inputs[0]
        rows, columns = tensor.shape
        ids = [i for part in tensor.data for i in (part if isinstance(part, list) else [part])]
        if tensor.name != "input_ids" or len(ids) != rows * columns or rows * columns > TOKENS:
            raise HTTPException(400, f"give one input input_ids with {rows * columns} ids, at most {TOKENS}")
        if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**31 for i in ids):
            raise HTTPException(400, "input_ids must be whole numbers from 0")
        await run_in_threadpool(charge, request)
        try:
            table = [ids[row * columns : (row + 1) * columns] for row in range(rows)]
            states = await asyncio.wrap_future(engine.infer(table))
        except UsageError as error:
            raise HTTPException(400, str(error)) from error
        wanted = [output.name for output in body.outputs] or list(states)
        if unknown := sorted(set(wanted) - set(states)):
            raise HTTPException(400, f"no output {unknown[0]!r}: there is {', '.join(states)}")
        head = {"model_name": name, "model_version": "1", "id": body.id}
        return StreamingResponse(render(head, {o: states[o] for o in wanted}), media_type="application/json")

    return routes


def render(head: dict[str, str], states: States) -> Iterator[str]:
    """The answer as JSON, piece by piece: in one, a few million numbers would hold up everybody else for seconds."""
    yield json.dumps(head)[:-1] + ', "outputs": ['
    for place, (name, (shape, data)) in enumerate(states.items()):
        opening = json.dumps({"name": name, "datatype": "FP32", "shape": shape})
        yield ", " * (place > 0) + opening[:-1] + ', "data": ['
        values = array("f", data)
        for start in range(0, len(values), PIECE):
            yield ", " * (start > 0) + ", ".join(map(repr, values[start : start + PIECE]))
        yield "]}"
    yield "]}"
