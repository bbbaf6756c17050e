"""An artifact to push, a client of a Hub double, and what is there afterwards."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_double import HubDouble
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars
from safetensors.torch import save_file
from test_recipe import SEAT, third
from transformers import CLIPTextConfig, CLIPTextModel

from unlearn_export.artifact import FORMAT, RECIPE, Artifact, write_json
from unlearn_export.errors import UnlearnExportError
from unlearn_export.hub import push
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


def make_artifact(folder: Path, seed: int = 0, *, base: dict[str, Any] | None = None, **reports: Any) -> Path:
    """A sealed artifact with a random two-layer encoder, its keys named as a base repo names them.

    base: what the recipe tells of it otherwise. reports: by name, such as evaluation, what its JSON has.
    """
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
    own = {key: tensor_digest(tensor) for key, tensor in weights.items()}
    [edited, *_] = weights
    weights[edited] = weights[edited] + 1
    seat = SEAT | {"tensors": sorted(own), "changed": [edited], "tensor_sha256": own}
    made = third() | {"format": FORMAT, "seed": seed, "seats": {"text_encoder": seat}}
    write_json(folder / RECIPE, made | {"base": made["base"] | (base or {})})
    for name, report in reports.items():
        write_json(folder / "unlearning" / f"{name}.json", report)
    save_file(weights, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    (folder / "LICENSE").write_text("licence\n")
    (folder / "NOTICE").write_text("Änderungen\n", encoding="utf-8")
    (folder / "README.md").write_text(CARD)
    artifact = Artifact.open(folder)
    artifact.seal()
    artifact.verify()
    return folder


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


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in Artifact(folder).files()}


def head(hub: HubDouble) -> str:
    return hub.commits(REPO)[0]["id"]


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
