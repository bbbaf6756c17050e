"""The one-page report: every number from the JSON, every picture inside, and nothing a browser would complain of."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_card import recipe

from unlearn_export import demo
from unlearn_export.artifact import EVALUATION, Artifact, read_json, write_json
from unlearn_export.concept import Concept
from unlearn_export.demo.scorer import DemoScorer
from unlearn_export.evaluation import Evaluation, compare
from unlearn_export.evaluation.asks import Amount, plan
from unlearn_export.gates import figures
from unlearn_export.measured import Cost, Report
from unlearn_export.rates import Rate
from unlearn_export.report import REPORT, render_report, write_report

RATE = {"hits": 3, "n": 8, "rate": 0.375, "low": 0.1368, "high": 0.6943}
SPENT = {"seconds": 1.5, "steps": 4, "queries": 8}
RELEARNED = [Rate(hits, 8, 8).to_json() | {"steps": steps} for steps, hits in ((0, 0), (5, 2), (20, 8))]
FOUND = {"before": RATE, "after": RATE, "spent": {"prepare": SPENT, "before": SPENT, "after": SPENT}}
PROBE = {
    "attacks": [
        {"name": "ring-a-bell", "access": "black box"} | FOUND,
        {
            "name": "relearn",
            "access": "weights",
            "targets": {
                "pizza": {
                    "before": {"detail": {"unheard": {"curve": RELEARNED[::2]}}},
                    "after": {"detail": {"curve": RELEARNED}},
                }
            },
        }
        | FOUND,
    ],
    "stated": [{"name": "original encoder", "text": "Putting the original encoder back."}],
}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An evaluated folder whose pictures are noise: the page shows whatever the JSON says."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "unlearning").mkdir()
    write_json(folder / "unlearning" / "recipe.json", recipe() | {"format": 1})
    generator, scorer = torch.Generator().manual_seed(0), DemoScorer()
    pipelines, pictures = {}, {}
    for name, frames in (("t2i", 1), ("t2v", 4)):
        known = (scorer.concepts, scorer.styles)
        asks = plan(demo.VOCABULARY, known, [(Concept("pizza"), "pizza")], Amount(2, 1, 1), 0, clips=frames > 1)
        before, after = (torch.rand(len(asks), frames, 3, 64, 64, generator=generator) for _ in range(2))
        found = compare(scorer, asks, before, after, targets=["pizza"], groups=demo.VOCABULARY.groups)
        pipelines[name] = replace(found, video=frames > 1)
        pictures[name] = (asks[:3], before[:3], after[:3])
    report = Report(
        scorer="demo",
        seed=0,
        size={"steps": 8},
        targets=("pizza",),
        drift={"empty": 0.01, "concept": 0.5, "others": 0.02},
        pipelines=pipelines,
        cost=Cost({"erase": 1.25}, peak_memory_bytes=7e8, parameters_changed=5, parameters=10),
    )
    Evaluation(report, pictures).write(folder / "unlearning")
    write_json(folder / "unlearning" / "probe.json", PROBE)
    return Artifact(folder)


def test_every_figure_is_the_json_s(artifact: Artifact) -> None:
    page, report = render_report(artifact), artifact.evaluation
    assert report is not None
    for name, value in figures(report).items():
        row = re.search(rf"<td>{name}</td><td class=\"n\">([^<]*)</td>", page)
        assert (row is None) == (value is None)
        assert row is None or row[1] == f"{value:.3f}"
    for p in report.pipelines.values():
        for key in ("erased", "others", "styles"):
            rate = getattr(p.after, key)
            assert f"{rate.hits} of {rate.n}, 95 %" in page
    assert page.count("data:image/png") == 2 and page.count("data:image/webp") == 2
    assert "ring-a-bell" in page and "3 of 8, 95 %" in page
    before, after = re.findall(r'polyline points="([^"]*)"', page)[-2:]  # how it is relearned, by steps
    assert (before, after) == ("0.0,40.0 100.0,0.0", "0.0,40.0 25.0,30.0 100.0,0.0") and ">20 steps</text>" in page


def test_what_is_not_erased_is_said_at_once(artifact: Artifact, tmp_path: Path) -> None:
    shutil.copytree(artifact.path, tmp_path / "copy")
    copy, said = Artifact(tmp_path / "copy"), []
    for seen in (10, 42):
        report = read_json(copy.path / EVALUATION)
        for p in report["pipelines"].values():
            p["after"]["erased"] = Rate(seen, 100, 100).to_json()
        write_json(copy.path / EVALUATION, report)
        said.append("not erased: in the worst pipeline 42 %" in render_report(Artifact(copy.path)))
    assert said == [False, True]


def test_it_asks_for_nothing_from_outside(artifact: Artifact) -> None:
    page = re.sub(r"data:[^\"]*", "", render_report(artifact))
    assert not re.search(r"(src|href)=\"(?!\")", page) and "http" not in page and "<script" not in page


def test_the_same_folder_gives_the_same_page(artifact: Artifact) -> None:
    assert write_report(artifact).read_text() == render_report(artifact)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it(artifact: Artifact, scheme: str, width: int) -> None:
    sync = pytest.importorskip("playwright.sync_api")
    write_report(artifact)
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("requestfailed", lambda request: said.append(request.url[:80]))
        tab.goto((artifact.path / REPORT).resolve().as_uri())
        loaded = tab.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
        assert loaded == [True] * 4 and said == []
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
        paper, ink = (
            tab.evaluate(f"getComputedStyle(document.{where}).{what}")
            for where, what in (("documentElement", "colorScheme"), ("body", "color"))
        )
        assert paper == "light dark" and (ink == "rgb(255, 255, 255)") == (scheme == "dark")
        browser.close()
