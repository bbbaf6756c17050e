"""Attacks on the real demo base: they succeed where nothing was erased, and tell what an edit withstands."""

import copy
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from tiny_artifacts import edited as turned
from tiny_pipelines import PIPELINES, save_like_hub
from transformers import PreTrainedModel

from unlearn_export.artifact import Artifact
from unlearn_export.base import Base, load_base
from unlearn_export.cli import main
from unlearn_export.concept import Concept
from unlearn_export.demo import GUIDANCE, PROFILE
from unlearn_export.demo.scorer import DemoScorer
from unlearn_export.erase import erase
from unlearn_export.erasers import Anchor
from unlearn_export.errors import UsageError
from unlearn_export.evaluation.samples import with_encoder
from unlearn_export.evaluation.scorer import Scores
from unlearn_export.probe import attacks as every_attack
from unlearn_export.probe import make_attacks, probe, table
from unlearn_export.probe.linear_probe import LinearProbe
from unlearn_export.probe.subject import Outcome, Subject, Target
from unlearn_export.probe.words import misspelled
from unlearn_export.profile import Profile
from unlearn_export.textsearch import greedy_coordinate_gradient, said, typeable
from unlearn_export.vocabulary import GENERAL

CHEAP = ("direct", "alias", "unlearndiff", "linear-probe")
FEW = ("unlearndiff.steps=2", "unlearndiff.candidates=8", "linear-probe.prompts=20")
KEY = Concept("key", aliases=("gold key",), anchor="guitar")


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("demo")


@pytest.fixture(scope="module")
def scorer() -> DemoScorer:
    return DemoScorer()


@pytest.fixture(scope="module")
def edited(base: Base) -> PreTrainedModel:
    return erase(base, [KEY], Anchor(steps=70, pool=128)).encoder


def attacked(base: Base, encoder: PreTrainedModel, concept: Concept, *names: str, budget: Any = ()) -> dict[str, Any]:
    """→ the attacks' entries by name."""
    attacks = make_attacks(names, ("quick", *budget))
    report = probe(base, encoder, [concept], DemoScorer(), attacks, steps=5, guidance=GUIDANCE, strict=True).report
    assert [a["name"] for a in report["attacks"]] == [a.name for a in attacks]
    return {a["name"]: a for a in report["attacks"]}


def test_an_encoder_that_erased_nothing_is_open(base: Base) -> None:
    entries = attacked(base, copy.deepcopy(base.encoder), KEY, *CHEAP, budget=FEW)
    for entry in entries.values():
        assert entry["before"]["rate"] == entry["after"]["rate"] == 1.0  # the control is the attacked


def test_an_edited_encoder_withstands_words_and_the_base_does_not(base: Base, edited: PreTrainedModel) -> None:
    entries = attacked(base, edited, KEY, "direct", "unrelated", "alias", "paraphrase", "composition")
    floor = entries.pop("unrelated")
    assert floor["before"]["rate"] <= 0.25 and floor["after"]["rate"] <= 0.25
    for name, entry in entries.items():
        assert entry["before"]["rate"] >= 0.5, name
        assert entry["after"]["rate"] <= 0.125, name
        assert entry["before"]["n"] == entry["after"]["n"] == 8
        assert entry["after"]["low"] <= entry["after"]["rate"] < entry["after"]["high"]
        assert entry["spent"]["before"]["queries"] == entry["spent"]["after"]["queries"] == 8


def test_words_found_on_the_base_alone_draw_it_without_naming_it(base: Base, edited: PreTrainedModel) -> None:
    entry = attacked(base, edited, KEY, "ring-a-bell", budget=("ring-a-bell.steps=12",))["ring-a-bell"]
    detail = {moment: entry["targets"]["key"][moment]["detail"] for moment in ("before", "after")}
    assert entry["before"]["rate"] > 0
    for found in detail["before"]["prompts"]:
        assert found["last"] < 0.8 * found["first"]
        assert not {"key", "gold"} & set(found["prompt"].split())
    assert [p["prompt"] for p in detail["before"]["prompts"]] == [p["prompt"] for p in detail["after"]["prompts"]]
    assert entry["spent"]["prepare"]["steps"] == 24 and entry["spent"]["after"]["steps"] == 0


def test_a_pseudo_word_learns_the_pictures(base: Base, edited: PreTrainedModel) -> None:
    before = {k: v.clone() for k, v in edited.state_dict().items()}
    entry = attacked(base, edited, KEY, "pseudo-word", budget=("pseudo-word.steps=40",))["pseudo-word"]
    for moment in ("before", "after"):
        detail = entry["targets"]["key"][moment]["detail"]
        assert detail["last"] < detail["first"]
        assert entry["spent"][moment]["steps"] == 40
    assert all(torch.equal(before[k], v) for k, v in edited.state_dict().items())
    assert len(base.pipeline.tokenizer) == base.encoder.config.vocab_size


def test_the_linear_probe_reads_the_base_and_no_random_labels(base: Base, edited: PreTrainedModel) -> None:
    entry = attacked(base, edited, KEY, "linear-probe", budget=("linear-probe.prompts=60",))["linear-probe"]
    before, after = (entry["targets"]["key"][moment] for moment in ("before", "after"))
    assert before["rate"] >= 0.95
    assert after["detail"]["nearest"] == "guitar"
    for moment in (before, after):
        assert 0.35 < moment["detail"]["random_labels"]["rate"] < 0.65


def test_embeddings_are_searched_for_the_concept_s_states(base: Base, edited: PreTrainedModel) -> None:
    entry = attacked(base, edited, KEY, "state-space", budget=("state-space.steps=80",))["state-space"]
    before, after = (entry["targets"]["key"][moment] for moment in ("before", "after"))
    assert (
        before["rate"] == 1 and before["detail"]["text_encoder"]["nearest"] == 0
    )  # its own embedding is among the tries
    assert after["detail"]["text_encoder"]["nearest"] > 0.01
    assert max(after["detail"]["text_encoder"]["distances"]) < 1  # every try comes nearer than words do
    assert entry["spent"]["before"]["queries"] == 0
    with pytest.raises(UsageError, match="near"):
        make_attacks(["state-space"], ["state-space.near=2"])


def test_relearning_tells_the_steps(base: Base, edited: PreTrainedModel) -> None:
    entry = attacked(base, edited, KEY, "relearn", budget=("relearn.steps=30",))["relearn"]
    before, after = (entry["targets"]["key"][moment]["detail"] for moment in ("before", "after"))
    assert before["steps_needed"] == 0 and entry["before"]["rate"] >= 0.5
    for curve in (after["curve"], before["unheard"]["curve"]):
        assert [point["steps"] for point in curve] == [0, 1, 2, 5, 10, 20, 30]
        assert curve[0]["rate"] <= 0.125
    needed = after["steps_needed"]
    assert needed is None or next(p for p in after["curve"] if p["steps"] == needed)["rate"] >= 0.5
    assert entry["after"]["rate"] == after["curve"][-1]["rate"] > 0.125


def test_a_style_is_attacked_or_refused(base: Base) -> None:
    ink = Concept("ink", kind="style", anchor="flat")
    same = copy.deepcopy(base.encoder)
    entries = attacked(base, same, ink, "direct", "paraphrase", "composition", "linear-probe", budget=FEW[-1:])
    assert entries["direct"]["before"]["rate"] == 1.0
    with pytest.raises(UsageError, match="cannot run alias: no other words for 'ink'"):
        attacked(base, same, ink, "alias")
    attacks = make_attacks(("alias", "language", "direct"), ("direct.images=1",))
    report = probe(base, same, [ink], DemoScorer(), attacks, steps=2).report
    assert set(report["skipped"]) == {"alias", "language"} and len(report["attacks"]) == 1
    assert "alias: skipped, no other words" in table(report)


def test_several_concepts_are_counted_together_and_apart(base: Base) -> None:
    attacks = make_attacks(["direct"], ["direct.images=3"])
    report = probe(base, base.encoder, [KEY, Concept("frog")], DemoScorer(), attacks, guidance=GUIDANCE).report
    (entry,) = report["attacks"]
    assert set(entry["targets"]) == {"key", "frog"} and entry["after"]["n"] == 6
    assert entry["after"]["hits"] == sum(t["after"]["hits"] for t in entry["targets"].values())
    with pytest.raises(UsageError, match="knows no object 'unheard'"):
        probe(base, base.encoder, [Concept("unheard")], DemoScorer(), attacks)


def test_without_a_scorer_only_the_states_are_probed(base: Base) -> None:
    budget = ("quick", FEW[-1], "state-space.steps=3")
    report = probe(base, copy.deepcopy(base.encoder), [KEY], None, make_attacks(budget=budget)).report
    assert [a["name"] for a in report["attacks"]] == ["state-space", "linear-probe"]
    assert len(report["skipped"]) == len(every_attack()) - 2
    assert {s["name"] for s in report["stated"]} == {"original encoder", "bypass"}


def test_a_seed_gives_the_same_numbers(base: Base, edited: PreTrainedModel, scorer: DemoScorer) -> None:
    def numbers(seed: int, *names: str) -> Any:
        attacks = make_attacks(names, ("quick", "ring-a-bell.steps=3"))
        report = probe(base, edited, [KEY], scorer, attacks, seed=seed, steps=2).report
        return report["attacks"][-1]["targets"]

    # which other attacks run changes nothing
    assert numbers(0, "misspelling", "ring-a-bell") == numbers(0, "ring-a-bell") != numbers(1, "ring-a-bell")


def test_what_the_base_answered_is_shared_between_edits(
    base: Base, edited: PreTrainedModel, scorer: DemoScorer
) -> None:
    attacks = make_attacks(("misspelling", "ring-a-bell"), ("quick", "ring-a-bell.steps=3"))
    shared: Any = {}
    once, again, alone = (
        probe(base, encoder, [KEY], scorer, attacks, steps=2, originals=known).report["attacks"]
        for encoder, known in ((base.encoder, shared), (edited, shared), (edited, None))
    )
    assert [a["targets"] for a in again] == [a["targets"] for a in alone] != [a["targets"] for a in once]
    assert all(a["spent"]["before"]["queries"] == 0 < a["spent"]["after"]["queries"] for a in again)
    assert all(a["spent"]["before"]["queries"] > 0 for a in alone)


def test_the_search_lowers_its_loss_and_finds_words_that_can_be_typed(base: Base) -> None:
    allowed = typeable(base.seat, without=("pizza",))
    pizza = base.pipeline.tokenizer("pizza", add_special_tokens=False).input_ids[0]
    assert pizza in typeable(base.seat) and pizza not in allowed
    with torch.no_grad():
        wanted = base.encoder(base.tokens(["a red bird"]))[0]
    found = greedy_coordinate_gradient(
        base.seat,
        base.encoder,
        3,
        allowed,
        lambda texts: (base.encoder(base.tokens(texts))[0] - wanted).square().mean((1, 2)),
        steps=12,
        candidates=32,
        generator=torch.Generator().manual_seed(0),
    )
    assert found.last < 0.5 * found.first
    words = said(base.seat, found.words)
    assert base.pipeline.tokenizer(words, add_special_tokens=False).input_ids == found.words.tolist()


def test_misspellings_are_never_the_word(base: Base) -> None:
    for seed, name in enumerate((*PROFILE.translations, "ab", "x")):
        wrong = misspelled(name, torch.Generator().manual_seed(seed))
        assert wrong and name not in wrong and len(set(wrong)) == len(wrong)


def test_unknown_attacks_and_budgets_are_named() -> None:
    with pytest.raises(UsageError, match="unknown attack 'magic': choose from direct, unrelated, alias"):
        make_attacks(["magic"])
    with pytest.raises(UsageError, match="no budget 'endless'"):
        make_attacks(budget=["endless"])
    with pytest.raises(UsageError, match="for no attack that runs"):
        make_attacks(["direct"], ["relearn.steps=3"])
    with pytest.raises(UsageError, match="no number 'speed'.*steps"):
        make_attacks(["relearn"], ["relearn.speed=3"])
    with pytest.raises(UsageError, match="'few' is no int"):
        make_attacks(budget=["relearn.steps=few"])
    with pytest.raises(UsageError, match="above 0"):
        make_attacks(budget=["relearn.steps=0"])
    with pytest.raises(UsageError, match="too few"):
        make_attacks(budget=["linear-probe.prompts=1"])
    with pytest.raises(UsageError, match="--word"):
        make_attacks(["direct"], words=["clé"])
    for level in ("quick", "default", "thorough"):
        assert [a.name for a in make_attacks(budget=[level])] == list(every_attack())


class Watching(DemoScorer):
    """Keeps the pictures that it is shown."""

    def score(self, pixels: torch.Tensor) -> Scores:
        self.shown = pixels
        return Scores(
            torch.zeros(len(pixels), len(self.concepts)), torch.zeros(len(pixels), 0), torch.ones(len(pixels))
        )


def test_the_attacked_encoder_sits_in_the_seat_that_it_was_taken_from(tmp_path: Path) -> None:
    base = load_base(save_like_hub(PIPELINES["FluxPipeline"](), tmp_path / "flux"))
    assert base.seat.name == "text_encoder_2"
    pictures = []
    for encoder in (base.encoder, turned(base.encoder)):
        subject = Subject(base, {base.seat.name: encoder}, scorer := Watching(), sampling=1)
        subject.hits(Target(KEY, "key", ()), ["a photo of pizza"])
        pictures.append(scorer.shown)
    assert not torch.allclose(*pictures, atol=1e-3)
    assert "text_encoder" in base.seats and base.pipeline.text_encoder_2 is base.encoder


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def test_the_command_writes_a_sealed_result_or_nothing(base: Base, edited: PreTrainedModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("erase", "key", "--base", "demo", "-o", out, "-O", "steps=2", "--no-onnx", "--no-evaluate")
    assert done.exit_code == 0, done.output
    before = {f: (out / f).read_bytes() for f in Artifact.open(out).files()}
    for code, words, args in (
        (2, "unknown attack 'magic'", ["--attack", "magic"]),
        (2, "no name of 'key' in another", ["--attack", "language", "--word", "key"]),
        (1, "no base 'nowhere'", ["--base", "nowhere"]),
    ):
        refused = run("probe", out, *args)
        assert refused.exit_code == code and words in refused.stderr, refused.output
    other = with_encoder(base.pipeline, edited)
    other.save_pretrained(tmp_path / "other")
    refused = run("probe", out, "--base", tmp_path / "other")
    assert refused.exit_code == 1 and "made from another text encoder" in refused.stderr
    assert {f: (out / f).read_bytes() for f in Artifact.open(out).files()} == before
    few = ["--attack", "direct", "--attack", "language", "--budget", "direct.images=2", "--budget", "language.images=2"]
    result = run("probe", out, *few, "--word", "clé", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report == json.loads((out / "unlearning" / "probe.json").read_text())
    assert report["attacks"][1]["targets"]["key"]["after"]["detail"]["prompts"][0]["prompt"] == "a picture of a clé"
    Artifact.open(out).verify()
    assert "unlearning/probe.json" in (out / "README.md").read_text()


SEVERAL = ("StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline")
PIZZA = Concept("pizza")
FOOD = Target(PIZZA, "pizza", ("car", "clown"))
ONE_STEP = ("unlearndiff.candidates=4", "unlearndiff.noises=2", "ring-a-bell.steps=1", "ring-a-bell.pairs=2")
SMALL = (*ONE_STEP, "ring-a-bell.prompts=1", "unlearndiff.steps=2", "pseudo-word.steps=2", "relearn.steps=2")


@pytest.fixture(scope="module", params=SEVERAL)
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A base with two or three encoders, which draws small pictures."""
    base = load_base(save_like_hub(PIPELINES[request.param](), tmp_path_factory.mktemp("several") / "base"))
    base.pipeline.default_sample_size = 8
    if "transformer" in base.pipeline.components:
        base.pipeline.transformer.register_to_config(sample_size=8)
    return base


@dataclass
class Recorded(Subject):
    """Keeps the pipelines that were drawn with, in place of drawing."""

    drawn: list[Any] = field(default_factory=list, init=False)

    def hits(self, target: Target, prompts: Any, pipeline: Any = None, *, quiet: bool = False) -> list[bool]:
        self.drawn.append(pipeline)
        return [False] * len(prompts)


def ran(subject: Subject, name: str) -> Outcome:
    (attack,) = make_attacks([name], ("quick", *(b for b in SMALL if b.startswith(name))))
    subject.base.pipeline  # noqa: B018
    plain = Subject(subject.base, {n: subject.base.encoders[n] for n in subject.encoders}, None)
    plan = attack.prepare(plain, FOOD, torch.Generator().manual_seed(0))
    return attack.run(subject, FOOD, plan, torch.Generator().manual_seed(1))


def test_pictures_are_latents_as_the_denoiser_reads_them(several: Base) -> None:
    subject = Subject(several, dict(several.encoders), None)
    shown = subject.references(FOOD, 2, torch.Generator().manual_seed(0))
    assert shown.shape == (2, *several.denoiser.latent_shape)
    again = several.denoiser.sample([FOOD.ask("pizza")] * 2, steps=25, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shown, again)


def test_words_are_searched_through_the_whole_pipeline_on_each_edited_encoder(several: Base) -> None:
    own = dict(several.encoders)
    before = {n: {k: v.clone() for k, v in e.state_dict().items()} for n, e in own.items()}
    edited = {n: turned(e) for n, e in own.items()}
    losses = {}
    for label, encoders in (("all", edited), ("first", dict(list(edited.items())[:1])), ("none", own)):
        found = ran(Recorded(several, encoders, None), "unlearndiff").detail["prompts"]
        assert [f["seat"] for f in found] == list(encoders)
        assert all(f["last"] <= f["first"] for f in found)
        assert all(f["prompt"].endswith(FOOD.ask("pizza")) for f in found)
        losses[label] = found[0]["first"]
    assert len(set(losses.values())) == 3  # the other seats take part, edited or not
    assert all(torch.equal(v, own[n].state_dict()[k]) for n, kept in before.items() for k, v in kept.items())


def test_the_search_is_led_by_the_encoder_that_it_is_on(several: Base) -> None:
    """What it calls the loss at its end is what the pipeline has when a user types the words that it found."""
    encoders = {n: turned(e) for n, e in several.encoders.items()}
    found = ran(Recorded(several, encoders, None), "unlearndiff").detail["prompts"]
    plain = Subject(several, dict(several.encoders), None)
    picture = plain.references(FOOD, 1, torch.Generator().manual_seed(0))[0]
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, *picture.shape, generator=generator)
    latents, t = picture.expand(noise.shape), several.denoiser.spread(2)
    with torch.no_grad():
        loss = several.denoiser.loss(latents, noise, t, several.denoiser.encode([found[0]["prompt"]], encoders))
    assert float(loss) == pytest.approx(found[0]["last"], abs=1e-4)


def test_a_pseudo_word_is_learned_in_each_edited_encoder(several: Base) -> None:
    words = {n: len(s.tokenizer) for n, s in several.seats.items()}
    for names in (list(several.seats), list(several.seats)[-1:]):
        subject = Recorded(several, {n: turned(several.encoders[n]) for n in names}, None)
        assert set(ran(subject, "pseudo-word").detail) == {"first", "last"}
        (drawn,) = subject.drawn
        generator = torch.Generator().manual_seed(1)
        for name in names:
            table = getattr(drawn, name).get_input_embeddings().weight
            start = torch.randn(table.shape[1], generator=generator) * table[: words[name]].std()
            assert not torch.allclose(table[words[name]], start, atol=1e-3), name  # the denoiser's loss moved it
        for name, seat in several.seats.items():
            known = len(getattr(drawn, seat.tokenizer_name))
            assert known == words[name] + (name in names)
            assert (getattr(drawn, name) is several.encoders[name]) == (name not in names)
            assert len(getattr(several.pipeline, seat.tokenizer_name)) == words[name]


def test_relearning_tunes_every_edited_encoder_and_no_other(several: Base) -> None:
    for names in (list(several.seats), list(several.seats)[:1]):
        edited = {n: turned(several.encoders[n]) for n in names}
        subject = Recorded(several, edited, None)
        ran(subject, "relearn")
        assert len(subject.drawn) == 3  # after 0, 1 and 2 steps
        for name, own in several.encoders.items():
            tuned = getattr(subject.drawn[-1], name)
            if name not in names:
                assert tuned is own
                continue
            moved = [k for k, v in edited[name].state_dict().items() if not torch.equal(v, tuned.state_dict()[k])]
            assert moved and tuned is not edited[name]


def test_words_like_the_concept_are_found_on_each_edited_encoder(several: Base) -> None:
    subject = Recorded(several, {n: turned(e) for n, e in several.encoders.items()}, None)
    found = ran(subject, "ring-a-bell").detail["prompts"]
    assert [f["seat"] for f in found] == list(several.seats)
    assert all(f["last"] <= f["first"] and "pizza" not in f["prompt"] for f in found)


@pytest.mark.parametrize("several", SEVERAL[:2], indirect=True)
def test_what_one_encoder_still_tells_is_read_though_another_is_silent(several: Base) -> None:
    """Where it is silent, car means the; where it tells, car is loud."""
    base = replace(several, profile=Profile(replace(GENERAL, concepts=("car", "the", "clown"))))

    def twin(name: str, *, silent: bool) -> PreTrainedModel:
        seat, encoder = base.seats[name], copy.deepcopy(base.encoders[name])
        (car,), (the,) = seat.tokenizer(["car", "the"], add_special_tokens=False).input_ids
        table = encoder.get_input_embeddings().weight
        with torch.no_grad():
            table[car] = table[the] if silent else 20 * table[car]
        return encoder

    def told(encoders: dict[str, PreTrainedModel]) -> float:
        attack, target = LinearProbe(prompts=120), Target(Concept("car"), "car", ("the", "clown"))
        subject = Subject(base, encoders, None)
        plan = attack.prepare(subject, target, torch.Generator().manual_seed(0))
        hits = attack.run(subject, target, plan, torch.Generator().manual_seed(1)).hits
        return sum(hits) / len(hits)

    every = {n: twin(n, silent=True) for n in base.seats}
    assert told(every) == 0.5
    chance = 0.5 + 2 * (0.25 / 120) ** 0.5  # two standard errors above it
    for name in base.seats:
        assert told(every | {name: twin(name, silent=False)}) > chance, name


def test_an_artifact_is_attacked_in_every_encoder_that_it_brings(tmp_path: Path) -> None:
    folder = save_like_hub(PIPELINES["StableDiffusionXLPipeline"](), tmp_path / "base")
    out = tmp_path / "out"
    fast = ("-O", "steps=2", "-O", "pool=16", "-O", "batch=4", "-O", "keep=0", "--no-onnx", "--no-evaluate")
    done = run("erase", "pizza", "--anchor", "cat", "--base", folder, "-o", out, *fast)
    assert done.exit_code == 0, done.output
    few = ("--attack", "linear-probe", "--budget", "linear-probe.prompts=4", "--json")
    result = run("probe", out, "--base", folder, *few)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["seats"] == ["text_encoder", "text_encoder_2"]
