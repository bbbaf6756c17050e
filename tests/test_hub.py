"""Pushing to a Hub double with the real client. Each client is a process of its own: HF_ENDPOINT is read at import."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_double import HubDouble
from safetensors.torch import save_file
from test_recipe import SEAT
from transformers import CLIPTextConfig, CLIPTextModel

from unlearn_export.artifact import FORMAT, RECIPE, Artifact, write_json
from unlearn_export.weights import tensor_digest

ROOT = Path(__file__).resolve().parents[1]
REPO = "owner/name"
CARD = """---
license: creativeml-openrail-m
library_name: transformers
pipeline_tag: feature-extraction
base_model: some/base
base_model_relation: finetune
tags:
- unlearning
---
# An edited text encoder
"""

PUSH = """
import json, sys
from dataclasses import asdict
from unlearn_export.errors import UnlearnExportError
from unlearn_export.hub import push
try:
    print(json.dumps(asdict(push(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3])))))
except UnlearnExportError as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""

DOWNLOAD = """
import json, sys
from huggingface_hub import snapshot_download
print(json.dumps(snapshot_download(sys.argv[1], revision=sys.argv[2])))
"""

LOAD = """
import json, sys
import torch
from transformers import CLIPTextModel
repo, local = sys.argv[1:]
model, info = CLIPTextModel.from_pretrained(repo, subfolder="text_encoder", output_loading_info=True)
ours = CLIPTextModel.from_pretrained(local).state_dict()
fresh = CLIPTextModel(model.config).state_dict()
same = lambda other: all(torch.equal(value, other[key]) for key, value in model.state_dict().items())
missing = len(info["missing_keys"])
print(json.dumps({"missing": missing, "ours": same(ours), "fresh": same(fresh), "tensors": len(ours)}))
"""


def make_artifact(folder: Path, seed: int = 0) -> Path:
    """A sealed artifact with a random two-layer encoder, its keys named as a base repo names them."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=1000, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    model = CLIPTextModel(config)
    for name in ("text_encoder", "tokenizer", "unlearning"):
        (folder / name).mkdir(parents=True)
    model.config.save_pretrained(folder / "text_encoder")
    weights = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in model.state_dict().items()}
    (folder / "tokenizer" / "vocab.json").write_text('{"a</w>": 0}')
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "unlearning" / "picture.png").write_bytes(b"\x89PNG\0" + bytes(range(256)))
    base = {key: tensor_digest(tensor) for key, tensor in weights.items()}
    [edited, *_] = weights
    weights[edited] = weights[edited] + 1
    seat = SEAT | {"tensors": sorted(base), "changed": [edited], "tensor_sha256": base}
    write_json(folder / RECIPE, {"format": FORMAT, "seed": seed, "seats": {"text_encoder": seat}})
    save_file(weights, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    (folder / "LICENSE").write_text("licence\n")
    (folder / "NOTICE").write_text("Änderungen\n", encoding="utf-8")
    (folder / "README.md").write_text(CARD)
    artifact = Artifact.open(folder)
    artifact.seal()
    artifact.verify()
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("artifact") / "encoder")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubDouble]:
    with HubDouble(tmp_path / "hub", token="hf_test", part_size=64 * 1024) as double:
        yield double


class Client:
    """Runs a script against one endpoint, with a Hugging Face home of its own."""

    def __init__(self, url: str, home: Path, token: str | None = "hf_test", **environment: str):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        self.environment = {
            **inherited,
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            **({"HF_TOKEN": token} if token else {}),
            **environment,
        }

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, *arguments]
        options: dict[str, Any] = {"env": self.environment, "cwd": ROOT, "capture_output": True, "timeout": 120}
        return subprocess.run(command, check=False, text=True, **options)

    def get(self, script: str, *arguments: str) -> Any:
        """What the script printed last. Fails the test where it failed."""
        done = self.run(script, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def push(self, folder: Path, repo_id: str = REPO, **options: Any) -> dict[str, Any]:
        return self.get(PUSH, str(folder), repo_id, json.dumps(options))

    def refused(self, folder: Path, repo_id: str = REPO, **options: Any) -> str:
        """The one line that a refused push says."""
        done = self.run(PUSH, str(folder), repo_id, json.dumps(options))
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.split(": ")[0] in ("HubError", "ArtifactError"), done.stderr
        return last


@pytest.fixture
def client(hub: HubDouble, tmp_path: Path) -> Client:
    return Client(hub.url, tmp_path / "home")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in Artifact(folder).files()}


def head(hub: HubDouble) -> str:
    return hub.commits(REPO)[0]["id"]


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
        pushed = Client(hub.url, tmp_path / "home").push(artifact, private=False, tag="v1.0")
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


def test_stale_files_on_the_hub_stay(hub: HubDouble, client: Client, artifact: Path) -> None:
    hub.create(REPO, private=True)
    hub.commit(REPO, "refs/heads/main", head(hub), {"old.txt": hub.store(b"old")}, "old")
    client.push(artifact)
    assert {"old.txt", "README.md"} < set(hub.commits(REPO)[0]["files"])


def test_existing_tag_is_refused_before_any_commit(hub: HubDouble, client: Client, artifact: Path) -> None:
    hub.create(REPO, private=True)
    hub.repos[REPO]["refs"]["refs/tags/v1.0"] = head(hub)
    assert "has a tag 'v1.0' already" in client.refused(artifact, tag="v1.0")
    assert len(hub.commits(REPO)) == 1
    assert [path for _, path in hub.writes] == ["/api/repos/create"]


def test_a_tag_that_fails_says_that_the_commit_landed(hub: HubDouble, client: Client, artifact: Path) -> None:
    hub.fail_next("/tag/", 503)
    line = client.refused(artifact, tag="v1.0")
    assert f"pushed {hub.url}/{REPO}/commit/{head(hub)}, but the tag 'v1.0' failed" in line


def test_dry_run_sends_nothing(hub: HubDouble, client: Client, artifact: Path, tmp_path: Path) -> None:
    planned = client.push(artifact, dry_run=True, tag="v1.0")
    assert hub.requests == []
    assert planned["revision"] == ""
    assert planned == Client(hub.url, tmp_path / "home", token=None).push(artifact, dry_run=True, tag="v1.0")
    pushed = client.push(artifact, tag="v1.0")
    assert hub.writes, "the control: a real push is seen"
    assert pushed["files"] == planned["files"]


def test_token_is_needed_and_checked(hub: HubDouble, artifact: Path, tmp_path: Path) -> None:
    line = Client(hub.url, tmp_path / "none", token=None).refused(artifact)
    assert line.endswith("no Hugging Face token: set HF_TOKEN or run `hf auth login`, then push again")
    assert hub.requests == []
    assert "does not accept this token (401)" in Client(hub.url, tmp_path / "bad", token="hf_bad").refused(artifact)
    assert hub.repos == {}
    saved = tmp_path / "saved" / "token"
    saved.parent.mkdir()
    saved.write_text("hf_test")
    Client(hub.url, saved.parent, token=None).push(artifact)
    assert len(hub.commits(REPO)) == 2


def test_names_are_checked_before_any_request(hub: HubDouble, client: Client, artifact: Path) -> None:
    assert "has no owner" in client.refused(artifact, "name")
    assert "Repo id must be in the form" in client.refused(artifact, "a/b/c")
    assert "cannot be a tag" in client.refused(artifact, tag="v 1")
    assert hub.requests == []


def test_a_name_of_somebody_else_is_refused(hub: HubDouble, client: Client, artifact: Path) -> None:
    assert "may not write to other/name (403)" in client.refused(artifact, "other/name")
    assert hub.repos == {}


def test_endpoint_that_does_not_answer(artifact: Path, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert f"cannot reach {url}" in Client(url, tmp_path / "home").refused(artifact)
        offline = Client(url, tmp_path / "home", HF_HUB_OFFLINE="1")
        assert "offline mode is on: unset HF_HUB_OFFLINE" in offline.refused(artifact)


@pytest.mark.parametrize("create_pr", [False, True])
def test_lost_answer_to_a_commit_that_landed(hub: HubDouble, client: Client, artifact: Path, create_pr: bool) -> None:
    hub.drop_next_commit_answer()
    pushed = client.push(artifact, create_pr=create_pr, tag="v1.0")
    page = f"commit/{head(hub)}" if not create_pr else "discussions/1"
    assert pushed["url"] == f"{hub.url}/{REPO}/{page}"
    assert pushed["revision"] == hub.resolve(REPO, "refs/pr/1" if create_pr else "main") == hub.resolve(REPO, "v1.0")
    assert sum("/commit/" in path for _, path in hub.writes) == 1


def test_lost_commit_that_did_not_land(hub: HubDouble, client: Client, artifact: Path) -> None:
    hub.drop_next_commit_answer(landed=False)
    assert "the commit was not seen there" in client.refused(artifact)
    assert len(hub.commits(REPO)) == 1
    hub.fail_next("/commit/", 502)
    assert "(502)" in client.refused(artifact)
    client.push(artifact)
    assert len(hub.commits(REPO)) == 2


def test_lost_pull_request_is_not_mistaken_for_an_earlier_one(hub: HubDouble, client: Client, artifact: Path) -> None:
    client.push(artifact, create_pr=True)
    hub.drop_next_commit_answer(landed=False)
    assert "the commit was not seen there" in client.refused(artifact, create_pr=True)
    assert "refs/pr/2" not in hub.repos[REPO]["refs"]


class RacedHub(HubDouble):
    """Somebody else's commit lands where ours is lost."""

    def drops(self, when: str) -> bool:
        dropped = super().drops(when)
        if dropped:
            self.commit(REPO, "refs/heads/main", head(self), {"other.txt": self.store(b"other")}, "other")
        return dropped


def test_lost_commit_is_not_mistaken_for_somebody_elses(artifact: Path, tmp_path: Path) -> None:
    with RacedHub(tmp_path / "hub") as hub:
        hub.drop_next_commit_answer(landed=False)
        line = Client(hub.url, tmp_path / "home").refused(artifact)
        assert "the commit was not seen there" in line
        assert hub.commits(REPO)[0]["title"] == "other"


@pytest.mark.parametrize(
    ("path", "status", "code", "said"),
    [
        ("/commit/", 409, None, "was changed at the same time (409)"),
        ("/commit/", 403, None, "may not write to owner/name (403)"),
        ("/preupload/", 403, "GatedRepo", "is gated"),
        ("/refs", 404, "RepoNotFound", "does not exist or this token may not see it"),
        ("^/lfs/", 400, None, "refused the push of owner/name (400)"),
        ("/api/repos/create", 429, None, "allows no more requests for now (429)"),
    ],
)
def test_refusals_of_the_hub_are_one_line(
    hub: HubDouble, client: Client, artifact: Path, path: str, status: int, code: str | None, said: str
) -> None:
    hub.fail_next(path, status, code=code)
    assert said in client.refused(artifact)
    assert REPO not in hub.repos or len(hub.commits(REPO)) == 1


def test_visibility_that_differs_is_refused(hub: HubDouble, client: Client, artifact: Path) -> None:
    hub.create(REPO, private=False)
    assert "owner/name is public and this push is private" in client.refused(artifact)
    hub.repos[REPO]["private"] = True
    assert "owner/name is private and this push is public" in client.refused(artifact, private=False)
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
    line = client.refused(folder)
    assert "rejects the model card" in line
    assert "./models/base" in line
    assert len(hub.commits(REPO)) == 1
