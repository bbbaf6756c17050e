"""Jobs through the ends of processes: retention, overload, restart, and workers killed at random."""

import contextlib
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from serving_client import TESTS, toy_server
from toy_worker import Toy, colour

from serving import api
from serving.contract import Health, Request, Settings, Update
from serving.jobs import Jobs
from serving.store import Store
from unlearn_export.errors import UnlearnExportError


def is_own_clip(server, id: str, seed: int) -> bool:
    """Whether the clip is the one of its seed."""
    answer = server.http.get(f"/v1/videos/{id}/content", params={"variant": "thumbnail"})
    pixel = Image.open(io.BytesIO(answer.content)).convert("RGB").getpixel((30, 30))
    return max(abs(a - b) for a, b in zip(pixel, colour(seed), strict=True)) < 16


def test_jobs_survive_kill_9_of_the_front_end(tmp_path):
    with toy_server(tmp_path) as server:
        done = server.ended(server.order(seed=1)["id"])["id"]
        running = server.order("slow", seed=2, num_inference_steps=30)["id"]
        queued = server.order(seed=3, num_frames=3)["id"]
        server.until(lambda: server.get(running)["step"] > 1)
        workers = server.workers()
        server.end(signal.SIGKILL)
    assert workers
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < end, "a worker outlived its front end"
        time.sleep(0.05)
    (tmp_path / "clips" / "video_orphan").mkdir()
    with toy_server(tmp_path) as server:
        assert {server.ended(id)["status"] for id in (done, running, queued)} == {"completed"}
        assert (server.get(running)["attempts"], server.get(queued)["attempts"]) == (2, 1)
        assert all(is_own_clip(server, id, seed) for id, seed in ((done, 1), (running, 2), (queued, 3)))
        assert not (tmp_path / "clips" / "video_orphan").exists()


def test_a_job_cut_off_twice_fails_with_the_reason(tmp_path):
    with toy_server(tmp_path) as server:
        id = server.order("slow", num_inference_steps=50)["id"]
        server.until(lambda: server.get(id)["step"] > 0)
        server.end(signal.SIGKILL)
    with toy_server(tmp_path) as server:
        server.until(lambda: server.get(id)["step"] > 0)
        server.end(signal.SIGKILL)
    with toy_server(tmp_path) as server:
        job = server.get(id)
        assert (job["status"], job["error"]["code"]) == ("failed", "interrupted")
        assert "2 times" in job["error"]["message"]
        assert server.ended(server.order()["id"])["status"] == "completed"


def test_what_was_ordered_from_one_encoder_is_not_drawn_by_another(tmp_path):
    with toy_server(tmp_path) as server:
        done = server.ended(server.order()["id"])["id"]
        running = server.order("slow", num_inference_steps=90)["id"]
        queued = server.order(num_frames=3)["id"]
        server.until(lambda: server.get(running)["step"] > 0)
        assert server.get(queued)["encoder_fingerprint"] == "f" * 64
        server.end(signal.SIGKILL)
    with toy_server(tmp_path, source="other") as server:
        for id in (running, queued):
            job = server.ended(id)
            assert (job["status"], job["error"]["code"], job["encoder_fingerprint"]) == (
                "failed", "encoder_changed", "f" * 64,
            )  # fmt: skip
            assert "f" * 12 in job["error"]["message"] and "e" * 12 in job["error"]["message"]
        assert server.get(done)["status"] == "completed" and server.get(done)["encoder_fingerprint"] == "f" * 64
        assert server.ended(server.ready().order()["id"])["encoder_fingerprint"] == "e" * 64  # the control


def test_orders_are_taken_while_a_known_model_is_being_loaded(tmp_path):
    held = tmp_path / "held"
    with toy_server(tmp_path / "data", source=f"late {held}") as server:
        told = server.ready().http.get("/v1/models").json()
        server.end()
    held.touch()
    with toy_server(tmp_path / "data", source=f"late {held}") as server:
        assert server.http.get("/health/ready").status_code == 503
        assert server.http.get("/v1/models").json() == told
        assert server.http.post("/v1/videos", json={"prompt": "x", "size": "17x16"}).status_code == 400
        ordered = server.order()
        assert (ordered["status"], ordered["size"], ordered["encoder_fingerprint"]) == ("queued", "16x16", "f" * 64)
        held.unlink()
        assert server.ended(ordered["id"])["status"] == "completed"
    held.touch()
    for options in ({"folder": tmp_path / "new"}, {"folder": tmp_path / "data", "allow_original": True}):
        with toy_server(**options, source=f"late {held}") as server:  # the control: not known, or asked for otherwise
            assert server.http.post("/v1/videos", json={"prompt": "x"}).status_code == 503
            assert server.http.get("/v1/models").json()["data"] == []


def test_a_server_whose_model_can_never_load_ends_with_the_reason(tmp_path):
    with toy_server(tmp_path / "tampered", source="tampered") as server:
        assert server.ends() == (1, "error: model.safetensors in tampered was altered\n")
    with toy_server(tmp_path / "data", source=f"once {tmp_path / 'mark'}") as server:
        id = server.ready().order("slow", num_inference_steps=90)["id"]
        server.until(lambda: server.get(id)["step"] > 0)
        os.kill(server.workers()[0], signal.SIGKILL)  # the next one finds that its encoder was replaced
        assert server.ends() == (1, "error: it was replaced\n")
    assert Store(tmp_path / "data/jobs.sqlite3").get(id).status == "queued"
    with toy_server(tmp_path / "full", source="full") as server:  # the control: this may pass
        server.until(lambda: server.metric("unlearn_worker_restarts_total") > 1)
        assert server.process.poll() is None


def test_sigterm_finishes_what_it_can_and_keeps_the_rest(tmp_path):
    with toy_server(tmp_path, grace=2) as server:
        short = server.order("slow", num_inference_steps=8)["id"]
        server.until(lambda: server.get(short)["step"] > 0)
        waiting = server.order(num_frames=3)["id"]
        begun = time.monotonic()
        server.end(signal.SIGTERM)
        assert time.monotonic() - begun < 8
    with toy_server(tmp_path, grace=0.1) as server:
        assert server.get(short)["status"] == "completed" and server.get(short)["attempts"] == 1
        assert server.ended(waiting)["attempts"] == 1
        long = server.order("slow", num_inference_steps=60)["id"]
        server.until(lambda: server.get(long)["step"] > 0)
        server.end(signal.SIGTERM)
    with toy_server(tmp_path) as server:  # being stopped by us was not its fault
        assert server.http.post(f"/v1/videos/{long}/cancel").status_code == 200
        assert server.get(long)["attempts"] <= 1


def test_overload_is_refused_with_the_time_to_come_back(tmp_path):
    with toy_server(tmp_path, waiting=2) as server:
        first = server.order("slow", num_inference_steps=80)["id"]
        server.until(lambda: server.get(first)["step"] > 0)
        kept = [server.order(num_frames=3)["id"] for _ in range(2)]
        answer = server.http.post("/v1/videos", json={"prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        server.http.post(f"/v1/videos/{first}/cancel")
        assert {server.ended(id)["status"] for id in kept} == {"completed"}
        assert server.ended(server.order()["id"])["status"] == "completed"


def test_retention_bounds_what_is_kept(tmp_path):
    with toy_server(tmp_path, retention={"count": 2}) as server:
        ids = [server.ended(server.order(seed=i)["id"])["id"] for i in range(4)]
        server.until(lambda: server.http.get(f"/v1/videos/{ids[1]}").status_code == 404)
        assert [v["id"] for v in server.http.get("/v1/videos").json()["data"]] == [ids[3], ids[2]]
        assert sorted(p.name for p in (tmp_path / "clips").iterdir()) == sorted(ids[2:])


def test_deleting_a_running_job_leaves_nothing_behind(tmp_path):
    with toy_server(tmp_path) as server:
        ids = [server.order("slow", num_inference_steps=3)["id"] for _ in range(3)]
        server.until(lambda: server.get(ids[0])["step"] > 1)
        for id in ids:
            assert server.http.delete(f"/v1/videos/{id}").json()["deleted"]
        server.ended(server.order()["id"])
        assert len(list((tmp_path / "clips").iterdir())) == 1


def damaged(folder):
    """A store in which the page of the jobs is overwritten; → its file."""
    with toy_server(folder) as server:
        for _ in range(30):
            server.order("slow")
        server.end()
    file = folder / "jobs.sqlite3"
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [page] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'jobs'").fetchone()
        [size] = db.execute("PRAGMA page_size").fetchone()
    with file.open("r+b") as raw:
        raw.seek((page - 1) * size)
        raw.write(b"\xff" * size)
    return file


def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path):
    """A start that cannot be is told, with what to do."""
    (tmp_path / "file").touch()
    (tmp_path / "locked" / "lock").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "jobs.sqlite3").write_text("nothing of the kind " * 100)
    damaged(tmp_path / "damaged")
    for folder, code, words in (
        ("file", 2, "cannot write to"),
        ("locked", 2, "cannot write to"),
        ("damaged", 1, "malformed; move it away"),
        ("other", 1, "not a database; move it away"),
    ):
        command = [sys.executable, TESTS / "toy_server.py", tmp_path / folder, "{}"]
        started = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert started.returncode == code and words in started.stderr, started.stderr
        assert started.stderr.count("\n") == 1 and "--data folder" in started.stderr and not started.stdout
    with toy_server(tmp_path / "new") as server:  # the control
        assert server.order()


def test_one_server_a_folder_and_an_address_and_no_strangers_without_keys(tmp_path):
    with toy_server(tmp_path) as server:
        port = int(server.url.rpartition(":")[2])
        for folder, options, words in (
            ("", {}, "in use by another server"),
            ("other", {"host": "0.0.0.0"}, "lets others in"),
            ("other", {"port": port}, f"cannot listen on 127.0.0.1:{port}"),
        ):
            command = [sys.executable, TESTS / "toy_server.py", tmp_path / folder, json.dumps(options)]
            second = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert second.returncode and words in second.stderr


def chaos(folder, jobs: int, seconds: float) -> Counter:
    """Kill workers at random while jobs run; → how they ended. Every clip is its own seed's."""
    chance = random.Random(0)
    with toy_server(folder, devices=["cpu", "cpu"], waiting=jobs) as server:
        ids = {
            server.order("slow" if chance.random() < 0.5 else "a car", seed=i % 200)["id"]: i % 200 for i in range(jobs)
        }
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.1, seconds / 5))
            for pid in chance.sample(server.workers(), k=min(1, len(server.workers()))):
                os.kill(pid, signal.SIGKILL)
        ended = {id: server.ended(id, 120) for id in ids}
        for id, job in ended.items():
            if job["status"] == "completed":
                assert is_own_clip(server, id, ids[id])
            else:
                assert job["error"]["code"] == "worker_died" and job["attempts"] == 2
        listed = Counter(v["id"] for v in server.http.get("/v1/videos", params={"limit": 100}).json()["data"])
        assert set(listed.values()) == {1} and len(listed) == min(jobs, 100)
        assert len(list((folder / "clips").iterdir())) == sum(j["status"] == "completed" for j in ended.values())
    return Counter(job["status"] for job in ended.values())


def test_workers_killed_at_random_lose_and_double_nothing(tmp_path):
    assert chaos(tmp_path, 16, 2)["completed"] >= 8


@pytest.mark.slow
def test_workers_killed_at_random_while_a_hundred_jobs_run(tmp_path):
    assert chaos(tmp_path, 100, 20)["completed"] >= 50


def load(folder, clients: int, seconds: float) -> int:
    """Clients that order, wait and compare at once; → the clips that they got."""
    with toy_server(folder, devices=["cpu", "cpu"], waiting=clients, retention={"count": 100_000}) as server:
        end, got, faults = time.monotonic() + seconds, [], []

        def client(number: int) -> None:
            chance = random.Random(number)
            with httpx.Client(base_url=server.url, timeout=60) as http:
                while time.monotonic() < end and not faults:
                    seed = chance.randrange(200)
                    try:
                        id = http.post("/v1/videos", json={"prompt": f"{number}", "seed": seed}).json()["id"]
                        while (job := http.get(f"/v1/videos/{id}").json())["status"] not in ("completed", "failed"):
                            time.sleep(0.05)
                        assert (job["status"], job["prompt"], job["seed"]) == ("completed", f"{number}", seed), job
                        assert is_own_clip(server, id, seed)
                        got.append(id)
                    except Exception as error:
                        faults.append(repr(error))

        threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults
        counts = server.http.get("/metrics").text
        assert f'unlearn_jobs{{status="completed"}} {len(got)}.0' in counts and len(set(got)) == len(got)
    return len(got)


def test_clients_at_once_get_their_own_clips(tmp_path):
    assert load(tmp_path, 8, 2) >= 8


@pytest.mark.slow
def test_fifty_clients_for_two_minutes(tmp_path):
    assert load(tmp_path, 50, 120) >= 200


class Still:
    """An engine that does nothing by itself: its updates come when the test says so."""

    settings = Settings("toy", "toy")

    def start(self, on_update):
        self.tell = on_update

    def submit(self, request, attempts=0):
        self.request = request

    def cancel(self, id):
        return True

    def progress(self, id):
        return 0, 0

    def describe(self):
        return Toy(self.settings, "cpu").describe()

    def health(self):
        return Health(True)

    def figures(self):
        return {"ready": 0, "restarts": 0, "batches": {}, "hits": 0, "misses": 0, "rss": {}}

    def stop(self, deadline):
        return []


@pytest.fixture
def jobs(tmp_path):
    service = Jobs(tmp_path, Still())
    service.start()
    return service


def ordered(jobs):
    size = {"width": 16, "height": 16, "num_frames": 2, "num_inference_steps": 3, "guidance_scale": 3.0, "fps": 8}
    job, _ = jobs.create(Request(id="", prompt="a car", seed=0, folder="", **size))
    jobs.file(job).parent.mkdir(parents=True)
    jobs.file(job).write_bytes(b"clip")
    return job


def test_at_the_start_only_completed_jobs_keep_their_files(jobs, tmp_path):
    done, cut, lost = (ordered(jobs) for _ in range(3))
    jobs.engine.tell(Update(done.id, "completed"))
    jobs.engine.tell(Update(cut.id, "started", attempts=1))
    jobs.engine.tell(Update(lost.id, "started", attempts=2))
    again = Jobs(tmp_path, Still())
    assert again.store.get(lost.id).code == "interrupted"
    assert [folder.name for folder in again.clips.iterdir() if folder.is_dir()] == [done.id]


def test_an_order_that_cannot_be_read_is_told_and_holds_up_nobody(jobs, tmp_path):
    for job in (good := ordered(jobs), bad := ordered(jobs)):
        jobs.engine.tell(Update(job.id, "started", attempts=1))
    jobs.store._db.execute("UPDATE jobs SET request = '{}' WHERE id = ?", (bad.id,))
    again = Jobs(tmp_path, Still())
    again.start()
    assert again.engine.request.id == good.id
    assert again.store.count() == {"queued": 1, "in_progress": 0, "completed": 0, "failed": 1}
    client = TestClient(api.create_app(again), base_url="http://127.0.0.1")
    listed = client.get("/v1/videos").json()["data"]
    assert [(v["id"], v["status"]) for v in listed] == [(bad.id, "failed"), (good.id, "queued")]
    assert listed[0]["error"]["code"] == "unreadable"
    assert client.delete(f"/v1/videos/{bad.id}").status_code == 200


def test_a_cancel_that_comes_too_late_leaves_the_clip(jobs):
    job = ordered(jobs)
    jobs.engine.tell(Update(job.id, "completed"))
    jobs.engine.tell(Update(job.id, "cancelled"))
    assert jobs.store.get(job.id).status == "completed" and jobs.file(job).exists()


def test_a_clip_that_comes_after_the_cancel_is_dropped(jobs):
    ends = []
    jobs.on_end = ends.append
    job = ordered(jobs)
    jobs.cancel(job.id)
    jobs.file(job).parent.mkdir(parents=True)
    jobs.file(job).write_bytes(b"clip")
    for outcome in ("completed", "cancelled"):
        jobs.engine.tell(Update(job.id, outcome))
    assert jobs.store.get(job.id).code == "cancelled" and not jobs.file(job).parent.exists()
    assert [end.code for end in ends] == ["cancelled"]


def test_listeners_hear_until_they_leave(jobs):
    job, heard = ordered(jobs), []
    with jobs.listening(job.id, heard.append):
        jobs.engine.tell(Update(job.id, "started", attempts=1))
    jobs.engine.tell(Update(job.id, "completed"))
    assert [update.outcome for update in heard] == ["started"] and not jobs._listeners


def test_an_end_that_could_not_be_written_is_recorded_later_and_once(jobs, monkeypatch):
    ends, heard = [], []
    jobs.on_end = ends.append
    done, failed = ordered(jobs), ordered(jobs)
    with monkeypatch.context() as full:
        for change in ("complete", "fail"):
            full.setattr(jobs.store, change, disk_full)
        with jobs.listening(done.id, heard.append):
            jobs.engine.tell(Update(done.id, "completed"))
            jobs.engine.tell(Update(failed.id, "failed", code="failed"))
            jobs.tend()
        assert {jobs.store.get(job.id).status for job in (done, failed)} == {"queued"} and not ends
    with monkeypatch.context() as full:
        full.setattr(jobs.store, "surplus", disk_full)  # what comes after the end fails
        with pytest.raises(sqlite3.OperationalError):
            jobs.tend()
    jobs.tend()
    assert [jobs.store.get(job.id).status for job in (done, failed)] == ["completed", "failed"]
    assert jobs.file(done).exists() and not jobs.file(failed).exists() and len(ends) == 2


def disk_full(*_, **__):
    raise sqlite3.OperationalError("database or disk is full")


class FullDisk:
    """In a store's connection's place."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    execute = disk_full


@pytest.mark.parametrize("given_up", ["clip", "reserve"])
def test_on_a_full_disk_a_clip_can_still_be_deleted(jobs, monkeypatch, given_up):
    job = ordered(jobs)
    jobs.engine.tell(Update(job.id, "completed"))
    takes, delete = {"clip": jobs.file(job), "reserve": jobs.reserve}[given_up], jobs.store.delete
    assert takes.exists()
    monkeypatch.setattr(jobs.store, "delete", lambda id: disk_full() if takes.exists() else delete(id))
    client = TestClient(api.create_app(jobs), base_url="http://127.0.0.1")
    assert client.delete(f"/v1/videos/{job.id}").json()["deleted"]
    assert jobs.store.get(job.id) is None and not jobs.file(job).exists()


def test_on_a_full_disk_no_order_is_taken_and_it_is_not_ready_until_there_is_room(jobs, monkeypatch):
    client = TestClient(api.create_app(jobs), base_url="http://127.0.0.1")
    order = lambda: client.post("/v1/videos", json={"prompt": "x"}).status_code  # noqa: E731
    ready = lambda: client.get("/health/ready")  # noqa: E731
    assert (order(), ready().status_code) == (200, 200)  # the control
    with monkeypatch.context() as full:
        full.setattr(jobs.store, "_db", FullDisk())
        assert order() == 503
        assert ready().status_code == 503 and "disk is full" in ready().json()["reason"]
        with contextlib.suppress(sqlite3.Error):
            jobs.tend()
        assert ready().status_code == 503
    jobs.tend()
    assert (order(), ready().status_code) == (200, 200)
    with monkeypatch.context() as full:  # where only clips cannot be written
        jobs.file(ordered(jobs)).touch()
        full.setattr(jobs, "clips", jobs.folder / "jobs.sqlite3" / "clips")
        jobs.engine.tell(Update(jobs.engine.request.id, "failed", code="failed"))
        assert (order(), ready().status_code) == (503, 503)
    jobs.tend()
    assert (order(), ready().status_code) == (200, 200)


def test_a_reason_is_told_in_detail_to_the_console_alone(jobs, monkeypatch):
    monkeypatch.setattr(jobs.engine, "health", lambda: Health(False, "refused", detail="/srv/secret was altered"))
    console = []
    with TestClient(api.create_app(jobs, on_change=console.append), base_url="http://127.0.0.1") as client:
        for path in ("/health/ready", "/v2/health/ready", "/metrics", "/v1/models"):
            assert "secret" not in client.get(path).text
        assert client.get("/health/ready").json()["reason"] == "refused"
    assert console[0].detail == "/srv/secret was altered"


def test_a_start_on_a_full_disk_is_refused_in_one_line(jobs, tmp_path, monkeypatch):
    job = ordered(jobs)
    jobs.engine.tell(Update(job.id, "started", attempts=1))
    monkeypatch.setattr("serving.store.Store.requeue", disk_full)
    with pytest.raises(UnlearnExportError, match=r"cannot use the job store .*disk is full; make room") as caught:
        Jobs(tmp_path, Still())
    assert "\n" not in str(caught.value)


def test_what_is_due_now_and_then_goes_on_after_a_full_disk(jobs, monkeypatch):
    rounds = threading.Semaphore(0)

    def tend():
        rounds.release()
        disk_full()

    monkeypatch.setattr(jobs, "tend", tend)
    monkeypatch.setattr(api, "TEND", 0.0)
    with TestClient(api.create_app(jobs)):
        assert all(rounds.acquire(timeout=30) for _ in range(2))


def test_a_job_that_is_deleted_while_its_clip_is_converted_is_not_found(jobs, monkeypatch):
    job = ordered(jobs)
    jobs.engine.tell(Update(job.id, "completed"))

    async def convert(*_):
        jobs.delete(job.id)
        raise UnlearnExportError("no such file")

    monkeypatch.setattr(api, "convert", convert)
    client = TestClient(api.create_app(jobs), base_url="http://127.0.0.1")
    assert client.get(f"/v1/videos/{job.id}/content?format=gif").status_code == 404
