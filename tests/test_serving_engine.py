"""The local engine with real worker processes; the painter in them is a toy, so that they can be made to misbehave."""

import errno
import os
import signal
import sys
import threading
import time
import weakref
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import toy_worker
from PIL import Image

from serving import engine as engines
from serving import worker as workers
from serving.contract import Health, Request, Settings, Update
from serving.engine import LocalEngine, Patience
from serving.worker import THUMBNAIL, VIDEO
from unlearn_export.errors import EncoderError, UnlearnExportError, UsageError

TOY = (sys.executable, toy_worker.__file__)


class Running:
    """An engine, and every update that it gave."""

    def __init__(self, folder: Path, source: str = "toy", **options):
        settings = Settings(source, "toy", threads=options.pop("threads", 0))
        options = {"patience": Patience(restart=0.05), "command": TOY} | options
        self.engine, self.folder, self.updates = LocalEngine(settings, **options), folder, []
        self.heard = threading.Condition()
        self.engine.start(self.hear)

    def hear(self, update: Update) -> None:
        with self.heard:
            self.updates.append(update)
            self.heard.notify_all()

    def wait(self, condition, seconds: float = 30):
        with self.heard:
            end = time.monotonic() + seconds
            while not condition():
                assert time.monotonic() < end, f"waited in vain: {self.engine.health()} {self.updates[-5:]}"
                self.heard.wait(0.05)

    def submit(self, id: str, prompt: str = "a car", **changes) -> None:
        values = toy_worker.DEFAULTS | {"seed": 1, "folder": str(self.folder / id)} | changes
        self.engine.submit(Request(id=id, prompt=prompt, **values))

    def ended(self, *ids: str) -> dict[str, Update]:
        """The one update that ended each of them."""
        outcomes = ("completed", "failed", "cancelled")
        self.wait(lambda: {*ids} <= {u.id for u in self.updates if u.outcome in outcomes})
        time.sleep(0.05)
        last = [u for u in self.updates if u.outcome in outcomes and u.id in ids]
        assert sorted(u.id for u in last) == sorted(ids), "each ends once"
        return {u.id: u for u in last}

    def outcomes(self, id: str) -> list[str]:
        return [u.outcome for u in self.updates if u.id == id and u.outcome != "step"]

    def infer(self, *ids: int) -> list[float]:
        """The toy's states of one row, without the zeros between them."""
        shape, data = self.engine.infer([[*ids]]).result(30)["last_hidden_state"]
        assert shape == [1, len(ids), 2]
        return np.frombuffer(data, np.float32)[::2].tolist()

    def pid(self) -> int:
        return self.engine.workers[0].process.pid


@pytest.fixture
def make(tmp_path):
    made = []

    def start(source="toy", **options):
        made.append(Running(tmp_path, source, **options))
        return made[-1]

    yield start
    for running in made:
        running.engine.stop(0)


@pytest.fixture
def running(make):
    started = make()
    started.wait(lambda: started.engine.health().ready)
    return started


def test_a_clip_is_drawn_step_by_step_and_written(running):
    running.submit("one", seed=3)
    done = running.ended("one")["one"]
    assert running.outcomes("one") == ["started", "completed"]
    assert [(u.step, u.steps) for u in running.updates if u.outcome == "step"] == [(1, 3), (2, 3), (3, 3)]
    assert set(done.seconds) == {"queue", "encode", "denoise", "decode", "write"} and done.attempts == 1
    assert (running.folder / "one" / VIDEO).stat().st_size > 100
    with Image.open(running.folder / "one" / THUMBNAIL) as picture:
        pixel = picture.convert("RGB").getpixel((50, 50))
    assert max(abs(a - b) for a, b in zip(pixel, toy_worker.colour(3), strict=True)) < 12


def test_ready_only_once_a_worker_has_loaded_and_while_it_answers(make):
    running = make(patience=Patience(lately=1.0, silence=60))
    assert running.engine.health() == Health(False, "the model is being loaded")
    running.wait(lambda: running.engine.health().ready)
    os.kill(running.pid(), signal.SIGSTOP)
    running.wait(lambda: not running.engine.health().ready)
    assert "has been silent" in running.engine.health().reason
    os.kill(running.pid(), signal.SIGCONT)
    running.wait(lambda: running.engine.health().ready)


def test_a_refused_encoder_is_never_ready_and_is_not_tried_again(make):
    running = make("tampered")
    running.wait(lambda: running.engine.health().final)
    time.sleep(0.3)
    health = running.engine.health()
    assert not health.ready and health.detail == "model.safetensors in tampered was altered"
    assert health.reason == "the model was refused: the server's output tells why"  # a path is nobody else's business
    assert running.engine.figures()["restarts"] == 0 and running.engine.health().final
    with pytest.raises(UnlearnExportError, match="the model was refused"):
        running.engine.infer([[1]])


def test_whatever_is_raised_while_loading_is_refused_in_one_line(make):
    running = make("broken")
    running.wait(lambda: running.engine.health().detail == "ValueError: no such option")
    running.wait(lambda: running.engine.workers[0].process.poll() is not None)
    assert running.engine.figures()["restarts"] == 0


def test_a_worker_that_is_refused_when_it_is_replaced_has_no_model_any_more(make, tmp_path):
    running = make(f"once {tmp_path / 'mark'}")
    running.wait(lambda: running.engine.describe())
    os.kill(running.pid(), signal.SIGKILL)
    running.wait(lambda: running.engine.health().detail == "it was replaced")
    assert running.engine.describe() == {}


@pytest.mark.parametrize("source", ["dies", "full"])
def test_a_worker_that_dies_while_loading_is_tried_again(make, source):
    running = make(source)
    running.wait(lambda: running.engine.figures()["restarts"] >= 2)
    assert not running.engine.health().ready and not running.engine.health().final


def test_a_worker_that_cannot_be_started_is_tried_again(make):
    running = make(command=("/no/such/program",))
    running.wait(lambda: running.engine.figures()["restarts"] >= 2)
    health = running.engine.health()
    assert "the worker cannot be started" in health.reason and "/no/such" not in health.reason
    assert "/no/such/program" in health.detail


def test_equal_shapes_are_drawn_together_and_others_apart(running):
    running.submit("first", "slow")
    running.wait(lambda: "started" in running.outcomes("first"))
    for name, frames in (("a", 2), ("b", 3), ("c", 2), ("d", 2)):
        running.submit(name, num_frames=frames)
    ended = running.ended("first", "a", "b", "c", "d")
    assert {name: u.batch for name, u in ended.items()} == {"first": 1, "a": 3, "b": 1, "c": 3, "d": 3}
    assert running.engine.figures()["batches"] == {1: 2, 3: 1}


def test_with_a_step_cache_each_clip_is_drawn_alone(tmp_path):
    assert LocalEngine(Settings("toy", "toy", step_cache="FirstBlockCacheConfig"), max_batch=4).max_batch == 1
    assert LocalEngine(Settings("toy", "toy"), max_batch=4).max_batch == 4


def test_two_workers_share_what_waits(make):
    running = make(devices=("cpu", "cpu"))
    running.wait(lambda: running.engine.figures()["ready"] == 2)
    names = [str(i) for i in range(8)]
    for name in names:
        running.submit(name, "slow")
    running.wait(lambda: running.engine.figures()["running"] >= 2)
    assert {w.state for w in running.engine.workers} == {"drawing"}
    assert {u.outcome for u in running.ended(*names).values()} == {"completed"}


def test_workers_that_draw_share_the_cores(make, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.setattr(engines, "LINGER", 3600.0)
    running = make(devices=("cpu", "cpu"))
    running.wait(lambda: running.engine.figures()["ready"] == 2)

    def threads(*names):
        return [running.ended(name)[name].seconds["decode"] for name in names]

    running.submit("lone")
    assert threads("lone") == [4]
    running.submit("long", "slow", num_inference_steps=40)
    running.wait(lambda: running.engine.progress("long")[0] > 0)
    running.submit("short")
    assert threads("short") == [2]
    assert [w.threads for w in running.engine.workers] == [2, 2]
    monkeypatch.setattr(engines, "LINGER", 0.0)  # the other one has had nothing to do for long enough
    running.wait(lambda: [w.threads for w in running.engine.workers] == [4, 2])
    assert threads("long") == [4]


def test_workers_that_begin_together_begin_with_their_share(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    engine, said = LocalEngine(Settings("toy", "toy"), ("cpu", "cpu")), []
    for name, worker in zip("ab", engine.workers, strict=True):
        worker.state, worker.threads = "idle", 4
        worker.outbox = SimpleNamespace(put=lambda message, name=name: said.append((name, *message[:1])))
        engine.submit(Request(id=name, prompt="", seed=1, folder=str(tmp_path), **toy_worker.DEFAULTS))
    engine._dispatch()
    assert said == [("a", "threads"), ("b", "threads"), ("a", "run"), ("b", "run")]
    assert [w.threads for w in engine.workers] == [2, 2]


def test_what_is_compiled_keeps_its_number_of_threads(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    for compile, lone in ((True, 2), (False, 4)):
        engine = LocalEngine(Settings("toy", "toy", compile=compile), ("cpu", "cpu", "cuda:0"))
        worker = engine.workers[0]
        assert [engine._threads(w, [worker]) for w in engine.workers] == [lone, 2, 0]


@pytest.mark.parametrize(("device", "asked", "has"), [("cpu", 3, 3), ("cuda:0", 0, 0), ("cuda:0", 3, 3)])
def test_threads_can_be_set_and_a_gpu_s_are_left_alone(make, monkeypatch, device, asked, has):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "7")
    running = make(devices=(device,), threads=asked)
    running.submit("one")
    assert running.ended("one")["one"].seconds["decode"] == has
    environment = dict(
        line.split("=", 1) for line in Path(f"/proc/{running.pid()}/environ").read_text().split("\0") if line
    )
    assert environment["MALLOC_TOP_PAD_"] == "7"  # what the user set stays
    for name in ("GOMP_SPINCOUNT", "MALLOC_TRIM_THRESHOLD_"):
        assert environment.get(name) == (engines.TUNING[name] if device == "cpu" else None)


def test_a_request_waits_for_the_worker_that_has_its_encoder(make):
    running = make(devices=("cpu", "cpu"))
    running.wait(lambda: running.engine.figures()["ready"] == 2)
    newer = running.engine.workers[0]
    newer.about["encoders"]["edited"]["fingerprint"] = "e" * 64  # as if it had been replaced on the disk
    for name, print_ in (("old", "f"), ("new", "e"), ("any", ""), ("gone", "0")):
        running.submit(name, fingerprint=print_ * 64)
    ended = running.ended("old", "new", "any", "gone")
    assert (ended["old"].fingerprint, ended["new"].fingerprint) == ("f" * 64, "e" * 64)
    assert ended["any"].outcome == "completed" and running.outcomes("gone") == ["failed"]
    assert ended["gone"].code == "encoder_changed" and "0" * 12 in ended["gone"].message


def test_cancel_drops_a_queued_request_and_stops_a_running_one(running):
    running.submit("long", "slow", num_inference_steps=200)
    running.submit("queued", num_frames=3)
    running.wait(lambda: running.engine.progress("long")[0] > 1)
    assert running.engine.cancel("queued")
    running.wait(lambda: running.outcomes("queued") == ["cancelled"])
    assert running.engine.cancel("long")
    ended = running.ended("long", "queued")
    assert ended["long"].outcome == "cancelled" and ended["long"].step < 20
    assert not running.engine.cancel("long") and not (running.folder / "long").exists()
    running.submit("next")
    assert running.ended("next")["next"].outcome == "completed"


@pytest.mark.parametrize(("prompt", "renewed"), [("slow", False), ("hang", True)])
@pytest.mark.parametrize("why", ["cancelled", "deadline_exceeded"])
def test_a_request_is_ended_with_its_worker_only_where_its_step_does_not_end(make, prompt, renewed, why):
    late = why == "deadline_exceeded"
    running = make(patience=Patience(restart=0.05, grace=0.3 if renewed else 600, deadline=2.0 if late else 600))
    running.submit("long", prompt, num_inference_steps=1000)
    running.wait(lambda: "started" in running.outcomes("long"))
    before = running.pid()
    assert late or running.engine.cancel("long")
    ended = running.ended("long")["long"]
    assert running.outcomes("long") == ["started", "failed" if late else "cancelled"]  # and is not begun again
    assert ended.code == ("deadline_exceeded" if late else "")
    running.submit("next")
    assert running.ended("next")["next"].outcome == "completed"
    assert (running.pid() != before) == renewed


def test_a_batch_is_not_ended_while_somebody_wants_it(make):
    running = make(patience=Patience(restart=0.05, grace=0.0))
    running.submit("first", "slow")
    running.wait(lambda: "started" in running.outcomes("first"))
    for name in "ab":
        running.submit(name, "slow")
    running.wait(lambda: running.engine.progress("b")[0] > 0)
    before = running.pid()
    running.engine.cancel("a")
    ended = running.ended("a", "b")
    assert (ended["a"].outcome, ended["b"].outcome, ended["b"].batch) == ("cancelled", "completed", 2)
    assert running.outcomes("b") == ["started", "completed"] and running.pid() == before


def test_cancelling_one_of_a_batch_leaves_the_others(running):
    running.submit("first", "slow")
    running.wait(lambda: "started" in running.outcomes("first"))
    for name in "ab":
        running.submit(name, "slow", num_inference_steps=6)
    running.wait(lambda: running.engine.progress("a")[0] > 0)
    running.engine.cancel("a")
    ended = running.ended("a", "b")
    assert (ended["a"].outcome, ended["b"].outcome) == ("cancelled", "completed")


def test_a_cancelled_request_is_not_drawn_again_when_its_worker_dies(running):
    running.submit("one", "slow", num_inference_steps=90)
    running.wait(lambda: running.engine.progress("one")[0] > 1)
    os.kill(running.pid(), signal.SIGSTOP)
    assert running.engine.cancel("one")
    os.kill(running.pid(), signal.SIGKILL)
    running.ended("one")
    assert running.outcomes("one") == ["started", "cancelled"]


def test_a_killed_worker_is_replaced_and_its_request_drawn_once_more(running):
    running.submit("one", "slow", num_inference_steps=8)
    running.wait(lambda: running.engine.progress("one")[0] > 1)
    before = running.pid()
    os.kill(before, signal.SIGKILL)
    done = running.ended("one")["one"]
    assert running.outcomes("one") == ["started", "requeued", "started", "completed"]
    assert done.attempts == 2 and running.pid() != before


def test_a_request_that_kills_its_worker_fails_the_second_time_and_takes_nobody_along(running):
    running.submit("first", "slow")
    running.wait(lambda: "started" in running.outcomes("first"))
    running.submit("bad", "crash")
    running.submit("good")
    ended = running.ended("bad", "good")
    assert ended["good"].outcome == "completed"
    assert (ended["bad"].code, ended["bad"].attempts) == ("worker_died", 2)
    assert "exit code 9" in ended["bad"].message and "\n" not in ended["bad"].message


def test_a_request_that_raises_fails_alone_and_in_one_line(running):
    running.submit("first", "slow")
    running.wait(lambda: "started" in running.outcomes("first"))
    before = running.pid()
    for name, prompt in (("bad", "fail"), ("crowded", "poison"), ("good", "a car")):
        running.submit(name, prompt)
    ended = running.ended("bad", "crowded", "good")
    assert [ended[n].outcome for n in ("bad", "crowded", "good")] == ["failed", "completed", "completed"]
    assert ended["bad"].message == "this prompt cannot be drawn" and running.pid() == before


def test_out_of_memory_fails_the_request_and_renews_the_worker_where_it_comes_twice(running):
    before = running.pid()
    for round in "ab":
        for name, prompt in (("big", "oom"), ("small", "a car")):
            running.submit(name + round, prompt)
            ended = running.ended(name + round)
        assert ended[name + round].outcome == "completed"
        assert running.updates[-1].id == name + round and running.pid() == before
    assert next(u.code for u in running.updates if u.outcome == "failed") == "out_of_memory"
    for name in ("one", "two"):  # with nothing drawn in between it is not the request's size
        running.submit(name, "oom")
        assert running.ended(name)[name].code == "out_of_memory"
    running.submit("next")
    assert running.ended("next")["next"].outcome == "completed" and running.pid() != before


def test_a_batch_that_ran_out_of_memory_is_not_drawn_together_again(running):
    def batch(*names, **changes):
        running.submit(f"before {names[0]}", "slow", num_frames=5)
        running.wait(lambda: "started" in running.outcomes(f"before {names[0]}"))
        for name in names:
            running.submit(name, "roomy", **changes)
        ended = running.ended(*names)
        assert {update.outcome for update in ended.values()} == {"completed"}
        return sorted(update.batch for update in ended.values())

    before = running.pid()
    assert batch(*"abcd") == [1, 1, 1, 1]  # the toy has room for two of them
    assert batch(*"efgh") == [2, 2, 2, 2]
    assert batch(*"ijk", width=32) == [1, 1, 1]  # twice as large
    assert batch(*"lmno", width=8) == [4, 4, 4, 4]  # the control: half as large
    assert running.pid() == before


def test_an_error_on_the_device_renews_the_worker(running):
    before = running.pid()
    running.submit("first", "slow")
    running.wait(lambda: "started" in running.outcomes("first"))
    for name in ("cuda", "good"):
        running.submit(name, name)
    ended = running.ended("cuda", "good")
    assert ended["good"].outcome == "completed"
    assert "device-side assert" in ended["cuda"].message and running.pid() != before
    assert running.outcomes("good").count("started") == 2  # the batch was not tried again in the same process
    before = running.pid()
    with pytest.raises(UnlearnExportError, match="device-side assert"):
        running.infer(999)
    running.wait(lambda: running.engine.health().ready and running.pid() != before)


def test_a_hung_worker_is_killed(make):
    running = make(patience=Patience(step=1.0, restart=0.05))
    running.submit("stuck", "hang")
    failed = running.ended("stuck")["stuck"]
    assert failed.code == "worker_died" and "a step took longer than 1 s" in failed.message
    running.submit("next")
    assert running.ended("next")["next"].outcome == "completed"


def test_stop_finishes_what_runs_and_names_what_does_not_end(make):
    running = make()
    running.submit("short", "slow")
    running.submit("waiting", num_frames=3)
    running.wait(lambda: "started" in running.outcomes("short"))
    pid = running.pid()
    assert running.engine.stop(10) == ["waiting"]
    assert running.outcomes("short") == ["started", "completed"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_stop_does_not_wait_for_a_worker_that_has_died(make):
    running, left = make(), []
    running.submit("long", "slow", num_inference_steps=1000)
    running.wait(lambda: running.engine.progress("long")[0] > 0)
    stopping = threading.Thread(target=lambda: left.extend(running.engine.stop(3600)), daemon=True)
    stopping.start()
    running.wait(lambda: running.engine._closing)
    os.kill(running.pid(), signal.SIGKILL)
    stopping.join(30)
    assert left == ["long"] and running.outcomes("long") == ["started"]


def test_the_encoder_alone(running):
    assert running.infer(5, 6) == [5.0, 6.0]
    assert running.engine.describe()["encoders"]["edited"]["fingerprint"] == "f" * 64
    with pytest.raises(UsageError, match="ids are below 1000"):
        running.infer(1000)
    running.engine.infer([[1]]).cancel()  # whoever asked has gone
    assert running.infer(7) == [7.0]


def test_a_worker_that_reads_no_more_holds_nobody_up(make, monkeypatch):
    monkeypatch.setattr(engines, "ASKED", 3)
    running = make(patience=Patience(silence=1.0, lately=0.5, restart=0.05))
    running.wait(lambda: running.engine.health().ready)
    before = running.pid()
    os.kill(before, signal.SIGSTOP)
    asked = [running.engine.infer([[1] * 65536] * 8) for _ in range(3)]  # more than the pipe takes
    with pytest.raises(UnlearnExportError, match="3 calls of the encoder are waiting already"):
        running.engine.infer([[1]])
    for future in asked:
        assert "silent for 1 s" in str(future.exception(30))
    running.wait(lambda: running.engine.health().ready and running.pid() != before)
    assert running.infer(7) == [7.0]


def test_the_encoder_alone_is_not_waited_for_for_ever(make):
    running = make(patience=Patience(infer=0.3))
    running.wait(lambda: running.engine.health().ready)
    running.submit("long", "slow", num_inference_steps=30)
    running.wait(lambda: running.engine.progress("long")[0] > 0)
    with pytest.raises(UnlearnExportError, match="no worker came to it within 0 s"):
        running.infer(1)
    running.engine.cancel("long")
    assert running.ended("long")["long"].outcome == "cancelled"
    assert running.infer(7) == [7.0]


@pytest.fixture
def bare(tmp_path):
    """A worker without a process of its own, and requests for it; what it says is in ``said``."""
    ours, theirs = Pipe()
    worker = workers.Worker(theirs)
    worker.said = lambda: [ours.recv() for _ in iter(ours.poll, False)]
    worker.painter = SimpleNamespace(embeddings=SimpleNamespace(hits=0, misses=0), free=lambda: None)
    values = toy_worker.DEFAULTS | {"prompt": "a car", "seed": 1}
    worker.requests = [Request(id=id, folder=str(tmp_path / id), **values) for id in "ab"]
    yield worker
    worker.writer.shutdown()
    ours.close()


def test_what_a_failed_batch_held_is_free_before_its_requests_are_drawn_alone(bare):
    class Tensor:
        def __init__(self):
            self.itself = self  # as modules and hooks hold each other

    held, found = [], []

    def draw(requests, on_step):
        found.append([ref() is None for ref in held])
        if len(requests) > 1:
            tensor = Tensor()
            held.append(weakref.ref(tensor))
            raise MemoryError
        raise ValueError("no")

    bare.painter.draw = draw
    bare._run(bare.requests)
    assert found == [[], [True], [True]]
    size = 2 * 16 * 16 * 2
    said = [("crowded", size), ("failed", "a"), ("failed", "b"), ("drawn", {"hits": 0, "misses": 0})]
    assert [m[:2] for m in bare.said()] == said


def test_a_failed_request_tells_no_path(bare, monkeypatch):
    def draw(requests, on_step):
        raise OSError(errno.ENOENT, "No such file", "/srv/secret")

    def write(frames, folder, fps):
        raise UnlearnExportError(f"cannot write {folder / VIDEO}: no room")

    bare.painter.draw = draw
    bare._run(bare.requests[:1])
    bare.painter.draw = lambda requests, on_step: SimpleNamespace(frames=[0] * len(requests), seconds={})
    monkeypatch.setattr(workers, "write", write)
    bare._run(bare.requests[1:])
    bare.writer.shutdown()
    told = [m[1:] for m in bare.said() if m[0] == "failed"]
    assert told == [("a", "failed", "No such file"), ("b", "failed", f"cannot write {VIDEO}: no room")]


@pytest.mark.parametrize(
    ("message", "full", "broken"),
    [
        ("CUDA error: an illegal memory access was encountered", False, True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", False, True),
        ("HIP error: the operation cannot be performed", False, True),
        ("Non-zero status code … CUDA failure 700: an illegal memory access was encountered ; GPU=0", False, True),
        ("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0", False, True),
        ("CUDA out of memory. Tried to allocate 20.00 GiB", True, False),
        ("CUDA failure 2: out of memory ; GPU=0", True, False),
        ("HIP out of memory. Tried to allocate 20.00 GiB", True, False),
        ("Failed to allocate memory for requested buffer of size 1073741824", True, False),
        ("no such kernel", False, False),
    ],
)
def test_what_an_error_says_of_the_device(message, full, broken):
    cut = EncoderError(f"cannot run /srv/{'x' * 20}/model.onnx: Non-zero status code")
    cut.__cause__ = RuntimeError(message)
    for error in (EncoderError(message), cut):
        assert (workers.out_of_memory(error), workers.device_is_broken(error)) == (full, broken)
    assert workers.without_path(cut) == "cannot run model.onnx: Non-zero status code"


def test_clips_do_not_pile_up_before_they_are_written(bare, monkeypatch):
    may = threading.Event()
    monkeypatch.setattr(workers, "write", lambda *args: may.wait(30))
    bare.painter.draw = lambda requests, on_step: SimpleNamespace(frames=[0] * len(requests), seconds={})
    bare._run(bare.requests[:1])
    assert [m[0] for m in bare.said()] == ["drawn"]  # the next is drawn while this one is written
    second = threading.Thread(target=bare._run, args=(bare.requests[1:],))
    second.start()
    second.join(0.2)
    assert second.is_alive() and not bare.said()
    may.set()
    second.join(30)
    assert [m[:2] for m in bare.said()][:1] == [("done", "a")] and not second.is_alive()
