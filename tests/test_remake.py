"""More concepts on top of an artifact, and one of them taken back: each time as if it had been asked so at once."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from unlearn_export.artifact import Artifact
from unlearn_export.cli import main
from unlearn_export.concept import Concept, check_concepts
from unlearn_export.errors import UsageError
from unlearn_export.plan import read_plan

QUICK = ("--no-onnx", "--no-evaluate")
SMALL = ("-O", "pool=64", "-O", "batch=8")


def run(*args: str | Path) -> str:
    done = CliRunner().invoke(main, [str(a) for a in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*args: str | Path) -> str:
    done = CliRunner().invoke(main, [str(a) for a in args], catch_exceptions=False)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def weights(folder: Path) -> bytes:
    return (folder / "text_encoder" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def pizza(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "pizza"
    run("erase", "pizza", "--base", "demo", "-o", out, "--seed", 3, *SMALL, *QUICK)
    return out


@pytest.fixture(scope="module")
def two(pizza: Path) -> Path:
    out = pizza.with_name("two")
    run("erase", "robot", "--kind", "character", "--from", pizza, "-o", out, *QUICK)
    return out


def test_one_after_the_other_is_both_at_once(pizza: Path, two: Path, tmp_path: Path) -> None:
    both = [concept.name for concept in Artifact.open(two).recipe.concepts]
    assert both == ["pizza", "robot"]
    made = Artifact.open(two).recipe
    assert made.seed == 3 and made.method.options["pool"] == 64  # in the way that it was made
    run(
        "erase",
        "--plan",
        two / "unlearning/recipe.json",
        "--base",
        "demo",
        "-o",
        tmp_path / "at-once",
        "--seed",
        3,
        *SMALL,
        *QUICK,
    )
    assert weights(two) == weights(tmp_path / "at-once")
    assert weights(two) != weights(pizza)


def test_what_is_taken_back_leaves_no_trace(pizza: Path, two: Path, tmp_path: Path) -> None:
    run("undo", two, "robot", "-o", tmp_path / "back", *QUICK)
    assert [concept.name for concept in Artifact.open(tmp_path / "back").recipe.concepts] == ["pizza"]
    assert weights(tmp_path / "back") == weights(pizza)


def test_it_covers_the_readers_that_it_covered(tmp_path: Path) -> None:
    import tiny_pipelines as tiny

    base = tmp_path / "base"
    tiny.t5().save_pretrained(base)
    tiny.t5_tokenizer().save_pretrained(base)
    few = ("-O", "pool=16", "-O", "batch=4", "-O", "steps=1", "-O", "keep=0")
    run(
        "erase",
        "pizza",
        "--anchor",
        "clown",
        "--base",
        base,
        "--reader",
        "MochiPipeline",
        "-o",
        tmp_path / "one",
        *few,
        *QUICK,
    )
    run("erase", "cat", "--anchor", "mouse", "--from", tmp_path / "one", "--base", base, "-o", tmp_path / "two", *QUICK)
    one, two = (Artifact.open(tmp_path / name).recipe.seats["text_encoder"].readers for name in ("one", "two"))
    assert "MochiPipeline" in one and one == two


def test_bad_input(pizza: Path, two: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out", *QUICK)
    assert "'pizza' is forgotten already: name others" in refused("erase", "pizza", "--from", pizza, *out)
    assert "leave out -O" in refused("erase", "robot", "--from", pizza, "-O", "keep=2", *out)
    assert "leave out --seed" in refused("erase", "robot", "--from", pizza, "--seed", 4, *out)
    assert "give --base, such as --base demo" in refused("erase", "robot", *out)
    assert "'ghost' was never erased there: its concepts are pizza, robot" in refused("undo", two, "ghost", *out)
    assert "nothing would remain erased" in refused("undo", two, "robot", "pizza", *out)
    assert not (tmp_path / "out").exists()


LISTS = {
    "list.csv": "name,kind,aliases,anchor,retain\npizza,object,pepperoni; slice,banana,hamburger\nrobot,character,,,\n",
    "list.yaml": "- {name: pizza, aliases: [pepperoni, slice], anchor: banana, retain: [hamburger]}\n"
    "- {name: robot, kind: character}\n",
    "list.json": '[{"name": "pizza", "aliases": ["pepperoni", "slice"], "anchor": "banana", "retain": ["hamburger"]}, '
    '{"name": "robot", "kind": "character"}]',
}


@pytest.mark.parametrize("name", LISTS)
def test_a_takedown_list_in_three_forms(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(LISTS[name])
    assert read_plan(tmp_path / name) == [
        Concept("pizza", "object", ("pepperoni", "slice"), "banana", ("hamburger",)),
        Concept("robot", "character"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("list.csv", "name,colour\npizza,red\n", "unknown key 'colour': choose from name, kind"),
        ("list.csv", "name,kind\npizza,object,red\n", "more cells than columns"),
        ("list.csv", "name,kind\n", "names no concept"),
        ("list.yaml", "- {name: pizza", "is not YAML"),
        ("list.yaml", "- pizza\n- Pizza\n", "'Pizza' occurs in two concepts"),
        ("list.csv", "name,anchor\npizza,robot\nrobot,cat\n", "'pizza' would become 'robot', which is erased too"),
        ("list.csv", "name,retain\npizza,Robot\nrobot,\n", "'Robot' cannot be erased and retained at once"),
        ("list.csv", "name,aliases,retain\npizza,slice,slice\n", "'slice' cannot be erased and retained at once"),
    ],
)
def test_a_list_that_contradicts_itself_is_told_before_any_work(
    name: str, text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text(text)
    monkeypatch.setattr("unlearn_export.base.load_base", lambda *_: pytest.fail("a base was loaded"))
    assert said in refused("erase", "--plan", tmp_path / name, "--base", "demo", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_command_line_checks_the_library_does() -> None:
    check_concepts([Concept("pizza", anchor="cat"), Concept("robot", anchor="cat", retain=("cat",))])
    with pytest.raises(UsageError, match="erased too"):
        check_concepts([Concept("pizza", anchor="robot"), Concept("robot", anchor="cat")])
