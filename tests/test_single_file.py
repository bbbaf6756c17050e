"""A checkpoint in one file is the same base as the pipeline's folder, and what is no checkpoint is refused in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import original_layout
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tiny_pipelines import PIPELINES, clip, clip_tokenizer, draw, save_like_hub, t5, t5_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

from unlearn_export.artifact import Artifact
from unlearn_export.base import Base, load_base
from unlearn_export.cli import main
from unlearn_export.concept import Concept
from unlearn_export.erase import erase
from unlearn_export.erasers import Anchor
from unlearn_export.errors import ArtifactError, BaseError, UnlearnExportError, UsageError
from unlearn_export.single_file import LATER_BIAS, SingleFile, cache
from unlearn_export.stages import base_of, build, read_encoders

MICKEY = Concept("mickey", anchor="mouse")
QUICK = Anchor(steps=10, batch=4, pool=16, keep=0.0, lr=0.3)
KINDS = {"SD 1": "StableDiffusionPipeline", "SD 2": "StableDiffusionPipeline", "SDXL": "StableDiffusionXLPipeline"}
PROMPT = "a photo of mickey"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One pipeline in half precision, as a folder and as a file."""
    where = tmp_path_factory.mktemp("both")
    pipe = PIPELINES[KINDS[request.param]]().to(torch.float16)
    folder = save_like_hub(pipe, where / "folder")
    tensors = original_layout.checkpoint(pipe, second=request.param == "SD 2")
    return folder, original_layout.write(tensors, where / "model.safetensors")


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Stable Diffusion 1 in full precision, as a folder and as a file."""
    where = tmp_path_factory.mktemp("sd")
    pipe = PIPELINES["StableDiffusionPipeline"]()
    return save_like_hub(pipe, where / "folder"), original_layout.write(
        original_layout.checkpoint(pipe), where / "model.safetensors"
    )


def only_configs(folder: Path, target: Path) -> Path:
    """What a user who has no pipeline's weights would have."""
    return shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))


def tensors(base: Base, seat: str) -> dict[str, torch.Tensor]:
    return {name: base.seats[seat].get(name) for name in base.seats[seat].stored}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one
    )


def test_every_tensor_of_every_encoder_is_the_folders(both: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = both
    known, base = load_base(folder), load_base(file, config=only_configs(folder, tmp_path / "configs"))
    assert (base.source, base.kind, list(base.seats)) == ("./model.safetensors", known.kind, list(known.seats))
    for seat in base.seats:
        assert equal(tensors(base, seat), tensors(known, seat)), seat
        assert tensors(base, seat)["final_layer_norm.weight"].dtype == torch.float16
        assert base.seats[seat].tokenizer_fingerprint == known.seats[seat].tokenizer_fingerprint
        if "text_encoder_2" in base.seats:  # the projection is no part of the text model
            own, theirs = (b.encoders["text_encoder_2"].text_projection.weight for b in (base, known))
            assert torch.equal(own, theirs)
    assert base.file is not None and base.file.config == "./configs" and len(base.file.sha256) == 64


def test_the_edit_is_the_folders(both: tuple[Path, Path]) -> None:
    folder, file = both
    known, base = load_base(folder), load_base(file, config=folder)
    theirs, ours = (erase(b, [MICKEY], QUICK, seed=3).edit for b in (known, base))
    for seat, changed in theirs.tensors.items():
        family = known.seats[seat].family
        one = {family.canonical(k): t for k, t in changed.items()}
        two = {family.canonical(k): t for k, t in ours.tensors[seat].items()}
        assert equal(one, two)
        assert any(not torch.equal(t, known.seats[seat].get(k)) for k, t in one.items()), "the control: it edits"


def test_the_pipeline_draws_the_same_picture(both: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = both
    known, base = load_base(folder), load_base(file, config=only_configs(folder, tmp_path / "configs"))
    assert base.draws
    picture = draw(known.pipeline, PROMPT)
    assert np.array_equal(draw(base.pipeline, PROMPT), picture)
    assert not np.array_equal(draw(base.pipeline, "a car"), picture), "the control: it reads its prompt"


def test_the_layer_that_stable_diffusion_2_skips_stays_in_the_file(tmp_path: Path) -> None:
    pipe = PIPELINES["StableDiffusionPipeline"]()
    deep = pipe.text_encoder.config.to_dict() | {"num_hidden_layers": 23}
    torch.manual_seed(0)
    pipe.text_encoder = CLIPTextModel(CLIPTextConfig(**deep)).eval()
    folder = save_like_hub(pipe, tmp_path / "folder")
    held = original_layout.checkpoint(pipe, second=True)
    skipped = {k.replace(".22.", ".23."): t + 1 for k, t in held.items() if ".resblocks.22." in k}
    projection = {"cond_stage_model.model.text_projection": torch.eye(32)}
    file = original_layout.write(held | skipped | projection, tmp_path / "v2.safetensors")
    base = load_base(file, config=folder)
    assert len(skipped) == 12 and equal(tensors(base, "text_encoder"), tensors(load_base(folder), "text_encoder"))
    artifact = build(base, [MICKEY], QUICK, tmp_path / "out", onnx=False)
    run("export", artifact.path, "--single-file", file, "-o", tmp_path / "new.safetensors")
    after = load_file(tmp_path / "new.safetensors")
    assert all(torch.equal(after[k], t) for k, t in (skipped | projection).items())
    assert any(not torch.equal(after[k], t) for k, t in held.items()), "the control"


@pytest.mark.parametrize(
    ("shapes", "known"),
    [
        ({"text_model.embeddings.token_embedding.weight": (49408, 768)}, "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        (
            {"text_model.embeddings.token_embedding.weight": (49408, 1280)},
            "stabilityai/stable-diffusion-xl-base-1.0",
        ),
        ({"shared.weight": (32128, 4096)}, "diffusers/LTX-Video-0.9.0"),
        ({"shared.weight": (256384, 4096), LATER_BIAS: (32, 64)}, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
        (
            {
                "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
                "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
            },
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
        ),
        (
            {
                "cond_stage_model.model.token_embedding.weight": (49408, 1024),
                "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
            },
            "stabilityai/stable-diffusion-2-1",
        ),
        (
            {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,)},
            "stabilityai/stable-diffusion-xl-base-1.0",
        ),
    ],
)
def test_the_configs_are_those_that_diffusers_takes(shapes: dict[str, tuple[int, ...]], known: str) -> None:
    assert SingleFile(Path("a.safetensors"), dict.fromkeys(shapes, "F16"), shapes, {}).published == known


def test_only_encoders_are_converted_and_only_once(sd: tuple[Path, Path]) -> None:
    folder, file = sd
    first = load_base(file, config=folder)
    [entry] = cache().iterdir()
    assert [f.parent.name for f in entry.rglob("*.safetensors")] == ["text_encoder"]
    written = {f: f.stat().st_mtime_ns for f in entry.rglob("*")}
    again = load_base(file, config=folder)
    assert {f: f.stat().st_mtime_ns for f in entry.rglob("*")} == written
    shutil.rmtree(entry)
    assert load_base(file, config=folder).fingerprint == first.fingerprint == again.fingerprint


def test_an_encoder_alone(tmp_path: Path) -> None:
    words = tmp_path / "words"
    for name, encoder, tokenizer in (("clip_l", clip(), clip_tokenizer()), ("t5xxl", t5(), t5_tokenizer())):
        folder = words / name
        encoder.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder / "tokenizer")
        held = load_file(folder / "model.safetensors")
        if name == "clip_l":  # as ComfyUI has it
            held = original_layout.clip(held, "") | {"logit_scale": torch.tensor(4.6)}
        else:
            held |= {"spiece_model": torch.zeros(9, dtype=torch.uint8), "scale": torch.ones(1)}
        file = tmp_path / f"{name}.safetensors"
        save_file(held, file)
        known, base = load_base(folder), load_base(file, config=folder)
        assert equal(tensors(base, "text_encoder"), tensors(known, "text_encoder"))
        assert base.encoder is not None and not base.draws
        assert erase(base, [MICKEY], QUICK).recipe.changed.parameters > 0
    with pytest.raises(BaseError, match="does not fit"):
        load_base(tmp_path / "t5xxl.safetensors", config=words / "clip_l")
    with pytest.raises(BaseError, match="no config is known for .*t5xxl.safetensors .t5, 32 wide.*--base-config"):
        load_base(tmp_path / "t5xxl.safetensors")


def test_an_encoder_alone_finds_its_seat_in_a_pipeline(tmp_path: Path) -> None:
    folder = save_like_hub(PIPELINES["FluxPipeline"](), tmp_path / "flux")
    file = Path(shutil.copy(folder / "text_encoder_2/model.safetensors", tmp_path / "t5xxl.safetensors"))
    base = load_base(file, config=folder)
    assert base.seat.architecture == "T5EncoderModel" and base.kind == ""
    known = load_base(folder)
    assert equal(tensors(base, "text_encoder"), tensors(known, "text_encoder_2"))


def test_the_recipe_tells_the_file_again(
    sd: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = sd
    base = load_base(file, config=folder)
    artifact = build(base, [MICKEY], QUICK, tmp_path / "out", onnx=False)
    told = json.loads((artifact.path / "unlearning/recipe.json").read_text())["base"]
    assert told["source"] == "./model.safetensors" and told["revision"] is None
    assert told["file"] == {"sha256": SingleFile.open(file).sha256, "config": "./folder", "config_revision": None}
    assert str(tmp_path) not in (artifact.path / "unlearning/recipe.json").read_text()
    card = (artifact.path / "README.md").read_text()
    assert "--base model.safetensors --base-config folder" in card and "from_single_file" in card
    assert artifact.verify()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="a local file 'model.safetensors': say where it is with --base"):
        base_of(artifact)
    with pytest.raises(ArtifactError, match="configs in a local folder 'folder'.*--base-config"):
        base_of(artifact, str(file))
    again = base_of(artifact, str(file), str(folder))
    assert read_encoders(again, artifact)
    other = load_file(file)
    other["cond_stage_model.transformer.text_model.final_layer_norm.bias"] += 1
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(ArtifactError, match="another text encoder"):
        base_of(artifact, str(tmp_path / "other.safetensors"), str(folder))


def test_a_licence_in_the_metadata_is_told(sd: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = sd
    told = original_layout.write(load_file(file), tmp_path / "a.safetensors", **{"modelspec.license": "openrail++"})
    assert load_base(told, config=folder).license == "openrail++"
    assert load_base(file, config=folder).license == "other"


def test_what_is_no_checkpoint_is_refused(sd: tuple[Path, Path], tmp_path: Path) -> None:
    folder, whole = sd
    held = load_file(whole)
    eight = {k: t.to(torch.float8_e4m3fn) if t.is_floating_point() else t for k, t in held.items()}
    norm = "cond_stage_model.transformer.text_model.encoder.layers.1.layer_norm1.weight"
    later = {k.replace("layers.3.", "layers.4."): t.clone() for k, t in held.items() if ".encoder.layers.3." in k}
    x = torch.zeros(4, 4)
    files = {
        "lora": ({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": x}, "is a LoRA.*give the checkpoint"),
        "lora2": ({"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": x}, "is a LoRA"),
        "vae": ({k.removeprefix("first_stage_model."): t for k, t in held.items() if "first_stage" in k}, "is a VAE"),
        "unet": ({k: t for k, t in held.items() if "diffusion_model" in k}, "holds no text encoder"),
        "empty": ({}, "holds no text encoder"),
        "eight": (eight, "is stored in 8 bits.*fp16"),
        "int8": (held | {norm: held[norm].to(torch.int8)}, "is quantised"),
        "less": ({k: t for k, t in held.items() if k != norm}, "incomplete: it has no tensor.*layers.1.layer_norm1"),
        "wider": (held | {norm: torch.zeros(33)}, r"does not fit .*\[33\] in the file, and by the config \[32\]"),
        "deeper": (held | later, "does not fit .*encoder.layers.4.*no place"),
    }
    for name, (state, message) in files.items():
        file = original_layout.write(state, tmp_path / f"{name}.safetensors")
        with pytest.raises(BaseError, match=message) as caught:
            load_base(file, config=folder)
        assert "\n" not in str(caught.value), name
    assert not cache().exists() or not list(cache().iterdir()), "nothing half-made is kept"
    assert load_base(whole, config=folder).encoder is not None, "the control"


def test_damaged_and_foreign_files_are_refused(sd: tuple[Path, Path], tmp_path: Path) -> None:
    folder, whole = sd
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-1000])
    (tmp_path / "short.safetensors").write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "nothing.safetensors").touch()
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04.")  # a pickle
    (tmp_path / "model.gguf").touch()
    for name, message in {
        "cut.safetensors": "is damaged",
        "short.safetensors": "is damaged",
        "nothing.safetensors": "is damaged",
        "absent.safetensors": "there is no file",
        "model.ckpt": "is a pickle.*Checkpoint Merger",
        "absent.pt": "is a pickle",
        "model.gguf": "is no .safetensors",
    }.items():
        with pytest.raises(BaseError, match=message) as caught:
            load_base(tmp_path / name, config=folder)
        assert "\n" not in str(caught.value), name


def test_configs_that_do_not_help_are_refused(sd: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = sd
    xl = only_configs(save_like_hub(PIPELINES["StableDiffusionXLPipeline"](), tmp_path / "xl"), tmp_path / "xl-configs")
    without = only_configs(folder, tmp_path / "without")
    shutil.rmtree(without / "tokenizer")
    for config, message in {
        xl: "has no text_encoder_2, and a StableDiffusionXLPipeline",
        folder / "text_encoder": "needs the configs of a whole pipeline",
        without: "has no tokenizer",
        tmp_path / "nowhere": "no configs at .*--base-config takes",
    }.items():
        with pytest.raises(BaseError, match=message):
            load_base(file, config=config)
    with pytest.raises(UsageError, match="--base-config belongs to one .safetensors file"):
        load_base(folder, config=folder)
    with pytest.raises(UsageError, match="--base-config belongs to one .safetensors file"):
        load_base("demo", config=folder)


def test_a_config_reaches_nothing_outside_the_cache(sd: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = sd
    config = only_configs(folder, tmp_path / "configs")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/secret.json").write_text("{}")
    index = json.loads((config / "model_index.json").read_text())
    (config / "model_index.json").write_text(json.dumps(index | {"../beside": ["diffusers", "X"]}))
    load_base(file, config=config)
    assert not list((tmp_path / "cache").rglob("secret.json"))


def test_a_checkpoint_gets_its_edited_encoders_back(both: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = both
    base = load_base(file, config=folder)
    artifact = build(base, [MICKEY], QUICK, tmp_path / "out", onnx=False)
    target = tmp_path / "edited.safetensors"
    done = run("export", artifact.path, "--single-file", file, "-o", target, "--json")
    altered = json.loads(done)["tensors"]
    before, after = load_file(file), load_file(target)
    assert before.keys() == after.keys() and altered
    assert sorted(k for k in before if not torch.equal(before[k], after[k])) == altered
    assert all("cond_stage_model" in k or "conditioner" in k for k in altered)
    edited = load_base(target, config=folder)
    for seat, encoder in read_encoders(base, artifact).items():
        family = base.seats[seat].family
        theirs = {family.canonical(k): t for k, t in encoder.state_dict().items()}
        ours = {family.canonical(k): t for k, t in edited.encoders[seat].state_dict().items()}
        assert equal(ours, theirs)
    # the folder's artifact fits the file as well, since its encoders are the same
    other = build(load_base(folder), [MICKEY], QUICK, tmp_path / "of-folder", onnx=False)
    run("export", other.path, "--single-file", file, "-o", tmp_path / "same.safetensors")
    assert (tmp_path / "same.safetensors").read_bytes() == target.read_bytes()
    with pytest.raises(AssertionError, match="exists already"):
        run("export", artifact.path, "--single-file", file, "-o", target)
    assert not list(tmp_path.glob(".*.part"))


def test_an_encoder_alone_comes_back_too(tmp_path: Path) -> None:
    folder = save_like_hub(PIPELINES["FluxPipeline"](), tmp_path / "flux")
    clip_l, t5xxl = tmp_path / "clip_l.safetensors", tmp_path / "t5xxl.safetensors"
    held = original_layout.clip(load_file(folder / "text_encoder/model.safetensors"), "")
    original_layout.write(held | {"logit_scale": torch.tensor(4.6)}, clip_l)
    shutil.copy(folder / "text_encoder_2/model.safetensors", t5xxl)
    artifact = build(load_base(folder), [MICKEY], QUICK, tmp_path / "out", onnx=False)
    for file in (clip_l, t5xxl):
        altered = json.loads(
            run("export", artifact.path, "--single-file", file, "-o", tmp_path / f"new-{file.name}", "--json")
        )["tensors"]
        before, after = load_file(file), load_file(tmp_path / f"new-{file.name}")
        assert altered == sorted(k for k in before if not torch.equal(before[k], after[k])) != []
    changed = Artifact.open(artifact.path).recipe.seats["text_encoder_2"].changed
    assert altered == sorted(changed)


def test_another_encoder_gets_no_edit(sd: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = sd
    artifact = build(load_base(file, config=folder), [MICKEY], QUICK, tmp_path / "out", onnx=False)
    held = load_file(file)
    norm = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
    other = original_layout.write(held | {norm: held[norm] + 1}, tmp_path / "other.safetensors")
    half = original_layout.write({k: t.half() for k, t in held.items()}, tmp_path / "half.safetensors")
    lora = original_layout.write({"lora_unet_a.lora_up.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    for wrong, message in {
        other: "another text encoder than the one that was edited: .*final_layer_norm.bias",
        half: "is torch.float16.*the edited encoder's torch.float32.*erase from this file itself",
        lora: "is a LoRA",
    }.items():
        with pytest.raises(AssertionError, match=message):
            run("export", artifact.path, "--single-file", wrong, "-o", tmp_path / "new.safetensors")
        assert not (tmp_path / "new.safetensors").exists()
    run("export", artifact.path, "--single-file", file, "-o", tmp_path / "new.safetensors")  # the control


def test_the_command_line(sd: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = sd
    words = ["mickey", "--anchor", "mouse", "--base", file, "--base-config", folder]
    planned = run("erase", *words, "-o", tmp_path / "out", "--dry-run", "--json")
    assert "text_encoder" in json.loads(planned)["seats"][0].values() and not (tmp_path / "out").exists()
    quick = ["--no-onnx", "--no-evaluate", "-O", "steps=2", "-O", "pool=8", "-O", "keep=0"]
    run("erase", *words, "-o", tmp_path / "out", *quick)
    base = ["--base", file, "--base-config", folder]
    run("probe", tmp_path / "out", *base, "--attack", "linear-probe", "--budget", "quick")
    run("identify", "mickey", *base, "--json")
    for command in ("export", "evaluate"):
        with pytest.raises(AssertionError, match="--base-config"):
            run(command, tmp_path / "out", "--base", file)
    with pytest.raises(AssertionError, match="--revision belongs to a Hub id"):
        run("erase", *words, "-o", tmp_path / "other", "--revision", "main")
    with pytest.raises(AssertionError, match="--out needs"):
        run("export", tmp_path / "out", "--single-file", file)


def run(*words: object) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit | UnlearnExportError), done.exception
    assert done.exit_code == 0, done.output
    return done.stdout
