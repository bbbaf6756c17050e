"""What a base draws of a concept: against a base whose encoder is noise, with and without a judge, and into a plan."""

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tiny_pipelines as tiny
import torch
from click.testing import CliRunner, Result
from PIL import Image

from unlearn_export import identify as module
from unlearn_export import seat as seats
from unlearn_export.base import Base, load_base
from unlearn_export.cli import main
from unlearn_export.concept import Concept
from unlearn_export.errors import UnlearnExportError, UsageError
from unlearn_export.evaluation.samples import with_encoder
from unlearn_export.evaluation.scorer import Scores
from unlearn_export.identify import Identification, identify, table
from unlearn_export.neighbours import anchors
from unlearn_export.plan import read_plan, write_plan
from unlearn_export.scorers import load_scorer

SMALL = {"images": 9, "steps": 8}


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("demo")


@pytest.fixture(scope="module")
def pizza(base: Base) -> Identification:
    before = copy.deepcopy(base.encoder.state_dict())
    found = identify(base, Concept("pizza", aliases=("PIZZA", "frog pond")), load_scorer("demo", base), **SMALL)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.encoder.state_dict().items())
    return found


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was drawn")

    monkeypatch.setattr(module, "draw", refuse)
    yield


def words(found: Identification) -> dict[str, dict]:
    return {word["word"]: word for word in found.report["words"]}


def test_the_words_that_draw_it_are_told_from_those_that_do_not(pizza: Identification) -> None:
    known = words(pizza)
    assert pizza.report["draws"]
    assert known["pizza"]["rate"]["n"] == 9
    assert [known[w]["draws"] for w in ("pizza", "pepperoni", "pizza slice")] == [True] * 3
    assert not known["frog pond"]["draws"]
    assert [w for w in known if known[w]["source"] == "misspelling"] == ["piza", "pziza", "piizza"]
    assert "PIZZA" not in known  # the same tokens
    assert known["piza"]["tokens"] == ["piz", "a</w>"]


def test_false_positives_are_counted_where_other_things_were_asked_for(pizza: Identification) -> None:
    floor, name = pizza.report["false_positives"], words(pizza)["pizza"]["rate"]
    assert floor["n"] == 5 * 3 + 9
    assert floor["high"] < name["low"]
    assert sum(count["n"] for count in pizza.report["templates"].values()) == name["n"]
    assert sum(count["hits"] for count in pizza.report["templates"].values()) == name["hits"]


def test_neighbours_stand_in_the_order_of_the_encoder(pizza: Identification) -> None:
    near = pizza.report["neighbours"]
    assert len(near) == 24
    assert [n["cosine"] for n in near] == sorted((n["cosine"] for n in near), reverse=True)
    assert [n["name"] for n in near if n["at_risk"]] == list(pizza.suggested.retain)
    assert all(n["rate"]["n"] == 3 for n in near if n["at_risk"])


def test_the_suggestion_is_an_anchor_of_its_group_and_the_words_that_draw_it(base: Base, pizza: Identification) -> None:
    assert pizza.suggested.aliases == ("pepperoni", "pizza slice")
    drawn = {n["name"] for n in pizza.report["neighbours"] if n["rate"] and 2 * n["rate"]["hits"] > n["rate"]["n"]}
    assert pizza.suggested.anchor == next(n for n in anchors(base, Concept("pizza"), {"pizza"}) if n in drawn)


def test_a_base_that_cannot_draw_it_is_told(base: Base) -> None:
    noise = copy.deepcopy(base.encoder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in noise.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * weight.std())
    broken = replace(base, open_pipeline=lambda _: with_encoder(base.pipeline, noise))
    found = identify(broken, Concept("pizza"), load_scorer("demo", base), **SMALL)
    assert not found.report["draws"]
    assert found.suggested.aliases == ()
    assert "does not draw 'pizza'" in table(found.report)


def test_the_same_seed_gives_the_same_report(base: Base) -> None:
    scorer, small = load_scorer("demo", base), {"images": 2, "steps": 3}
    first, again, other = (identify(base, Concept("cat"), scorer, seed=seed, **small) for seed in (5, 5, 6))
    assert first.report == again.report
    pictures = [found.rows[next(iter(found.rows))][0].tobytes() for found in (first, again, other)]
    assert pictures[0] == pictures[1] != pictures[2]


class Reds:
    """Knows red pictures, and nothing that the base draws."""

    name, concepts, styles = "reds", ("red",), ()

    def score(self, pixels: torch.Tensor) -> Scores:
        red = (pixels[:, 0] - pixels[:, 1:].amax(1)).amax((1, 2)).clamp(0, 1)
        return Scores(red[:, None], torch.zeros(len(pixels), 0), 1 - red)


def test_a_judge_of_one_thing_says_nothing_about_the_others(base: Base) -> None:
    found = identify(base, Concept("red"), Reds(), images=4, steps=6)
    assert found.report["false_positives"]["n"] == 5 + 4
    assert all(near["rate"]["n"] == 0 for near in found.report["neighbours"] if near["rate"])
    assert found.suggested.anchor == found.report["neighbours"][0]["name"]
    assert "/0" not in table(found.report) + " ".join(found.rows)


def test_a_style_is_looked_for_in_pictures_of_known_things(base: Base) -> None:
    found = identify(base, Concept("ink", "style"), load_scorer("demo", base), **SMALL)
    assert found.report["draws"]
    assert found.report["false_positives"]["n"] == 6
    assert {n["name"] for n in found.report["neighbours"]} == {"flat", "glossy"}
    assert found.suggested.anchor in ("flat", "glossy")
    assert all(" ink " in template.format("ink") + " " for template in found.report["templates"])


@pytest.mark.usefixtures("no_drawing")
def test_without_a_judge_nothing_is_drawn_and_the_encoder_still_tells(base: Base, tmp_path: Path) -> None:
    (tmp_path / "identify.png").write_bytes(b"of an earlier look")
    found = identify(base, Concept("kitten", aliases=("gato",)), None)
    assert found.report["draws"] is found.report["false_positives"] is None
    assert found.report["known_as"] == "cat"
    assert found.suggested.aliases == ("gato", "cat", "kitty")  # all that were given or are known
    assert found.suggested.anchor == "penguin"
    assert "cat" not in found.suggested.retain
    assert "nothing was drawn" in table(found.report)
    found.write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["identify.json", "plan.json"]


@pytest.mark.usefixtures("no_drawing")
def test_a_word_that_was_given_is_no_neighbour(base: Base) -> None:
    found = identify(base, Concept("pizza", aliases=("Hamburger",)), None)
    assert "Hamburger" in found.suggested.aliases
    assert "hamburger" not in (*found.suggested.retain, found.suggested.anchor)
    assert "hamburger" in identify(base, Concept("pizza"), None).suggested.retain


@pytest.mark.usefixtures("no_drawing")
def test_a_concept_unknown_to_base_and_judge(base: Base) -> None:
    found = identify(base, Concept("Mickey Mouse", "character"), None)
    assert found.report["known_as"] is None
    assert found.suggested.anchor
    with pytest.raises(UsageError, match="knows no character 'Mickey Mouse': it knows pizza"):
        identify(base, Concept("Mickey Mouse", "character"), load_scorer("demo", base))


def test_what_is_written_can_be_read_again(pizza: Identification, tmp_path: Path) -> None:
    pizza.write(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(p.name for p in folder.iterdir()) == ["identify.json", "identify.png", "plan.json"]
    assert read_plan(folder / "plan.json") == [pizza.suggested]
    assert json.loads((folder / "identify.json").read_text()) == json.loads(json.dumps(pizza.report))
    with Image.open(folder / "identify.png") as sheet:
        assert sheet.height > 100 * len(pizza.rows)
    (tmp_path / "file").touch()
    with pytest.raises(UnlearnExportError, match="cannot write into"):
        pizza.write(tmp_path / "file")


def test_a_plan_may_hold_several_concepts(tmp_path: Path) -> None:
    concepts = [Concept("pizza", aliases=("pie",), anchor="cat", retain=("car",)), Concept("ink", "style")]
    write_plan(tmp_path / "plan.json", concepts)
    assert read_plan(tmp_path / "plan.json") == concepts
    (tmp_path / "plan.json").write_text('{"name": "pizza"}')
    assert read_plan(tmp_path / "plan.json") == [Concept("pizza")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[]", "names no concept"),
        ('"pizza"', '"name"'),
        ("[1]", '"name"'),
        ('{"anchor": "cat"}', '"name"'),
        ('{"name": "pizza", "alias": ["x"]}', "unknown key 'alias'"),
        ('{"name": "pizza", "aliases": "pie"}', "list of words for 'aliases'"),
        ('{"name": "pizza", "retain": [1]}', "list of words for 'retain'"),
        ('{"name": "pizza", "anchor": null}', "string for 'anchor'"),
        ('{"name": "pizza", "kind": "meal"}', "unknown kind 'meal'"),
        ('{"name": "pizza", "anchor": "Pizza"}', "the concept itself"),
    ],
)
def test_a_malformed_plan_is_told_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    result = run("erase", "--plan", plan, "--base", "demo", "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert reason in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def test_from_the_command_line_into_an_artifact(tmp_path: Path) -> None:
    small = ["--images", "3", "--steps", "4"]
    done = run("identify", "pizza", "--base", "demo", *small, "-o", tmp_path / "known", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "known" / "identify.json").read_text())
    plan = tmp_path / "known" / "plan.json"
    fast = ["--no-onnx", "--no-evaluate", "-O", "steps=2"]
    done = run("erase", "--plan", plan, "--base", "demo", "-o", tmp_path / "out", *fast)
    assert done.exit_code == 0, done.output
    [erased] = json.loads((tmp_path / "out" / "unlearning" / "recipe.json").read_text())["concepts"]
    [planned] = read_plan(plan)
    assert {key: erased[key] for key in ("name", "kind", "anchor", "retain")} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(planned).items()
        if key != "aliases"
    }
    assert set(planned.aliases) <= set(erased["aliases"])


@pytest.mark.parametrize("extra", [["pizza"], ["--anchor", "cat"], ["--alias", "pie"], ["--kind", "object"]])
def test_a_plan_and_a_concept_together_are_refused(tmp_path: Path, extra: list[str]) -> None:
    write_plan(tmp_path / "plan.json", [Concept("pizza")])
    result = run("erase", *extra, "--plan", tmp_path / "plan.json", "--base", "demo", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "--plan already says" in result.stderr


def test_wrong_usage_writes_nothing(tmp_path: Path) -> None:
    out = ["--base", "demo", "-o", tmp_path / "known"]
    for args, reason in (
        (["identify", "dinosaur", *out], "knows no object 'dinosaur'"),
        (["identify", "gitar", *out], "knows no object 'gitar': did you mean 'guitar'? it knows"),
        (["identify", "pizza", *out, "--scorer", "magic"], "no scorer 'magic'"),
        (["identify", " ", *out], "name is empty"),
        (["erase", *out], "nothing to erase"),
        (["erase", "--plan", tmp_path / "absent.json", *out], "cannot read the plan"),
    ):
        result = run(*args)
        assert result.exit_code == 2, result.output
        assert reason in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


ALONE = {
    "clip": (tiny.clip, tiny.clip_tokenizer, ["pizza</w>"]),
    "t5": (tiny.t5, tiny.t5_tokenizer, ["▁piz", "za"]),
    "llama": (tiny.llama, tiny.llama_tokenizer, ["Ġpizza"]),
    "qwen": (tiny.qwen, tiny.qwen_tokenizer, ["Ġpizza"]),
    "gemma2": (tiny.gemma2, tiny.gemma_tokenizer, ["▁pizza"]),
    "gemma3": (tiny.gemma3, tiny.gemma_tokenizer, ["▁pizza"]),
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kind", ALONE)
def test_an_encoder_s_folder_tells_tokens_and_neighbours(
    tmp_path: Path, kind: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, tokenizer, tokens = ALONE[kind]
    encoder().save_pretrained(tmp_path / "text_encoder")
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    if large:
        monkeypatch.setattr(seats, "LARGE", 0)
        monkeypatch.setattr(seats, "load_torch", None)  # nothing whole is loaded
    done = run("identify", "pizza", "--base", tmp_path / "text_encoder", "--alias", "пицца", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    by_word = {word["word"]: word["tokens"] for word in report["words"]}
    assert by_word["pizza"] == tokens and len(by_word["piizza"]) > len(tokens)
    assert report["draws"] is None and report["suggested"]["anchor"]
    near = report["neighbours"]
    assert len(near) >= 48 and near[0]["cosine"] > 0.05 > near[-1]["cosine"]
    refused = run("identify", "pizza", "--base", tmp_path / "text_encoder", "--scorer", "demo")
    assert refused.exit_code == 2 and "is an encoder alone and draws nothing to judge" in refused.stderr


def test_letters_that_are_spelt_in_bytes_are_told_as_letters() -> None:
    tokenizer = tiny.qwen_tokenizer()
    assert module._legible(tokenizer, "Ġpizza") == "Ġpizza" and module._legible(tokenizer, "▁пи") == "▁пи"
    assert module._legible(tokenizer, "Ð½Ðµ") == "не" and module._legible(tokenizer, "ĠÐ½") == "Ġн"
    assert module._legible(tokenizer, "Ð") == "Ð"  # half a letter
