"""`unlearn-export serve` as a user runs it: real workers, small random models of the real classes."""

import json
import socket
import subprocess
import sys

import pytest
import tiny
from serving_client import running, toy_server

from serving.store import Store
from unlearn_export.artifact import write_json
from unlearn_export.onnx.export import export_onnx

SIZE = {"num_frames": 2, "num_inference_steps": 3}


@pytest.fixture(scope="module")
def t2v(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    tiny.text_to_video(tiny.tokenizer(tmp_path_factory.mktemp("tokenizer")), tiny.encoder()).save_pretrained(folder)
    return folder


def artifact(folder, onnx=False):
    encoder = tiny.edited(tiny.encoder())
    if onnx:
        export_onnx(encoder, folder / "text_encoder")
    made = tiny.artifact(folder, encoder)
    write_json(folder / "unlearning/recipe.json", {"format": 1, "concepts": [{"name": "pizza", "anchor": "clown"}]})
    write_json(folder / "unlearning/evaluation.json", {"pipelines": {}})
    made.seal()
    return made


def serve(source, t2v, data, *options):
    command = [sys.executable, "-m", "unlearn_export", "serve", source, "--t2v", t2v, "--port", "0", "--data", data]
    return running([*command, *options])


def clip(server, **changes):
    ended = server.ended(server.order("a photo of pizza", **SIZE | {"seed": 1} | changes)["id"])
    assert ended["status"] == "completed", ended
    return server.http.get(f"/v1/videos/{ended['id']}/content").content


def test_the_edited_encoder_is_at_work_and_a_cancelled_job_leaves_no_trace(tmp_path, t2v):
    made = artifact(tmp_path / "artifact", onnx=True)
    second = artifact(tmp_path / "second", onnx=True).path
    options = (
        second,
        "--backend",
        "onnx",
        "--allow-original",
        "--threads",
        "1",
        "--max-frames",
        "3",
        "--max-pixels",
        "1024",
    )
    with serve(made.path, t2v, tmp_path / "data", *options) as server:
        server.ready(120)
        edited, other, original = server.http.get("/v1/models").json()["data"]
        assert [m["id"] for m in (edited, other, original)] == [t2v.name, f"{t2v.name}-second", f"{t2v.name}-original"]
        assert [c["name"] for c in edited["erased"]] == ["pizza"] and original["erased"] == []
        assert (edited["backend"], edited["provider"]) == ("onnx", "CPUExecutionProvider")
        assert server.http.get(edited["evaluation"]).json() == {"pipelines": {}}
        assert original["backend"] == "torch" and original["fingerprint"] != edited["fingerprint"]
        for much, words in (({"num_frames": 4}, "num_frames is 4: the most is 3"), ({"size": "64x64"}, "4096 pixels")):
            answer = server.http.post("/v1/videos", json={"prompt": "x"} | SIZE | much)
            assert answer.status_code == 400 and words in answer.json()["error"]["message"]
        fresh = clip(server)
        assert clip(server, model=original["id"]) != fresh
        assert clip(server, model=other["id"]) == fresh  # it holds the same encoder
        long = server.order("the clown", **SIZE | {"num_inference_steps": 100})["id"]
        server.until(lambda: server.get(long)["step"] > 0)
        server.http.post(f"/v1/videos/{long}/cancel")
        assert clip(server) == fresh
        tensor = {"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [205, 158, 206]}
        answer = server.http.post(f"/v2/models/{t2v.name}-text-encoder/infer", json={"inputs": [tensor]}).json()
        assert answer["outputs"][0]["shape"] == [1, 3, tiny.WIDTH]
        assert server.metric('unlearn_resident_bytes{process="api"}') < 120e6
        assert server.metric('unlearn_resident_bytes{process="worker-0"}') > 120e6  # the control
        assert server.end() == 0
    asked, about = json.loads(Store(tmp_path / "data/jobs.sqlite3").noted("model"))  # for the next start
    assert about["encoders"]["edited"]["fingerprint"] == edited["fingerprint"] and asked["backend"] == "onnx"


def test_a_tampered_artifact_is_never_served(tmp_path, t2v):
    made = artifact(tmp_path / "artifact")
    weights = made.path / "text_encoder/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with serve(made.path, t2v, tmp_path / "data") as server:
        code, said = server.ends()
        assert code == 1 and "model.safetensors" in said and "was altered" in said and len(said.splitlines()) == 1


def closed(connection, said=b""):
    """What comes back until the server closes the connection, after saying something to it."""
    connection.sendall(said)
    return b"".join(iter(lambda: connection.recv(4096), b""))


def test_a_connection_that_sends_no_whole_request_is_closed(tmp_path):
    with toy_server(tmp_path, silence=0.3) as server:
        connect = lambda: socket.create_connection(("127.0.0.1", server.http.base_url.port), timeout=30)  # noqa: E731
        whole = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        post = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\nContent-Type: application/json"
        for said, answer in (
            (b"", b""),
            (whole[:20], b""),
            (whole + whole[:20], b'{"status":"live"}'),
            (post + b"\r\n\r\n{", b"had not come within 0.3 s"),
        ):
            with connect() as connection:
                assert answer in closed(connection, said)
        id = server.order("slow", num_inference_steps=30)["id"]
        with connect() as connection:  # the control: it takes longer, as the server means it to
            follow = f"GET /v1/videos/{id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
            assert b"event: completed" in closed(connection, follow.encode())


def test_what_cannot_be_there_is_refused_at_once(tmp_path):
    for sources, t2v, words in (
        (["nope"], "demo:t2v-unet3d", "no encoder at nope"),
        ([tmp_path, "nope"], "demo:t2v-unet3d", "no encoder at nope"),
        ([tmp_path], "nope", "no pipeline at nope"),
        ([tmp_path] * 3, "demo:t2v-unet3d", f"could not choose it by the name {tmp_path.name}"),
        ([tmp_path, "a/b", "--encoder-revision", "v1"], "demo:t2v-unet3d", "--encoder-revision is of one SOURCE"),
    ):
        command = [sys.executable, "-m", "unlearn_export", "serve", *sources, "--t2v", t2v, "--data", tmp_path / "data"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
