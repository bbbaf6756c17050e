"""What an edit did: before and after, under the same prompts and seeds, in the base and in text-to-video pipelines.

The report's format is in docs/evaluation.md.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from transformers import PreTrainedModel

from ..artifact import write_json
from ..base import Base
from ..concept import Concept
from ..errors import UsageError
from ..families.tokens import final_states, read_states, tokenise
from ..measured import FORMAT, Compared, Cost, Moment, Report
from ..media import contact_sheet, save_clip, save_image
from ..phrasing import picture_of
from ..rates import Rate
from .asks import Amount, Ask, plan
from .copyright import copyright_metric
from .distance import kernel_distance
from .judge import judge
from .samples import batches, to_images, with_encoder
from .scorer import Features, Scorer, Scores
from .sight import Judge, Sight
from .states import drift_of, measure_states

__all__ = [
    "FORMAT",
    "Compared",
    "Evaluation",
    "Features",
    "Moment",
    "Rate",
    "Report",
    "Scorer",
    "Scores",
    "Seen",
    "Size",
    "compare",
    "compared",
    "evaluate",
    "known_as",
    "picture_files",
]

OnProgress = Callable[[str, int, int], None]  # what is being drawn, done, in all


@dataclass(frozen=True)
class Size:
    """How much is drawn. A clip is scored frame by frame, so it counts ``frames`` times."""

    target_images: int = 24  # per erased concept
    other_images: int = 3  # per other concept
    variant_images: int = 8  # per erased concept and kind of variant
    target_clips: int = 12
    other_clips: int = 1
    variant_clips: int = 2
    steps: int = 12
    frames: int = 8
    guidance: float | None = None  # classifier-free guidance scale; None is each pipeline's own


@dataclass(frozen=True)
class Evaluation:
    """report: what lands in unlearning/evaluation.json. pictures: file name → [n, frames, 3, h, w] pairs."""

    report: Report
    pictures: dict[str, tuple[list[Ask], Tensor, Tensor]]

    def with_cost(self, cost: Cost) -> "Evaluation":
        """The same with what all stages cost."""
        return replace(self, report=replace(self.report, cost=cost))

    def write(self, folder: Path) -> None:
        """Write evaluation.json, a before/after contact sheet for each pipeline, and clips of the video ones."""
        write_json(folder / "evaluation.json", self.report.to_json())
        for name, (asks, before, after) in self.pictures.items():
            middle = before.shape[1] // 2
            rows = [to_images(x[:, middle]) for x in (before, after)]
            sheet = contact_sheet(rows, row_labels=["before", "after"], column_labels=[a.prompt for a in asks])
            files = picture_files(name)
            save_image(sheet, folder / files["sheet"])
            if before.shape[1] > 1:
                for moment, clip in (("before", before), ("after", after)):
                    wall = clip.permute(1, 2, 3, 0, 4).flatten(3)  # the clips side by side
                    save_clip(to_images(wall), folder / files[moment], scale=2)


def picture_files(pipeline: str) -> dict[str, str]:
    """The names of a pipeline's contact sheet and of its clips before and after; a still one has no clips."""
    return {"sheet": f"{pipeline}.png", "before": f"{pipeline}-before.webp", "after": f"{pipeline}-after.webp"}


@dataclass(frozen=True)
class Seen:
    """One pipeline at one moment: what was seen, and the samples [n, frames, 3, h, w] that a person is shown."""

    sight: Sight
    shown: Tensor


def evaluate(
    base: Base,
    edited: PreTrainedModel | Mapping[str, PreTrainedModel],
    concepts: Sequence[Concept],
    scorer: Scorer | None,
    *,
    t2v: Mapping[str, DiffusionPipeline] | None = None,
    holdout: Sequence[str] = (),
    references: Tensor | None = None,
    features: Features | None = None,
    size: Size | None = None,
    seed: int = 1000,
    originals: dict[str, Seen] | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Draw the erased concepts and all others with the original and with the edited encoder, and let a judge look.

    t2v: pipelines that read the same encoder, by name. holdout: concepts that the eraser's kept prompts did not name;
    their accuracy is reported apart. references: protected pictures [m, 3, h, w] in [0, 1], for the copyright metric.
    features: whose vectors the distribution distance compares; the scorer's own by default.
    originals: what an earlier call with the same arguments, but for ``edited``, saw before; empty at first, it is
    filled here, so that several edits of one base share it.
    Without a scorer the text states alone are measured (see ``states``), and nothing is drawn.
    Raises UsageError where the scorer does not know an erased concept.
    """
    size = size or Size()
    seats: Mapping[str, PreTrainedModel] = edited if isinstance(edited, Mapping) else {base.seat.name: edited}
    states = measure_states(base, seats, concepts, holdout=holdout, seed=seed, on_progress=on_progress)
    report = Report(
        scorer=scorer.name if scorer else None,
        seed=seed,
        size=asdict(size),
        holdout=tuple(holdout),
        references=0 if references is None else len(references),
        drift=drift_of(states) if any(base.seats[name].large for name in seats) else drift(base, seats, concepts),
        states=states,
        targets=(),
        kinds=tuple(c.kind for c in concepts),
        pipelines={},
    )
    if scorer is None:
        return Evaluation(report, {})
    targets = [known_as(scorer, base, c) for c in concepts]
    stills = Amount(size.target_images, size.variant_images, size.other_images)
    moving = Amount(size.target_clips, size.variant_clips, size.other_clips)
    judge_of, pictures, pipelines = Judge(scorer, features, references), {}, {}
    for name, pipeline in ({"t2i": base.pipeline} | dict(t2v or {})).items():
        frames = None if name == "t2i" else size.frames
        asks = plan(
            base.vocabulary,
            (scorer.concepts, scorer.styles),
            list(zip(concepts, targets, strict=True)),
            moving if frames else stills,
            seed,
            clips=bool(frames),
        )
        shown = _shown(asks, targets)
        both, seconds = [], []
        for moment, encoder in (("before", base.encoders), ("after", seats)):
            start = time.perf_counter()

            def on_batch(done: int, total: int, label: str = f"{name} {moment}") -> None:
                if on_progress:
                    on_progress(label, done, total)

            known = (originals or {}).get(name) if moment == "before" else None
            if known is None:
                drawn = batches(
                    with_encoder(pipeline, encoder),
                    asks,
                    steps=size.steps,
                    frames=frames,
                    guidance=size.guidance,
                    on_batch=on_batch,
                )
                known = _seen(judge_of, drawn, shown)
            both.append(known)
            seconds.append(round(time.perf_counter() - start, 2))
        if originals is not None:
            originals[name] = both[0]
        found = compared(
            asks,
            both[0].sight,
            both[1].sight,
            targets=targets,
            holdout=holdout,
            groups=base.vocabulary.groups,
            whose=getattr(features or scorer, "name", None),
            seed=seed,
        )
        pipelines[name] = replace(
            found,
            before=replace(found.before, seconds=seconds[0]),
            after=replace(found.after, seconds=seconds[1]),
            video=frames is not None,
        )
        pictures[name] = ([asks[i] for i in shown], both[0].shown, both[1].shown)
    return Evaluation(replace(report, targets=tuple(targets), pipelines=pipelines), pictures)


def compare(
    scorer: Scorer,
    asks: Sequence[Ask],
    before: Tensor,
    after: Tensor,
    *,
    targets: Sequence[str],
    holdout: Sequence[str] = (),
    groups: Mapping[str, str] | None = None,
    references: Tensor | None = None,
    features: Features | None = None,
    seed: int = 0,
) -> Compared:
    """Judge the same asks drawn before and after, each [n, frames, 3, h, w]. → one pipeline's part of the report"""
    judge_of = Judge(scorer, features, references)
    sights = [judge_of.look(pixels, asks) for pixels in (before, after)]
    whose = getattr(features or scorer, "name", None)
    return compared(asks, *sights, targets=targets, holdout=holdout, groups=groups, whose=whose, seed=seed)


def compared(
    asks: Sequence[Ask],
    before: Sight,
    after: Sight,
    *,
    targets: Sequence[str],
    holdout: Sequence[str] = (),
    groups: Mapping[str, str] | None = None,
    whose: str | None = None,
    seed: int = 0,
) -> Compared:
    """The same of what was seen. whose: the name of the vectors that the distance compares."""
    moments = [judge(sight, asks, targets, holdout=holdout, groups=groups) for sight in (before, after)]
    distance = None
    if before.vectors is not None and after.vectors is not None:
        distance = kernel_distance(before.vectors, after.vectors, seed)
        distance = distance and replace(distance, features=whose)
    if before.products is not None and after.products is not None:
        metric = copyright_metric([before.products, after.products])
        moments = [replace(moment, copyright=value) for moment, value in zip(moments, metric, strict=True)]
    return Compared(moments[0], moments[1], distance)


def _seen(judge_of: Judge, drawn: Iterable[tuple[Sequence[Ask], Tensor]], shown: Sequence[int]) -> Seen:
    """Look at samples as they are drawn, and keep those that are shown. shown: their numbers, in any order."""
    sights: list[Sight] = []
    kept: dict[int, Tensor] = {}
    done = 0
    for part, pixels in drawn:
        sights.append(judge_of.look(pixels, part))
        kept |= {i: pixels[i - done].clone() for i in shown if done <= i < done + len(part)}
        done += len(part)
    return Seen(Sight.joined(sights), torch.stack([kept[i] for i in shown]))


@torch.no_grad()
def drift(
    base: Base, edited: PreTrainedModel | Mapping[str, PreTrainedModel], concepts: Sequence[Concept]
) -> dict[str, float]:
    """How far the states that the base's pipeline reads moved, ‖after − before‖ / ‖before‖, of the seat that moved most.

    Of the empty prompt, the concept's prompts, and others'.
    """
    seats = edited if isinstance(edited, Mapping) else {base.seat.name: edited}
    names = {n.lower() for c in concepts for n in c.names}
    others = [picture_of(n) for n in base.vocabulary.concepts if n.lower() not in names]
    groups = {"empty": [""], "concept": [p for c in concepts for p in c.prompts()], "others": others}
    moved = dict.fromkeys(groups, 0.0)
    for name, after in seats.items():
        for key, prompts in groups.items():
            ours, theirs = (_read(base, name, e.to(base.device), prompts) for e in (after, base.encoders[name]))
            moved[key] = max(moved[key], round(float((ours - theirs).norm() / theirs.norm()), 6))
    return moved


def _read(base: Base, name: str, encoder: PreTrainedModel, prompts: list[str]) -> Tensor:
    """What the base's pipeline is given by one of its encoders: states [n, length, d], or pooled ones [n, d]."""
    seat = base.seats[name]
    tokens = tokenise(seat.tokenizer, prompts, seat.contract, trim=True)
    rows = []
    for i in range(0, len(prompts), 32):
        part = tokens[i : i + 32]
        out = seat.family.call(encoder, part.to(base.device), seat.contract.mask)
        rows.append(read_states(final_states(out), part, seat.contract) if seat.contract.layers else out.pooler_output)
    return torch.cat(rows)


def known_as(scorer: Scorer, base: Base, concept: Concept) -> str:
    """The scorer's name for a concept. Raises UsageError where it knows none."""
    name = base.vocabulary.like(concept.name) or concept.name
    pool = scorer.styles if concept.kind == "style" else scorer.concepts
    if name not in pool:
        raise UsageError(
            f"the scorer {scorer.name!r} knows no {concept.kind} {concept.name!r}: "
            f"{base.vocabulary.hint(concept.name)}it knows {', '.join(pool)}"
        )
    return name


def _shown(asks: Sequence[Ask], targets: Sequence[str], each: int = 3, others: int = 6) -> list[int]:
    """Which samples a person gets to see: some of every target, and others from all over the list."""
    chosen = []
    for target in targets:
        chosen += [i for i, a in enumerate(asks) if a.role == "direct" and target in (a.concept, a.style)][:each]
    rest = [i for i, a in enumerate(asks) if a.role == "other"]
    return chosen + rest[:: max(1, len(rest) // others)][:others]
