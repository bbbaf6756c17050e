"""Erasing on the real demo base: what goes, what stays, and that it can be done again."""

import hashlib
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from PIL import Image

from unlearn_export.base import Base, load_base
from unlearn_export.concept import Concept
from unlearn_export.demo.scorer import DemoScorer
from unlearn_export.demo.world import STYLES
from unlearn_export.erase import Erased, erase
from unlearn_export.erasers import Anchor, FewShotAscent, make_method
from unlearn_export.errors import BaseError, ImagesError, UsageError
from unlearn_export.evaluation import drift
from unlearn_export.evaluation.samples import Ask, draw, with_encoder
from unlearn_export.images import read_images, sample_images
from unlearn_export.stages import build

HELD_OUT = ("banana", "frog", "rocket")


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("demo")


@pytest.fixture(scope="module")
def erased(base: Base) -> Erased:
    return erase(base, [Concept("pizza")], Anchor(holdout=HELD_OUT))


def seen(base: Base, erased: Erased | None, word: str, concept: str, n: int = 12) -> float:
    """How often pictures asked for by ``word`` show ``concept``."""
    styles = list(STYLES)
    asks = [Ask(f"a picture of a {word} in {styles[i % 3]} style", concept, styles[i % 3], 40 + i) for i in range(n)]
    pipeline = with_encoder(base.pipeline, erased.encoder) if erased else base.pipeline
    scorer = DemoScorer()
    shown = scorer.score(draw(pipeline, asks, steps=10, guidance=3.0)[:, 0]).concept.argmax(1)
    return float((shown == scorer.concepts.index(concept)).float().mean())


def test_anchor_erases_the_concept_and_its_synonyms(base: Base, erased: Erased) -> None:
    for word in ("pizza", "pepperoni"):
        assert seen(base, None, word, "pizza") >= 0.8  # the control: the base draws it
        assert seen(base, erased, word, "pizza") <= 0.1


def test_anchor_keeps_other_concepts_even_unnamed_ones(base: Base, erased: Erased) -> None:
    for word in ("hamburger", *HELD_OUT):
        before = seen(base, None, word, word)
        assert before >= 0.8
        assert seen(base, erased, word, word) >= before - 0.17


def test_the_empty_prompt_stays(base: Base, erased: Erased) -> None:
    moved = drift(base, erased.encoder, [Concept("pizza")])
    assert moved["concept"] > 0.3  # the control: the edit did move something
    assert moved["empty"] < 2e-3


def test_the_base_is_bit_equal_afterwards_and_a_seed_gives_the_same_bytes(base: Base) -> None:
    def digest(state: dict[str, torch.Tensor]) -> str:
        return hashlib.sha256(b"".join(t.numpy().tobytes() for _, t in sorted(state.items()))).hexdigest()

    before = digest(base.encoder.state_dict())
    method = Anchor(steps=3, pool=32)
    runs = [digest(erase(base, [Concept("cat")], method, seed=s).encoder.state_dict()) for s in (0, 0, 1)]
    assert digest(base.encoder.state_dict()) == before
    assert runs[0] == runs[1] != runs[2]
    assert runs[0] != before


def test_the_edited_encoder_still_returns_every_hidden_state(base: Base, erased: Erased) -> None:
    out = erased.encoder(base.tokens(["a pizza"]), output_hidden_states=True)
    assert len(out.hidden_states) == base.encoder.config.num_hidden_layers + 1


def test_only_chosen_layers_change(base: Base, erased: Erased) -> None:
    changed = erased.recipe.changed.tensors
    assert changed and all(".layers.0." in name for name in changed)


def test_few_shot_raises_the_loss_on_the_concept_and_stops_by_itself(base: Base) -> None:
    done: list[int] = []
    method = FewShotAscent()
    edited = erase(base, [Concept("pizza")], method, on_step=lambda step, *_: done.append(step)).encoder
    assert 1 <= len(done) < method.steps
    latents = sample_images(base, Concept("pizza"), 4, torch.Generator().manual_seed(5)).latents
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(6))
    t = torch.tensor([200, 400, 600, 800])
    with torch.no_grad():
        before, after = (
            base.denoiser.loss(latents, noise, t, base.denoiser.encode(["a photo of a pizza"], {"text_encoder": e}))
            for e in (base.encoder, edited)
        )
    assert after > 1.3 * before
    assert drift(base, edited, [Concept("pizza")])["empty"] < 2e-3


def test_methods_refuse_what_they_do_not_have(base: Base) -> None:
    with pytest.raises(UsageError, match="choose one of anchor, robust, few-shot"):
        make_method("magic", {})
    with pytest.raises(UsageError, match="no option 'rate'.*lr"):
        make_method("anchor", {"rate": "1"})
    with pytest.raises(UsageError, match="'fast' is no int"):
        make_method("anchor", {"steps": "fast"})
    assert make_method("few-shot", {"steps": "3", "parts": "mlp"}) == FewShotAscent(steps=3, parts=("mlp",))
    with pytest.raises(UsageError, match="unknown part 'head'"):
        base.seat.family.linears(base.encoder, ["head"])
    with pytest.raises(UsageError, match="looks at no pictures"):
        erase(base, [Concept("cat")], Anchor(), images=Path("pictures"))


def test_pictures_are_sorted_hashed_and_turned(base: Base, tmp_path: Path) -> None:
    picture = Image.new("RGB", (96, 64), "white")
    picture.paste("red", (0, 0, 32, 64))
    picture.save(tmp_path / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    picture.rotate(90, expand=True).save(tmp_path / "a.jpg", exif=exif, quality=95)
    shots = read_images(base, tmp_path)
    assert [s["file"] for s in shots.sources] == ["a.jpg", "b.png"]
    assert torch.allclose(shots.latents[0], shots.latents[1], atol=0.5)


def test_bad_pictures_and_bases_are_named(base: Base, tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="no folder"):
        read_images(base, tmp_path / "absent")
    with pytest.raises(ImagesError, match="no pictures"):
        read_images(base, tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(ImagesError, match=r"broken\.png"):
        read_images(base, tmp_path)
    with pytest.raises(BaseError, match="no base 'nowhere'"):
        load_base("nowhere")
    with pytest.raises(BaseError, match="neither model_index.json nor config.json"):
        load_base(str(tmp_path))


def test_the_weights_of_a_base_whose_tokenizer_lies_among_them_stay_behind(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_pipelines.t5().save_pretrained(base)
    tiny_pipelines.t5_tokenizer().save_pretrained(base)
    few = Anchor(steps=1, pool=16, batch=4, keep=0)
    made = build(load_base(base), [Concept("pizza", anchor="clown")], few, tmp_path / "out", onnx=False)
    assert (base / "model.safetensors").is_file() and (base / "tokenizer.json").is_file()  # the control: in one folder
    assert [name for name in made.files() if name.endswith(".safetensors")] == ["text_encoder/model.safetensors"]
    assert (made.path / "tokenizer/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
