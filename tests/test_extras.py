"""What a command will need is asked for before its work, and the message names the extra that brings it."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from unlearn_export.cli import main
from unlearn_export.errors import DependencyError
from unlearn_export.extras import need, need_scorer

CPU = "needs onnxruntime: pip install 'unlearn-export[cpu]'"


def test_what_is_installed_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    need("a test", "cpu", "json", "click")
    need_scorer(None), need_scorer("demo")
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(
        DependencyError, match=r"the scorer nudenet needs nudenet: pip install 'unlearn-export\[nudenet\]'"
    ):
        need_scorer("nudenet")


@pytest.mark.parametrize(
    "words",
    [
        ("erase", "pizza", "--base", "demo", "-o", "out"),
        ("export", "out"),
        ("generate", "a pizza", "--t2v", "demo:t2v-unet3d", "--encoder", "out", "--backend", "onnx", "-o", "a.gif"),
        ("serve", "out", "--t2v", "demo:t2v-unet3d", "--backend", "onnx"),
    ],
    ids=lambda words: words[0],
)
def test_a_package_that_lacks_is_told_before_any_work(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    words = tuple("new" if word == "out" and words[0] == "erase" else word for word in words)
    monkeypatch.setattr("unlearn_export.base.load_base", lambda *_, **__: pytest.fail("a base was loaded"))
    monkeypatch.setattr("unlearn_export.pipelines.load.load_pipeline", lambda *_, **__: pytest.fail("it was loaded"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1 and CPU in done.stderr and done.stderr.count("\n") == 1, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_erase_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    words = ["erase", "pizza", "--base", "demo", "-o", str(tmp_path / "out")]
    assert "or go without one: --no-onnx" in CliRunner().invoke(main, words).stderr
    quick = ["-O", "steps=2", "-O", "pool=32", "--no-evaluate", "--no-onnx"]
    assert CliRunner().invoke(main, [*words, *quick]).exit_code == 0  # the control
    monkeypatch.setitem(sys.modules, "dlib", None)
    told = CliRunner().invoke(main, [*words, "--overwrite", "--no-onnx", "--scorer", "face:people"]).stderr
    assert "the scorer face needs dlib: pip install 'unlearn-export[face]'" in told
