"""The HTTP front end as clients meet it: a process of its own, over toy workers."""

import io
import json
import sqlite3
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
from PIL import Image
from serving_client import toy_server
from toy_worker import colour

from serving.keys import add


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with toy_server(tmp_path_factory.mktemp("served"), limits={"frames": 20, "prompt": 100, "body": 20_000}) as running:
        yield running


def refused(answer: httpx.Response, status: int, code: str, *words: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code and all(word in error["message"] for word in words), error
    assert "\n" not in error["message"]


def test_a_job_from_order_to_download(server):
    ordered = server.order("a “pizza” 🍕", seed=3, num_frames=4)
    assert ordered["status"] in ("queued", "in_progress") and ordered["object"] == "video"
    done = server.ended(ordered["id"])
    assert (done["status"], done["progress"], done["seed"], done["prompt"]) == ("completed", 100, 3, "a “pizza” 🍕")
    assert (done["seconds"], done["size"], done["num_inference_steps"]) == ("0.5", "16x16", 3)
    assert ordered["encoder_fingerprint"] == done["encoder_fingerprint"] == "f" * 64
    assert set(done["seconds_by_stage"]) == {"queue", "encode", "denoise", "decode", "write"}
    assert done["expires_at"] > done["completed_at"] >= done["created_at"] and done["error"] is None
    clip = server.http.get(f"/v1/videos/{done['id']}/content")
    assert clip.headers["content-type"] == "video/mp4" and clip.content[4:8] == b"ftyp"
    part = server.http.get(f"/v1/videos/{done['id']}/content", headers={"Range": "bytes=0-9"})
    assert part.status_code == 206 and part.content == clip.content[:10]


def test_the_formats(server):
    id = server.ended(server.order(seed=5, num_frames=4)["id"])["id"]
    url = f"/v1/videos/{id}/content"
    for kind in ("webp", "gif"):
        by_name, by_accept = (
            server.http.get(url, params={"format": kind}),
            server.http.get(url, headers={"Accept": f"image/{kind}"}),
        )
        assert by_name.headers["content-type"] == f"image/{kind}" and by_name.content == by_accept.content
        with Image.open(io.BytesIO(by_name.content)) as film:
            assert film.n_frames in (1, 4)  # equal frames may be stored as one
            pixel = film.convert("RGB").getpixel((8, 8))
        assert max(abs(a - b) for a, b in zip(pixel, colour(5), strict=True)) < 12
    assert server.http.get(url, headers={"Accept": "text/html, */*"}).headers["content-type"] == "video/mp4"
    for variant, kind in (("thumbnail", "webp"), ("spritesheet", "png")):
        picture = server.http.get(url, params={"variant": variant})
        assert picture.headers["content-type"] == f"image/{kind}"
        Image.open(io.BytesIO(picture.content)).verify()
    refused(server.http.get(url, params={"format": "avi"}), 400, "invalid_request", "format")


def test_openai_s_client_creates_polls_downloads_lists_and_deletes(server, tmp_path):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    video = client.videos.create_and_poll(prompt="a car", seconds="1", extra_body={"seed": 7, "num_inference_steps": 2})
    assert (video.status, video.progress, video.seconds) == ("completed", 100, "1")
    client.videos.download_content(video.id).write_to_file(tmp_path / "clip.mp4")
    assert (tmp_path / "clip.mp4").read_bytes()[4:8] == b"ftyp"
    assert client.videos.download_content(video.id, variant="thumbnail").read()[8:12] == b"WEBP"
    assert client.videos.retrieve(video.id).prompt == "a car"
    assert video.id in [v.id for v in client.videos.list(limit=1)]  # the client turns the pages
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError, match="no video"):
        client.videos.retrieve(video.id)
    with pytest.raises(openai.BadRequestError, match="num_frames is 32: the most is 20"):
        client.videos.create(prompt="a car", seconds="4")
    assert [m.id for m in client.models.list()] == ["toy"]


def test_a_cancelled_job_is_failed_with_that_code(server):
    long = server.order("slow", num_inference_steps=90)["id"]
    waiting = server.order("slow", num_frames=3)["id"]
    server.until(lambda: server.get(long)["step"] > 0)
    for id in (waiting, long):
        cancelled = server.http.post(f"/v1/videos/{id}/cancel").json()
        assert (cancelled["status"], cancelled["error"]["code"]) == ("failed", "cancelled")
    assert server.http.post(f"/v1/videos/{long}/cancel").json()["status"] == "failed"
    started = time.monotonic()
    assert server.ended(server.order()["id"])["status"] == "completed"
    assert time.monotonic() - started < 5  # not the nine seconds that the cancelled one would have gone on
    refused(server.http.get(f"/v1/videos/{long}/content"), 409, "not_completed", "is failed")


def test_events_tell_every_step_until_the_end(server):
    id = server.order("slow", num_inference_steps=4)["id"]
    with server.http.stream("GET", f"/v1/videos/{id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: ")]
    assert events[-1]["status"] == "completed" and {1, 2, 3} <= {e["step"] for e in events}
    with server.http.stream("GET", f"/v1/videos/{id}/events") as stream:
        assert "event: completed" in stream.read().decode()


def test_a_held_store_holds_up_nobody_but_those_who_write(tmp_path):
    with toy_server(tmp_path) as server:
        id, answers = server.order("slow", num_inference_steps=90)["id"], []
        order = lambda: answers.append(server.http.post("/v1/videos", json={"prompt": "x"}))  # noqa: E731
        other = sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        orders = [threading.Thread(target=order) for _ in range(45)]  # more than there are threads for requests
        for some in (orders[:1], orders[1:]):
            for thread in some:
                thread.start()
            time.sleep(0.2)
            if some == orders[:1]:
                assert server.get(id)["id"] == id
                with server.http.stream("GET", f"/v1/videos/{id}/events") as stream:
                    assert next(stream.iter_lines()).startswith("event: ")
            for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"):
                assert server.http.get(path).status_code == 200
        assert not answers
        other.execute("ROLLBACK")
        for thread in orders:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 45


def test_a_caller_has_so_many_event_streams_at_once(tmp_path):
    with toy_server(tmp_path, streams=2) as server:
        id = server.order("slow", num_inference_steps=90)["id"]
        url = f"/v1/videos/{id}/events"
        with server.http.stream("GET", url) as one, server.http.stream("GET", url) as two:
            lines = [stream.iter_lines() for stream in (one, two)]  # kept: a stream ends with its lines
            assert all(next(line) for line in lines)
            refused(server.http.get(url), 429, "too_many_streams", "2 event streams")
        server.http.post(f"/v1/videos/{id}/cancel")
        server.until(lambda: server.http.get(url).status_code == 200)


def test_what_is_served_is_told(server):
    [model] = server.http.get("/v1/models").json()["data"]
    assert model["id"] == "toy" and model["pipeline"] == "Toy" and model["fingerprint"] == "f" * 64
    assert model["erased"][0]["name"] == "pizza" and model["backend"] == "torch" and model["provider"] == "cpu"
    assert not {"pid", "encoder", "t2v"} & set(model)  # nothing about the machine
    assert server.http.get("/v1/models/toy").json() == model
    refused(server.http.get("/v1/models/other"), 404, "model_not_found", "toy")
    refused(server.http.get("/v1/models/toy/evaluation"), 404, "not_found")


def test_each_model_tells_its_own_encoder_s_backend(tmp_path):
    with toy_server(tmp_path, backend="onnx", allow_original=True) as server:
        told = [(m["id"], m["backend"], m["fingerprint"]) for m in server.http.get("/v1/models").json()["data"]]
        assert told == [("toy", "onnx", "f" * 64), ("toy-original", "torch", "0" * 64)]


def test_an_order_chooses_among_several_artifacts(tmp_path):
    with toy_server(tmp_path, more={"cats": "other"}, allow_original=True) as server:
        models = server.http.get("/v1/models").json()["data"]
        told = [(m["id"], m["fingerprint"][0], [c["name"] for c in m["erased"]]) for m in models]
        assert told == [("toy", "f", ["pizza"]), ("toy-cats", "e", ["cat"]), ("toy-original", "0", [])]
        for model, print_ in (("toy", "f"), ("toy-cats", "e"), ("toy-original", "0"), (None, "f")):
            done = server.ended(server.order(model=model)["id"])
            told = done["status"], done["model"], done["encoder_fingerprint"]
            assert told == ("completed", model or "toy", print_ * 64)
        answer = server.http.post("/v1/videos", json={"prompt": "x", "model": "toy-dogs"})
        refused(answer, 404, "model_not_found", "toy, toy-cats, toy-original")


def test_what_the_pipeline_cannot_draw_is_refused_before_it_is_queued(tmp_path):
    defaults = {"num_frames": None, "width": None}
    with toy_server(tmp_path, defaults=defaults) as server:
        order = lambda **body: server.http.post("/v1/videos", json={"prompt": "x"} | body)  # noqa: E731
        refused(order(size="16x16"), 400, "invalid_request", "num_frames: this pipeline makes no choice of its own")
        refused(order(num_frames=2), 400, "invalid_request", "size: this pipeline")
        refused(order(num_frames=33, size="16x16"), 400, "limit_exceeded", "the most is 32")
        assert order(num_frames=32, size="16x16").status_code == 200


@pytest.mark.parametrize(("cost", "frames"), [(None, 32), (16 * 16 * 2 * 3 * 4, 8)])
def test_pixels_frames_and_steps_have_a_budget_together(tmp_path, cost, frames):
    with toy_server(tmp_path, limits={"cost": cost}) as server:  # by default 16 times the pipeline's own choices
        order = lambda **body: server.http.post("/v1/videos", json={"prompt": "x"} | body)  # noqa: E731
        assert order(num_frames=frames).status_code == order(num_frames=frames // 4, size="32x32").status_code == 200
        for more in ({"size": "24x16"}, {"num_inference_steps": 4}):
            refused(order(num_frames=frames, **more), 400, "limit_exceeded", f"{frames} frames", "the most is")


def test_without_choices_of_the_pipeline_s_own_the_budget_is_the_one_that_was_given(tmp_path):
    with toy_server(tmp_path, defaults={"num_frames": None}, limits={"cost": None}) as server:
        assert server.order(num_frames=32, num_inference_steps=90)["status"] == "queued"


def test_a_cancelled_job_whose_step_does_not_end_is_ended(tmp_path):
    with toy_server(tmp_path, patience={"grace": 0.1}) as server:
        id = server.order("hang")["id"]
        server.until(lambda: server.get(id)["status"] == "in_progress")
        assert server.http.post(f"/v1/videos/{id}/cancel").json()["error"]["code"] == "cancelled"
        assert server.ended(server.order()["id"])["status"] == "completed"


def test_an_idempotency_key_gives_the_same_job(server):
    order = lambda **body: server.http.post("/v1/videos", json=body, headers={"Idempotency-Key": "once"})  # noqa: E731
    first, again = order(prompt="a car"), order(prompt="a car")
    assert first.json()["id"] == again.json()["id"] and first.json()["seed"] == again.json()["seed"]
    assert (first.headers["idempotent-replayed"], again.headers["idempotent-replayed"]) == ("false", "true")
    refused(order(prompt="a cat"), 409, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, ("prompt",)),
        ({"prompt": ""}, ("prompt",)),
        ({"prompt": "  "}, ("empty",)),
        ({"prompt": "x" * 101}, ("101 characters", "100")),
        ({"prompt": "x", "negative_prompt": "x" * 101}, ("negative_prompt",)),
        ({"prompt": "x", "num_frames": 21}, ("num_frames is 21", "20")),
        ({"prompt": "x", "num_frames": 0}, ("num_frames",)),
        ({"prompt": "x", "seconds": 3600}, ("num_frames is 28800", "20")),
        ({"prompt": "x", "seconds": 1e308}, ("seconds",)),
        ({"prompt": "x", "num_frames": 10**400}, ("num_frames",)),
        ({"prompt": "x", "fps": 10**400}, ("fps",)),
        ({"prompt": "x", "guidance_scale": 1e308}, ("guidance_scale",)),
        ({"prompt": "x", "num_inference_steps": 101}, ("num_inference_steps is 101",)),
        ({"prompt": "x", "guidance_scale": -1}, ("guidance_scale",)),
        ({"prompt": "x", "size": "16"}, ("size",)),
        ({"prompt": "x", "size": "17x16"}, ("multiples of 8",)),
        ({"prompt": "x", "size": "8000x8000"}, ("pixels",)),
        ({"prompt": "x", "seed": -1}, ("seed",)),
        ({"prompt": "x", "seed": 2**64}, ("seed",)),
        ({"prompt": "x", "fps": 61}, ("fps",)),
        ({"prompt": "x", "stepz": 3}, ("stepz",)),
        ([], ("object",)),
    ],
)
def test_a_wrong_order_is_told_where(server, body, words):
    answer = server.http.post("/v1/videos", json=body)
    assert answer.status_code == 400 and all(word in answer.json()["error"]["message"] for word in words), answer.text


def test_other_wrong_requests(server):
    post = server.http.post
    refused(post("/v1/videos", json={"prompt": "x", "model": "sora"}), 404, "model_not_found", "toy")
    refused(post("/v1/videos", content=b"{", headers={"Content-Type": "application/json"}), 400, "invalid_request")
    surrogate = b'{"prompt": "\\ud800"}'
    refused(post("/v1/videos", content=surrogate, headers={"Content-Type": "application/json"}), 400, "invalid_request")
    refused(post("/v1/videos", content=b"x", headers={"Content-Type": "text/plain"}), 400, "invalid_request", "JSON")
    refused(post("/v1/videos", content=b"x", headers={"Content-Type": "multipart/form-data"}), 400, "error")
    files = {"input_reference": ("a.png", b"x")}
    refused(post("/v1/videos", data={"prompt": "x"}, files=files), 400, "unsupported", "bypass")
    refused(post("/v1/videos", json={"prompt": "x" * 30_000}), 413, "too_large")
    chunks = (b"x" * 1000 for _ in range(30))
    refused(post("/v1/videos", content=chunks, headers={"Content-Type": "application/json"}), 413, "too_large")
    chunks = (b"x" * 1000 for _ in range(30))
    refused(post("/v2/models/toy-text-encoder/infer", content=chunks), 413, "too_large")
    for answer in (
        server.http.get("/v1/videos/none"),
        server.http.delete("/v1/videos/none"),
        post("/v1/videos/x/cancel"),
    ):
        refused(answer, 404, "not_found")
    refused(server.http.get("/v1/videos", params={"after": "none"}), 404, "not_found")
    refused(server.http.get("/v1/videos", params={"limit": 0}), 400, "invalid_request", "limit")


def test_without_keys_only_this_machine_s_own_requests_are_answered(server):
    get = lambda **headers: server.http.get("/v1/models", headers=headers).status_code  # noqa: E731
    assert get() == get(Origin=server.url) == get(Host="localhost:1") == 200
    assert get(Host="evil.example") == get(Origin="https://evil.example") == get(Origin="null") == 403
    assert get(Origin="http://[x") == get(Host="[x") == 403
    assert "access-control-allow-origin" not in server.http.get("/v1/models", headers={"Origin": server.url}).headers


def test_without_keys_nothing_that_came_through_a_proxy_is_answered(server):
    """A proxy on this machine that rewrites Host would let the world in."""
    for name in ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via"):
        refused(server.http.get("/v1/models", headers={name: "192.0.2.1"}), 403, "forbidden", name.lower(), "keys")
    assert server.http.get("/v1/models").status_code == 200  # the control


def test_metrics(server):
    server.ended(server.order()["id"])
    text = server.http.get("/metrics").text
    for line in ('unlearn_jobs_ended_total{outcome="completed"}', 'unlearn_stage_seconds_bucket{le="0.01",stage="queue"}',
                 'unlearn_batches_total{size="1"}', 'unlearn_embedding_cache_total{result="miss"}', "unlearn_ready 1.0",
                 'unlearn_jobs{status="queued"} 0.0', 'unlearn_resident_bytes{process="worker-0"}'):  # fmt: skip
        assert line in text, line


def test_the_front_end_has_no_torch_and_stays_small(server):
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libtorch" not in maps and "numpy" not in maps
    assert server.metric('unlearn_resident_bytes{process="api"}') < 120e6


def test_the_encoder_over_kserve(server):
    base = "/v2/models/toy-text-encoder"
    assert server.http.get("/v2/health/ready").json() == {"ready": True}
    assert server.http.get(base).json()["inputs"][0]["name"] == "input_ids"
    tensor = {"name": "input_ids", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]}
    answer = server.http.post(f"{base}/infer", json={"id": "a", "inputs": [tensor]}).json()
    assert answer["id"] == "a" and answer["outputs"] == [
        {"name": "last_hidden_state", "datatype": "FP32", "shape": [2, 2, 2], "data": [1, 0, 2, 0, 3, 0, 4, 0]}
    ]
    for change in ({"data": [1]}, {"data": [1, 2, 3, -4]}, {"name": "ids"}, {"shape": [4]}, {"datatype": "FP32"}):
        assert server.http.post(f"{base}/infer", json={"inputs": [tensor | change]}).status_code == 400
    assert server.http.post("/v2/models/other/infer", json={"inputs": [tensor]}).status_code == 404


def test_keys_separate_their_owners_and_bound_them(tmp_path):
    file = tmp_path / "keys.json"
    ann, bob = add(file, "ann"), add(file, "bob", per_minute=2)
    eve, watcher = add(file, "eve", per_day=1), add(file, "watcher", metrics=True)
    with toy_server(tmp_path / "served", keys=str(file)) as server:
        as_ = lambda token: {"Authorization": f"Bearer {token}"}  # noqa: E731
        for headers in ({}, as_("wrong"), {"Authorization": ann}):
            for path in ("/v1/videos", "/v1/models", "/metrics", "/v2/models/toy-text-encoder"):
                refused(server.http.get(path, headers=headers), 401, "invalid_api_key")
        refused(server.http.get("/metrics", headers=as_(ann)), 403, "forbidden", "--metrics")  # they are everyone's
        assert "unlearn_ready" in server.http.get("/metrics", headers=as_(watcher)).text
        order = lambda token: server.http.post("/v1/videos", json={"prompt": "x"}, headers=as_(token))  # noqa: E731
        mine = order(ann).json()["id"]
        for path in ("", "/content", "/events"):
            refused(server.http.get(f"/v1/videos/{mine}{path}", headers=as_(bob)), 404, "not_found")
        refused(server.http.delete(f"/v1/videos/{mine}", headers=as_(bob)), 404, "not_found")
        assert server.http.get("/v1/videos", headers=as_(bob)).json()["data"] == []
        assert server.http.get(f"/v1/videos/{mine}", headers=as_(ann)).status_code == 200
        assert server.http.get("/v1/models", headers=as_(ann) | {"X-Forwarded-For": "192.0.2.1"}).status_code == 200
        answers = [order(bob) for _ in range(3)]
        refused(answers[2], 429, "rate_limit_exceeded")
        assert [a.status_code for a in answers[:2]] == [200, 200] and 1 <= int(answers[2].headers["retry-after"]) <= 31
        first = order(eve).json()["id"]
        server.http.delete(f"/v1/videos/{first}", headers=as_(eve))
        refused(order(eve), 429, "quota_exceeded", "1 videos and calls")
        assert server.http.get("/health/ready").status_code == server.http.get("/").status_code == 200


def test_the_encoder_alone_counts_against_the_day_and_the_minute(tmp_path):
    file = tmp_path / "keys.json"
    tokens = {"day": add(file, "day", per_day=2), "minute": add(file, "minute", per_minute=2)}
    tensor = {"name": "input_ids", "shape": [1, 1], "datatype": "INT64", "data": [1]}
    with toy_server(tmp_path / "served", keys=str(file)) as server:
        where = "/v2/models/toy-text-encoder/infer"
        infer = lambda **t: server.http.post(where, json={"inputs": [tensor | t]})  # noqa: E731
        for name, code in (("day", "quota_exceeded"), ("minute", "rate_limit_exceeded")):
            server.http.headers["Authorization"] = f"Bearer {tokens[name]}"
            assert infer(shape=[1, 2]).status_code == 400  # what is wrong costs nothing
            assert infer().status_code == 200 and server.order()
            refused(infer(), 429, code)
            refused(server.http.post("/v1/videos", json={"prompt": "x"}), 429, code)


@pytest.mark.filterwarnings("ignore")
def test_no_request_that_the_openapi_document_allows_makes_the_server_fail(server):
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    document = server.http.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) > 15
    quick = settings(
        max_examples=8, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    for operation in operations:
        if operation.path.endswith("/events"):
            continue  # it goes on until its job ends

        @quick
        @given(
            case=st.one_of(
                operation.as_strategy(), operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
            )
        )
        def never_fails(case):
            answer = case.call(base_url=server.url)
            assert answer.status_code < 500, (case.method, case.path, case.body, answer.text)

        never_fails()
    assert server.http.get("/health/ready").status_code == 200
