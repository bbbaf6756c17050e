"""The rows: a method of this project or a peer, with its options."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from unlearn_export.erasers import Eraser, make_method


@dataclass(frozen=True)
class Row:
    """method: its name as ``--method`` takes it. options: as ``-O`` takes them. about: what the table says of it."""

    method: str
    about: str
    options: Mapping[str, str] = field(default_factory=dict)

    def make(self) -> Eraser:
        return make_method(self.method, dict(self.options))


ROWS = {
    "anchor": Row("anchor", "the states of another thing, solved for"),
    "robust": Row("robust", "the same, against attackers in embedding space"),
    "few-shot": Row(
        "few-shot", "the concept's guidance turned around, other prompts retained", {"keep": "10", "steps": "100"}
    ),
    "paper": Row(
        "few-shot",
        "ascent on the denoiser's loss by the papers' recipe: eight steps, whatever they do (Fuchi & Takagi 2024)",
        {"steps": "8", "stop": "1000", "keep": "0"},
    ),
}
