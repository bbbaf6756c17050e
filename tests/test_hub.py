"""Pushing to a Hub double with the real client, and reading with clients in processes of their own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hub_client import CARD, DOWNLOAD, LOAD, REPO, ROOT, Client, add, contents, copied, head, tree
from hub_double import HubDouble

from unlearn_export.artifact import Artifact, sha256
from unlearn_export.card_text import marked
from unlearn_export.cli import main


def test_push_is_one_private_commit_of_the_same_bytes(hub: HubDouble, client: Client, artifact: Path) -> None:
    pushed = client.push(artifact, message="First")
    assert [commit["title"] for commit in hub.commits(REPO)] == ["First", "initial commit"]
    assert sum("/commit/" in path for _, path in hub.writes) == 1
    assert hub.repos[REPO]["private"] is True
    assert pushed["revision"] == head(hub)
    assert pushed["url"] == f"{hub.url}/{REPO}/commit/{head(hub)}"
    here = contents(artifact)
    assert pushed["files"] == [[name, len(content)] for name, content in here.items()]
    assert {path.count("/") for method, path in hub.writes if method == "PUT"} == {2, 3}, "whole, and in parts"

    there = contents(Path(client.get(DOWNLOAD, REPO, "main")))
    assert there == here

    client.push(artifact)
    assert len(hub.commits(REPO)) == 2, "an unchanged folder makes no commit"

    loaded = client.get(LOAD, REPO, str(artifact / "text_encoder"))
    assert loaded["tensors"] > 30
    assert loaded | {"tensors": 0} == {"missing": 0, "ours": True, "fresh": False, "tensors": 0}

    stranger = Client(hub.url, artifact.parent / "stranger", token=None).run(DOWNLOAD, REPO, "main")
    assert "RepositoryNotFoundError" in stranger.stderr


def test_public_push_is_readable_without_a_token_and_survives_a_restart(tmp_path: Path, artifact: Path) -> None:
    with HubDouble(tmp_path / "hub") as hub:
        pushed = Client(hub.url, tmp_path / "home").push(artifact, private=False, despite=("unmeasured",), tag="v1.0")
        assert hub.repos[REPO]["private"] is False
        assert hub.resolve(REPO, "v1.0") == pushed["revision"] == head(hub)
        assert pushed["tag"] == "v1.0"
    # as a program of its own, with nothing but the standard library
    program = str(ROOT / "tests" / "hub_double.py")
    command = [sys.executable, "-S", program, "--folder", str(tmp_path / "hub"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        stranger = Client(url, tmp_path / "stranger", token=None)
        there = contents(Path(stranger.get(DOWNLOAD, REPO, "v1.0")))
        process.terminate()
    assert there.items() >= contents(artifact).items()


def test_pull_request_leaves_main_alone(hub: HubDouble, client: Client, artifact: Path) -> None:
    pushed = client.push(artifact, create_pr=True)
    assert pushed["url"] == f"{hub.url}/{REPO}/discussions/1"
    assert [commit["title"] for commit in hub.commits(REPO)] == ["initial commit"]
    assert hub.commits(REPO, "refs/pr/1")[0]["id"] == pushed["revision"]
    there = contents(Path(client.get(DOWNLOAD, REPO, "refs/pr/1")))
    assert there.items() >= contents(artifact).items()


def test_what_was_published_once_and_is_no_more_goes_and_what_others_put_there_stays(
    hub: HubDouble, client: Client, artifact: Path, tmp_path: Path
) -> None:
    graph, note, kept = "text_encoder/model.onnx", "unlearning/old.txt", "unlearning/mended.txt"
    earlier = copied(artifact, tmp_path / "earlier", **{graph: b"a graph", note: b"old", kept: b"old"})
    client.push(earlier)
    add(hub, **{"theirs.txt": b"theirs", kept: b"mended by hand"})
    assert {graph, note, kept, "theirs.txt"} < tree(hub).keys()  # the control
    pushed = client.push(artifact)
    assert pushed["changes"]["deleted"] == [graph, note] and pushed["changes"]["left"] == ["theirs.txt", kept]
    assert tree(hub).keys() == {*contents(artifact), ".gitattributes", "theirs.txt", kept}
    assert [c["title"] for c in hub.commits(REPO)][:2] == ["Publish the edited text encoder", "other"], "one commit"
    assert pushed["changes"]["changed"] == ["unlearning/manifest.json"]
    again = client.push(artifact)
    assert again["revision"] == pushed["revision"] and again["changes"]["deleted"] == []


def test_a_manifest_of_somebody_else_deletes_nothing(hub: HubDouble, client: Client, artifact: Path) -> None:
    hub.create(REPO, private=True)
    add(hub, **{"unlearning/manifest.json": b"[1]", "old.txt": b"old"})
    client.push(artifact)
    assert {"old.txt", "README.md"} < tree(hub).keys()


def test_a_tag_elsewhere_is_refused_before_any_commit(hub: HubDouble, client: Client, artifact: Path) -> None:
    hub.create(REPO, private=True)
    hub.repos[REPO]["refs"]["refs/tags/v1.0"] = head(hub)
    assert "has a tag 'v1.0' already" in client.refused(artifact, code=6, tag="v1.0")
    assert len(hub.commits(REPO)) == 1
    assert [path for _, path in hub.writes] == ["/api/repos/create"]


def test_the_same_tag_on_the_same_commit_is_success(hub: HubDouble, client: Client, artifact: Path) -> None:
    pushed = client.push(artifact, tag="v1.0")
    assert client.push(artifact, tag="v1.0")["revision"] == pushed["revision"] == hub.resolve(REPO, "v1.0")
    add(hub)
    assert "has a tag 'v1.0' already" in client.refused(artifact, code=6, tag="v1.0")
    assert hub.resolve(REPO, "v1.0") == pushed["revision"]


def test_dry_run_sends_nothing(hub: HubDouble, client: Client, artifact: Path, tmp_path: Path) -> None:
    planned = client.push(artifact, dry_run=True, tag="v1.0")
    assert hub.requests == []
    assert planned["revision"] == ""
    assert planned["changes"] is None
    assert planned == Client(hub.url, tmp_path / "home", token=None).push(artifact, dry_run=True, tag="v1.0")
    pushed = client.push(artifact, tag="v1.0")
    assert hub.writes, "the control: a real push is seen"
    assert pushed["files"] == planned["files"]


def test_token_is_needed_and_checked(hub: HubDouble, artifact: Path, tmp_path: Path) -> None:
    line = Client(hub.url, tmp_path / "none", token=None).refused(artifact, code=4)
    assert line.endswith("no Hugging Face token: set HF_TOKEN or run `hf auth login`, then push again")
    assert hub.requests == []
    assert "does not accept this token (401)" in Client(hub.url, tmp_path / "bad", token="hf_bad").refused(
        artifact, code=4
    )
    assert hub.repos == {}
    saved = tmp_path / "saved" / "token"
    saved.parent.mkdir()
    saved.write_text("hf_test")
    Client(hub.url, saved.parent, token=None).push(artifact)
    assert len(hub.commits(REPO)) == 2


def test_a_token_does_not_travel_in_the_clear(artifact: Path, tmp_path: Path) -> None:
    for url in ("http://hub.example", "http://10.0.0.1:8080", "http://127.0.0.1.example"):
        line = Client(url, tmp_path / "home").refused(artifact, code=2)
        assert f"HF_ENDPOINT is {url}: the token would go there unencrypted" in line
    told = Client("https://127.0.0.1:9", tmp_path / "home").refused(artifact, code=8)
    assert "cannot reach" in told  # the control: with https it is tried


def test_names_are_checked_before_any_request(hub: HubDouble, client: Client, artifact: Path) -> None:
    assert "has no owner" in client.refused(artifact, "name")
    assert "Repo id must be in the form" in client.refused(artifact, "a/b/c")
    assert "cannot be a tag" in client.refused(artifact, tag="v 1")
    assert hub.requests == []


def test_a_name_of_somebody_else_is_refused(hub: HubDouble, client: Client, artifact: Path) -> None:
    assert "may not write to other/name (403)" in client.refused(artifact, "other/name", code=4)
    assert hub.repos == {}


def test_visibility_that_differs_is_refused(hub: HubDouble, client: Client, artifact: Path) -> None:
    hub.create(REPO, private=False)
    assert "owner/name is public and this push is private" in client.refused(artifact)
    hub.repos[REPO]["private"] = True
    assert "owner/name is private and this push is public" in client.refused(
        artifact, private=False, despite=["unmeasured"]
    )
    assert len(hub.commits(REPO)) == 1
    assert hub.repos[REPO]["private"] is True


def test_altered_artifact_is_refused_before_any_request(
    hub: HubDouble, client: Client, artifact: Path, tmp_path: Path
) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(artifact, altered)
    weights = altered / "text_encoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "text_encoder/model.safetensors" in client.refused(altered)
    assert hub.requests == []


def test_a_card_that_the_hub_rejects(hub: HubDouble, client: Client, artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "card"
    shutil.copytree(artifact, folder)
    (folder / "README.md").write_text(CARD.replace("some/base", "./models/base"))
    line = client.refused(folder, code=9)
    assert "rejects the model card" in line
    assert "./models/base" in line
    assert len(hub.commits(REPO)) == 1


def test_what_somebody_wrote_into_the_card_on_the_hub_stays(
    hub: HubDouble, client: Client, artifact: Path, tmp_path: Path
) -> None:
    def there() -> str:
        return (hub.blobs / tree(hub)["README.md"]["sha256"]).read_text()

    first, second = (marked(CARD + f"\nNumber {n}.\n") for n in (1, 2))
    client.push(artifact, card=first)
    add(hub, **{"README.md": first.replace("- unlearning", "- unlearning\n- mine").encode() + b"\nMy notes.\n"})
    client.push(artifact, card=second)
    assert "Number 2." in there() and "Number 1." not in there()
    assert there().endswith("My notes.\n") and "- mine" in there()
    assert client.push(artifact, card=second)["changes"]["changed"] == []
    line = client.refused(artifact, code=6, card=second + "\nOther notes.\n")
    assert "has text of its own, and so has the one here" in line and "--replace-card" in line
    client.push(artifact, card=second + "\nOther notes.\n", replace_card=True)
    assert there() == second + "\nOther notes.\n"


def test_the_command_tells_what_it_sent(hub: HubDouble, client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    quick = ["-O", "steps=2", "-O", "pool=32", "--no-evaluate", "--no-onnx"]
    assert CliRunner().invoke(main, ["erase", "pizza", "--base", "demo", "-o", str(folder), *quick]).exit_code == 0
    old = folder / "unlearning" / "old.txt"
    old.write_text("old\n")
    Artifact.open(folder).seal()

    def run(*words: str) -> dict[str, Any]:
        with client.here():
            done = CliRunner().invoke(main, ["push", str(folder), REPO, *words])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if "--json" in words else {"said": done.stdout, "warned": done.stderr}

    first = run("--json")
    assert {file["state"] for file in first["files"]} == {"new"}
    assert first["sent_bytes"] == sum(file["bytes"] for file in first["files"])
    add(hub, **{"theirs.txt": b"theirs"})
    old.unlink()
    Artifact.open(folder).seal()
    (folder / "LICENSE").write_text("another\n")
    Artifact.open(folder).seal()
    second = run()
    sent = sum(tree(hub)[name]["size"] for name in ("LICENSE", "README.md", "unlearning/manifest.json"))
    assert f"sent 3 files, {sent:,} bytes " in second["said"]
    assert f"(0 new, 3 changed, 1 deleted, {len(first['files']) - 4} unchanged)" in second["said"]
    assert second["warned"] == "left alone, not of this artifact: theirs.txt\n"
    third = run("--json")
    assert third["sent_bytes"] == 0 and third["deleted"] == [] and third["left"] == ["theirs.txt"]


XET = """
import json, sys
from dataclasses import asdict
from unlearn_export.hub import push
print(json.dumps(asdict(push(sys.argv[1], sys.argv[2]))))
"""


def test_a_push_over_xet(artifact: Path, tmp_path: Path) -> None:
    store = tmp_path / "cas"
    store.mkdir()
    with HubDouble(tmp_path / "hub", xet=store) as hub:
        client = Client(hub.url, tmp_path / "home", HF_HUB_DISABLE_XET="0", HF_XET_CACHE=str(tmp_path / "xet"))
        done = client.run(XET, str(artifact), REPO)
        if done.returncode and "local" in done.stderr:
            pytest.skip("this hf_xet takes no folder for its store")
        assert done.returncode == 0, done.stderr
        pushed = json.loads(done.stdout.splitlines()[-1])
        assert pushed["revision"] == head(hub) and tree(hub).keys() > contents(artifact).keys()
        assert tree(hub)["text_encoder/model.safetensors"]["sha256"] == sha256(
            artifact / "text_encoder/model.safetensors"
        )
        assert any("/xet-write-token/" in path for _, path in hub.requests)
        assert not any("/lfs/" in path for _, path in hub.requests), "none of it went as LFS"
        held = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
        assert held > (artifact / "text_encoder/model.safetensors").stat().st_size / 2
        assert json.loads(client.run(XET, str(artifact), REPO).stdout.splitlines()[-1])["revision"] == head(hub)
