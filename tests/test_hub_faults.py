"""A Hub that is busy, hangs up, loses answers, refuses, or is somebody else's at the same time."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from hub_client import REPO, Client, add, contents, head, tree
from hub_double import HubDouble
from huggingface_hub import HfApi, constants

from unlearn_export.cli import main
from unlearn_export.errors import NetworkError
from unlearn_export.net.requests import WAITS, ask


def test_endpoint_that_does_not_answer(artifact: Path, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert f"cannot reach {url}" in Client(url, tmp_path / "home").refused(artifact, code=8)
        offline = Client(url, tmp_path / "home", HF_HUB_OFFLINE="1")
        assert "offline mode is on: unset HF_HUB_OFFLINE" in offline.refused(artifact, code=8)


@pytest.mark.parametrize("create_pr", [False, True])
def test_lost_answer_to_a_commit_that_landed(hub: HubDouble, client: Client, artifact: Path, create_pr: bool) -> None:
    hub.drop_next_commit_answer()
    pushed = client.push(artifact, create_pr=create_pr, tag="v1.0")
    page = f"commit/{head(hub)}" if not create_pr else "discussions/1"
    assert pushed["url"] == f"{hub.url}/{REPO}/{page}"
    assert pushed["revision"] == hub.resolve(REPO, "refs/pr/1" if create_pr else "main") == hub.resolve(REPO, "v1.0")
    assert sum("/commit/" in path for _, path in hub.writes) == 1


@pytest.mark.parametrize("create_pr", [False, True])
def test_lost_commit_that_did_not_land_is_made_again(
    hub: HubDouble, client: Client, artifact: Path, create_pr: bool
) -> None:
    hub.drop_next_commit_answer(landed=False)
    pushed = client.push(artifact, create_pr=create_pr)
    assert hub.resolve(REPO, "refs/pr/1" if create_pr else "main") == pushed["revision"]
    assert len(hub.commits(REPO)) == 2 - create_pr and "refs/pr/2" not in hub.repos[REPO]["refs"]
    assert sum("/commit/" in path for _, path in hub.writes) == 2


def test_a_commit_that_never_lands_is_told(hub: HubDouble, client: Client, artifact: Path) -> None:
    hub.fail_next("/commit/", 502, times=9, headers={"Retry-After": "0"})
    line = client.refused(artifact, code=8)
    assert "(502)" in line and "the commit was not seen there" in line
    assert len(hub.commits(REPO)) == 1 and sum("/commit/" in path for _, path in hub.writes) == 5


def test_lost_pull_request_is_not_mistaken_for_an_earlier_one(hub: HubDouble, client: Client, artifact: Path) -> None:
    first = client.push(artifact, create_pr=True)
    hub.drop_next_commit_answer(landed=False)
    second = client.push(artifact, create_pr=True)
    assert second["url"].endswith("/discussions/2") and second["revision"] != first["revision"]


class RacedHub(HubDouble):
    """Somebody else's commit lands just before ours, and with ``equal`` all that was to be sent too."""

    equal: Path | None = None

    def fault(self, path: str) -> None:
        if "/commit/" in path and len(self.commits(REPO)) == 1:
            files = {"other.txt": b"other"}
            if self.equal:
                files |= contents(self.equal)
            add(self, **files)
        super().fault(path)


@pytest.mark.parametrize("lost", [False, True])
def test_another_commit_is_not_overwritten(artifact: Path, tmp_path: Path, lost: bool) -> None:
    with RacedHub(tmp_path / "hub") as hub:
        if lost:
            hub.drop_next_commit_answer(landed=False)
        line = Client(hub.url, tmp_path / "home").refused(artifact, code=6)
        assert f"is at {head(hub)[:12]} now, with other files, and nothing was overwritten" in line
        assert hub.commits(REPO)[0]["title"] == "other" and len(hub.commits(REPO)) == 2
        pushed = Client(hub.url, tmp_path / "home").push(artifact)  # having looked
        assert pushed["changes"]["left"] == ["other.txt"] and "other.txt" in tree(hub)


def test_another_commit_of_the_same_files_is_as_good(artifact: Path, tmp_path: Path) -> None:
    with RacedHub(tmp_path / "hub") as hub:
        hub.equal = artifact
        pushed = Client(hub.url, tmp_path / "home").push(artifact, tag="v1")
        assert pushed["revision"] == head(hub) == hub.resolve(REPO, "v1") and len(hub.commits(REPO)) == 2


@pytest.mark.parametrize("content", [b"something else\n", None])
def test_a_hub_that_alters_or_drops_a_file_is_an_error(
    hub: HubDouble, client: Client, artifact: Path, content: bytes | None
) -> None:
    hub.alter_next_commit("LICENSE", content)
    line = client.refused(artifact, tag="v1")
    assert f"commit/{head(hub)} was made, but its LICENSE is not what was sent" in line
    assert "refs/tags/v1" not in hub.repos[REPO]["refs"]
    client.push(artifact, tag="v1")  # the control: it is mended


@pytest.mark.parametrize("status", [503, 429, 0], ids=["503", "429", "hangs up"])
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(
    hub: HubDouble, client: Client, artifact: Path, status: int
) -> None:
    paths = ("/api/repos/create", "^/api/models/owner/name$", "/refs", "/validate-yaml", "/commit/", "/tag/")
    for path in paths:
        hub.fail_next(path, status, headers={"Retry-After": "0"})
    pushed = client.push(artifact, tag="v1")
    assert hub.resolve(REPO, "v1") == pushed["revision"] == head(hub) and len(hub.commits(REPO)) == 2
    assert hub._faults == [], "each was met"
    assert [path for _, path in hub.writes].count("/api/repos/create") == 2
    for method, path in (("PUT", "/lfs/"), ("POST", "/preupload/")):
        assert any(m == method and path in p for m, p in hub.requests), "the control: the client's own requests"


def test_a_wait_that_is_too_long_is_the_users(hub: HubDouble, client: Client, artifact: Path) -> None:
    hub.fail_next("/api/repos/create", 429, headers={"Retry-After": "3600"})
    assert "wait 3600 s, then push again" in client.refused(artifact, code=7)
    assert hub.writes == [("POST", "/api/repos/create")]


@pytest.mark.parametrize(
    ("path", "status", "name", "code", "said"),
    [
        ("/commit/", 409, None, 6, "was changed at the same time (409)"),
        ("/commit/", 403, None, 4, "may not write to owner/name (403)"),
        ("/preupload/", 403, "GatedRepo", 5, "is gated"),
        ("/refs", 404, "RepoNotFound", 5, "does not exist or this token may not see it"),
        ("^/lfs/", 400, None, 1, "refused the push of owner/name (400)"),
        ("/api/repos/create", 429, None, 7, "allows no more requests for now (429)"),
        ("/api/repos/create", 503, None, 8, "has a fault of its own (503)"),
    ],
)
def test_refusals_of_the_hub_are_one_line_and_a_code(
    hub: HubDouble, client: Client, artifact: Path, path: str, status: int, name: str | None, code: int, said: str
) -> None:
    hub.fail_next(path, status, code=name, times=5, headers={"Retry-After": "0"})
    assert said in client.refused(artifact, code=code)
    assert REPO not in hub.repos or len(hub.commits(REPO)) == 1


def test_the_wait_is_what_the_hub_asks_for(hub: HubDouble, client: Client) -> None:
    waits: list[float] = []
    for status, asked in ((503, "7"), (429, ""), (503, "Wed, 21 Oct 2015 07:28:00 GMT")):
        hub.fail_next("/whoami-v2", status, headers={"Retry-After": asked})
    with client.here():
        told = ask(REPO, HfApi(token="hf_test").whoami, sleep=waits.append)
    assert told["name"] == "owner" and waits == [7.0, WAITS[1], 0.0]
    hub.fail_next("/whoami-v2", 503, times=9)
    with client.here(), pytest.raises(NetworkError, match="has a fault of its own"):
        ask(REPO, HfApi(token="hf_test").whoami, sleep=waits.append)
    assert waits[3:] == list(WAITS), "bounded"


class TaggedHub(HubDouble):
    """Makes the tag and answers as if it had been there: what a repeated request meets."""

    def fault(self, path: str) -> None:
        if "/tag/" in path:
            self.repos[REPO]["refs"]["refs/tags/v1.0"] = head(self)
        super().fault(path)


def test_a_tag_whose_answer_was_lost_is_success(artifact: Path, tmp_path: Path) -> None:
    with TaggedHub(tmp_path / "hub") as hub:
        assert Client(hub.url, tmp_path / "home").push(artifact, tag="v1.0")["revision"] == hub.resolve(REPO, "v1.0")


def test_a_tag_that_fails_says_that_the_commit_landed(hub: HubDouble, client: Client, artifact: Path) -> None:
    hub.fail_next("/tag/", 403)
    line = client.refused(artifact, code=4, tag="v1.0")
    assert f"pushed {hub.url}/{REPO}/commit/{head(hub)}, but the tag 'v1.0' failed" in line


def test_a_base_on_the_hub_fails_with_the_same_codes(
    hub: HubDouble, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.create("other/gated", private=False, gated=True)

    def erase(url: str, base: str) -> tuple[int, str]:
        words = ["erase", "pizza", "--anchor", "cat", "--base", base, "-o", str(tmp_path / "out"), "--no-onnx"]
        with Client(url, tmp_path / "home").here():
            done = CliRunner().invoke(main, words)
        assert done.stderr.count("\n") == 1, done.output
        return done.exit_code, done.stderr

    assert erase(hub.url, "other/gated")[0] == 5
    assert erase(hub.url, "other/absent")[0] == 5
    assert erase("http://127.0.0.1:9", "other/gated")[0] == 8
    seen = len(hub.requests)
    code, said = erase("http://hub.example", "other/gated")
    assert code == 2 and "the token would go there unencrypted" in said and len(hub.requests) == seen


def test_a_judge_on_the_hub_fails_with_the_same_codes(
    hub: HubDouble, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.create("other/gated", private=False, gated=True)

    def identify(url: str, scorer: str) -> tuple[int, str]:
        with Client(url, tmp_path / "home").here():
            done = CliRunner().invoke(main, ["identify", "pizza", "--base", "demo", "--scorer", scorer])
        assert done.stderr.count("\n") == 1, done.output
        return done.exit_code, done.stderr

    code, said = identify(hub.url, "clip:other/gated")
    assert code == 5 and "cannot get other/gated" in said
    assert identify(hub.url, "clip:other/absent")[0] == 5
    assert identify("http://127.0.0.1:9", "clip:other/gated")[0] == 8
    assert identify(hub.url, "clip:nowhere")[0] == 1  # the control: what is no Hub id never asks
