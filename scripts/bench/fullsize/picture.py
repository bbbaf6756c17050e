"""docs/fullsize.json as a picture: ``python -m scripts.bench.fullsize.picture`` writes docs/fullsize.png."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from unlearn_export.artifact import read_json

DOCS = Path(__file__).parents[3] / "docs"
STAGES = {"open_s": "open", "edit_s": "edit", "write_s": "write the copy"}


def main() -> None:
    rows: dict[str, dict[str, Any]] = read_json(DOCS / "fullsize.json")["rows"]
    single = {name: row for name, row in rows.items() if "," not in name and "edit_s" in row}
    figure, (where, many, size) = pyplot.subplots(1, 3, figsize=(16, 5), layout="constrained")
    names = sorted(single, key=lambda name: single[name]["parameters"], reverse=True)
    left = [0.0] * len(names)
    for key, label in STAGES.items():
        seconds = [single[name][key] for name in names]
        where.barh(names, seconds, left=left, label=label)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    floors = [single[name]["edit_floor_s"] for name in names]
    where.plot(floors, names, "kD", markersize=5, label="products of the edit alone, at this machine's rate")
    where.set(title="One concept: where the time goes", xlabel="seconds")
    where.legend(fontsize="small")
    for name in names:
        counted = {1: single[name]} | {
            int(key.rpartition(", ")[2]): row for key, row in rows.items() if key.startswith(f"{name}, ")
        }
        if len(counted) > 1:
            xs = sorted(counted)
            many.plot(xs, [counted[x]["edit_s"] for x in xs], "o-", label=name)
    many.set(title="Many concepts at once", xlabel="concepts", ylabel="seconds of the edit", xscale="log", yscale="log")
    many.legend(fontsize="small")
    ordered = names[::-1]
    billions = [single[name]["parameters"] / 1e9 for name in ordered]
    size.plot(billions, [single[name]["edit_s"] for name in ordered], "o", label="seconds of the edit")
    size.plot(billions, [single[name]["edit_peak_gib"] for name in ordered], "s", label="GiB at the peak")
    for x, name in zip(billions, ordered, strict=True):
        size.annotate(
            name,
            (x, single[name]["edit_s"]),
            fontsize="x-small",
            rotation=30,
            xytext=(0, 6),
            textcoords="offset points",
        )
    size.set(title="Small to large", xlabel="parameters, billions", xscale="log", yscale="log")
    size.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    size.minorticks_off()
    size.margins(0.15)
    size.legend(fontsize="small")
    figure.suptitle(
        f"Random weights of the published shapes: {next(iter(single.values()))['machine']}", fontsize="medium"
    )
    figure.savefig(DOCS / "fullsize.png", dpi=80)


if __name__ == "__main__":
    main()
