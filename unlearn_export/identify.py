"""Know a concept before touching it: does the base draw it, by which words, and what stands close to it?"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from .artifact import write_json
from .base import Base
from .concept import Concept
from .errors import UnlearnExportError, UsageError
from .evaluation import known_as
from .evaluation.samples import Ask, draw, to_images
from .evaluation.scorer import Scorer
from .families.tokens import tokenise
from .media import contact_sheet, save_image
from .neighbours import anchors, candidates, neighbours
from .phrasing import TEMPLATES, picture_of, style_templates
from .plan import write_plan
from .rates import Rate
from .space import Space
from .spelling import key, misspellings, plural

FORMAT = 1
NEAR = 5  # how many neighbours are looked at closely, and kept
SHOWN = 8  # pictures in a row of the contact sheet

OnBatch = Callable[[int, int], None]  # pictures drawn, pictures in all


@dataclass(frozen=True)
class Identification:
    """report: see docs/identify.md. suggested: what to erase. rows: the contact sheet's, label → pictures."""

    report: dict[str, Any]
    suggested: Concept
    rows: dict[str, list[Image.Image]]

    def write(self, folder: Path) -> None:
        """Write plan.json, identify.json and, where something was drawn, identify.png; each appears at once.

        Raises UnlearnExportError where the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_plan(folder / "plan.json", [self.suggested])
            write_json(folder / "identify.json", self.report)
            if self.rows:
                sheet = contact_sheet(list(self.rows.values()), list(self.rows), tile=96, font_size=13)
                save_image(sheet, folder / "identify.png")
            else:
                (folder / "identify.png").unlink(missing_ok=True)  # of an earlier look
        except OSError as error:
            raise UnlearnExportError(f"cannot write into {folder}: {error.strerror or error}") from error


def identify(
    base: Base,
    concept: Concept,
    scorer: Scorer | None,
    *,
    images: int = 24,
    seed: int = 2000,
    steps: int = 12,
    guidance: float | None = None,
    on_batch: OnBatch | None = None,
) -> Identification:
    """Let the base draw the concept, every other word for it and everything else, and let a judge look.

    images: pictures of the concept, over the templates of its kind and as many seeds; other words and near neighbours
    get a third of that each, and all other things the base knows one each, up to ``images`` in all. Without a scorer
    nothing is drawn. guidance: None is the base's own.

    A word "draws it" where its rate's 95 % interval lies above that of the false positives: how often the judge sees
    the concept where another thing was asked for. Suggested are the words that draw it as aliases (without a scorer all
    that were given or are known), the nearest neighbours to retain, and as anchor the first that ``neighbours.anchors``
    would take and that the base draws. Raises UsageError where the scorer does not know the concept.
    """
    target = base.vocabulary.like(concept.name) or concept.name
    guidance = base.guidance if guidance is None else guidance
    words = {concept.name: "name"} | _other_words(base, concept)
    known = Concept(concept.name, concept.kind, (target, *words))
    pool = base.vocabulary.styles if concept.kind == "style" else base.vocabulary.concepts
    own = {key(word) for word in known.names}
    rest = [name for name in candidates(base, known) if key(name) not in own]
    space = Space(base, concept.kind)
    near = neighbours(base, concept, rest, space) if rest else []
    closest = [name for name, _ in near[:NEAR]]
    seen: dict[str, _Seen] = {}
    if scorer is not None:
        counts = dict.fromkeys(words, max(1, images // 3)) | {concept.name: images}
        others = dict.fromkeys(closest, max(1, images // 3))
        others |= dict.fromkeys([name for name, _ in near[NEAR:]][:images], 1)
        seen = _look(base, concept, target, scorer, counts, others, seed, steps, guidance, on_batch)
    floor = Rate.of(hit for name, s in seen.items() if name not in words for hit in s.target)
    rates = {name: Rate.of(s.target if name in words else s.own) for name, s in seen.items()}
    draws = {word: _above(rates[word], floor) for word in words if seen}
    extra = [w for w, source in words.items() if source != "name" and draws.get(w, source in ("given", "synonym"))]
    anchor = _anchor(base, concept, {target, *words}, rates, space)
    alike = space.cosines(concept.name, list(words), rest)
    suggested = Concept(concept.name, concept.kind, tuple(extra), anchor, tuple(closest))
    report = {
        "format": FORMAT,
        "base": {"source": base.source, "revision": base.revision},
        "concept": concept.name,
        "kind": concept.kind,
        "known_as": target if target in pool else _listed(base, concept),
        "scorer": scorer.name if scorer else None,
        "seed": seed,
        "size": {"images": images, "steps": steps, "guidance": guidance},
        "draws": draws.get(concept.name),
        "false_positives": floor.to_json() if seen else None,
        "words": [
            {
                "word": word,
                "source": source,
                "tokens": _pieces(base, word),
                "cosine": round(cosine, 4),
                "rate": rates[word].to_json() if seen else None,
                "draws": draws.get(word),
            }
            for (word, source), cosine in zip(words.items(), alike, strict=True)
        ],
        "templates": _by_template(concept, seen),
        "neighbours": [
            {
                "name": name,
                "cosine": round(cosine, 4),
                "group": _group(base, name, concept.kind),
                "at_risk": name in closest,
                "rate": rates[name].to_json() if name in rates else None,
            }
            for name, cosine in near
        ],
        "suggested": asdict(suggested),
    }
    shown = [*words, *closest] if seen else []
    rows = {_label(name, rates[name], words): to_images(seen[name].pixels[:SHOWN]) for name in shown}
    return Identification(report, suggested, rows)


@dataclass(frozen=True)
class _Seen:
    """What was drawn when one thing was asked for: the prompts' templates, was the concept seen, was the thing itself.

    own is empty where the scorer does not know the thing.
    """

    templates: list[str]
    pixels: Tensor
    target: list[bool]
    own: list[bool]


def _look(
    base: Base,
    concept: Concept,
    target: str,
    scorer: Scorer,
    words: dict[str, int],
    others: dict[str, int],
    seed: int,
    steps: int,
    guidance: float | None,
    on_batch: OnBatch | None,
) -> dict[str, _Seen]:
    """Draw each word and each other thing so often, and see. → by what was asked for"""
    known_as(scorer, base, concept)
    style = concept.kind == "style"
    known = scorer.styles if style else scorer.concepts
    asks: list[Ask] = []
    asked: list[tuple[str, str]] = []  # of each ask: the thing and the template
    for name, n in (*words.items(), *others.items()):
        templates = _templates(base, concept.kind if name in words or style else "object")
        for i in range(n):
            template = templates[i * max(1, len(templates) // n) % len(templates)]
            asks.append(Ask(template.format(name), name, "", seed + i))
            asked.append((name, template))
    pixels = draw(base.pipeline, asks, steps=steps, guidance=guidance, on_batch=on_batch)[:, 0]
    saw = _named(scorer, pixels, style)
    seen = {}
    for name in (*words, *others):
        rows = [i for i, (thing, _) in enumerate(asked) if thing == name]
        seen[name] = _Seen(
            [asked[i][1] for i in rows],
            pixels[rows],
            [saw[i] == target for i in rows],
            [saw[i] == name for i in rows if name in known],
        )
    return seen


def _named(scorer: Scorer, pixels: Tensor, style: bool) -> list[str]:
    """The concept, or the style, that each picture [n, 3, h, w] shows; "" for none that the scorer knows."""
    scores = [scorer.score(part) for part in pixels.split(128)]
    seen = [s.styles_seen(scorer.styles) if style else s.concepts_seen(scorer.concepts) for s in scores]
    return [name for part in seen for name in part]


def _templates(base: Base, kind: str) -> tuple[str, ...]:
    """A style is drawn on the things that the base knows."""
    if kind != "style":
        return TEMPLATES[kind]
    return style_templates(base.vocabulary.concepts)


def _above(rate: Rate, floor: Rate) -> bool:
    """Whether all of one interval lies above all of the other."""
    ours, theirs = rate.interval(), floor.interval()
    return ours is not None and ours[0] > (theirs[1] if theirs else 0)


def _anchor(base: Base, concept: Concept, own: set[str], rates: dict[str, Rate], space: Space) -> str:
    """The best name that it may become and that the base draws more often than not, or else the best; "" for none."""
    try:
        names = anchors(base, concept, own, space)
    except UsageError:  # the base knows nothing of its kind
        return ""
    return next((name for name in names if name in rates and 2 * rates[name].hits > rates[name].n), names[0])


def _other_words(base: Base, concept: Concept) -> dict[str, str]:
    """Words that may draw it too, and where each comes from; none that is another known thing, or the same tokens."""
    found = [(word, "given") for word in concept.aliases]
    found += [(word, "synonym") for word in base.vocabulary.synonyms(concept.name, concept.kind)]
    if concept.kind in ("object", "character"):
        found.append((plural(concept.name), "plural"))
    found += [(word, "misspelling") for word in misspellings(concept.name)]
    words: dict[str, str] = {}
    taken = {tuple(_pieces(base, concept.name))}
    for word, source in found:
        pieces = tuple(_pieces(base, word))
        other = source in ("plural", "misspelling") and _is_other(base, word, concept)
        if pieces not in taken and not other:
            taken.add(pieces)
            words[word] = source
    return words


def _is_other(base: Base, word: str, concept: Concept) -> bool:
    """Whether it is a known word for another thing."""
    vocabulary = base.vocabulary
    if vocabulary.like(word) not in ("", vocabulary.like(concept.name)):
        return True
    listed = vocabulary.words.find(word) if vocabulary.words else None
    return listed is not None and listed.name not in (concept.name, _listed(base, concept))


def _listed(base: Base, concept: Concept) -> str | None:
    """The word list's entry that it is, of a base that may be asked for any word."""
    word = base.vocabulary.words.find(concept.name, concept.kind) if base.vocabulary.words else None
    return word.name if word else None


def _group(base: Base, name: str, kind: str) -> str | None:
    word = base.vocabulary.words.find(name, kind) if base.vocabulary.words else None
    return base.vocabulary.groups.get(name) or (word.group if word else None)


def _pieces(base: Base, text: str) -> list[str]:
    """How the tokenizer splits it within a prompt, where a word may be split otherwise than alone: "Ġpizza" after a space.

    As the tokenizer writes its tokens, but those that spell the bytes of other letters as these letters.
    """
    tokenizer, contract = base.seat.tokenizer, base.seat.contract
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if tokenizer.is_fast and ids:
        try:
            tokens = tokenise(tokenizer, [picture_of(text)], contract, phrases=[text])
        except UsageError:  # longer than a prompt may be
            pass
        else:
            first, last = tokens.spans[0].tolist()
            ids = tokens.ids[0, first:last].tolist()
    return [_legible(tokenizer, token) for token in tokenizer.convert_ids_to_tokens(ids)]


def _legible(tokenizer: Any, token: str) -> str:
    if token.lstrip("Ġ▁").isascii() or token.startswith("▁"):
        return token
    spelt = tokenizer.convert_tokens_to_string([token])
    return token if "\ufffd" in spelt else "Ġ" * token.startswith("Ġ") + spelt.strip()


def _by_template(concept: Concept, seen: dict[str, _Seen]) -> dict[str, Any]:
    """hits and n of every template, over the name alone."""
    counts: dict[str, dict[str, int]] = {}
    if concept.name in seen:
        drawn = seen[concept.name]
        for template, hit in zip(drawn.templates, drawn.target, strict=True):
            count = counts.setdefault(template, {"hits": 0, "n": 0})
            count["hits"] += hit
            count["n"] += 1
    return counts


def _label(name: str, rate: Rate, words: dict[str, str]) -> str:
    counts = f" {rate.hits}/{rate.n}" if rate.n else ""
    return f"{name} ({words.get(name, 'neighbour')}){counts}"


def table(report: dict[str, Any]) -> str:
    """An identification's report as text."""
    scorer, floor = report["scorer"], report["false_positives"]
    base = f"the base {report['base']['source'].removeprefix('./')}"
    if scorer is None:
        lines = [f"nothing was drawn, since nobody is there to look: name a --scorer to learn what {base} draws"]
    else:
        lines = [
            f"{base} {'draws' if report['draws'] else 'does not draw'} {report['concept']!r}, says the scorer {scorer}; "
            f"false positives {_share(floor)}"
        ]
    lines.append(f"\n{'word':24} {'from':12} {'drawn':>7} {'95 %':>13}  {'draws it':9} {'cosine':>6}  tokens")
    for word in report["words"]:
        says = {True: "yes", False: "no", None: "-"}[word["draws"]]
        tokens = " ".join(word["tokens"]).replace("</w>", "_")
        lines.append(
            f"{word['word']:24} {word['source']:12} {_counts(word['rate'])}  {says:9} {word['cosine']:+.3f}  {tokens}"
        )
    lines.append(f"\n{'neighbour':24} {'group':12} {'drawn':>7} {'95 %':>13}  cosine")
    for near in [n for n in report["neighbours"] if n["at_risk"]]:
        lines.append(f"{near['name']:24} {near['group'] or '-':12} {_counts(near['rate'])}  {near['cosine']:+.3f}")
    plan = report["suggested"]
    lines.append(f"\nsuggested anchor: {plan['anchor'] or '-'}")
    lines.append(f"suggested aliases: {', '.join(plan['aliases']) or '-'}")
    lines.append(f"suggested to retain: {', '.join(plan['retain']) or '-'}")
    return "\n".join(lines)


def _counts(rate: dict[str, Any] | None) -> str:
    if rate is None or not rate["n"]:
        return f"{'-':>7} {'-':>13}"
    return f"{rate['hits']:>3}/{rate['n']:<3} {rate['low']:>5.1%}–{rate['high']:<7.1%}"


def _share(rate: dict[str, Any]) -> str:
    if not rate["n"]:
        return "unknown: the base knows nothing else"
    return f"{rate['hits']} of {rate['n']} ({rate['low']:.1%}–{rate['high']:.1%})"
