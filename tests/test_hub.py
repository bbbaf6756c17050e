"""Pushing to a Hub double with the real client, and reading with clients in processes of their own."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hub_double import HubDouble
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import disable_progress_bars
from safetensors.torch import save_file
from test_recipe import SEAT
from transformers import CLIPTextConfig, CLIPTextModel

from unlearn_export.artifact import FORMAT, RECIPE, Artifact, sha256, write_json
from unlearn_export.card_text import marked
from unlearn_export.cli import main
from unlearn_export.errors import NetworkError, UnlearnExportError
from unlearn_export.hub import push
from unlearn_export.hub.requests import WAITS, ask
from unlearn_export.weights import tensor_digest

ROOT = Path(__file__).resolve().parents[1]
REPO = "owner/name"
ENDPOINT = constants.ENDPOINT  # of this process
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

DOWNLOAD = """
import json, sys
from huggingface_hub import snapshot_download
print(json.dumps(snapshot_download(sys.argv[1], revision=sys.argv[2])))
"""

LOAD = """
import json, sys
import torch
from click.testing import CliRunner
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

    @contextmanager
    def here(self) -> Iterator[None]:
        """This process as that client, for the time of the block: imports take more time than pushes do."""
        of, home = self.environment, Path(self.environment["HF_HOME"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", of["HF_ENDPOINT"])
            resolve = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(ENDPOINT)
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", of["HF_ENDPOINT"] + resolve)
            patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
            patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
            patch.setattr(constants, "HF_HUB_DISABLE_XET", of["HF_HUB_DISABLE_XET"] == "1")
            patch.setattr(constants, "HF_HUB_OFFLINE", of.get("HF_HUB_OFFLINE") == "1")
            patch.setenv("HF_TOKEN", of.get("HF_TOKEN", ""))
            disable_progress_bars()
            yield

    def push(self, folder: Path, repo_id: str = REPO, **options: Any) -> dict[str, Any]:
        with self.here():
            return json.loads(json.dumps(asdict(push(folder, repo_id, **options))))

    def refused(self, folder: Path, repo_id: str = REPO, code: int = 1, **options: Any) -> str:
        """The one line that a refused push says. code: what the command exits with."""
        with self.here(), pytest.raises(UnlearnExportError) as caught:
            push(folder, repo_id, **options)
        assert (caught.value.exit_code, "\n" in str(caught.value)) == (code, False), caught.value
        return str(caught.value)


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


def add(hub: HubDouble, title: str = "other", **files: bytes) -> str:
    """Somebody else's commit on main."""
    return hub.commit(
        REPO, "refs/heads/main", head(hub), tree(hub) | {n: hub.store(c) for n, c in files.items()}, title
    )


def tree(hub: HubDouble) -> dict[str, Any]:
    return dict(hub.commits(REPO)[0]["files"])


def copied(artifact: Path, folder: Path, *dropped: str, **files: bytes) -> Path:
    """The artifact with fewer files or other ones, sealed again."""
    shutil.copytree(artifact, folder)
    for name in dropped:
        (folder / name).unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    Artifact.open(folder).seal()
    return folder


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


@pytest.mark.parametrize("status", [503, 429])
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
