"""The encoder's routes on an engine that answers as it is told."""

from array import array
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException

from serving import kserve
from serving.contract import Health
from unlearn_export.errors import UnlearnExportError, UsageError

TENSOR = {"name": "input_ids", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}


def client(answer, charge=lambda request: None):
    future = Future()
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
    engine = SimpleNamespace(health=lambda: Health(True), infer=lambda ids: future, describe=dict)
    app = FastAPI()
    app.include_router(kserve.router(engine, "toy", lambda: "", charge))
    return TestClient(app)


def infer(client, **more):
    return client.post("/v2/models/toy-text-encoder/infer", json={"inputs": [TENSOR]} | more)


def test_states_come_back_as_they_were_whatever_the_piece(monkeypatch):
    monkeypatch.setattr(kserve, "PIECE", 4)
    values = array("f", [i / 7 for i in range(10)])
    states = {
        "last_hidden_state": ([1, 2, 5], values.tobytes()),
        "pooler_output": ([1, 1], array("f", [1.5]).tobytes()),
    }
    answer = infer(client(states), id="x")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "model_name": "toy-text-encoder", "model_version": "1", "id": "x",
        "outputs": [
            {"name": "last_hidden_state", "datatype": "FP32", "shape": [1, 2, 5], "data": values.tolist()},
            {"name": "pooler_output", "datatype": "FP32", "shape": [1, 1], "data": [1.5]},
        ],
    }  # fmt: skip
    chosen = infer(client(states), outputs=[{"name": "pooler_output"}])
    assert [output["name"] for output in chosen.json()["outputs"]] == ["pooler_output"]
    assert infer(client(states), outputs=[{"name": "other"}]).status_code == 400


def test_wrong_ids_are_the_caller_s_fault_and_a_lost_worker_is_not():
    wrong = infer(client(UsageError("ids are below 1000")))
    assert (wrong.status_code, wrong.json()["detail"]) == (400, "ids are below 1000")
    with pytest.raises(UnlearnExportError, match="the worker ended"):  # the application's own handler makes it 503
        infer(client(UnlearnExportError("the worker ended")))


def test_a_spent_rate_is_refused():
    def charge(request):
        raise HTTPException(429, "spent")

    assert infer(client({}, charge)).status_code == 429
