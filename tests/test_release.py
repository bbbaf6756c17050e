"""What goes out to everybody: gates, reasons against it that must be named, and the base's licence on every copy."""

from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
from click.testing import CliRunner
from hub_client import REPO, Client, make_artifact, tree
from hub_double import HubDouble
from test_card import counted, evaluation, front, rates

from unlearn_export.artifact import Artifact
from unlearn_export.base import load_base
from unlearn_export.card import Published, render
from unlearn_export.cli import main
from unlearn_export.concept import Concept
from unlearn_export.erasers import Anchor
from unlearn_export.errors import UsageError
from unlearn_export.gates import Gate, check
from unlearn_export.licences import NO_TEXT, Licence, check_licence, is_declared
from unlearn_export.release import REASONS, objections
from unlearn_export.stages import build


def probed(hits: int, n: int = 24) -> dict[str, Any]:
    """unlearning/probe.json with one attack on two concepts, the second of which resists it."""
    targets = {"pizza": {"after": counted(hits, n)}, "cat": {"after": counted(0, n)}}
    entry = {"name": "unlearndiff", "access": "weights", "before": counted(n, n), "after": counted(hits, 2 * n)}
    return {"format": 1, "attacks": [entry | {"targets": targets}]}


def failing() -> dict[str, Any]:
    report = evaluation()
    report["pipelines"]["t2i"]["after"] = rates(12, 69, 24)
    return report


def said(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.stderr


def test_a_gate_on_an_attack_is_of_the_concept_that_it_brings_back_most() -> None:
    gates = Gate.parse("attack:unlearndiff<=0.1, erasure>=0.5")
    assert gates == [Gate("attack:unlearndiff", 0.1), Gate("erasure", 0.5)]
    assert check(None, gates[:1], probed(2)) == []
    assert check(None, gates[:1], probed(3)) == ["attack:unlearndiff is 0.1250, at most 0.1 is required"]
    assert check(None, gates, None) == [
        "attack:unlearndiff was not measured, at most 0.1 is required",
        "erasure was not measured, at least 0.5 is required",
    ]
    for wrong in ("attack:unlearndiff>=0.1", "erasure<=0.5", "attack:magic<=0.1", "attack:<=1"):
        with pytest.raises(UsageError):
            Gate.parse(wrong)


def test_a_push_that_misses_a_gate_sends_nothing(hub: HubDouble, client: Client, tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "made", evaluation=evaluation(), probe=probed(9))
    line = client.refused(folder, code=3, require="erasure>=0.9,attack:unlearndiff<=0.1")
    assert line == "gate not met: attack:unlearndiff is 0.3750, at most 0.1 is required" and hub.requests == []
    client.push(folder, require="erasure>=0.9,attack:unlearndiff<=0.4")
    assert "unlearning/probe.json" in tree(hub)
    command = ("push", folder, REPO, "--dry-run", "--require")
    assert said(*command, "erasure>=0.9")[0] == 0
    code, line = said(*command, "erasure>=0.99")
    assert code == 3 and line.startswith("error: gate not met: erasure is 0.9") and line.count("\n") == 1
    assert said(*command, "beauty>=1")[0] == 2


@pytest.mark.parametrize(
    ("reason", "reports", "base"),
    [
        ("unmeasured", {}, {}),
        ("unmeasured", {"evaluation": evaluation(scorer=None, targets=[], pipelines={})}, {}),
        ("not-erased", {"evaluation": failing()}, {}),
        ("unlicensed-base", {"evaluation": evaluation()}, {"license": "other"}),
    ],
    ids=["unmeasured", "no picture", "not-erased", "unlicensed-base"],
)
def test_what_speaks_against_it_must_be_named(
    hub: HubDouble, client: Client, tmp_path: Path, reason: str, reports: dict[str, Any], base: dict[str, Any]
) -> None:
    folder = make_artifact(tmp_path / "made", base=base, **reports)
    if reason == "unlicensed-base":
        (folder / "LICENSE").write_text(Licence.of(tmp_path / "nothing").text)
        Artifact.open(folder).seal()
    line = client.refused(folder, code=3, private=False)
    assert REASONS[reason] in line and f"--despite {reason}" in line and hub.requests == []
    other = next(r for r in REASONS if r not in (reason, "gated-base"))
    assert "does not hold" in client.refused(folder, code=2, private=False, despite=(reason, other))
    assert "belongs to --public" in client.refused(folder, code=2, despite=(reason,))
    card = render(Artifact.open(folder), REPO, Published((reason,)))
    client.push(folder, private=False, despite=(reason,), card=card)
    assert hub.repos[REPO]["private"] is False
    there = (hub.blobs / tree(hub)["README.md"]["sha256"]).read_text()
    assert "**Published all the same, though**" in there and REASONS[reason] in there
    assert "Published all the same" not in render(Artifact.open(folder), REPO)


def test_what_is_in_order_needs_no_reason(hub: HubDouble, client: Client, tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "made", evaluation=evaluation())
    assert objections(Artifact.open(folder)) == []
    client.push(folder, private=False)
    assert hub.repos[REPO]["private"] is False


def test_a_base_that_not_everybody_may_read_must_be_named(hub: HubDouble, client: Client, tmp_path: Path) -> None:
    for name, about in (("open", {}), ("gated", {"gated": True}), ("own", {})):
        hub.create(f"other/{name}" if name != "own" else "owner/own", private=name == "own", **about)
    for name in ("other/gated", "owner/own", "other/absent"):
        about = {"source": name, "revision": "c" * 40}
        folder = make_artifact(tmp_path / name, base=about, evaluation=evaluation())
        assert "--despite gated-base" in client.refused(folder, code=3, private=False)
        assert REPO not in hub.repos
    client.push(folder, dry_run=True, private=False, despite=("gated-base",))  # what the Hub alone knows
    folder = make_artifact(tmp_path / "open", base=about | {"source": "other/open"}, evaluation=evaluation())
    assert "does not hold" in client.refused(folder, code=2, private=False, despite=("gated-base",))
    client.push(folder, private=False)
    client.push(make_artifact(tmp_path / "private", base=about), "owner/private")  # the control: of a private one


BASE = """---
license: other
license_name: house-terms
---
"""


def test_the_bases_licence_its_text_and_its_terms_are_carried(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_pipelines.t5().save_pretrained(base)
    tiny_pipelines.t5_tokenizer().save_pretrained(base)
    few = Anchor(steps=1, pool=16, batch=4, keep=0)

    def made(name: str) -> Artifact:
        return build(load_base(base), [Concept("pizza", anchor="clown")], few, tmp_path / name, onnx=False)

    bare = made("bare")
    assert objections(bare) == ["unmeasured", "unlicensed-base"]
    assert {n for n in bare.files() if "/" not in n} == {"README.md", "LICENSE", "NOTICE"}
    (base / "README.md").write_text(BASE)
    (base / "LICENSE.txt").write_text("House terms: 1. Be kind.\n")
    (base / "NOTICE").write_text("Copyright the house\n")
    (base / "USE_POLICY.md").write_text("Not for unkind uses.\n")
    full = made("full")
    assert objections(full) == ["unmeasured"]
    assert (full.path / "LICENSE").read_text() == "House terms: 1. Be kind.\n"
    assert (full.path / "USE_POLICY.md").read_text() == "Not for unkind uses.\n"
    notice = (full.path / "NOTICE").read_text()
    assert notice.startswith("This folder holds a modified copy") and notice.endswith("Copyright the house\n")
    text = (full.path / "README.md").read_text()
    assert front(text)["license_name"] == "house-terms" and "[USE\\_POLICY.md](USE_POLICY.md)" in text


def test_a_licence_that_is_laxer_than_the_bases_is_refused(tmp_path: Path) -> None:
    for wanted, base in (
        ("mit", "mit"),
        ("cc-by-nc-4.0", "apache-2.0"),
        ("mit", "cc0-1.0"),
        ("cc-by-nc-sa-4.0", "cc-by-nc-4.0"),
        ("house-terms", "house-terms"),
    ):
        check_licence(wanted, base)
    for wanted, base in (
        ("mit", "creativeml-openrail-m"),
        ("openrail++", "creativeml-openrail-m"),
        ("apache-2.0", "cc-by-nc-4.0"),
        ("cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
        ("cc0-1.0", "mit"),
        ("mit", "gpl-3.0"),
        ("mit", "other"),
        ("mine", "mit"),
    ):
        with pytest.raises(UsageError, match="leave"):
            check_licence(wanted, base)
    folder = make_artifact(tmp_path / "made", base={"license": "creativeml-openrail-m"})
    assert said("push", folder, REPO, "--dry-run")[0] == 0  # the control
    code, line = said("push", folder, REPO, "--dry-run", "--license", "mit")
    assert code == 2 and "creativeml-openrail-m stands" in line and line.count("\n") == 1
    stricter = render(Artifact.open(make_artifact(tmp_path / "other")), REPO, Published(license="cc-by-nc-4.0"))
    assert front(stricter)["license"] == "cc-by-nc-4.0" and "published under cc-by-nc-4.0, on top" in stricter
    assert (
        not is_declared("other", f"... {NO_TEXT} ...") and is_declared("other", "Be kind.") and is_declared("mit", "")
    )
