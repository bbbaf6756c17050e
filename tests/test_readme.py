"""Every command and every snippet of the README, in its order, in one empty folder.

Two things differ from what a reader does, and the README says nothing of either. Commands and pipelines run at a
fraction of their size: SMALL is appended to a command. The scripts of the set-up and this test suite itself are not
run from here: they must exist and be executable.
"""

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import tiny_pipelines
from click.testing import CliRunner
from serving_client import running

from unlearn_export.artifact import Artifact
from unlearn_export.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [match.groups() for match in re.finditer(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)]
ONE_OF_EACH = ["--target-images", "1", "--other-images", "1", "--target-clips", "1", "--steps", "1"]
LITTLE = [*ONE_OF_EACH, "--variant-images", "0", "--variant-clips", "0", "--t2v", "demo:t2v-motion"]
SMALL = {
    "erase": ["--no-evaluate", "--no-onnx", "-O", "steps=2"],
    "erase --from": ["--no-evaluate", "--no-onnx"],
    "undo": ["--no-evaluate", "--no-onnx"],
    "evaluate": LITTLE,
    "probe": ["--attack", "alias"],
    "generate": ["--steps", "2"],
    "identify": ["--images", "3", "--steps", "2"],
}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all blocks run, one after the other."""
    path = tmp_path_factory.mktemp("readme")
    tiny_pipelines.save_like_hub(tiny_pipelines.PIPELINES["WanPipeline"](), path / "wan", shards=2)
    with contextlib.chdir(path):
        yield path


def run(words: list[str]) -> None:
    if words[0].startswith("scripts/"):
        assert len(words) == 1 and os.access(ROOT / words[0], os.X_OK), words
        return
    assert words[0] == "unlearn-export", f"the README has a command that this test does not know: {words}"
    if words[1] == "serve":  # it does not end by itself
        with running([sys.executable, "-m", "unlearn_export", *words[1:], "--port", "0"]) as server:
            [model, *_] = server.ready().http.get("/v1/models").json()["data"]
            assert server.http.get("/").headers["content-type"].startswith("text/html")
        assert [concept["name"] for concept in model["erased"]] == ["pizza"]
        assert server.process.returncode == 0
        return
    small = SMALL.get(f"{words[1]} --from" if "--from" in words else words[1], [])
    if words[1:3] == ["erase", "pizza"] and words[-1] == "out":
        small = ["--no-evaluate", "-O", "steps=60"]  # the artifact that the later commands take, with its graph
    if "few-shot" in words:
        small = ["--no-onnx", "-O", "steps=2", *LITTLE]  # to be compared, so it is measured
    if "./wan" in words:
        small = {
            "erase": ["-O", "keep=0", "-O", "steps=10"],
            "generate": ["--width", "16", "--height", "16", "--steps", "2"],
        }.get(words[1], [])
    done = CliRunner().invoke(main, [*words[1:], *small])
    assert done.exit_code == 0, (words, done.output, done.exception)


@pytest.mark.parametrize(("kind", "text"), BLOCKS, ids=[f"{kind or 'text'}-{i}" for i, (kind, _) in enumerate(BLOCKS)])
def test_block(kind: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "sh":
        for line in text.splitlines():
            if words := shlex.split(line, comments=True):
                run(words)
    elif kind == "python":
        monkeypatch.setattr("unlearn_export.erasers.Anchor.__init__", quick(), raising=True)
        exec(compile(text.replace("num_inference_steps=20", "num_inference_steps=2"), "README.md", "exec"), {})
    else:
        assert kind == "", f"a block of {kind!r} that nothing runs"


def quick():  # type: ignore[no-untyped-def]
    """``Anchor`` with few steps, whatever the snippet asks for."""
    from unlearn_export.erasers import Anchor

    init = Anchor.__init__

    def few_steps(self: Anchor, **options: object) -> None:
        init(self, **options | {"steps": 2})  # type: ignore[arg-type]

    return few_steps


def test_what_the_commands_made(folder: Path) -> None:
    made = {path.name for path in folder.iterdir()}
    assert {"out", "out-python", "chosen", "two", "style", "ascent", "known", "clip.mp4", "clip.gif"} <= made
    assert Artifact.open("out").has_onnx
    assert "owner/name" in (folder / "out" / "README.md").read_text(encoding="utf-8")


def test_the_tree_is_what_an_artifact_holds(folder: Path) -> None:
    [tree] = [re.sub(r"docs/\S+", "", text) for kind, text in BLOCKS if kind == "" and text.startswith("out/")]
    named = set(re.findall(r"[\w./]+/[\w.]+\.json|\w+\.(?:md|json|safetensors|onnx)\b|LICENSE|NOTICE", tree))
    present = set(Artifact.open("out").files())
    missing = {name for name in named if not any(name in (file, Path(file).name) for file in present)}
    assert not missing


def test_pictures_and_pages_that_it_names_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert "docs/before-after.png" in links
    for link in [*links, "docs/evaluation.md", "NOTICE"]:
        assert (ROOT / link).is_file(), link


def test_the_first_screen_has_the_picture_and_the_two_commands() -> None:
    first = "\n".join(README.splitlines()[:20])
    for part in ("docs/before-after.png", "scripts/demo", "scripts/test"):
        assert part in first


def test_public_names_are_what_they_say_whatever_was_imported_before() -> None:
    import unlearn_export
    import unlearn_export.erase
    import unlearn_export.stages

    for name in unlearn_export.__all__:
        assert not isinstance(getattr(unlearn_export, name), ModuleType), name


def test_every_command_is_in_it() -> None:
    named = set(re.findall(r"^unlearn-export (\w+)", README, re.M))
    assert named <= set(main.commands)
    assert {"card", "erase", "evaluate", "export", "generate", "methods", "push", "verify"} <= named
