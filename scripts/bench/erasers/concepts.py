"""The demo's concepts by what they are for: methods are tuned on some, and judged by others."""

from unlearn_export import Concept

TUNING = {
    "pizza": "object",
    "guitar": "object",
    "ghost": "character",
    "clown": "character",
    "baby": "person",
    "princess": "person",
    "ink": "style",
    "flat": "style",
}
TEN = {
    "umbrella": "object",
    "octopus": "object",
    "car": "object",
    "rocket": "object",
    "robot": "character",
    "alien": "character",
    "snowman": "character",
    "police officer": "person",
    "old man": "person",
    "glossy": "style",
}


def concept(name: str) -> Concept:
    return Concept(name, (TUNING | TEN)[name])  # type: ignore[arg-type]
