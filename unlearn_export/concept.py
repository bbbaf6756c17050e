"""What is to be forgotten, and the prompts that name it."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from .errors import UsageError

Kind = Literal["object", "style", "character", "person"]
KINDS: tuple[str, ...] = get_args(Kind)

# The 27 object and 19 style templates of textual inversion (Gal et al. 2022, arXiv:2208.01618), which
# Fuchi & Takagi (arXiv:2405.07288) train with; a character or a person is no "cropped photo of the dirty {}".
TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": (
        "a photo of a {}",
        "a rendering of a {}",
        "a cropped photo of the {}",
        "the photo of a {}",
        "a photo of a clean {}",
        "a photo of a dirty {}",
        "a dark photo of the {}",
        "a photo of my {}",
        "a photo of the cool {}",
        "a close-up photo of a {}",
        "a bright photo of the {}",
        "a cropped photo of a {}",
        "a photo of the {}",
        "a good photo of the {}",
        "a photo of one {}",
        "a close-up photo of the {}",
        "a rendition of the {}",
        "a photo of the clean {}",
        "a rendition of a {}",
        "a photo of a nice {}",
        "a good photo of a {}",
        "a photo of the nice {}",
        "a photo of the small {}",
        "a photo of the weird {}",
        "a photo of the large {}",
        "a photo of a cool {}",
        "a photo of a small {}",
    ),
    "style": (
        "a painting in the style of {}",
        "a rendering in the style of {}",
        "a cropped painting in the style of {}",
        "the painting in the style of {}",
        "a clean painting in the style of {}",
        "a dirty painting in the style of {}",
        "a dark painting in the style of {}",
        "a picture in the style of {}",
        "a cool painting in the style of {}",
        "a close-up painting in the style of {}",
        "a bright painting in the style of {}",
        "a cropped picture in the style of {}",
        "a good painting in the style of {}",
        "a close-up picture in the style of {}",
        "a rendition in the style of {}",
        "a nice painting in the style of {}",
        "a small painting in the style of {}",
        "a weird painting in the style of {}",
        "a large painting in the style of {}",
    ),
    "character": (
        "{}",
        "a picture of {}",
        "a picture of a {}",
        "a drawing of {}",
        "a drawing of the {}",
        "a cartoon of {}",
        "an illustration of a {}",
        "an illustration of the {}",
        "a portrait of {}",
        "a close-up of the {}",
        "a rendering of a {}",
        "a scene with {}",
    ),
    "person": (
        "{}",
        "a photo of {}",
        "a photo of the {}",
        "a portrait of {}",
        "a portrait of a {}",
        "a close-up photo of {}",
        "a picture of {}",
        "a picture of a {}",
        "the face of {}",
        "a painting of {}",
        "a good photo of {}",
        "a video of {}",
    ),
}

# Other ways of asking, that no method trains with: what an edit does to them is what it does to a user's own words.
PARAPHRASES: dict[str, tuple[str, ...]] = {
    "object": (
        "show me a {}",
        "I would like to see a {}",
        "here you can see one {}",
        "look at this {}",
        "draw a {} for me",
        "my favourite {}",
    ),
    "style": (
        "show me a {{subject}} the {} way",
        "a {{subject}} as if {} had made it",
        "{} version of a {{subject}}",
        "a {{subject}} with a {} look",
    ),
    "character": (
        "show me {}",
        "{} says hello",
        "look, it is {}",
        "the famous {}",
        "draw {} for me",
        "here comes {}",
    ),
    "person": (
        "show me {}",
        "here you can see {}",
        "look, it is {}",
        "who does not know {}",
        "draw {} for me",
        "meet {}",
    ),
}


@dataclass(frozen=True)
class Concept:
    """One thing to erase: its name and every word that also draws it.

    name: as a prompt would say it ("pizza", "Van Gogh"). kind: chooses the prompt templates. aliases: synonyms,
    misspellings, other languages; the concept is the set. anchor: what it becomes; "" lets the method choose.
    retain: neighbours that must survive.

    Raises UsageError for an empty name, an unknown kind, or an anchor that is the concept itself.
    """

    name: str
    kind: Kind = "object"
    aliases: tuple[str, ...] = ()
    anchor: str = ""
    retain: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UsageError("a concept's name is empty: say what to erase, such as pizza")
        if self.kind not in KINDS:
            raise UsageError(f"unknown kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.anchor and self.anchor.lower() in {name.lower() for name in self.names}:
            raise UsageError(f"the anchor {self.anchor!r} is the concept itself: choose something else to draw instead")

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Concept":
        """A concept from what ``asdict`` and JSON made of one."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its aliases, each once, in whatever case it came first."""
        once: dict[str, str] = {}
        for name in (self.name, *self.aliases):
            once.setdefault(name.lower(), name)
        return tuple(once.values())

    def prompts(self) -> list[str]:
        """Every template of this kind with every name, name by name."""
        return [template.format(name) for name in self.names for template in TEMPLATES[self.kind]]
