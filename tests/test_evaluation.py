"""The evaluation on the real demo base: faults that were planted must land in the right row and fail the right gate."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from unlearn_export import demo
from unlearn_export.base import Base, load_base
from unlearn_export.concept import Concept
from unlearn_export.demo.scorer import DemoScorer
from unlearn_export.erase import erase
from unlearn_export.erasers import Anchor
from unlearn_export.errors import UsageError
from unlearn_export.evaluation import Size, compare, compared, evaluate, samples
from unlearn_export.evaluation.asks import VARIANTS, Amount, Ask, plan
from unlearn_export.evaluation.copyright import copyright_metric, gram, likeness
from unlearn_export.evaluation.distance import kernel_distance
from unlearn_export.evaluation.motion import name_motion, track
from unlearn_export.evaluation.samples import batch_of, batches, draw
from unlearn_export.evaluation.sight import Judge, Sight
from unlearn_export.gates import MEANING, Gate, check, figures
from unlearn_export.measured import Compared, Report
from unlearn_export.rates import Mean, Rate

PIZZA = Concept("pizza", aliases=("pepperoni", "pizza slice"), anchor="hamburger")
SMALL = Size(target_images=6, other_images=1, variant_images=4, steps=8, guidance=3.0)
NOTHING = Report(scorer="demo", seed=0, size={}, drift={"empty": 0.0}, targets=(), pipelines={})
GATES = "erasure>=0.9,variants>=0.8,retain>=0.9,styles>=0.9,negative>=0.7,empty>=0.99"


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("demo")


@pytest.fixture(scope="module")
def erased(base: Base) -> PreTrainedModel:
    return erase(base, [PIZZA], Anchor()).encoder


def judged(base: Base, edited: PreTrainedModel, **options: Any) -> Report:
    return evaluate(base, edited, [PIZZA], DemoScorer(), size=SMALL, seed=300, **options).report


def missed(report: Report, gates: str = GATES) -> set[str]:
    return {line.split()[0] for line in check(report, Gate.parse(gates))}


@pytest.fixture(scope="module")
def good(base: Base, erased: PreTrainedModel) -> Report:
    return judged(base, erased)


def test_a_good_edit_passes_every_gate(good: Report) -> None:
    seen = good.pipelines["t2i"]
    assert (seen.before.erased.rate or 0) >= 0.9 and (seen.before.variants["alias"].rate or 0) >= 0.7  # the control
    assert seen.after.erased.rate == 0 and (seen.after.erased.interval() or (0, 0))[1] > 0.3  # six prove little
    assert missed(good) == set()
    assert seen.distance is not None and seen.distance.n == 24
    assert Report.from_json(json.loads(json.dumps(good.to_json(), allow_nan=False))) == good


def test_the_same_seed_gives_the_same_numbers(base: Base, erased: PreTrainedModel, good: Report) -> None:
    def timeless(report: Report) -> Compared:
        seen = report.pipelines["t2i"]
        return replace(seen, before=replace(seen.before, seconds=0), after=replace(seen.after, seconds=0))

    again = judged(base, erased)
    assert timeless(again) == timeless(good) and again.drift == good.drift


def test_an_encoder_that_erased_nothing(base: Base) -> None:
    report = judged(base, base.encoder)
    assert missed(report) >= {"erasure", "variants"}
    apart = report.pipelines["t2i"].distance
    assert figures(report)["retain"] == 1 and apart is not None and apart.kid == apart.floor


def test_an_encoder_that_destroyed_everything(base: Base, good: Report) -> None:
    noise = copy.deepcopy(base.encoder)
    generator = torch.Generator().manual_seed(0)
    for p in noise.parameters():
        p.data = p.data.std() * torch.randn(p.shape, generator=generator)
    report = judged(base, noise)
    assert missed(report) >= {"retain", "styles", "negative", "empty"}
    seen = report.pipelines["t2i"]
    ours, theirs = good.pipelines["t2i"].distance, seen.distance
    assert ours is not None and theirs is not None and theirs.floor == ours.floor
    assert theirs.kid - theirs.floor > 0.3 > abs(ours.kid - ours.floor)
    before, after = seen.before.text_image, seen.after.text_image
    assert before is not None and after is not None and after.mean < before.mean - 0.1


def test_an_encoder_that_erased_only_the_name(base: Base) -> None:
    alone = copy.deepcopy(base.encoder)
    name, anchor = base.pipeline.tokenizer("pizza hamburger", add_special_tokens=False).input_ids
    words = alone.get_input_embeddings().weight.data
    words[name] = words[anchor]
    report = judged(base, alone)
    assert "variants" in missed(report) and "erasure" not in missed(report)
    assert (report.pipelines["t2i"].after.variants["alias"].rate or 0) >= 0.5


def test_an_encoder_with_a_broken_empty_prompt(base: Base, erased: PreTrainedModel) -> None:
    broken = copy.deepcopy(erased)
    layer = next(m for n, m in broken.named_modules() if n.endswith("layers.0.mlp.fc2"))
    layer.bias.data += 0.2 * torch.randn(layer.bias.shape, generator=torch.Generator().manual_seed(0))
    report = judged(base, broken)
    assert "empty" in missed(report) and report.drift["empty"] > 0.05


@pytest.fixture(scope="module")
def clips(base: Base) -> tuple[list[Ask], Tensor]:
    """Clips of a pizza and of others, as the base draws them."""
    asks = plan(
        demo.VOCABULARY,
        (DemoScorer.concepts, DemoScorer.styles),
        [(PIZZA, "pizza")],
        Amount(target=4, variant=0, other=1),
        500,
        clips=True,
    )[:16]
    return asks, draw(demo.load("t2v-motion"), asks, steps=8, frames=8, guidance=3.0, batch=8)


def clip_report(asks: list[Ask], before: Tensor, after: Tensor) -> Report:
    found = compare(DemoScorer(), asks, before, after, targets=["pizza"], groups=demo.VOCABULARY.groups)
    return replace(NOTHING, pipelines={"t2v": replace(found, video=True)})


def without_pizza(asks: list[Ask], clips: Tensor) -> Tensor:
    """What a perfect edit would give: every pizza replaced by another clip, the others as they were."""
    other = next(i for i, a in enumerate(asks) if a.role == "other")
    return torch.stack([clips[other] if a.concept == "pizza" else clips[i] for i, a in enumerate(asks)])


def test_a_clip_in_which_the_concept_returns(clips: tuple[list[Ask], Tensor]) -> None:
    asks, before = clips
    after = without_pizza(asks, before)
    gates = "erasure>=0.95,any_frame>=0.95,late>=0.95"
    assert missed(clip_report(asks, before, after), gates) == set()  # the control
    after[:, -1:] = before[:, -1:]
    report = clip_report(asks, before, after)
    assert missed(report, gates + ",retain>=0.98") == {"erasure", "any_frame", "late"}
    curve = [r.rate or 0 for r in report.pipelines["t2v"].after.by_frame or ()]
    assert curve[:-1] == [0] * 7 and curve[-1] >= 0.75


def test_a_frozen_clip_is_not_preserved(clips: tuple[list[Ask], Tensor]) -> None:
    asks, before = clips
    frozen = without_pizza(asks, before)[:, :1].expand(-1, 8, -1, -1, -1)
    report = clip_report(asks, before, frozen)
    assert missed(report, "retain>=0.9,motion>=0.9,amount>=0.9") >= {"motion", "amount"}
    assert figures(report)["amount"] == 0
    assert figures(report)["consistency"] >= 0.99, "the more alike the frames, so this row alone would be fooled"


def test_a_clip_whose_object_vanished_is_not_consistent(clips: tuple[list[Ask], Tensor]) -> None:
    asks, before = clips
    empty = without_pizza(asks, before)
    empty[:, 1:] = 1.0  # white paper
    report = clip_report(asks, before, empty)
    assert report.pipelines["t2v"].after.consistency is None
    assert "retain" in missed(report, "retain>=0.9")


def test_what_is_judged_in_parts_is_what_is_judged_at_once(clips: tuple[list[Ask], Tensor]) -> None:
    asks, before = clips
    after = without_pizza(asks, before)
    references, options = before[:3, 0], {"targets": ["pizza"], "groups": demo.VOCABULARY.groups}
    judge = Judge(DemoScorer(), None, references)
    whole = compare(DemoScorer(), asks, before, after, references=references, **options)  # type: ignore[arg-type]
    for n in (1, 5):  # in one of them there is neither an erased concept nor another
        sights = [
            Sight.joined([judge.look(x[i : i + n], asks[i : i + n]) for i in range(0, len(asks), n)])
            for x in (before, after)
        ]
        assert compared(asks, *sights, whose="demo", **options) == whole  # type: ignore[arg-type]
    assert whole.after.copyright is not None and whole.after.consistency and whole.after.motion  # the control


def test_fewer_are_drawn_at_once_where_they_are_large(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = demo.load("t2v-motion")
    assert (batch_of(base.pipeline, None), batch_of(clip, 8)) == (32, 8)
    monkeypatch.setattr(samples, "PIXELS", 3 * 64 * 64)
    assert (batch_of(base.pipeline, None), batch_of(clip, 8)) == (3, 1)
    asks = [Ask(f"a picture of a {name}", name, "", i) for i, name in enumerate(demo.VOCABULARY.concepts[:7])]
    parts = list(batches(base.pipeline, asks, steps=2, guidance=3.0))
    assert [len(part) for part, _ in parts] == [len(pixels) for _, pixels in parts] == [3, 3, 1]
    assert [a for part, _ in parts for a in part] == asks
    together = draw(base.pipeline, asks, steps=2, guidance=3.0, batch=7)
    assert torch.allclose(torch.cat([pixels for _, pixels in parts]), together, atol=1e-4)


def test_the_plan_asks_for_every_kind_of_words() -> None:
    known = (DemoScorer.concepts, DemoScorer.styles)
    asks = plan(demo.VOCABULARY, known, [(PIZZA, "pizza")], Amount(5, 2, 1), 10, clips=True)
    assert [a.seed for a in asks] == list(range(10, 10 + len(asks)))
    by_role = {role: [a for a in asks if a.role == role] for role in (*VARIANTS, "negative", "other")}
    assert {role: len(items) for role, items in by_role.items()} == dict.fromkeys(VARIANTS, 2) | {
        "direct": 5,
        "negative": 2,
        "other": 24,
    }
    assert all("pizza" not in a.prompt for a in by_role["alias"][:1] + by_role["negative"] + by_role["other"])
    assert all(a.negative == "pizza" and a.concept != "pizza" for a in by_role["negative"])
    assert {a.motion for a in asks} == set(demo.VOCABULARY.motions)
    style = plan(demo.VOCABULARY, known, [(Concept("ink", "style"), "ink")], Amount(5, 2, 1), 0, clips=False)
    assert all("{" not in a.prompt for a in style)
    assert all("ink" in a.prompt and a.style == "ink" for a in style if a.role in VARIANTS)
    assert all(a.style in ("glossy", "flat") for a in style if a.role == "other")


def test_intervals_are_wilson_s() -> None:
    low, high = Rate(9, 10, 10).interval() or (0, 0)
    assert (round(low, 4), round(high, 4)) == (0.5958, 0.9821)  # worked out by hand from the formula
    assert (Rate(0, 10, 10).interval() or (1, 0))[0] == 0
    assert Rate.of([], 8).to_json() == {"hits": 0, "n": 0, "rate": None, "low": None, "high": None}
    frames, clips = Rate.of([True] * 16, 8), Rate.of([True] * 2)
    assert frames.interval() == clips.interval() and frames.n == 16
    assert Mean.of([]) is None and Mean.of([1.0, 2.0]) == Mean(1.5, 2)


def test_gates_read_as_written() -> None:
    assert Gate.parse("erasure>=0.95, retain >= .98") == [Gate("erasure", 0.95), Gate("retain", 0.98)]
    assert Gate.parse("") == []
    for text in ("erasure", "erasure=1", "erasure>=high", "speed>=1"):
        with pytest.raises(UsageError):
            Gate.parse(text)
    assert check(NOTHING, [Gate("erasure", 0.5)]) == ["erasure was not measured, at least 0.5 is required"]
    assert set(figures(NOTHING)) == set(MEANING)


def test_copyright_metric_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # two channels, two positions
    assert gram(maps)[0].tolist() == [[5 / 4, 11 / 4], [11 / 4, 25 / 4]]
    near, far = copyright_metric([torch.tensor([0.0, 1.0]), torch.tensor([4.0, 2.0])])
    assert near == pytest.approx((1 + (1 - 1 / 16)) / 2, abs=1e-4)
    assert far == pytest.approx((0 + (1 - 1 / 4)) / 2, abs=1e-4)

    class Plain:
        def features(self, pixels: Tensor) -> Tensor:
            return pixels.flatten(1)

        def feature_maps(self, pixels: Tensor) -> list[Tensor]:
            return [pixels]

    a, b = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 2.0]]]])
    found = likeness(Plain(), a, torch.cat([a, b]), weights=(0.5,))  # type: ignore[arg-type]
    assert found.semantic.tolist() == [[0.0, 2.5]] and found.style.tolist() == [[0.0, 0.5 * 2.5**2]]
    assert found.product.tolist() == [0.0], "the closest reference counts"


def test_distance_is_zero_for_one_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(30, 2, 16, generator=generator) for _ in range(2))
    same, apart = kernel_distance(a, b, 0), kernel_distance(a, b + 1, 0)
    assert same and apart and abs(same.kid) < 0.2 < apart.kid and apart.floor == same.floor
    assert kernel_distance(a, b, 0) == same and kernel_distance(a[:10], b[:10], 0) is None


@pytest.mark.parametrize(
    "motion", ["left", "right", "up", "down", "growing", "shrinking", "bouncing", "spinning", "still"]
)
def test_the_tracker_names_a_drawn_motion(motion: str) -> None:
    u = torch.linspace(-1, 1, 8)
    zero, one = torch.zeros(8), torch.ones(8)
    x = {"left": -0.15 * u, "right": 0.15 * u}.get(motion, zero)
    y = {
        "up": -0.15 * u,
        "down": 0.15 * u,
        "bouncing": 0.1 - 0.2 * torch.sin(torch.linspace(0, 2 * torch.pi, 8)).abs(),
    }.get(motion, zero)
    size = {"growing": 1.4**u, "shrinking": 1.4**-u}.get(motion, one)
    angle = torch.arange(8) * torch.pi / 4 if motion == "spinning" else zero
    ys, xs = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    clip = torch.ones(8, 3, 64, 64)
    for f in range(8):
        dx, dy = (xs - 0.5 - x[f]) / size[f], (ys - 0.5 - y[f]) / size[f]
        along, across = dx * angle[f].cos() + dy * angle[f].sin(), dy * angle[f].cos() - dx * angle[f].sin()
        clip[f][:, (along.abs() < 0.2) & (across.abs() < 0.1)] = 0.0
        clip[f][0, (along > 0.05) & (along < 0.2) & (across.abs() < 0.1)] = 1.0  # one end is red
    assert name_motion(track(clip)) == motion


def test_references_are_needed_for_the_copyright_metric(base: Base, erased: PreTrainedModel, tmp_path: Path) -> None:
    asks = [Ask(f"a picture of a pizza in {s} style", "pizza", s, 90 + i) for i, s in enumerate(DemoScorer.styles)]
    reference = draw(base.pipeline, asks, steps=8, guidance=3.0)[:, 0]
    tiny = Size(target_images=6, other_images=1, variant_images=0, steps=8, guidance=3.0)
    report = evaluate(base, erased, [PIZZA], DemoScorer(), size=tiny, references=reference).report
    seen = report.pipelines["t2i"]
    assert seen.before.copyright is not None and seen.after.copyright is not None
    assert seen.before.copyright > seen.after.copyright + 0.05
