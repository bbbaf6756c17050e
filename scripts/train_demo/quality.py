"""Judge the shipped demo models: ``python -m scripts.train_demo.quality`` writes unlearn_export/demo/QUALITY.json.

Every concept in every style under seeds that nothing was tuned on, by the shipped scorer; the tracker of motions and
the scorer are first judged on real pictures, so that their own errors are known.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from unlearn_export import demo
from unlearn_export.artifact import read_json, write_json
from unlearn_export.demo.scorer import DemoScorer
from unlearn_export.evaluation.motion import name_motion, track
from unlearn_export.evaluation.samples import Ask, draw

from . import data

STEPS = 20
SEED = 70_000  # nothing else in the project draws from these
TO_SCORE = 4  # clips or images at once
Answer = tuple[Ask, list[str], list[str], str]  # what was asked; concept, style of each frame; motion


def plan(seeds: int, clips: bool) -> list[Ask]:
    """Every concept × style × seed; clips go along every motion in turn, each by its first phrase."""
    asks: list[Ask] = []
    for concept in data.NAMES:
        for style in data.STYLE_NAMES:
            for _ in range(seeds):
                prompt = f"a picture of a {concept} in {style} style"
                if clips:
                    prompt += " " + data.MOTIONS[data.MOTION_NAMES[len(asks) % len(data.MOTION_NAMES)]][0]
                asks.append(Ask(prompt, concept, style, SEED + len(asks)))
    return asks


def judge(name: str, asks: list[Ask]) -> list[Answer]:
    """Draw with one pipeline, in this process, and let the scorer and the tracker look."""
    torch.set_num_threads(1)
    pipeline, scorer = demo.load(name), DemoScorer()
    frames = None if name == "t2i" else demo.FRAMES
    answers: list[Answer] = []
    for start in range(0, len(asks), TO_SCORE):
        part = asks[start : start + TO_SCORE]
        pixels = draw(pipeline, part, steps=STEPS, frames=frames, guidance=demo.GUIDANCE)
        for ask, clip in zip(part, pixels, strict=True):
            scores = scorer.score(clip)
            concepts, styles = scores.concepts_seen(scorer.concepts), scores.styles_seen(scorer.styles)
            answers.append((ask, concepts, styles, name_motion(track(clip))))
    return answers


def rate(hits: list[bool]) -> dict[str, Any]:
    return {"rate": round(sum(hits) / len(hits), 4), "n": len(hits)}


def table(answers: list[Answer], clips: bool) -> dict[str, Any]:
    """Rates by picture or frame, in all and by concept and style; of clips also by motion."""
    found: dict[str, Any] = {
        "concept": rate([c == ask.concept for ask, cs, _, _ in answers for c in cs]),
        "style": rate([s == ask.style for ask, _, ss, _ in answers for s in ss]),
    }
    for key, names in (("concept", data.NAMES), ("style", data.STYLE_NAMES)):
        found[f"by_{key}"] = {
            n: rate([c == ask.concept for ask, cs, _, _ in answers if getattr(ask, key) == n for c in cs])
            for n in names
        }
    if clips:
        wanted = [data.MOTION_NAMES[i % len(data.MOTION_NAMES)] for i in range(len(answers))]
        seen = [motion for *_, motion in answers]
        found["motion"] = rate([w == s for w, s in zip(wanted, seen, strict=True)])
        found["by_motion"] = {
            m: rate([s == m for w, s in zip(wanted, seen, strict=True) if w == m]) for m in data.MOTION_NAMES
        }
        found["motions_seen"] = {m: seen.count(m) for m in [*data.MOTION_NAMES, "still"]}
    return found


def real(work: Path) -> dict[str, Any]:
    """The judges themselves, on real pictures and clips: every concept × style × motion."""
    torch.set_num_threads(1)
    sprites, scorer = data.load_sprites(work), DemoScorer()
    generator = torch.Generator().manual_seed(SEED)
    concepts, styles, motions = [], [], []
    for c, concept in enumerate(data.NAMES):
        for s, style in enumerate(data.STYLE_NAMES):
            for motion in [*data.MOTION_NAMES, None]:
                picture = sprites.known[c, s][None].expand(data.FRAMES, -1, -1, -1)
                clip = (data.draw(picture, *data.motion_pose(motion, generator)) + 1) / 2
                motions.append(name_motion(track(clip)) == (motion or "still"))
                scores = scorer.score(clip)
                concepts += [seen == concept for seen in scores.concepts_seen(scorer.concepts)]
                styles += [seen == style for seen in scores.styles_seen(scorer.styles)]
    return {"concept": rate(concepts), "style": rate(styles), "motion": rate(motions)}


def seconds() -> dict[str, float]:
    """One image and one clip of each pipeline at 20 steps, alone, by the median of five."""
    torch.set_num_threads(os.cpu_count() or 1)
    found = {}
    for name in demo.PIPELINES:
        pipeline, times = demo.load(name), []
        for _ in range(6):
            start = time.perf_counter()
            frames = None if name == "t2i" else demo.FRAMES
            draw(pipeline, [Ask("a pizza", "pizza", "", 0)], steps=STEPS, frames=frames, guidance=demo.GUIDANCE)
            times.append(time.perf_counter() - start)
        found[name] = round(statistics.median(times[1:]), 3)
    return found


def bars(report: dict[str, Any]) -> dict[str, bool]:
    """The demo's quality bars and whether they are met."""
    t2i, motion, unet3d = (report[name] for name in ("t2i", "t2v-motion", "t2v-unet3d"))
    spent, real = report["seconds"], report["real_pictures"]
    return {
        "image concept >= 92 %": t2i["concept"]["rate"] >= 0.92,
        "no image concept < 60 %": min(r["rate"] for r in t2i["by_concept"].values()) >= 0.6,
        "image style >= 95 %": t2i["style"]["rate"] >= 0.95,
        "t2v-motion frame concept >= 85 %": motion["concept"]["rate"] >= 0.85,
        "t2v-unet3d frame concept >= 85 %": unet3d["concept"]["rate"] >= 0.85,
        "t2v-unet3d motion >= 80 %": unet3d["motion"]["rate"] >= 0.8,
        "image <= 1.5 s": spent["t2i"] <= 1.5,
        "clip <= 6 s": max(spent["t2v-motion"], spent["t2v-unet3d"]) <= 6,
        "weights <= 40 MB": report["bytes"] <= 40e6,
        "scorer on real pictures >= 98 %": real["concept"]["rate"] >= 0.98,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="of every concept × style")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, default=Path("build/train_demo"), help="where the icons are rendered")
    parser.add_argument("-o", "--out", type=Path, default=demo.ROOT / "QUALITY.json")
    parser.add_argument("--times-only", action="store_true", help="time anew, on a quiet machine; keep the rest")
    args = parser.parse_args()
    report: dict[str, Any]
    if args.times_only:
        report = read_json(args.out)
        report["seconds"] = seconds()
        finish(report, args.out)
        return
    report = {
        "command": "python -m scripts.train_demo.quality",
        "steps": STEPS,
        "guidance": demo.GUIDANCE,
        "seeds_per_concept_and_style": args.seeds,
        "first_seed": SEED,
        "bytes": sum(f.stat().st_size for f in demo.weight_files()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "seconds": seconds(),
        "real_pictures": real(args.work),
    }
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        for name in demo.PIPELINES:
            asks = plan(args.seeds, clips=name != "t2i")
            chunks = [asks[i : i + 20] for i in range(0, len(asks), 20)]
            answers: list[Answer] = []
            for done in pool.map(judge, [name] * len(chunks), chunks):
                answers += done
                print(f"{name} {len(answers)}/{len(asks)}", file=sys.stderr, flush=True)
            report[name] = table(answers, clips=name != "t2i")
    finish(report, args.out)


def finish(report: dict[str, Any], out: Path) -> None:
    report["bars"] = bars(report)
    write_json(out, report)
    for bar, met in report["bars"].items():
        print(f"{'met   ' if met else 'MISSED'} {bar}")


if __name__ == "__main__":
    main()
