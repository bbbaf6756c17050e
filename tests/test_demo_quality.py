"""What is claimed of the demo models is what was measured."""

import json
import re
from pathlib import Path

import torch
from diffusers import WanPipeline, WanTransformer3DModel

from unlearn_export import demo

ROOT = Path(__file__).parents[1]
QUALITY = json.loads((demo.ROOT / "QUALITY.json").read_text())


def test_the_readme_s_figures_are_the_file_s() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in demo.PIPELINES:
        [row] = re.findall(rf"^\| `{name}`, ([\d,]+) \w+ \| ([\d.]+) % \| ([\d.]+) % \| (?:([\d.]+) %)?", readme, re.M)
        found = QUALITY[name]
        assert int(row[0].replace(",", "")) == found["concept"]["n"]
        assert row[1] == f"{100 * found['concept']['rate']:.1f}" and row[2] == f"{100 * found['style']['rate']:.1f}"
        assert not row[3] or row[3] == f"{100 * found['motion']['rate']:.1f}"


def test_the_models_are_the_ones_that_were_measured() -> None:
    assert sum(f.stat().st_size for f in demo.weight_files()) == QUALITY["bytes"] <= 40e6


def test_the_small_wan_is_the_one_that_was_measured_and_a_stock_pipeline_draws_with_it() -> None:
    folder = demo.ROOT / "wan"
    measured = json.loads((folder / "QUALITY.json").read_text())
    assert sum(f.stat().st_size for f in folder.rglob("*.safetensors")) == measured["bytes"] <= 25e6
    pipeline = WanPipeline.from_pretrained(folder)
    second = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer-b")
    other = WanPipeline.from_pretrained(folder, transformer=second)

    def draw(pipe: WanPipeline, prompt: str) -> torch.Tensor:
        noise = torch.Generator().manual_seed(3)
        size = {"height": 64, "width": 64, "num_frames": 1, "num_inference_steps": 4, "guidance_scale": 1.5}
        return pipe(prompt, generator=noise, output_type="pt", **size).frames[0, 0]

    pizza, key = draw(pipeline, "a pizza"), draw(pipeline, "a key")
    assert pizza.shape == (3, 64, 64) and pizza.isfinite().all()
    assert (pizza - key).abs().mean() > 0.02  # it reads its prompt
    assert (pizza - draw(other, "a pizza")).abs().mean() > 0.005  # another denoiser
