"""The artifact folder: complete or absent, and every change to it is named."""

import json
import os
from pathlib import Path

import pytest
import tiny
import tiny_pipelines
from click.testing import CliRunner

from unlearn_export.artifact import Artifact, read_json, renewed, staged, write_text
from unlearn_export.cli import main
from unlearn_export.errors import ArtifactError


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return tiny.artifact(tmp_path / "artifact", tiny.encoder())


def test_verify_names_the_first_file_that_differs(artifact: Artifact) -> None:
    assert artifact.verify() > 0
    weights = artifact.path / "text_encoder" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="text_encoder/model.safetensors .* was altered"):
        artifact.verify()
    weights.write_bytes(whole)
    (artifact.path / "tokenizer" / "extra.txt").write_text("x")
    with pytest.raises(ArtifactError, match="tokenizer/extra.txt was added"):
        artifact.verify()
    (artifact.path / "tokenizer" / "extra.txt").unlink()
    (artifact.path / "LICENSE").unlink()
    with pytest.raises(ArtifactError, match="LICENSE is missing"):
        artifact.verify()


def test_open_refuses_what_is_no_artifact(tmp_path: Path, artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="no artifact folder"):
        Artifact.open(tmp_path / "absent")
    recipe = artifact.path / "unlearning" / "recipe.json"
    recipe.write_text(json.dumps(read_json(recipe) | {"format": 99}))
    with pytest.raises(ArtifactError, match="format 99"):
        Artifact.open(artifact.path)


def test_staged_leaves_all_or_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), staged(out) as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with staged(out) as folder:
        (folder / "whole").write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with pytest.raises(ArtifactError, match="exists already"), staged(out):
        pass
    with pytest.raises(ArtifactError, match="no artifact that could be replaced"), staged(out, overwrite=True):
        pass
    assert (out / "whole").exists()


def test_only_an_artifact_is_replaced_and_only_by_a_whole_one(tmp_path: Path, artifact: Artifact) -> None:
    with pytest.raises(KeyboardInterrupt), staged(artifact.path, overwrite=True) as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert artifact.verify() > 0
    with staged(artifact.path, overwrite=True) as folder:
        (folder / "new").write_text("x")
    assert [p.name for p in artifact.path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_a_stage_is_redone_as_a_whole_or_not_at_all(artifact: Artifact) -> None:
    before = {name: (artifact.path / name).read_bytes() for name in artifact.files()}
    with pytest.raises(KeyboardInterrupt), renewed(artifact) as twin:
        write_text(twin.path / "LICENSE", "another")
        raise KeyboardInterrupt
    assert {name: (artifact.path / name).read_bytes() for name in artifact.files()} == before
    with renewed(artifact) as twin:
        write_text(twin.path / "LICENSE", "another")
        assert (artifact.path / "LICENSE").read_bytes() == before["LICENSE"], "the original sees nothing yet"
        twin.seal()
    assert (artifact.path / "LICENSE").read_text() == "another"
    assert artifact.verify() > 0
    assert [p.name for p in artifact.path.parent.iterdir()] == [artifact.path.name]


def test_all_that_is_written_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_pipelines.t5().save_pretrained(base / "text_encoder")
    tiny_pipelines.t5_tokenizer().save_pretrained(base / "tokenizer")
    for path in base.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)  # a base that is nobody else's business
    few = ["-O", "pool=16", "-O", "batch=4", "-O", "steps=1", "-O", "keep=0", "--no-evaluate", "--no-onnx"]
    words = [
        "erase",
        "pizza",
        "--anchor",
        "clown",
        "--base",
        str(base / "text_encoder"),
        "-o",
        str(tmp_path / "out"),
        *few,
    ]
    before = os.umask(0o027)
    try:
        done = CliRunner().invoke(main, words)
    finally:
        os.umask(before)
    assert done.exit_code == 0, done.output
    modes = {path.name: path.stat().st_mode & 0o777 for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]}
    assert {
        name: mode for name, mode in modes.items() if mode != (0o640 if "." in name or name.isupper() else 0o750)
    } == {}
    assert {"out", "tokenizer", "model.safetensors", "recipe.json", "LICENSE"} <= modes.keys()
