"""Every mistake a user can make: one line that names it, the documented exit code, and nothing left half-written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner, Result
from PIL import Image

from unlearn_export.cli import main

QUICK = ["--no-evaluate", "--no-onnx", "-O", "steps=2"]


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit), result.exception
    last = result.stderr.splitlines()[-1]  # after the progress bar, where the edit had begun
    assert last.startswith("error: ")
    assert all(word in last for word in words), result.stderr
    assert all("erase: " in line for line in result.stderr.replace("\r", "\n").splitlines()[:-1] if line.strip())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete artifact."""
    out = tmp_path_factory.mktemp("made") / "out"
    done = run("erase", "pizza", "--base", "demo", "-o", out, *QUICK, "-O", "pool=8")
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A path where an artifact would go."""
    return tmp_path / "made" / "new"


def left(new: Path) -> list[str]:
    return [p.name for p in new.parent.iterdir()] if new.parent.exists() else []


def test_the_message_comes_alone_on_stderr(new: Path) -> None:
    """In a process of its own, where libraries speak as they are imported."""
    for command, code, words in (
        (["erase", "pizza", "--base", "demo", "-o", new, "--images", "absent"], 2, "the method anchor looks at no"),
        (["export", new], 1, "no artifact folder"),
    ):
        done = subprocess.run([sys.executable, "-m", "unlearn_export", *command], capture_output=True, text=True)
        assert done.returncode == code
        assert done.stderr.startswith(f"error: {words}")
        assert done.stderr.count("\n") == 1, done.stderr
    assert left(new) == []


# --- the words of the command line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--kind", "ghost"], ["'ghost'", "character"]),
        (["--speed", "9"], ["--speed"]),
        (["--seed", "1" + "0" * 30], ["--seed"]),
        (["--seed", "-1"], ["--seed"]),
        (["--target-images", "none"], ["--target-images"]),
        (["--revision", "v1"], ["--revision", "Hub id"]),
        (["--device", "quantum"], ["'quantum'", "--device cpu"]),
        (["-O", "steps"], ["KEY=VALUE"]),
        (["-O", "steps=2.5"], ["steps='2.5' is no int"]),
        (["-O", "lr=fast"], ["lr='fast' is no float"]),
        (["-O", "parts=head"], ["'head'", "mlp"]),
        (["-O", "holdout=unheard"], ["'unheard'", "banana"]),
        (["-O", "steps=-1"], ["steps=-1"]),
        (["-O", "batch=-1"], ["batch=-1"]),
        (["-O", "depth=0"], ["depth=0"]),
        (["-O", "pool=0"], ["pool=0"]),
        (["-O", "lr=nan"], ["lr=nan"]),
        (["-O", "keep=-1"], ["keep=-1.0"]),
        (["--method", "few-shot", "-O", "images=0"], ["images=0"]),
        (["--method", "few-shot", "-O", "stop=inf"], ["stop=inf"]),
        (["--method", "few-shot", "-O", "depth=1"], ["depth", "images, steps"]),
        (["--method", "few-shot", "-O", "keep=-1"], ["keep=-1.0"]),
    ],
)
def test_options(args: list[str], words: list[str], new: Path) -> None:
    refused(run("erase", "pizza", "--base", "demo", "-o", new, *QUICK, *args), 2, *words)
    assert left(new) == []


def test_missing_words_and_unknown_commands_are_one_line_too(new: Path) -> None:
    refused(run("erase", "pizza", "-o", new), 2, "--base", "erase -h")
    refused(run("erase", "--base", "demo", "-o", new), 2, "name a concept")
    refused(run("magic"), 2, "magic")
    refused(run("erase", "", "--base", "demo", "-o", new), 2, "name is empty")
    refused(run("erase", "cat", "CAT", "--base", "demo", "-o", new, *QUICK), 2, "two concepts")
    result = run("erase", "pizza", "--json")
    assert json.loads(result.stdout)["exit_code"] == 2
    assert run().exit_code == 2 and "Usage" in run().output  # no command at all: the help
    assert left(new) == []


def test_a_learning_rate_that_diverges(new: Path) -> None:
    refused(
        run(
            "erase",
            "pizza",
            "--base",
            "demo",
            "-o",
            new,
            *QUICK,
            "-O",
            "pool=8",
            "-O",
            "parts=attention",
            "-O",
            "lr=1e9",
        ),
        3,
        "no better than it began",
        "lr=",
    )
    assert left(new) == []


# --- bases


def test_bases(new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for base, words in (("nowhere", "demo"), ("", "demo"), ("owner/absent", "Hub"), (str(tmp_path), "model_index")):
        refused(run("erase", "pizza", "--base", base, "-o", new, *QUICK), 8 if words == "Hub" else 1, words)
    index = tmp_path / "model_index.json"
    index.write_text("{")
    refused(run("erase", "pizza", "--base", tmp_path, "-o", new, *QUICK), 1, "not JSON")
    index.write_text('{"_class_name": "StableDifusionPipeline"}')
    wrong = run("erase", "pizza", "--base", tmp_path, "-o", new, *QUICK)
    refused(wrong, 1, "StableDifusionPipeline", "nearest that is known is StableDiffusionPipeline")
    index.write_text('{"_class_name": "StableDiffusionPipeline"}')
    refused(run("erase", "pizza", "--base", tmp_path, "-o", new, *QUICK), 1, "safetensors")
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "model.safetensors").write_bytes(b"junk")
    refused(run("erase", "pizza", "--base", tmp_path, "-o", new, *QUICK), 1, "cannot load")
    assert left(new) == []


# --- pictures


def test_pictures(new: Path, tmp_path: Path) -> None:
    def erase(*concepts: str) -> Result:
        args = ["--base", "demo", "-o", new, "--method", "few-shot", "--images", pictures, *QUICK]
        return run("erase", *concepts, *args)

    pictures = tmp_path / "pictures"
    refused(erase("pizza"), 1, "no folder")
    pictures.mkdir()
    refused(erase("pizza"), 1, "no pictures", ".png")
    refused(erase("pizza", "cat"), 1, "'pizza'", "one each")
    Image.new("RGB", (64, 64), "red").save(pictures / "a.png")
    whole = (pictures / "a.png").read_bytes()
    for broken in (b"", b"no picture", whole[:-30], whole[:20]):
        (pictures / "b.png").write_bytes(broken)
        refused(erase("pizza"), 1, "b.png")
    (pictures / "b.png").unlink()
    (pictures / "b.png").mkdir()
    refused(erase("pizza"), 1, "b.png")
    assert left(new) == []


# --- the folder to write


def test_the_output_folder(made: Path, tmp_path: Path) -> None:
    args = ["erase", "pizza", "--base", "demo", *QUICK, "-O", "pool=8", "-o"]
    refused(run(*args, made), 1, "exists already", "--overwrite")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("precious")
    refused(run(*args, tmp_path / "file" / "new"), 1, "cannot write beside")
    for precious in ("file", "folder"):
        refused(run(*args, tmp_path / precious, "--overwrite"), 1, "no artifact", "choose another")
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "file").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert run(*args, tmp_path / "new").exit_code == 0
    assert run(*args, tmp_path / "new", "--overwrite").exit_code == 0  # what it made it may replace
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "new"]


# a file system of its own, whose size is set before each command
FULL = """
import gc, json, subprocess, sys
from pathlib import Path
from click.testing import CliRunner
from unlearn_export.cli import main

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
erase = ["erase", "pizza", "--base", "demo", "--no-evaluate", "-O", "steps=1", "-O", "pool=8", "-o", str(disk / "out")]
seen = []

def run(size, *args):
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
    done = CliRunner().invoke(main, args)
    said = [line for line in done.stderr.replace("\\r", "\\n").splitlines() if line and not line.startswith("erase: ")]
    seen.append([done.exit_code, type(done.exception).__name__, said, [p.name for p in disk.iterdir()]])

run("64m", *erase)
whole = sum(f.stat().st_size for f in disk.rglob("*") if f.is_file())
blocks = sum(-(-f.stat().st_size // 4096) for f in disk.rglob("*") if f.is_file())
graph = (disk / "out/text_encoder/model.onnx").stat().st_size
run(f"{(blocks + 8) * 4096}", "export", str(disk / "out"))
run("64m", "verify", str(disk / "out"))
subprocess.run(["rm", "-r", disk / "out"], check=True)
gc.collect()  # weights that are mapped from a removed file keep its space
for size in ("4k", whole - graph - 100_000, whole - graph + 300_000):
    run(f"{size}", *erase)
print(json.dumps(seen))
"""


def test_a_full_disk(tmp_path: Path) -> None:
    apart = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run([*apart, sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, export, verify, *full = json.loads(done.stdout.splitlines()[-1])
    assert first[0] == verify[0] == 0  # the control: where there is room, all is well
    assert first[3] == export[3] == ["out"]
    assert export[0] == 1 and "no space" in export[2][-1].lower()
    for code, exception, said, files in full:
        assert (code, exception, files) == (1, "SystemExit", [])
        assert len(said) == 1 and "no space" in said[0].lower(), said


# --- artifacts


def test_an_altered_artifact_is_refused_by_every_command(made: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    for name, data, word in (
        ("text_encoder/model.safetensors", b"junk", "model.safetensors"),
        ("text_encoder/model.safetensors", None, "model.safetensors"),
        ("unlearning/recipe.json", b"[]", "recipe.json"),
        ("unlearning/recipe.json", b"{", "recipe.json"),
        ("unlearning/recipe.json", None, "no artifact"),
        ("unlearning/manifest.json", b"{}", "manifest.json"),
        ("unlearning/manifest.json", b"\xff", "manifest.json"),
        ("unlearning/manifest.json", None, "manifest.json"),
        ("unlearning/evaluation.json", b"{}", "evaluation.json was added"),
        ("tokenizer/vocab.json", b"{}", "vocab.json"),
    ):
        shutil.copytree(made, bad)
        if data is None:
            (bad / name).unlink()
        else:
            (bad / name).write_bytes(data)
        before = {p: p.read_bytes() for p in bad.rglob("*") if p.is_file()}
        for command in ("verify", "evaluate", "export", "card"):
            refused(run(command, bad), 1, word)
        refused(run("push", bad, "owner/name", "--dry-run"), 1, word)
        clip = tmp_path / "clip.gif"
        refused(run("generate", "x", "--t2v", "demo:t2v-unet3d", "--encoder", bad, "-o", clip), 1, word)
        assert before == {p: p.read_bytes() for p in bad.rglob("*") if p.is_file()}
        assert [p.name for p in tmp_path.iterdir()] == ["bad"]
        shutil.rmtree(bad)


def test_a_base_that_is_not_the_artifacts(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(run("export", made, "--base", "nowhere"), 1, "nowhere", "demo")
    monkeypatch.setattr("unlearn_export.weights.Weights.fingerprint", "0" * 64)
    refused(run("export", made), 1, "another text encoder")


# --- generating and publishing


def test_encoders_that_do_not_belong(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_OFFLINE", True)
    clip = tmp_path / "clip.gif"
    args = ["generate", "x", "--t2v", "demo:t2v-unet3d", "-o", clip, "--encoder"]
    tiny.artifact(tmp_path / "t5", tiny.encoder("T5EncoderModel"))
    tiny.artifact(tmp_path / "small", tiny.encoder())
    (tmp_path / "empty").mkdir()
    refused(run(*args, tmp_path / "t5"), 1, "T5EncoderModel", "CLIPTextModel")
    refused(run(*args, tmp_path / "small"), 1, "hidden_size", "32", "128")
    refused(run(*args, tmp_path / "empty"), 1, "config.json is missing")
    refused(run(*args, "owner/absent"), 8, "owner/absent")
    refused(run(*args, made, "--backend", "onnx"), 1, "no model.onnx", "export")
    refused(run(*args[:-1], "--backend", "onnx"), 2, "--encoder")
    assert not clip.exists()


def test_pipelines_and_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    clip = tmp_path / "clip.gif"
    for name, code, word in (
        ("demo:none", 1, "t2v-motion"),
        ("nowhere", 2, "demo:NAME"),
        (str(tmp_path), 2, "model_index"),
        ("owner/absent", 1, "owner/absent"),
    ):
        refused(run("generate", "x", "--t2v", name, "-o", clip), code, word)
    refused(run("generate", "x", "--t2v", "demo:t2v-motion", "--frames", "99", "-o", clip), 2, "99 frames", "16")
    refused(run("generate", "x", "--t2v", "demo:t2v-motion", "--backend", "jax", "-o", clip), 2, "jax")
    assert list(tmp_path.iterdir()) == []


def test_publishing(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "absent"))
    refused(run("push", made, "owner/name"), 4, "HF_TOKEN", "hf auth login")
    refused(run("push", made, "name", "--dry-run"), 1, "owner/name")
    refused(run("push", made, "owner/na me", "--dry-run"), 1, "owner/na me")
    refused(run("push", made, "owner/name", "--tag", "a b", "--dry-run"), 1, "'a b'")
    refused(run("push", tmp_path, "owner/name", "--dry-run"), 1, "no artifact")
