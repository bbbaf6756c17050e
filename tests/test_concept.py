"""What a concept may be, checked in one place and before anything is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_pipelines as tiny
import torch
from click.testing import CliRunner

from unlearn_export.base import load_base
from unlearn_export.cli import main
from unlearn_export.concept import Concept, check_concepts
from unlearn_export.demo import VOCABULARY
from unlearn_export.erase import erase
from unlearn_export.erasers import Anchor
from unlearn_export.erasers.few_shot import FewShotAscent
from unlearn_export.errors import UsageError
from unlearn_export.vocabulary import GENERAL


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"name": "!?"}, "'!\\?' has no letter"),
        ({"name": "🍕"}, "has no letter"),
        ({"name": "pizza", "aliases": "ghoul"}, "not the string 'ghoul': give \\('ghoul',\\)"),
        ({"name": "pizza", "retain": "cat"}, "retain are several words"),
        ({"name": "pizza", "aliases": ("", "pie")}, "none of them empty"),
        ({"name": "pizza", "aliases": (1,)}, "are words"),
        ({"name": 3}, "name is a string, not 3"),
        ({"name": "ghost", "anchor": "a friendly ghost"}, "'a friendly ghost' has 'ghost' in it"),
        ({"name": "ghost", "anchor": "Ghosts"}, "has 'ghost' in it"),
        ({"name": "ghost", "aliases": ("ghoul",), "anchor": "GHOUL"}, "is the concept itself"),
        ({"name": "spider-man", "anchor": "Spider Man"}, "is the concept itself"),
        ({"name": "ghost", "retain": ("clown", "ghost")}, "'ghost' cannot be erased and retained"),
        (
            {"name": "ghost", "aliases": ("ghoul",), "retain": ("a green ghoul",)},
            "'a green ghoul', having 'ghoul' in it, cannot",
        ),
    ],
)
def test_what_no_concept_can_be(facts: dict, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as error:
        Concept(**facts)
    assert "\n" not in str(error.value)


def test_what_a_concept_can_be() -> None:
    pizza = Concept("pizza", aliases=["пицца", "🍕"], anchor="hamburger", retain=["pie"])  # type: ignore[arg-type]
    assert pizza.aliases == ("пицца", "🍕") and pizza.retain == ("pie",)
    assert Concept("ghost", anchor="ghostly galleon").anchor  # another word
    assert Concept("Taylor Swift", "person", retain=("Taylor",)).retain == ("Taylor",)  # her first name survives
    assert Concept("Mickey Mouse", "character", anchor="mouse").anchor == "mouse"


def test_concepts_that_contradict_each_other() -> None:
    for others, reason in (
        ([Concept("cat", anchor="a small dog"), Concept("dog")], "'dog' is erased too"),
        ([Concept("cat", retain=("hot dog",)), Concept("dog")], "having 'dog' in it"),
        ([Concept("cat"), Concept("dog", aliases=("Cat",))], "occurs in two"),
        ([], "nothing to erase"),
    ):
        with pytest.raises(UsageError, match=reason):
            check_concepts(others)
    check_concepts([Concept("cat", anchor="bird"), Concept("dog", anchor="bird")])  # the control


def test_a_style_that_is_asked_for_as_an_object() -> None:
    for vocabulary, style in ((VOCABULARY, "ink"), (GENERAL, "Van Gogh"), (GENERAL, "claude monet")):
        with pytest.raises(UsageError, match="as a style, no object: say --kind style"):
            check_concepts([Concept(style)], vocabulary)
        check_concepts([Concept(style, "style")], vocabulary)
        check_concepts([Concept(style)])  # where no base is known
    check_concepts([Concept("Andy Warhol", "person"), Concept("mosaic"), Concept("Taylor Swift")], GENERAL)


def test_the_command_line_refuses_before_torch_is_there(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("name,alias\npizza,\n")
    for words, reason in (
        (["erase", "!!"], "has no letter"),
        (["erase", "ghost", "--anchor", "a friendly ghost"], "has 'ghost' in it"),
        (["erase", "ghost", "--retain", "ghosts"], "cannot be erased and retained"),
        (["erase", "Van Gogh"], "--kind style"),
        (["identify", "Van Gogh"], "--kind style"),
        (["erase", "--plan", str(tmp_path / "list.csv")], "unknown key 'alias': choose from name, kind"),
    ):
        done = CliRunner().invoke(main, [*words, "--base", "nowhere", *["-o", str(tmp_path / "out")]])
        assert done.exit_code == 2 and reason in done.stderr, done.output
        assert done.stderr.count("\n") == 1
    code = (
        "import sys; from unlearn_export.cli import main\n"
        "try: main(['erase', 'Van Gogh', '--base', 'nowhere', '-o', 'out'])\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout.strip() == "False"
    assert [p.name for p in tmp_path.iterdir()] == ["list.csv"]


def test_a_name_of_which_the_tokenizer_makes_nothing(tmp_path: Path) -> None:
    tiny.t5().save_pretrained(tmp_path / "text_encoder")
    tiny.t5_tokenizer().save_pretrained(tmp_path / "tokenizer")
    base = load_base(tmp_path / "text_encoder")
    before = {name: tensor.clone() for name, tensor in base.encoder.state_dict().items()}
    for concept in (Concept("披萨", anchor="car"), Concept("pizza", aliases=("披萨",), anchor="car")):
        with pytest.raises(UsageError, match="knows no letter of '披萨'"):
            erase(base, [concept], Anchor(steps=1, pool=8, batch=2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.encoder.state_dict().items())


def test_a_string_for_several_words_in_a_method() -> None:
    for method in (Anchor, FewShotAscent):
        with pytest.raises(UsageError, match="parts are several words, not the string 'mlp': give"):
            method(parts="mlp")
        assert method(parts=("mlp",)).parts == ("mlp",)
    with pytest.raises(UsageError, match="holdout are several words"):
        Anchor(holdout="car")  # type: ignore[arg-type]
