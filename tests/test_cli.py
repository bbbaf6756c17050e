"""The command line as a user meets it: results on stdout, one line for a mistake, the documented exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from unlearn_export.cli import main

FAST = ["-O", "steps=60", "--no-evaluate", "--no-onnx"]


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact by the shortest way through every stage."""
    folder = tmp_path_factory.mktemp("cli") / "out"
    small = ["--target-images", "3", "--other-images", "1", "--target-clips", "1", "--steps", "2"]
    done = run("erase", "pizza", "--base", "demo", "-o", folder, "-O", "steps=60", "--t2v", "demo:t2v-unet3d", *small)
    assert done.exit_code == 0, done.output
    return folder


def refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 or code == 2
    assert all(word in result.stderr for word in words), result.stderr
    assert "Traceback" not in result.output


def test_erase_builds_the_whole_folder(out: Path) -> None:
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert {
        *("README.md", "LICENSE", "NOTICE", "text_encoder/model.safetensors", "text_encoder/model.onnx"),
        *("tokenizer/vocab.json", "tokenizer/merges.txt", "unlearning/recipe.json", "unlearning/evaluation.json"),
        *("unlearning/manifest.json", "unlearning/t2i.png", "unlearning/t2v-unet3d-after.webp"),
    } <= files
    report = json.loads((out / "unlearning" / "evaluation.json").read_text())
    assert set(report["pipelines"]) == {"t2i", "t2v-unet3d"}


def test_stages_can_be_redone_and_the_folder_stays_sealed(out: Path) -> None:
    for args in (["verify", out], ["export", out], ["card", out, "--repo", "owner/name"], ["verify", out, "--json"]):
        result = run(*args)
        assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["files"] > 10
    assert "owner/name" in (out / "README.md").read_text()


def test_the_edited_encoder_changes_the_clip(out: Path, tmp_path: Path) -> None:
    clips = []
    for name, extra in (
        ("before", []),
        ("torch", ["--encoder", out]),
        ("onnx", ["--encoder", out, "--backend", "onnx"]),
    ):
        clip = tmp_path / f"{name}.gif"
        done = run("generate", "a pizza", "--t2v", "demo:t2v-unet3d", "--steps", "3", "-o", clip, *extra)
        assert done.exit_code == 0, done.output
        clips.append(clip.read_bytes())
    assert clips[0] != clips[1]
    assert clips[0] != clips[2]


def test_methods_lists_every_option() -> None:
    listed = json.loads(run("methods", "--json").stdout)
    assert set(listed) == {"anchor", "robust", "few-shot"}
    assert {"steps", "lr", "keep"} <= set(listed["anchor"]["options"])
    for about in listed.values():
        assert about["meanings"].keys() == about["options"].keys() and all(about["meanings"].values())


def test_wrong_usage_is_told_in_one_line(tmp_path: Path, out: Path) -> None:
    base = ["--base", "demo", "-o", tmp_path / "new"]
    refused(run("erase", "pizza", *base, "--method", "magic"), 2, "magic", "anchor, robust, few-shot")
    refused(run("erase", "pizza", *base, "-O", "rate=1"), 2, "rate", "lr")
    refused(run("erase", "pizza", *base, "--anchor", "pizza"), 2, "the concept itself")
    refused(run("erase", "pizza", "--base", "nowhere", "-o", tmp_path / "new"), 1, "nowhere", "demo")
    refused(run("erase", "unheard", *base, "-O", "steps=2", "--no-onnx"), 2, "unheard", "knows")
    refused(run("erase", "pizza", "--base", "demo", "-o", out), 1, "exists already", "--overwrite")
    refused(run("verify", tmp_path / "new"), 1, "no artifact folder")
    refused(run("generate", "x", "--t2v", "demo:t2v-unet3d", "-o", tmp_path / "x.avi"), 2, ".mp4")
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_cannot_be_read_leave_nothing_behind(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    args = ["erase", "pizza", "--base", "demo", "-o", tmp_path / "new", "--method", "few-shot", "--no-evaluate"]
    refused(run(*args, "--images", pictures), 1, "no pictures")
    (pictures / "a.png").write_bytes(b"no picture")
    refused(run(*args, "--images", pictures, "--json"), 1, "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["pictures"]


def test_an_error_is_one_object_with_json(tmp_path: Path) -> None:
    result = run("verify", tmp_path / "absent", "--json")
    assert json.loads(result.stdout)["exit_code"] == result.exit_code == 1


def test_heavy_imports_are_lazy() -> None:
    modules = "unlearn_export, unlearn_export.cli, unlearn_export.card, unlearn_export.demo"
    code = f"import sys, {modules}; print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_command_has_an_example() -> None:
    for name in main.commands:
        text = run(name, "-h").stdout
        assert f"unlearn-export {name}" in text.split("Example:")[1]
