"""The judges: a CLIP that knows the demo's things must tell them apart, a random one must not; bad names are told."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from tests import tiny
from unlearn_export import demo
from unlearn_export.base import Base, load_base
from unlearn_export.concept import Concept
from unlearn_export.errors import BaseError, DependencyError, ImagesError, UsageError
from unlearn_export.evaluation.samples import Ask, draw
from unlearn_export.evaluation.scorer import Scores
from unlearn_export.phrasing import NAMED, NAMED_NOTHING, NAMED_STYLE
from unlearn_export.scorers import load_features, load_scorer
from unlearn_export.scorers.clip import ClipScorer
from unlearn_export.scorers.face import FaceScorer
from unlearn_export.scorers.nudity import NudeNetScorer


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("demo")


@pytest.fixture(scope="module")
def pictures(base: Base) -> Tensor:
    """The base's own pictures of every concept, [25, 3, 64, 64]."""
    asks = [Ask(f"a picture of a {name}", name, "", 7) for name in demo.VOCABULARY.concepts]
    return draw(base.pipeline, asks, steps=10, guidance=demo.GUIDANCE)[:, 0]


@pytest.fixture(scope="module")
def demo_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's text encoder, its projection and the scorer's image tower as one CLIPModel folder."""
    folder = tmp_path_factory.mktemp("clip") / "demo-clip"
    text = json.loads((demo.ROOT / "text_encoder" / "config.json").read_text())
    vision = json.loads((demo.ROOT / "scorer" / "image_tower" / "config.json").read_text())
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))
    state = {"text_projection.weight": load_file(demo.ROOT / "scorer" / "text_projection.safetensors")["weight"]}
    for part, name in (("text_encoder", "text_model"), ("scorer/image_tower", "vision_model")):
        for key, tensor in load_file(demo.ROOT / part / "model.safetensors").items():
            bare = key.removeprefix("text_model.").removeprefix("vision_model.")
            state[bare if bare.startswith("visual_projection") else f"{name}.{bare}"] = tensor
    state = {k: v.float() for k, v in state.items()}
    lost = model.load_state_dict(state, strict=False)
    assert set(lost.missing_keys) <= {"logit_scale"} | {k for k in lost.missing_keys if "position_ids" in k}
    assert not [k for k in lost.unexpected_keys if "position_ids" not in k]
    model.logit_scale.data.fill_(3.0)  # the towers were trained with a scale of their own, which was not kept
    model.save_pretrained(folder)
    shutil.copytree(demo.ROOT / "tokenizer", folder, dirs_exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    return folder


def tiny_clip(folder: Path) -> Path:
    """A random CLIP of 24 pixels with the tests' tokenizer."""
    text = {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"vocab_size": tiny.VOCAB, "bos_token_id": tiny.VOCAB - 2, "eos_token_id": tiny.VOCAB - 1},
    }
    vision = {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"image_size": 24, "patch_size": 8},
    }
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    tiny.tokenizer(folder)
    return folder


def test_clip_gives_chances_of_any_size_of_picture(tmp_path: Path) -> None:
    scorer = ClipScorer.load(str(tiny_clip(tmp_path / "random-clip")), ("pizza", "clown", "Car"), ("ink", "flat"))
    assert scorer.name == "clip:random-clip"  # not the way to it
    for size in ((24, 24), (64, 64), (20, 40), (50, 31)):
        scores = scorer.score(torch.rand(5, 3, *size))
        assert scores.concept.shape == (5, 3)
        assert scores.style.shape == (5, 2)
        torch.testing.assert_close(scores.concept.sum(1) + scores.other, torch.ones(5))
        torch.testing.assert_close(scores.style.sum(1), torch.ones(5))
    pixels = torch.rand(4, 3, 64, 64)
    assert scorer.features(pixels).shape == (4, 16)
    assert [maps.shape for maps in scorer.feature_maps(pixels)] == [(4, 32, 3, 3)] * 4
    assert scorer.text_image(pixels, ["a pizza"] * 4).abs().le(1).all()
    assert ClipScorer.load(str(tmp_path / "random-clip"), ("pizza",), ()).score(pixels).style.shape == (4, 0)


def test_clip_encodes_each_prompt_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = ClipScorer.load(str(tiny_clip(tmp_path)), ("pizza", "car"), ("ink",))
    encode, encoded = scorer.model.get_text_features, []

    def counted(**inputs: Tensor) -> Any:
        encoded.append(len(inputs["input_ids"]))
        return encode(**inputs)

    monkeypatch.setattr(scorer.model, "get_text_features", counted)
    pixels = torch.rand(2, 3, 24, 24)
    first = scorer.score(pixels)
    scorer.text_image(pixels, ["a photo of a pizza", "a photo of a pizza"])
    assert torch.equal(first.concept, scorer.score(pixels).concept)
    assert sum(encoded) == 2 * len(NAMED) + len(NAMED_NOTHING) + len(NAMED_STYLE)


def test_clip_with_the_demos_towers_sees_what_the_base_drew(base: Base, demo_clip: Path, pictures: Tensor) -> None:
    scorer = load_scorer(f"clip:{demo_clip}", base)
    assert scorer.concepts == demo.VOCABULARY.concepts
    wanted = torch.arange(len(scorer.concepts))
    seen = scorer.score(pictures).concept.argmax(1)
    assert (seen == wanted).float().mean() > 0.8  # 0.92 to 1.00 over three seeds; 4 % by chance
    noise = scorer.score(torch.rand(25, 3, 64, 64, generator=torch.Generator().manual_seed(0))).concept.argmax(1)
    assert (noise == wanted).float().mean() < 0.2
    prompts = [f"a picture of a {name}" for name in scorer.concepts]
    right = scorer.text_image(pictures, prompts).mean()  # type: ignore[attr-defined]
    wrong = scorer.text_image(pictures, prompts[1:] + prompts[:1]).mean()  # type: ignore[attr-defined]
    assert right > wrong + 0.4  # 0.65 and 0.12, within 0.01 over three seeds


def test_demo_scorer_sees_what_the_base_drew(base: Base, pictures: Tensor) -> None:
    scorer = load_scorer("demo", base)
    seen = scorer.score(pictures).concept.argmax(1)
    assert (seen == torch.arange(25)).float().mean() > 0.8  # 0.92 to 1.00 over three seeds
    assert scorer.score(torch.rand(25, 3, 64, 64)).other.mean() > scorer.score(pictures).other.mean()


def test_clip_learns_the_names_of_what_is_to_be_erased(base: Base, demo_clip: Path) -> None:
    concepts = [Concept("Mickey Mouse", "character"), Concept("kitten"), Concept("cubism", "style")]
    scorer = load_scorer(f"clip:{demo_clip}", base, concepts)
    assert scorer.concepts == (*demo.VOCABULARY.concepts, "Mickey Mouse")  # a kitten is the cat it knows
    assert scorer.styles == (*demo.VOCABULARY.styles, "cubism")


def test_a_picture_that_is_likelier_nothing_shows_nothing() -> None:
    scores = Scores(torch.tensor([[0.4, 0.2], [0.3, 0.1], [0.1, 0.9]]), torch.zeros(3, 0), torch.tensor([0.4, 0.6, 0]))
    assert scores.concepts_seen(("cat", "car")) == ["cat", "", "car"]
    assert scores.styles_seen(()) == ["", "", ""]
    assert Scores(scores.concept, scores.concept, scores.other).styles_seen(("ink", "flat")) == ["ink", "ink", "flat"]


@pytest.mark.parametrize("name", ["magic", "clip:", "face:", "demo:x y", "a.b", "not-a.module:X"])
def test_an_unknown_scorer_is_told_in_one_line(base: Base, name: str) -> None:
    with pytest.raises(UsageError, match="nudenet, ") as error:
        load_scorer(name, base)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_clip_is_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="no config.json"):
        load_scorer(f"clip:{tmp_path}", base)
    with pytest.raises(BaseError, match="clip_text_model"):
        load_scorer(f"clip:{demo.ROOT / 'text_encoder'}", base)
    with pytest.raises(BaseError, match="Hub id"):
        load_scorer("clip:./nowhere/at/all", base)
    tiny_clip(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(BaseError, match="cannot load the CLIP model"):
        load_scorer(f"clip:{tmp_path}", base)


def test_a_users_own_scorer_by_dotted_path(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judges.py").write_text(
        "class Mine:\n"
        "    name, concepts, styles = 'mine', ('pizza',), ()\n"
        "    def score(self, pixels): ...\n"
        "class Half:\n"
        "    name = 'half'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load_scorer("judges:Mine", base).concepts == ("pizza",)
    assert load_scorer("unlearn_export.demo.scorer:DemoScorer", base).name == "demo"
    assert load_features("unlearn_export.demo.scorer:DemoScorer").name == "demo"
    for name, words in (("judges:Mine", "no features: it has no features"), ("judges", "give package.module:Factory")):
        with pytest.raises(UsageError, match=words):
            load_features(name)
    for name, words in (("judges:Half", "no concepts, styles, score"), ("judges:Nobody", "Nobody"), ("nil:X", "nil")):
        with pytest.raises(UsageError, match=words):
            load_scorer(name, base)


@pytest.mark.parametrize(("name", "package", "extra"), [("nudenet", "nudenet", "nudenet"), ("face:.", "dlib", "face")])
def test_a_missing_package_tells_the_pip_command(
    base: Base, monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=rf'pip install "unlearn-export\[{extra}\]"'):
        load_scorer(name, base)


def test_nudenet_counts_exposed_parts_only(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its detections stand in here; with the package installed, the next test runs the real detector."""
    answers = iter(
        [
            [{"class": "FEMALE_BREAST_EXPOSED", "score": 0.9}, {"class": "BUTTOCKS_EXPOSED", "score": 0.4}],
            [{"class": "FEET_EXPOSED", "score": 0.9}, {"class": "FACE_FEMALE", "score": 0.8}],
            [],
        ]
    )
    detector = SimpleNamespace(NudeDetector=lambda: SimpleNamespace(detect=lambda picture: next(answers)))
    monkeypatch.setitem(sys.modules, "nudenet", detector)
    scorer = load_scorer("nudenet", base)
    scores = scorer.score(torch.rand(3, 3, 8, 8))
    assert scorer.concepts == ("nudity",)
    assert scores.concept[:, 0].tolist() == pytest.approx([0.9, 0, 0])
    assert scores.other.tolist() == pytest.approx([0.1, 1, 1])
    assert scores.style.shape == (3, 0)


def test_nudenet_itself_sees_none_in_the_demos_pictures(pictures: Tensor) -> None:
    pytest.importorskip("nudenet")
    assert NudeNetScorer().score(pictures[:4]).other.min() > 0.5


class Faces(FaceScorer):
    """A face is what is not black, and its colour is its descriptor; the distances and chances are the real ones."""

    def _load(self) -> None:
        pass

    def _descriptor(self, picture: Image.Image) -> Tensor | None:
        colour = torch.tensor(np.asarray(picture.convert("RGB"))).float().flatten(0, 1).mean(0) / 255
        return colour if colour.sum() else None


def persons(folder: Path, **colours: tuple[int, int, int]) -> Path:
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(folder / name / "a.png")
    return folder


def test_a_face_is_the_nearest_person_within_reach_or_nobody(tmp_path: Path) -> None:
    scorer = Faces(persons(tmp_path, ann=(255, 0, 0), bob=(0, 0, 255)))
    pixels = torch.zeros(4, 3, 8, 8)
    pixels[0, 0] = 1.0  # Ann herself
    pixels[1, 2] = 0.7  # 0.3 from Bob, more than 0.6 from Ann
    pixels[2] = 1.0  # a face, far from both
    scores = scorer.score(pixels)  # and the last one has no face
    assert scorer.concepts == ("ann", "bob")
    assert scores.concept[0, 0] > 0.99
    assert scores.concept[1, 1] > 0.99
    assert scores.other[2] > 0.99
    assert scores.other[3] == 1
    torch.testing.assert_close(scores.concept.sum(1) + scores.other, torch.ones(4))


def test_persons_without_usable_pictures_are_told(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="no folder of persons"):
        Faces(tmp_path / "absent")
    with pytest.raises(ImagesError, match="sub-folder"):
        Faces(tmp_path)
    with pytest.raises(ImagesError, match="no face was found.*cy"):
        Faces(persons(tmp_path, ann=(255, 0, 0), cy=(0, 0, 0)))
    (tmp_path / "ann" / "b.png").write_bytes(b"no picture")
    with pytest.raises(ImagesError, match="b.png"):
        Faces(tmp_path)


def test_the_face_models_load_where_the_packages_are(tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    with pytest.raises(ImagesError, match="no face was found"):
        load_scorer(f"face:{persons(tmp_path, ann=(255, 0, 0))}", load_base("demo"))
