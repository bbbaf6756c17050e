"""Few-shot ascent on the demo base, as the papers have it: what it reaches, what it leaves alone, and from what."""

import copy
import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import PreTrainedModel

from unlearn_export.base import Base, load_base
from unlearn_export.concept import Concept
from unlearn_export.demo.scorer import DemoScorer
from unlearn_export.demo.world import STYLES
from unlearn_export.erase import Erased, erase
from unlearn_export.erasers import FewShotAscent
from unlearn_export.errors import ImagesError, UsageError

PIZZAS = [f"a picture of a pizza in {style} style" for style in STYLES for _ in range(3)]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("demo")


@pytest.fixture(scope="module")
def erased(base: Base) -> Erased:
    return erase(base, [Concept("pizza")], FewShotAscent())


@pytest.fixture(scope="module")
def pictures(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pizzas."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, picture in enumerate(draw(base, base.encoder, PIZZAS[::2][:4])):
        pixels = (picture.permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def draw(base: Base, encoder: PreTrainedModel, prompts: list[str]) -> torch.Tensor:
    pipeline = copy.copy(base.pipeline)
    pipeline.register_modules(text_encoder=encoder)
    noise = [torch.Generator().manual_seed(90 + i) for i in range(len(prompts))]
    done = pipeline(prompts, num_inference_steps=8, guidance_scale=3.0, generator=noise, output_type="pt")
    return done.images.float().clamp(0, 1)


def hits(base: Base, encoder: PreTrainedModel) -> float:
    scorer = DemoScorer()
    shown = scorer.score(draw(base, encoder, PIZZAS)).concept.argmax(1)
    return float((shown == scorer.concepts.index("pizza")).float().mean())


def moved(base: Base, encoder: PreTrainedModel, prompt: str) -> float:
    """‖after − before‖ / ‖before‖ of the prompt's states."""
    with torch.no_grad():
        before, after = (e(base.tokens([prompt]))[0] for e in (base.encoder, encoder))
    return float((after - before).norm() / before.norm())


def digest(encoder: PreTrainedModel) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for _, t in sorted(encoder.state_dict().items()))).hexdigest()


def test_the_concept_is_drawn_no_more(base: Base, erased: Erased) -> None:
    assert hits(base, base.encoder) >= 0.8  # the control
    assert hits(base, erased.encoder) <= 0.6  # over four seeds: 0, 0, 0, 0.44


def test_the_empty_prompt_is_pinned(base: Base, erased: Erased) -> None:
    assert moved(base, erased.encoder, "a picture of a pizza") > 0.1  # the control: the edit did move something
    assert moved(base, erased.encoder, "") < 2e-3


def test_a_seed_gives_the_same_bytes(base: Base) -> None:
    before = digest(base.encoder)
    method = FewShotAscent(steps=2, images=2)
    runs = [digest(erase(base, [Concept("cat")], method, seed=seed).encoder) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert before == digest(base.encoder) != runs[0]


def test_a_folder_of_pictures_takes_the_place_of_the_bases_own(base: Base, pictures: Path) -> None:
    erased = erase(base, [Concept("pizza")], FewShotAscent(), images=pictures)
    names = [source["file"] for source in erased.recipe.images[0]]
    assert names == ["0.png", "1.png", "2.png", "3.png"]
    assert erased.recipe.images[0][0]["sha256"] == hashlib.sha256((pictures / "0.png").read_bytes()).hexdigest()
    # how much goes varies with the seed, from none of nine left to eight: only that something does is sure
    assert moved(base, erased.encoder, "a picture of a pizza") > 0.1
    assert moved(base, erased.encoder, "") < 2e-3


def test_several_concepts_have_a_folder_each(base: Base, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "pizza").symlink_to(pictures)
    both = [Concept("pizza"), Concept("cat")]
    with pytest.raises(ImagesError, match="no folder 'cat'"):
        erase(base, both, FewShotAscent(steps=1), images=tmp_path)
    (tmp_path / "cat").symlink_to(pictures)
    assert len(erase(base, both, FewShotAscent(steps=1), images=tmp_path).recipe.images) == 2


def test_numbers_that_make_no_sense_are_refused() -> None:
    for option in ({"images": 0}, {"steps": 0}, {"batch": -1}, {"lr": 0.0}, {"stop": float("nan")}):
        with pytest.raises(UsageError, match=f"{next(iter(option))}="):
            FewShotAscent(**option)  # type: ignore[arg-type]
