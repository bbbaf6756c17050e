"""What an evaluation found as an object: what is written is what is read, and anything else is refused in one line."""

import json
from typing import Any

import pytest
from test_card import evaluation

from unlearn_export.errors import ArtifactError
from unlearn_export.measured import Compared, Cost, Distance, Moment, Report
from unlearn_export.rates import Mean, Rate


def moment(seen: int, **changes: Any) -> Moment:
    rate, clips = Rate(seen, 24, 24), Rate(seen, 24, 3)  # of stills; of three clips of eight frames
    return Moment(
        erased=clips,
        variants={"direct": rate, "alias": Rate(0, 0, 0)},
        others=rate,
        by_frame=(rate, rate),
        by_concept={"cat": rate},
        text_image=Mean(0.25, 24),
        **changes,
    )


REPORT = Report(
    scorer="demo",
    seed=1,
    size={"steps": 8, "guidance": None},
    drift={"empty": 0.01},
    targets=("pizza",),
    pipelines={
        "t2v": Compared(moment(20, seconds=1.5), moment(1), Distance(0.1, 0.0, 24, "demo"), True, "demo:t2v"),
        "t2i": Compared(moment(20), moment(1), None, False),
    },
    judges={"scorer": None, "features": None},
    cost=Cost({"erase": 2.0}, 7, 5, 10),
)


def test_a_report_comes_back_as_it_was() -> None:
    written = REPORT.to_json()
    assert Report.from_json(json.loads(json.dumps(written))) == REPORT
    assert "source" not in written["pipelines"]["t2i"] and written["pipelines"]["t2i"]["distance"] is None
    assert "seconds" not in written["pipelines"]["t2i"]["before"]
    assert written["pipelines"]["t2v"]["before"]["motion"] is None


def test_the_first_format_is_read_too() -> None:
    report = Report.from_json(evaluation())
    assert (report.format, report.cost) == (1, None)
    seen = report.pipelines["t2v-motion"]
    assert (seen.source, seen.after.erased.told) == ("demo:t2v-motion", 0.0417)
    assert seen.after.negative is None and seen.after.variants == {}


@pytest.mark.parametrize("trials", [1, 2, 8, 16])
@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
def test_an_interval_tells_its_trials(trials: int, share: float) -> None:
    rate = Rate(int(16 * share), 16, trials)
    assert Rate.from_json(rate.to_json()) == rate


def test_what_is_missing_or_unknown_is_named() -> None:
    def refused(message: str, change: Any) -> None:
        data = REPORT.to_json()
        change(data)
        with pytest.raises(ArtifactError, match=message) as caught:
            Report.from_json(data)
        assert "\n" not in str(caught.value)

    refused("format 3.*reads up to 2", lambda d: d.update(format=3))
    refused("evaluation.json lacks 'seed'", lambda d: d.pop("seed"))
    refused("'mood', which this version", lambda d: d.update(mood=1))
    refused("after of t2i in .* lacks 'erased'", lambda d: d["pipelines"]["t2i"]["after"].pop("erased"))
    refused("before of t2i in .*'glow'", lambda d: d["pipelines"]["t2i"]["before"].update(glow=1))
    refused("cost in .* 'joules'", lambda d: d["cost"].update(joules=1))
    refused("is no evaluation", lambda d: d.update(pipelines=3))
    refused("is no evaluation", lambda d: d["pipelines"]["t2i"]["before"].update(others=3))
