"""Who shares which text encoder, and how each pipeline reads it: the contracts as rows, for the command line and the docs."""

from typing import Any

from . import family_of
from .contracts import contracts


def rows() -> list[dict[str, Any]]:
    """One plain object for each contract, plug-ins' among them; those that share their weights next to each other."""
    known = contracts()
    weights = list(dict.fromkeys(contract.weights for contract in known))
    ordered = sorted(known, key=lambda contract: weights.index(contract.weights))
    return [
        {
            "family": family_of(c.architectures[0]).name,
            "weights": list(c.weights),
            "architectures": list(c.architectures),
            "pipelines": list(c.pipelines),
            "video": c.video,
            "seat": c.seat,
            "states": "none" if not c.layers else "all" if c.layers == "all" else list(c.layers),
            "pooled": c.pooled,
            "raw_embedding": c.embedding,
            "length": c.length,
            "template": c.template,
            "crop": c.crop,
            "mask": c.mask,
            "reads": c.reads,
            "unedited": list(c.unedited),
        }
        for c in ordered
    ]


def markdown() -> str:
    """The table of docs/families.md: a line for each contract."""
    lines = [
        "| Weights | Encoder | Pipelines | Seat | What is read | Length | Mask | Not reached by an edit of this seat |",
        "| --- | --- | --- | --- | --- | ---: | --- | --- |",
    ]
    for row in rows():
        cells = (
            ", ".join(row["weights"]),
            f"`{row['architectures'][0]}` ({row['family']})",
            ", ".join(f"**{name}**" if row["video"] else name for name in map(_short, row["pipelines"])),
            f"`{row['seat']}`",
            _read(row),
            str(row["length"]),
            "yes" if row["mask"] else "no: padding attends" if row["family"].endswith("t5") else "no",
            "; ".join(row["unedited"]) or "–",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def text() -> str:
    """For a terminal: the weights, and below them who reads them."""
    lines: list[str] = []
    before: list[str] = []
    for row in rows():
        if row["weights"] != before:
            lines.append(f"{', '.join(row['weights'])}  ({row['family']})")
            before = row["weights"]
        kind = "video" if row["video"] else "still"
        lines.append(f"  {kind}  {', '.join(map(_short, row['pipelines']))}")
        lines.append(
            f"         {row['seat']}: {_read(row)}, {row['length']} tokens, {'masked' if row['mask'] else 'no mask'}"
        )
        lines += [f"         not reached: {words}" for words in row["unedited"]]
    return "\n".join(lines)


def _short(name: str) -> str:
    return name.removesuffix("Pipeline")


def _read(row: dict[str, Any]) -> str:
    names = {-1: "last state"}
    if row["states"] == "none":
        parts = []
    elif row["states"] == "all":
        parts = ["all states" + (", the raw embeddings among them" if row["raw_embedding"] else "")]
    else:
        parts = [names.get(k, f"hidden_states[{k}]") for k in row["states"]]
    parts += ["pooled vector"] if row["pooled"] else []
    return " and ".join(parts) + (", in a template" if row["template"] != "{}" else "")
