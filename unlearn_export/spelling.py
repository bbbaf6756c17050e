"""One name in other letters: number, case, hyphens, and slips of the hand."""

import re
import unicodedata

_IRREGULAR = {"man": "men", "woman": "women", "child": "children", "person": "people", "mouse": "mice"}
_MEN = ("policeman", "snowman", "fireman", "fisherman")
_SINGULAR = {many: one for one, many in _IRREGULAR.items()} | {f"{one[:-3]}men": one for one in _MEN}
_WORD_ENDS = re.compile(r"[\s\-_‐‑–—]+")


def key(name: str) -> str:
    """What two spellings of a name share: no case, and a space for every hyphen."""
    return _WORD_ENDS.sub(" ", unicodedata.normalize("NFC", name).casefold()).strip()


def mentions(text: str, name: str) -> bool:
    """Whether ``text`` has ``name`` in it, word by word, in any case, number or hyphenation."""
    words = f" {key(text)} "
    return any(f" {key(form)} " in words for form in (name, plural(name), singular(name)))


def plural(name: str) -> str:
    """English, of the last word."""
    *start, last = name.split(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last in _MEN:
        last = f"{last[:-3]}men"
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in ("a", "e", "i", "o", "u", ""):
        last = f"{last[:-1]}ies"
    else:
        last += "s"
    return " ".join([*start, last])


def singular(name: str) -> str:
    """English, of the last word, where that looks like a plural; else the name as it is."""
    *start, last = name.split(" ")
    if last in _SINGULAR:
        last = _SINGULAR[last]
    elif last.endswith("ies") and len(last) > 4:
        last = f"{last[:-3]}y"
    elif last.endswith(("xes", "zes", "ches", "shes", "sses")):
        last = last[:-2]
    elif last.endswith("s") and len(last) > 3 and not last.endswith(("ss", "us", "is")):
        last = last[:-1]
    return " ".join([*start, last])


def misspellings(name: str) -> list[str]:
    """Three slips of the hand in the longest word: a letter left out, two swapped, one doubled."""
    words = name.split()
    at = max(range(len(words)), key=lambda i: len(words[i]))
    word = words[at]
    if len(word) < 4:
        return []
    i = len(word) // 2
    slips = (word[:i] + word[i + 1 :], word[: i - 1] + word[i] + word[i - 1] + word[i + 1 :], word[:i] + word[i - 1 :])
    return [" ".join([*words[:at], slip, *words[at + 1 :]]) for slip in dict.fromkeys(slips) if slip != word]
