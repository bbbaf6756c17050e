"""A card's text in two parts: what is generated, between two marks, and what somebody wrote around it, which stays."""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

START = "<!-- unlearn-export: generated up to the next mark; write above or below -->"
END = "<!-- /unlearn-export -->"
FRONT = re.compile(r"\A---\r?\n(.*?)^---[ \t]*\r?\n?", re.DOTALL | re.MULTILINE)
# Of the front matter: what is generated, so that a value that is generated no more is dropped.
KEYS = frozenset(
    [
        "license",
        "license_name",
        "license_link",
        "library_name",
        "pipeline_tag",
        "base_model",
        "base_model_relation",
        "tags",
        "model-index",
    ]
)
TAGS = frozenset(
    ["unlearning", "concept-erasure", "text-encoder", "text-to-image", "text-to-video", "safetensors", "onnx"]
)


@dataclass(frozen=True)
class Own:
    """What somebody added to a card: keys and tags of the front matter, text above and below the generated part."""

    front: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    above: str = ""
    below: str = ""

    @classmethod
    def of(cls, text: str) -> "Own":
        """Of a card without marks, which nobody generated, that is all of its text."""
        data, body = _split(text)
        front = {key: value for key, value in data.items() if key not in KEYS}
        listed = data.get("tags")
        tags = tuple(str(t) for t in listed if t not in TAGS) if isinstance(listed, list) else ()
        start, end = body.find(START), body.rfind(END)
        if not 0 <= start < end:
            return cls(front, tags, below=body.strip())
        return cls(front, tags, body[:start].strip(), body[end + len(END) :].strip())

    def __bool__(self) -> bool:
        return bool(self.front or self.tags or self.above or self.below)


def marked(generated: str) -> str:
    """A generated card with its body between the marks."""
    front = FRONT.match(generated)
    cut = front.end() if front else 0
    return f"{generated[:cut]}\n{START}\n\n{generated[cut:].strip()}\n\n{END}\n"


def generated(text: str) -> dict[str, Any]:
    """What of a card was generated: of its front matter the keys and tags that are, and the body between the marks.

    Raises ValueError for a card without marks, or with front matter that cannot be read.
    """
    data, body = _split(text)
    start, end = body.find(START), body.rfind(END)
    if not 0 <= start < end:
        raise ValueError("it is not between marks")
    front = {key: value for key, value in data.items() if key in KEYS}
    if isinstance(front.get("tags"), list):
        front["tags"] = [tag for tag in front["tags"] if tag in TAGS]
    return {"front": front, "body": body[start : end + len(END)].strip()}


def merged(generated: str, existing: str) -> str:
    """A marked card with what somebody added to an existing one. Raises ValueError for existing YAML that is none."""
    return _with(generated, Own.of(existing))


def reconciled(ours: str, theirs: str) -> str | None:
    """Our card with what somebody added to theirs; None where somebody added something else to ours."""
    here, there = Own.of(ours), _lenient(theirs)
    if not there or here == there:
        return ours
    return None if here else _with(ours, there)


def _with(card: str, own: Own) -> str:
    if not own:
        return card
    data, body = _split(card)
    data |= own.front
    if own.tags:
        data["tags"] = list(dict.fromkeys([*(data.get("tags") or []), *own.tags]))
    front = yaml.safe_dump(data, sort_keys=False, allow_unicode=True) if data else ""
    parts = [part for part in (own.above, body.strip(), own.below) if part]
    return f"---\n{front}---\n\n" * bool(front) + "\n\n".join(parts) + "\n"


def _lenient(text: str) -> Own:
    """What somebody added, front matter that cannot be read being text."""
    try:
        return Own.of(text)
    except ValueError:
        return Own(below=text.strip())


def _split(text: str) -> tuple[dict[str, Any], str]:
    """The front matter and what comes after it. Raises ValueError where that is no YAML object."""
    front = FRONT.match(text)
    if front is None:
        return {}, text
    try:
        data = yaml.safe_load(front[1])
    except yaml.YAMLError as error:
        raise ValueError(f"the front matter is no YAML: {' '.join(str(error).split())[:150]}") from error
    if data is not None and not isinstance(data, dict):
        raise ValueError("the front matter is no YAML object")
    return data or {}, text[front.end() :]
