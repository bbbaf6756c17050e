"""What concepts are called in other languages, as far as a registered profile tells."""

from collections.abc import Mapping

from ..plugins import found

NAMES: Mapping[str, tuple[str, ...]] = {
    concept: names for profile in found("profiles").values() for concept, names in profile().translations.items()
}
