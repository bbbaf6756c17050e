import sqlite3
import time

import pytest

from serving.contract import Request
from serving.store import Store
from unlearn_export.errors import UnlearnExportError

SIZE = {"width": 16, "height": 16, "num_frames": 2, "num_inference_steps": 3, "guidance_scale": 3.0, "fps": 8}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "jobs.sqlite3")


def request(id, **changes):
    return Request(**{"id": id, "prompt": "a “pizza” 🍕", "seed": 2**63 - 1, "folder": f"/clips/{id}"} | SIZE | changes)


def test_a_job_comes_back_as_it_went_in_even_from_another_process(store, tmp_path):
    job = store.add(request("a"), "ann", "t2v", "once", "digest")
    again = Store(tmp_path / "jobs.sqlite3").get("a")
    assert again == job and again.request == request("a") and again.status == "queued"


def test_nothing_ends_twice_and_nothing_ended_begins(store):
    store.add(request("a"))
    assert store.begin("a", 1) and store.get("a").status == "in_progress"
    assert store.complete("a", {"denoise": 1.5}, 2, 100, "f0")
    for late in (store.begin("a", 2), store.fail("a", "x", "y"), store.complete("a", {}, 1, 1)):
        assert not late
    store.requeue(["a"])
    job = store.get("a")
    assert (job.status, job.attempts, job.seconds, job.batch, job.bytes) == ("completed", 1, {"denoise": 1.5}, 2, 100)
    assert job.fingerprint == "f0"


def test_a_store_from_before_fingerprints_is_taken_over(store, tmp_path):
    store.add(request("a"))
    store._db.execute("ALTER TABLE jobs DROP COLUMN fingerprint")
    again = Store(tmp_path / "jobs.sqlite3")
    assert again.get("a").fingerprint == "" and again.complete("a", {}, 1, 1, "f0")


def test_a_fact_is_the_one_that_was_noted_last(store, tmp_path):
    assert store.noted("model") is None
    for value in ("a", "b “🍕”"):
        store.note("model", value)
    assert Store(tmp_path / "jobs.sqlite3").noted("model") == "b “🍕”"


def test_a_store_from_before_facts_is_taken_over(store, tmp_path):
    store.add(request("a"))
    store._db.execute("DROP TABLE facts")
    again = Store(tmp_path / "jobs.sqlite3")
    again.note("model", "a")
    assert again.noted("model") == "a" and again.get("a").request == request("a")


def test_what_a_later_version_added_is_passed_over(store):
    store.add(request("a"))
    store._db.execute("UPDATE jobs SET request = json_set(request, '$.motion', 0.5)")
    store._db.execute("ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0")
    assert store.get("a").request == request("a") and store.add(request("b")).id == "b"


@pytest.mark.parametrize(
    "change",
    ["request = 'nonsense'", "request = '{}'", "request = json_set(request, '$.width', 'wide')",
     "request = json_set(request, '$.encoder', 5)", "seconds = '[1]'", "seconds = '{'", "request = CAST(x'80' AS TEXT)"],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_a_failed_job_among_the_others(store, change):
    for id in "abc":
        store.add(request(id), "ann")
    store._db.execute(f"UPDATE jobs SET {change} WHERE id = 'b'")
    assert [(job.id, job.status) for job in store.page("ann")] == [("c", "queued"), ("b", "failed"), ("a", "queued")]
    assert (store.get("b").code, store.get("b").over) == ("unreadable", True)
    assert [job.id for job in store.unended()] == ["a", "b", "c"]
    assert store.delete("b") and [job.id for job in store.page("ann")] == ["c", "a"]


def test_an_attempt_cut_off_by_us_is_forgiven(store):
    for id in "ab":
        store.add(request(id))
        store.begin(id, 1)
    store.requeue(["a"])
    store.requeue(["b"], forgive=True)
    assert [(j.id, j.status, j.attempts) for j in store.unended()] == [("a", "queued", 1), ("b", "queued", 0)]


def test_pages_go_through_everything_once(store):
    for i in range(7):
        store.add(request(str(i)), "ann" if i % 2 == 0 else "bob")
    seen, after = [], None
    while page := store.page(None, after=after, limit=3):
        seen += [job.id for job in page]
        after = page[-1].id
    assert seen == list("6543210")
    assert [job.id for job in store.page("ann", ascending=True)] == list("0246")
    with pytest.raises(KeyError):
        store.page("bob", after="0")


def test_an_idempotency_key_is_one_owner_s(store):
    store.add(request("a"), "ann", idempotency="k")
    store.add(request("b"), "bob", idempotency="k")
    assert store.ordered("k", "ann").id == "a" and store.get("a", "bob") is None
    with pytest.raises(sqlite3.IntegrityError):
        store.add(request("c"), "ann", idempotency="k")
    assert store.get("c") is None and store.used("ann") == 1


def test_a_deleted_job_still_counts_for_the_day(store):
    store.add(request("a"), "ann")
    assert store.delete("a") and not store.delete("a")
    assert (store.used("ann"), store.used("bob")) == (1, 0)
    store.use("bob")
    assert (store.used("ann"), store.used("bob")) == (1, 1)


def test_surplus_is_the_oldest_beyond_count_bytes_and_age(store):
    for id in "abcde":
        store.add(request(id))
        if id != "e":
            store.complete(id, {}, 1, 100)
    assert sorted(store.surplus(3, 1e9, 10**9)) == ["a"]
    assert sorted(store.surplus(99, 1e9, 250)) == ["a", "b"]
    assert store.surplus(99, 1e9, 10**9) == []
    time.sleep(0.01)
    assert sorted(store.surplus(99, 0, 10**9)) == list("abcd")
    store.grow("d", 200)
    assert sorted(store.surplus(99, 1e9, 400)) == ["a", "b"]


def test_what_is_no_store_is_refused_in_one_line(tmp_path):
    (tmp_path / "jobs.sqlite3").write_text("nothing of the kind " * 100)
    with pytest.raises(UnlearnExportError, match="cannot use the job store .*move it away") as caught:
        Store(tmp_path / "jobs.sqlite3")
    assert "\n" not in str(caught.value)
