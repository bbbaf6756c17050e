"""The command that draws, with pipelines of every kind."""

import json

import numpy as np
import pytest
import tiny_pipelines
from click.testing import CliRunner
from PIL import Image
from tiny_artifacts import artifact
from tiny_pipelines import PIPELINES, save_like_hub

from unlearn_export.cli import main
from unlearn_export.pipelines.call import draw
from unlearn_export.pipelines.load import profile_of


@pytest.fixture
def run(monkeypatch):
    """Run the command with what it drew kept aside: ``run(...).frames``."""
    drawn = []

    def keep(*args, **options):
        drawn.append(draw(*args, **options))
        return drawn[-1]

    monkeypatch.setattr("unlearn_export.pipelines.call.draw", keep)

    def call(*words):
        drawn.clear()
        result = CliRunner().invoke(main, ["generate", *(str(word) for word in words)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        result.frames = drawn[0] if drawn else None
        return result

    return call


SIZE = ("--width", 32, "--height", 32, "--steps", 2)


def test_wan_draws_on_torch_and_onnx(run, tmp_path):
    pipe = PIPELINES["WanPipeline"]()
    source = artifact(tmp_path / "artifact", pipe, onnx=True).path
    folder, out = save_like_hub(pipe, tmp_path / "wan", shards=3), tmp_path / "clip.gif"
    clips = {}
    for backend in ("torch", "onnx"):
        words = (
            "a photo of pizza",
            "--t2v",
            folder,
            "--encoder",
            source,
            "--backend",
            backend,
            "-o",
            out,
            "--frames",
            5,
        )
        result = run(*words, *SIZE, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout) == {"path": str(out), "frames": 5} and "not covered" not in result.stderr
        clips[backend] = result.frames
    original = run("a photo of pizza", "--t2v", folder, "-o", out, "--frames", 5, *SIZE).frames
    assert clips["torch"].shape == (5, 32, 32, 3) and Image.open(out).n_frames == 5
    assert np.abs(clips["torch"] - clips["onnx"]).max() < 1e-4
    assert np.abs(clips["torch"] - original).max() > 2e-5  # the control


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("CogVideoXPipeline", 9),
        ("SanaVideoPipeline", 5),
        ("LattePipeline", 2),
        ("HunyuanVideo15Pipeline", 5),
        ("TextToVideoSDPipeline", 2),
        ("AnimateDiffSDXLPipeline", 2),
    ],
)
def test_every_name_for_frames_and_every_callback_will_do(run, tmp_path, name, frames):
    folder = save_like_hub(PIPELINES[name](), tmp_path / "pipe")
    result = run("a pizza", "--t2v", folder, "-o", tmp_path / "c.gif", "--frames", frames, "--guidance", 3, *SIZE)
    assert result.exit_code == 0, result.stderr
    assert result.frames.shape == (frames, 32, 32, 3) and "generate: 100%" in result.stderr


def test_a_still_is_drawn_where_the_pipeline_draws_stills(run, tmp_path):
    folder = save_like_hub(PIPELINES["StableDiffusionPipeline"](), tmp_path / "pipe")
    result = run("a pizza", "--t2v", folder, "-o", tmp_path / "still.png", "--steps", 2, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["frames"] == 1 and result.frames.shape == (1, 16, 16, 3)


def test_pictures_go_in_where_the_pipeline_takes_them(run, tmp_path):
    folder = save_like_hub(PIPELINES["PIAPipeline"](), tmp_path / "pipe")
    tiny_pipelines.PICTURE.save(tmp_path / "cat.png")
    words = ("a pizza", "--t2v", folder, "-o", tmp_path / "c.gif", "--frames", 2, "--steps", 2)
    without = run(*words)
    assert without.exit_code == 2 and "give --input image=FILE" in without.stderr and without.stderr.count("\n") == 1
    assert run(*words, "--input", f"image={tmp_path / 'cat.png'}").exit_code == 0
    for given, said in (("image", "give NAME=FILE"), ("image=absent.png", "there is no absent.png")):
        assert said in run(*words, "--input", given).stderr


def test_what_does_not_fit_is_one_line(run, tmp_path):
    pipe = PIPELINES["WanPipeline"]()
    folder = save_like_hub(pipe, tmp_path / "wan")
    words = ("a pizza", "--t2v", folder, "-o", tmp_path / "c.gif")
    for more, said in (
        (("--frames", 8), "8 frames do not fit a WanPipeline: it draws 4·n+1, such as 5 or 9"),
        (("--frames", 5, "--width", 40), "width is 40: a WanPipeline draws multiples of 16, such as 32"),
        (("--backend", "onnx"), "--backend onnx needs --encoder"),
    ):
        result = run(*words, *more)
        assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "c.gif").exists()


def test_the_uncovered_is_told_on_stderr(run, tmp_path):
    pipe = PIPELINES["Kandinsky5T2VPipeline"]()
    source, folder = artifact(tmp_path / "artifact", pipe).path, save_like_hub(pipe, tmp_path / "pipe")
    result = run("a pizza", "--t2v", folder, "--encoder", source, "-o", tmp_path / "c.gif", "--frames", 5, *SIZE)
    assert result.exit_code == 0, result.stderr
    assert "warning: not covered by the edit: text_encoder_2 (CLIP-L): its pooled vector" in result.stderr


def test_a_profile_makes_the_choices_that_nobody_made():
    known = profile_of("demo:t2v-motion")
    assert (known.frames, known.guidance, known.steps) == (8, 3.0, 12)
    assert profile_of("./wan").frames is None and profile_of("owner/name").steps is None
