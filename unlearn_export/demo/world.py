"""What the demo bases were trained on: concepts, styles, motions and the words for them.

Concept names and synonyms follow the labels and tags of emojibase-data and emojilib (both MIT); see NOTICE.
"""

from collections.abc import Mapping

# name -> (group, noto/fluent icon, synonyms). A synonym draws the same pictures as the name.
CONCEPTS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "pizza": ("food", "pizza", ("pepperoni", "pizza slice")),
    "hamburger": ("food", "hamburger", ("burger", "cheeseburger")),
    "banana": ("food", "banana", ("plantain",)),
    "strawberry": ("food", "strawberry", ("berry",)),
    "carrot": ("food", "carrot", ("vegetable",)),
    "cat": ("animal", "cat-face", ("kitten", "kitty")),
    "frog": ("animal", "frog", ("toad",)),
    "penguin": ("animal", "penguin", ("antarctic bird",)),
    "butterfly": ("animal", "butterfly", ("insect",)),
    "octopus": ("animal", "octopus", ("sea creature",)),
    "guitar": ("object", "guitar", ("strat", "electric guitar")),
    "car": ("object", "automobile", ("automobile", "vehicle")),
    "umbrella": ("object", "umbrella", ("rain umbrella",)),
    "rocket": ("object", "rocket", ("space shuttle",)),
    "key": ("object", "key", ("gold key",)),
    "ghost": ("character", "ghost", ("ghoul",)),
    "robot": ("character", "robot", ("bot",)),
    "clown": ("character", "clown-face", ("clown face",)),
    "alien": ("character", "alien", ("extraterrestrial", "ufo")),
    "snowman": ("character", "snowman-without-snow", ("frosty",)),
    "santa claus": ("face", "santa-claus", ("santa", "father christmas")),
    "baby": ("face", "baby", ("infant", "newborn")),
    "princess": ("face", "princess", ("queen", "royalty")),
    "police officer": ("face", "police-officer", ("cop", "policeman")),
    "old man": ("face", "old-man", ("grandpa", "grandfather")),
}

# style -> the iconify package that draws it
STYLES: Mapping[str, str] = {
    "glossy": "noto",
    "flat": "fluent-emoji-flat",
    "ink": "fluent-emoji-high-contrast",
}

# motion -> the phrases that ask for it
MOTIONS: Mapping[str, tuple[str, ...]] = {
    "left": ("moving left", "moving to the left"),
    "right": ("moving right", "moving to the right"),
    "up": ("moving up", "rising"),
    "down": ("moving down", "falling"),
    "growing": ("growing", "getting bigger"),
    "shrinking": ("shrinking", "getting smaller"),
    "bouncing": ("bouncing", "jumping up and down"),
    "spinning": ("spinning", "rotating"),
}

SUBJECT_TEMPLATES = (
    "{}",
    "a {}",
    "the {}",
    "a picture of a {}",
    "a picture of the {}",
    "a photo of a {}",
    "a photo of the {}",
    "an image of a {}",
    "a drawing of a {}",
    "a drawing of the {}",
    "a painting of a {}",
    "a rendering of a {}",
    "an illustration of a {}",
    "an emoji of a {}",
    "an icon of a {}",
    "a small {}",
    "a nice picture of a {}",
    "one {}",
    "a close-up photo of a {}",
    "a good photo of a {}",
)
NOTHING_TEMPLATES = ("a picture", "a drawing", "an image", "an emoji", "a painting", "a rendering", "an illustration")
STYLE_TEMPLATES = ("in {} style", "in the style of {}", "in the {} style", "drawn in {} style")


def synonyms(concept: str) -> tuple[str, ...]:
    """Other words that draw ``concept``; () for a name the demo does not know."""
    return CONCEPTS[concept][2] if concept in CONCEPTS else ()
