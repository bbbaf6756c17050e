"""What is measured of text states: planted faults land in the right figure, streamed or not, without any pipeline."""

import copy
import json
import re
from pathlib import Path

import pytest
import tiny_pipelines as tiny
import torch
from click.testing import CliRunner, Result
from test_card import evaluation, folder
from transformers import PreTrainedModel

from unlearn_export import seat as seats
from unlearn_export.artifact import Artifact
from unlearn_export.base import Base, load_base
from unlearn_export.card import render
from unlearn_export.cli import main
from unlearn_export.concept import Concept
from unlearn_export.evaluation.states import drift_of, measure_states
from unlearn_export.evaluation.wordings import MOST, OTHERS, wordings
from unlearn_export.gates import Gate, check, figures
from unlearn_export.measured import Report
from unlearn_export.records import as_json
from unlearn_export.report import render_report, write_report
from unlearn_export.states import ReaderStates, States
from unlearn_export.streaming import streamed
from unlearn_export.vocabulary import GENERAL

PIZZA = Concept("pizza", anchor="hamburger")
SEATS = {
    "t5": (tiny.t5, tiny.t5_tokenizer),
    "clip with projection": (lambda: tiny.clip(projected=True), tiny.clip_tokenizer),
    "qwen": (tiny.qwen, tiny.qwen_tokenizer),
    "gemma3": (tiny.gemma3, tiny.gemma_tokenizer),
    "gemma2": (tiny.gemma2, tiny.gemma_tokenizer),
}


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("demo")


def swapped(base: Base, pairs: dict[str, str]) -> PreTrainedModel:
    """The demo's encoder in which each first word has the embedding of its second."""
    edited = copy.deepcopy(base.encoder)
    words = edited.get_input_embeddings().weight.data
    for name, other in pairs.items():
        a, b = base.seat.tokenizer(f"{name} {other}", add_special_tokens=False).input_ids
        words[a] = words[b]
    return edited


def reader(base: Base, edited: PreTrainedModel, *concepts: Concept, **options: object) -> ReaderStates:
    found = measure_states(base, {"text_encoder": edited}, concepts or [PIZZA], **options)  # type: ignore[arg-type]
    return found.readers[0][1]


def test_an_encoder_that_was_not_edited(base: Base) -> None:
    found = reader(base, base.encoder)
    assert found.worst and found.worst.drift == 0
    assert all(moved is None or moved.mean == moved.high == 0 or moved.n == 1 for moved in found.drift.values())
    assert found.gap and found.gap.before == found.gap.after and found.gap.before.mean > 0.5
    assert found.nearer_anchor and found.nearer_anchor.after.hits == 0
    assert found.known_again.before == found.known_again.after and found.known_again.before.told == 1
    assert found.apart and found.apart.mean > 0.5


def test_a_concept_that_became_its_anchor_and_nothing_else(base: Base) -> None:
    found = reader(base, swapped(base, {"pizza": "hamburger"}))
    assert found.nearer_anchor and found.nearer_anchor.after.told == 1 and found.nearer_anchor.after.n >= 9
    for kinds in found.anchor.values():
        assert set(kinds) == {"name", "rest", "padding"}
        assert all(gap.before.mean > 0.1 and gap.after.mean < 1e-5 for gap in kinds.values())
    assert found.worst and found.worst.drift == 0 and found.known_again.after.told == 1


def test_another_thing_that_is_no_longer_itself_is_named(base: Base) -> None:
    found = reader(base, swapped(base, {"pizza": "hamburger", "frog": "cat"}))
    assert found.worst and "frog" in found.worst.prompt and found.worst.drift > 0.3
    assert found.worst.of == sum(found.prompts[group] for group in OTHERS)
    assert found.known_again.after.hits == found.known_again.before.hits - 1


def test_an_encoder_that_was_destroyed(base: Base) -> None:
    noise, generator = copy.deepcopy(base.encoder), torch.Generator().manual_seed(0)
    for p in noise.parameters():
        p.data = p.data.std() * torch.randn(p.shape, generator=generator)
    found = reader(base, noise)
    assert found.known_again.after.told is not None and found.known_again.after.told < 0.3
    assert all(moved.mean > 0.3 for moved in found.drift.values() if moved)


def test_without_an_anchor_there_is_nothing_to_come_near_to(base: Base) -> None:
    found = reader(base, swapped(base, {"pizza": "hamburger"}), Concept("pizza"))
    assert found.anchor == {} and found.nearer_anchor is found.gap is None
    assert found.drift["concept"] and found.drift["concept"].mean > 0.3


def test_the_same_arguments_give_the_same_numbers(base: Base) -> None:
    edited = swapped(base, {"pizza": "hamburger", "frog": "cat"})
    first, again, other = (reader(base, edited, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first.drift["contexts"] != other.drift["contexts"] and first.drift["held_out"] == other.drift["held_out"]


def test_a_style_is_shown_on_things() -> None:
    found = wordings(GENERAL, [Concept("Claude Monet", "style", anchor="Rembrandt")], ["dog"], 0)
    about = [w for w in found if w.group.startswith("concept")]
    assert len(about) >= 20 and all("{" not in w.text and w.name in w.text and w.anchor in w.meant for w in about)
    assert not any("Monet" in w.text for w in found if w.group in ("retained", "held_out", "words"))
    assert [w.group for w in found if w.is_plain and w.name == "dog"] in ([], ["held_out"])
    few = wordings(GENERAL, [PIZZA], [], 0, share=0.1)
    counts = {group: sum(w.group == group for w in few) for group in MOST}
    assert counts["empty"] == 1 and all(2 <= n <= 8 for group, n in counts.items() if group != "empty")


def saved(path: Path, kind: str) -> Path:
    encoder, tokenizer = (make() for make in SEATS[kind])
    encoder.save_pretrained(path / "text_encoder", max_shard_size="60KB")
    tokenizer.save_pretrained(path / "tokenizer")
    return path / "text_encoder"


@pytest.mark.parametrize("kind", SEATS)
def test_every_reader_of_every_family_streamed_or_not(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, concept = saved(tmp_path, kind), Concept("pizza", anchor="car")
    base = load_base(where)
    seat = base.seat
    linear = next(iter(seat.family.linears(seat.family.skeleton(seat.config), ["mlp"], 1)))
    key = seat.stored[f"{linear}.weight"]
    changed = {key: seat.weights.get(key) * 1.2}
    edited = seat.load()
    next(p for n, p in edited.named_parameters() if seat.family.canonical(n) == f"{linear}.weight").data.mul_(1.2)
    whole = measure_states(base, {"text_encoder": edited}, [concept], work=2e7)
    monkeypatch.setattr(seats, "LARGE", 0)
    fresh = load_base(where)
    read = measure_states(fresh, {"text_encoder": streamed(fresh.seat, changed)}, [concept], work=2e7)
    assert read.seats["text_encoder"].streamed and not whole.seats["text_encoder"].streamed
    assert not fresh.encoders.made  # type: ignore[attr-defined]
    views = [
        (c.pipelines[0], w)
        for c in seat.contracts
        for w, is_read in (("states", c.layers), ("pooled", c.pooled))
        if is_read
    ]
    assert [(r.reader, r.what) for _, r in read.readers] == views
    for (_, a), (_, b) in zip(whole.readers, read.readers, strict=True):
        assert a.prompts == b.prompts and a.drift["concept"] and a.drift["concept"].mean > 1e-3  # it did change
        for group, moved in a.drift.items():
            assert moved and b.drift[group]
            assert moved.mean == pytest.approx(b.drift[group].mean, rel=0.02, abs=2e-5)  # type: ignore[union-attr]
        assert a.gap and b.gap and a.gap.after.mean == pytest.approx(b.gap.after.mean, rel=0.01)
        assert drift_of(read)["concept"] > 0


def test_padding_is_told_of_where_it_is_read(tmp_path: Path) -> None:
    base = load_base(saved(tmp_path, "t5"), readers=("CogVideoXPipeline",))
    found = measure_states(base, base.encoders, [Concept("pizza", anchor="car")], work=2e7)
    kinds = {r.reader: set(r.anchor["concept"]) for _, r in found.readers}
    masked = next(c.pipelines[0] for c in base.seat.contracts if c.reads == "mask")
    assert kinds["CogVideoXPipeline"] == {"name", "rest", "padding"} and kinds[masked] == {"name", "rest"}


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words])


@pytest.mark.parametrize("large", [False, True])
def test_an_encoder_s_folder_is_evaluated_without_any_pipeline(
    tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, out = saved(tmp_path, "t5"), tmp_path / "out"
    if large:
        monkeypatch.setattr(seats, "LARGE", 0)
        monkeypatch.setattr("unlearn_export.seat.load_torch", None)  # nothing whole is loaded
        monkeypatch.setattr("unlearn_export.stages.load_torch", None)
    made = invoke(
        "erase", "pizza", "--anchor", "car", "--base", where, "-o", out, "--no-onnx", "-O", "steps=20", "-O", "pool=16"
    )
    assert made.exit_code == 0, made.output
    again = invoke("evaluate", out, "--base", where, "--json", "--require", "states_erased>=1.0,states_retain>=0")
    report = json.loads(again.stdout)["evaluation"]
    assert again.exit_code == 3 and "states_erased is " in again.stderr
    assert report["pipelines"] == {} and report["states"]["seats"]["text_encoder"]["streamed"] == large
    artifact = Artifact.open(out)
    assert artifact.verify() and artifact.evaluation and artifact.evaluation.to_json() == report
    assert (r := report["states"]["seats"]["text_encoder"]["readers"][0])["worst"]["prompt"] in render_report(artifact)
    assert f"| {r['reader']}, text\\_encoder |" in render(artifact)
    refused = invoke("evaluate", out, "--base", where, "--scorer", "demo")
    assert refused.exit_code == 2 and "is an encoder alone and draws nothing to judge" in refused.stderr
    assert "\n" not in refused.stderr.strip()


def test_a_report_with_states_comes_back_as_it_was_and_is_shown(base: Base, tmp_path: Path) -> None:
    states = measure_states(base, {"text_encoder": swapped(base, {"pizza": "hamburger"})}, [PIZZA], work=1e7)
    written = json.loads(json.dumps(as_json(states), allow_nan=False))
    assert States.from_json(written, "states") == states
    data = evaluation() | {"states": written}
    report = Report.from_json(data)
    assert report.to_json()["states"] == written and Report.from_json(evaluation()).states is None
    values = figures(report)
    assert values["states_erased"] == values["states_retain"] == 1
    assert check(Report.from_json(evaluation()), [Gate("states_erased", 0.5)]) == [
        "states_erased was not measured, at least 0.5 is required"
    ]
    text = render(folder(tmp_path, report=data))
    [row] = [line for line in text.splitlines() if line.startswith("| StableDiffusionPipeline")]
    r = states.readers[0][1]
    assert r.nearer_anchor and f"{r.nearer_anchor.after.hits}/{r.nearer_anchor.after.n} (100.0%)" in row
    assert "Nearer to the anchor" not in render(folder(tmp_path / "older", report=evaluation()))


def test_the_page_shows_what_the_json_says(base: Base, tmp_path: Path) -> None:
    states = measure_states(base, {"text_encoder": swapped(base, {"frog": "cat"})}, [PIZZA], work=1e7)
    data = evaluation() | {"format": 2, "states": as_json(states), "pipelines": {}, "scorer": None}
    data["cost"] = {"seconds": {}, "peak_memory_bytes": 1, "parameters": 1, "parameters_changed": 1}
    artifact = folder(tmp_path, report=data)
    page = write_report(artifact).read_text()
    r = states.readers[0][1]
    assert r.worst and f"“{r.worst.prompt}”" in page and f"{r.worst.drift:.4f}" in page
    assert len(re.findall("<td>moved: ", page)) == len(MOST) and "StableDiffusionPipeline, text_encoder" in page
