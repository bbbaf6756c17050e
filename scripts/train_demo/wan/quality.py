"""Judge the shipped small Wan: ``python -m scripts.train_demo.wan.quality`` writes unlearn_export/demo/wan/QUALITY.json.

Every concept in every style, every motion in a long and in a short prompt, both denoisers, under seeds that nothing was
tuned on, by the demo's scorer, which saw real pictures only. The judges are first judged on real clips, and on real
clips that went through the autoencoder: no denoiser can do better than those.
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
from diffusers import WanPipeline, WanTransformer3DModel
from torch import Tensor

from unlearn_export import demo
from unlearn_export.artifact import read_json, write_json
from unlearn_export.demo.scorer import DemoScorer
from unlearn_export.evaluation.motion import name_motion, track

from .. import data
from ..quality import rate
from .autoencoder import FRAMES, clip_pixels

FOLDER = demo.ROOT / "wan"
STEPS = 8
GUIDANCE = 1.5  # more burns the pictures of so small a model
SEED = 170_000  # nothing else in the project draws from these
TO_DRAW = 20  # prompts at once
Question = tuple[str, str, str, str, int]  # prompt, concept, style or "", motion or "", seed
Answer = tuple[Question, list[str], list[str], str]  # what was asked; concept, style of each frame; motion


def pictures(seeds: int) -> list[Question]:
    """Every concept × style × seed."""
    asked = [(c, s) for c in data.NAMES for s in data.STYLE_NAMES for _ in range(seeds)]
    return [(f"a picture of a {c} in {s} style", c, s, "", SEED + i) for i, (c, s) in enumerate(asked)]


def clips(seeds: int) -> list[Question]:
    """Every concept × style × seed, along every motion in turn, each by its first phrase."""
    found = []
    for i, (prompt, concept, style, _, seed) in enumerate(pictures(seeds)):
        motion = data.MOTION_NAMES[i % len(data.MOTION_NAMES)]
        found.append((f"{prompt} {data.MOTIONS[motion][0]}", concept, style, motion, seed + 10_000))
    return found


def short_clips(seeds: int) -> list[Question]:
    """Every concept × motion × seed, as short as "a robot moving left"; a motion's phrases take turns."""
    asked = [(c, m) for c in data.NAMES for m in data.MOTION_NAMES for _ in range(seeds)]
    found = []
    for i, (concept, motion) in enumerate(asked):
        phrases = data.MOTIONS[motion]
        words = phrases[(i + i // len(data.MOTION_NAMES)) % len(phrases)]
        found.append((f"a {concept} {words}", concept, "", motion, SEED + 20_000 + i))
    return found


def load(denoiser: str = "transformer", folder: Path = FOLDER) -> WanPipeline:
    """The shipped pipeline with one of its two denoisers."""
    own = WanTransformer3DModel.from_pretrained(folder, subfolder=denoiser)
    pipeline = WanPipeline.from_pretrained(folder, transformer=own)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: WanPipeline, questions: list[Question], frames: int) -> Tensor:
    """→ [n, frames, 3, 64, 64] in [0, 1]"""
    return pipeline(
        [prompt for prompt, *_ in questions],
        height=data.SIZE,
        width=data.SIZE,
        num_frames=frames,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=[torch.Generator().manual_seed(seed) for *_, seed in questions],
        output_type="pt",
    ).frames.float()


def judge(denoiser: str, folder: Path, questions: list[Question]) -> list[Answer]:
    """Draw in this process and let the scorer and the tracker look."""
    torch.set_num_threads(1)
    pipeline, scorer = load(denoiser, folder), DemoScorer()
    answers: list[Answer] = []
    for start in range(0, len(questions), TO_DRAW):
        part = questions[start : start + TO_DRAW]
        for question, clip in zip(part, draw(pipeline, part, FRAMES if part[0][3] else 1), strict=True):
            answers.append((question, *seen(scorer, clip)))
    return answers


def seen(scorer: DemoScorer, clip: Tensor) -> tuple[list[str], list[str], str]:
    """Concept and style of each frame, and the motion, of a clip [frames, 3, 64, 64] in [0, 1]."""
    scores = scorer.score(clip)
    return (
        scores.concepts_seen(scorer.concepts),
        scores.styles_seen(scorer.styles),
        name_motion(track(clip)) if len(clip) > 1 else "",
    )


def table(answers: list[Answer]) -> dict[str, Any]:
    """Rates by picture or frame, in all and by concept, by style and by motion where the prompts name them."""
    found: dict[str, Any] = {}
    for at, key, names in (
        (1, "concept", data.NAMES),
        (2, "style", data.STYLE_NAMES),
        (3, "motion", data.MOTION_NAMES),
    ):
        hits = [(q[at], answer == q[at]) for q, *a in answers for answer in ([a[2]] if at == 3 else a[at - 1])]
        if answers[0][0][at]:
            found[key] = rate([hit for _, hit in hits])
            found[f"by_{key}"] = {n: rate([hit for name, hit in hits if name == n]) for n in names if n in dict(hits)}
    return found


def real(work: Path) -> dict[str, Any]:
    """The judges on real clips, and on the same clips decoded from their latents: every concept × motion, styles in turn."""
    torch.set_num_threads(1)
    sprites, scorer, vae = data.load_sprites(work), DemoScorer(), load().vae
    generator = torch.Generator().manual_seed(SEED)
    found: dict[str, list[Answer]] = {"real_clips": [], "decoded_clips": []}
    for c, concept in enumerate(data.NAMES):
        for m, motion in enumerate(data.MOTION_NAMES):
            s = (c + m) % len(data.STYLE_NAMES)
            pixels = clip_pixels(sprites.known[c, s][None], [data.motion_pose(motion, generator, FRAMES)])
            with torch.no_grad():
                decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
            for key, clip in (("real_clips", pixels), ("decoded_clips", decoded)):
                answer = seen(scorer, (clip[0].transpose(0, 1) + 1) / 2)
                found[key].append((("", concept, data.STYLE_NAMES[s], motion, 0), *answer))
    return {key: table(answers) for key, answers in found.items()}


def seconds() -> dict[str, float]:
    """One picture and one clip, alone, by the median of five."""
    torch.set_num_threads(os.cpu_count() or 1)
    pipeline, found = load(), {}
    for name, frames in (("picture", 1), ("clip", FRAMES)):
        times = []
        for _ in range(6):
            start = time.perf_counter()
            draw(pipeline, [("a pizza", "pizza", "", "", 0)], frames)
            times.append(time.perf_counter() - start)
        found[name] = round(statistics.median(times[1:]), 3)
    return found


def bars(report: dict[str, Any]) -> dict[str, bool]:
    """The small Wan's quality bars and whether they are met."""
    images, long, short = (report["transformer"][key] for key in ("images", "clips", "short_clips"))
    motions = [r["rate"] for part in (long, short) for r in part["by_motion"].values()]
    return {
        "image concept >= 92 %": images["concept"]["rate"] >= 0.92,
        "no image concept < 60 %": min(r["rate"] for r in images["by_concept"].values()) >= 0.6,
        "image style >= 95 %": images["style"]["rate"] >= 0.95,
        "clip frame concept >= 88 %": long["concept"]["rate"] >= 0.88,
        "motion >= 85 %": long["motion"]["rate"] >= 0.85,
        "motion in short prompts >= 85 %": short["motion"]["rate"] >= 0.85,
        "no motion < 70 %": min(motions) >= 0.7,
        "picture <= 0.7 s": report["seconds"]["picture"] <= 0.7,
        "clip <= 3 s": report["seconds"]["clip"] <= 3,
        "weights <= 25 MB": report["bytes"] <= 25e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=4, help="of every concept × style; a quarter of it in short prompts"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, default=Path("build/train_demo"), help="where the icons are rendered")
    parser.add_argument("-o", "--out", type=Path, default=FOLDER / "QUALITY.json")
    parser.add_argument("--times-only", action="store_true", help="time anew, on a quiet machine; keep the rest")
    args = parser.parse_args()
    report: dict[str, Any] = read_json(args.out) if args.times_only else {}
    report["seconds"] = seconds()
    if not args.times_only:
        report |= {
            "command": "python -m scripts.train_demo.wan.quality",
            "steps": STEPS,
            "guidance": GUIDANCE,
            "seeds_per_concept_and_style": args.seeds,
            "first_seed": SEED,
            "bytes": sum(f.stat().st_size for f in FOLDER.rglob("*.safetensors")),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
            **real(args.work),
        }
        asked = {
            "images": pictures(args.seeds),
            "clips": clips(args.seeds),
            "short_clips": short_clips(max(1, args.seeds // 2)),
        }
        with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
            for denoiser in ("transformer", "transformer-b"):
                report[denoiser] = {}
                for key, questions in asked.items():
                    parts = [questions[i : i + TO_DRAW] for i in range(0, len(questions), TO_DRAW)]
                    answers: list[Answer] = []
                    for done in pool.map(judge, [denoiser] * len(parts), [FOLDER] * len(parts), parts):
                        answers += done
                        print(f"{denoiser} {key} {len(answers)}/{len(questions)}", file=sys.stderr, flush=True)
                    report[denoiser][key] = table(answers)
    report["bars"] = bars(report)
    write_json(args.out, report)
    for bar, met in report["bars"].items():
        print(f"{'met   ' if met else 'MISSED'} {bar}")


if __name__ == "__main__":
    main()
