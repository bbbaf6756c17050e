"""Artifacts side by side."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_card import recipe

from unlearn_export.artifact import Artifact, write_json
from unlearn_export.cli import main
from unlearn_export.cli.common import warn_unless_erased
from unlearn_export.compare import compare
from unlearn_export.errors import ArtifactError, UsageError
from unlearn_export.rates import Rate


def made(path: Path, seen: int, kept: int, **changes: Any) -> Artifact:
    """An evaluated folder: of ten pictures each, the erased concept in ``seen``, others right in ``kept``."""
    (path / "unlearning").mkdir(parents=True)
    write_json(path / "unlearning/recipe.json", recipe() | {"format": 1})

    def moment(gone: int, right: int) -> dict[str, Any]:
        rate = Rate(right, 10, 10).to_json()
        none = dict.fromkeys(("any_frame", "by_frame", "motion", "text_image", "amount", "consistency"))
        same = dict.fromkeys(("others", "neighbours", "far", "styles", "negative"), rate)
        return (
            none | same | {"erased": Rate(gone, 10, 10).to_json(), "variants": {}, "holdout": Rate(0, 0, 0).to_json()}
        )

    report = {
        "targets": ["pizza"],
        "scorer": "demo",
        "seed": 1,
        "size": {},
        "holdout": [],
        "drift": {"empty": 0.0},
        "pipelines": {"t2i": {"before": moment(10, 10), "after": moment(seen, kept)}},
        "cost": {"seconds": {"erase": 2.0}},
    }
    write_json(path / "unlearning/evaluation.json", report | changes)
    return Artifact(path)


def test_the_pareto_best_are_marked(tmp_path: Path) -> None:
    gentle = made(tmp_path / "gentle", seen=3, kept=10)
    harsh = made(tmp_path / "harsh", seen=0, kept=7)
    worse = made(tmp_path / "worse", seen=3, kept=7)
    found = compare([gentle, harsh, worse])
    assert [row.best for row in found.rows] == [True, True, False]
    assert found.rows[1].figures["erasure"] == 1 and found.rows[1].figures["retain"] == 0.7
    assert found.unlike == ()


def test_what_the_table_does_not_show_makes_nobody_the_best(tmp_path: Path) -> None:
    whole = made(tmp_path / "whole", seen=0, kept=9, drift={"empty": 0.0002})
    for drift, best in ((0.0001, False), (-0.01, True)):
        idle = made(tmp_path / f"idle{best}", seen=10, kept=9, drift={"empty": drift})
        assert [row.best for row in compare([whole, idle]).rows] == [True, best]


def test_what_is_not_erased_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seen, told in ((0, ""), (1, ""), (2, "20% of the pictures still show it")):
        warn_unless_erased(made(tmp_path / str(seen), seen=seen, kept=9).evaluation)
        said = capsys.readouterr()
        assert said.out == "" and told in said.err and bool(told) == bool(said.err)
    warn_unless_erased(None)  # nobody looked


def test_what_was_measured_differently_is_said(tmp_path: Path) -> None:
    found = compare([made(tmp_path / "a", 0, 9), made(tmp_path / "b", 0, 9, seed=2, scorer="clip")])
    assert found.unlike == ("scorer", "seed")
    assert "compare with care: scorer, seed" in found.to_text()


def test_it_refuses_what_cannot_be_compared(tmp_path: Path) -> None:
    one = made(tmp_path / "a", 0, 9)
    with pytest.raises(UsageError, match="two artifact folders"):
        compare([one])
    with pytest.raises(ArtifactError, match="was not evaluated"):
        compare([one, made(tmp_path / "b", 0, 9, pipelines={})])


@pytest.mark.parametrize("style", ["text", "markdown", "html"])
def test_every_form_has_every_row(tmp_path: Path, style: str) -> None:
    folders = [str(made(tmp_path / name, 0, kept).path) for name, kept in (("one", 9), ("<two>|", 8))]
    done = CliRunner().invoke(main, ["compare", *folders, "--format", style])
    assert done.exit_code == 0, done.output
    assert "0.900" in done.stdout and "0.800" in done.stdout and "one" in done.stdout
    assert style != "html" or ("&lt;two&gt;" in done.stdout and "<two>" not in done.stdout)
    data = json.loads(CliRunner().invoke(main, ["compare", *folders, "--json"]).stdout)
    assert [row["best"] for row in data["rows"]] == [True, False]
