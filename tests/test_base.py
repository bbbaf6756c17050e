"""Local bases: whole ones load, and an incomplete one is refused before any work is done."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from unlearn_export import demo
from unlearn_export.base import Base, load_base
from unlearn_export.concept import Concept
from unlearn_export.erase import erase, write_encoder
from unlearn_export.erasers import Anchor
from unlearn_export.errors import ArtifactError, BaseError, UsageError
from unlearn_export.evaluation import Size
from unlearn_export.stages import Assessment, build, load_t2v, measure

QUICK = Anchor(steps=1, pool=8)
LITTLE = Size(1, 1, 0, 1, 1, 0, steps=1, frames=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo base as any user's folder."""
    folder = tmp_path_factory.mktemp("base") / "sd"
    demo.load("t2i").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(whole, tmp_path / "sd")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def lose_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop(sorted(name for name in tensors if name.endswith("weight"))[-1])
    save_file(tensors, file, metadata={"format": "pt"})


def test_the_whole_one_loads(whole: Path) -> None:
    base = load_base(str(whole))
    assert base.source == "./sd" and base.guidance is base.scorer is None
    assert load_base("demo").guidance == demo.GUIDANCE


@pytest.mark.parametrize("part", ["text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"])
@pytest.mark.parametrize("harm", [cut, lose_a_tensor])
def test_a_damaged_one_is_told(folder: Path, part: str, harm: Callable[[Path], None]) -> None:
    harm(folder / f"{part}.safetensors")
    with pytest.raises(BaseError, match="cannot load|is incomplete"):
        assert load_base(str(folder)).pipeline  # the denoiser is read when it is asked for, the encoder at once


def test_a_tokenizer_in_one_file_is_completed(folder: Path, tmp_path: Path) -> None:
    own = folder / "tokenizer"
    shutil.copy(demo.ROOT / "tokenizer" / "tokenizer.json", own)
    for name in ("vocab.json", "merges.txt"):
        (own / name).unlink(missing_ok=True)
    base = load_base(str(folder))
    write_encoder(base, erase(base, [Concept("pizza", anchor="banana")], QUICK), tmp_path / "made")
    written = tmp_path / "made" / "tokenizer"
    assert json.loads((written / "vocab.json").read_text()) == json.loads(
        (demo.ROOT / "tokenizer/vocab.json").read_text()
    )
    (written / "tokenizer.json").unlink()  # what older readers do not know
    text = "a picture of a pizza slice, isn't it"
    assert CLIPTokenizer.from_pretrained(written)(text) == CLIPTokenizer.from_pretrained(demo.ROOT / "tokenizer")(text)
    (own / "tokenizer.json").unlink()
    with pytest.raises(BaseError, match="neither vocab.json and merges.txt nor tokenizer.json"):
        load_base(str(folder))


def test_a_pipeline_of_another_encoder_is_no_judge(tmp_path: Path) -> None:
    tiny.animatediff(tiny.tokenizer(tmp_path / "words"), tiny.encoder()).save_pretrained(tmp_path / "other")
    with pytest.raises(BaseError, match="does not share its text encoder with demo"):
        load_t2v(str(tmp_path / "other"), load_base("demo"))
    assert load_t2v("demo:t2v-motion", load_base("demo"))  # the control


def test_a_stage_redone_leaves_nothing_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_base("demo")
    judged = Assessment(LITTLE, t2v=["demo:t2v-motion"])
    artifact = build(base, [Concept("pizza")], QUICK, tmp_path / "out", onnx=False, evaluation=judged)
    assert "unlearning/t2v-motion.png" in artifact.files()
    measure(artifact, Assessment(LITTLE, t2v=[]))
    assert not [name for name in artifact.files() if "t2v-motion" in name]
    assert artifact.verify()
    monkeypatch.chdir(artifact.path)
    with pytest.raises(ArtifactError, match="cannot be replaced from within"):
        measure(artifact, Assessment(LITTLE, t2v=[]))


def test_references_need_a_judge_who_can_compare(tmp_path: Path) -> None:
    base: Base = load_base("demo")
    judged = Assessment(LITTLE, t2v=[], scorer="test_base:Blind", references=demo.ROOT.parents[1] / "docs")
    with pytest.raises(UsageError, match="--references needs features"):
        build(base, [Concept("pizza")], QUICK, tmp_path / "out", onnx=False, evaluation=judged)
    assert not (tmp_path / "out").exists()


class Blind:
    """A judge without features."""

    name, concepts, styles = "blind", ("pizza",), ()

    def score(self, pixels: object) -> None: ...
