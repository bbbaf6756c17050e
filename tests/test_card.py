import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from diffusers import MotionAdapter, StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import ModelCard, ModelCardData, metadata_load
from jinja2 import UndefinedError

from unlearn_export import card as model_cards
from unlearn_export import cli, demo
from unlearn_export.artifact import EVALUATION, ONNX, RECIPE, Artifact, sha256, write_json
from unlearn_export.base import load_base
from unlearn_export.card import render
from unlearn_export.card_text import END
from unlearn_export.concept import Concept
from unlearn_export.erase import erase
from unlearn_export.erasers import make_method
from unlearn_export.errors import ArtifactError
from unlearn_export.onnx.export import export_onnx
from unlearn_export.plan import read_plan
from unlearn_export.plugins import found
from unlearn_export.profile import Profile

GOLDEN = Path(__file__).parent / "golden/card.md"
REPO = "someone/no-pizza"
SNIPPET = "draw({prompt}, {encoder})"
SHA = "0123456789abcdef0123456789abcdef01234567"
ANCHOR = {"steps": 150, "lr": 1e-3, "batch": 24, "keep": 4.0, "parts": ["mlp", "attention"], "holdout": ["frog"]}


def recipe(**changes):
    made = {
        "format": 1,
        "base": {
            "source": "demo",
            "revision": None,
            "license": "apache-2.0",
            "text_encoder_sha256": "a" * 64,
            "tokenizer_sha256": "b" * 64,
        },
        "concepts": [
            {
                "name": "pizza",
                "kind": "object",
                "aliases": ["pepperoni", "pizza slice"],
                "anchor": "hamburger",
                "retain": ["bread"],
            }
        ],
        "method": {"name": "anchor", "options": ANCHOR},
        "seed": 3,
        "images": [],
        "changed": {"tensors": ["layers.0.mlp.fc1.weight", "layers.0.mlp.fc2.weight"], "parameters": 131072},
        "parameters": 923776,
        "versions": {"unlearn-export": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
    }
    return made | changes


def counted(hits, n):
    return {"hits": hits, "n": n, "rate": round(hits / n, 4) if n else None}


def rates(erased, others, n):
    return {
        "erased": counted(erased, n),
        "others": counted(others, 3 * n),
        "holdout": counted(n // 4 - 1, n // 4),
        "styles": counted(3 * n - 5, 3 * n),
        "by_concept": {"frog": counted(n // 4 - 1, n // 4), "pizza": counted(erased, n)},
        "seconds": 1.5,
    }


def evaluation(**changes):
    report = {
        "format": 1,
        "scorer": "demo",
        "seed": 1000,
        "size": {
            "target_images": 24,
            "other_images": 3,
            "variant_images": 8,
            "target_clips": 6,
            "other_clips": 1,
            "variant_clips": 2,
            "steps": 12,
            "frames": 8,
            "guidance": 3.0,
        },
        "targets": ["pizza"],
        "holdout": ["frog"],
        "references": 0,
        "judges": {"scorer": None, "features": None},
        "drift": {"empty": 0.000012, "concept": 0.531234, "others": 0.031201},
        "pipelines": {
            "t2i": {"before": rates(23, 70, 24), "after": rates(1, 69, 24)},
            "t2v-motion": {"before": rates(41, 133, 48), "after": rates(2, 127, 48), "source": "demo:t2v-motion"},
        },
    }
    return report | changes


def folder(path, made=None, report=None, files=()):
    """An artifact that nothing loads: the card reads its JSON and hashes the rest."""
    for name in ("text_encoder/model.safetensors", "tokenizer/vocab.json", "LICENSE", "NOTICE", *files):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(f"{name}\n")
    write_json(path / "text_encoder/config.json", {"hidden_size": 128})
    (path / "unlearning").mkdir(exist_ok=True)
    write_json(path / RECIPE, made or recipe())
    if report:
        write_json(path / EVALUATION, report)
    return Artifact.open(path)


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def lines_of_tables(text):
    """Runs of lines that start with a pipe."""
    return [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]


def row(text, start):
    """The cells of the first table row that starts so, without escapes."""
    found = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", found)[1:-1]]


PICTURES = ("unlearning/t2i.png", "unlearning/t2v-motion-before.webp", "unlearning/t2v-motion-after.webp")


def test_the_card_is_the_golden_one(tmp_path):
    artifact = folder(tmp_path, report=evaluation(), files=(ONNX, *PICTURES))
    text = render(artifact, REPO)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8") == render(artifact, REPO)


def test_numbers_are_those_of_the_evaluation_and_the_files(tmp_path):
    report = evaluation()
    artifact = folder(tmp_path, report=report)
    text = render(artifact)
    before, after = (report["pipelines"]["t2v-motion"][m] for m in ("before", "after"))
    expected = [f"{r['hits']}/{r['n']} ({100 * r['rate']:.1f}%)" for r in (before[k] for k in model_cards.RATES)]
    assert row(text, "t2v-motion")[2:] == expected
    assert f"t2v-motion {expected[0]} → {after['erased']['hits']}/{after['erased']['n']}" in text
    assert row(text, "frog") == ["frog", "5/6 → 5/6", "11/12 → 11/12"]
    assert row(text, "with the concept")[1] == "53.12%"
    for name in artifact.hashed():
        assert row(text, name.replace("_", r"\_"))[2] == sha256(tmp_path / name)


def test_what_is_not_erased_is_said_at_once(tmp_path):
    report = evaluation()
    for hits, told in ((4, False), (5, True)):  # of 48: 8.3 and 10.4 %
        report["pipelines"]["t2v-motion"]["after"] = rates(hits, 127, 48)
        text = render(folder(tmp_path, report=report))
        assert ("**That is not erased: do not rely on this encoder.**" in text.partition("## Removed")[0]) == told


def test_without_an_evaluation_the_card_says_so(tmp_path):
    text = render(folder(tmp_path))
    assert text.count("Nothing was measured") == 2
    assert "unlearn-export evaluate" in text and "→" not in text and "%" not in text
    assert "unlearn-export evaluate out" not in text and "--no-evaluate" in text


def test_without_a_scorer_only_the_drift_is_told(tmp_path):
    report = evaluation(scorer=None, targets=[], pipelines={})
    text = render(folder(tmp_path, report=report))
    assert text.count("No picture was judged") == 2 and "3.12%" in text and "None" not in text


def test_a_missing_key_raises(tmp_path):
    report = evaluation()
    render(folder(tmp_path, report=report))
    del report["drift"]["empty"]
    with pytest.raises(ArtifactError, match="'empty'") as caught:
        render(folder(tmp_path, report=report))
    assert isinstance(caught.value.__cause__, UndefinedError)
    made = recipe()
    del made["seed"]
    with pytest.raises(ArtifactError, match="seed"):
        render(folder(tmp_path, made))


def test_onnx_is_told_of_only_where_it_is(tmp_path):
    without = render(folder(tmp_path))
    assert "onnx" not in without.replace("--no-onnx", "").lower() and "--no-onnx" in without
    with_it = render(folder(tmp_path, files=(ONNX,)))
    assert "onnx" in front(with_it)["tags"] and "InferenceSession" in with_it and "--no-onnx" not in with_it


def test_whether_concepts_were_held_out_is_told_where_a_method_can(tmp_path):
    none = evaluation(holdout=[])
    free, few_shot = recipe(), recipe(method={"name": "few-shot", "options": {"images": 4}})
    free["method"] = {"name": "anchor", "options": ANCHOR | {"holdout": []}}
    assert "Held out, so named in none" in render(folder(tmp_path, report=evaluation()))
    assert "No concept was held out" in render(folder(tmp_path, free, none))
    body = render(folder(tmp_path, few_shot, none)).split("---\n", 2)[2]
    assert "held out" not in body.lower().replace("| held out |", "")


def test_pictures_are_linked_only_where_they_are(tmp_path):
    assert "![" not in render(folder(tmp_path, report=evaluation()))
    text = render(folder(tmp_path, report=evaluation(), files=PICTURES))
    assert re.findall(r"!\[.*?\]\((.*?)\)", text) == list(PICTURES)


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("creativeml-openrail-m", {"license": "creativeml-openrail-m"}),
        ("other", {"license": "other", "license_name": "license-of-the-base", "license_link": "LICENSE"}),
        ("Our Terms v2.1", {"license": "other", "license_name": "our-terms-v2.1", "license_link": "LICENSE"}),
    ],
)
def test_the_front_matter_is_what_the_hub_accepts(tmp_path, declared, expected):
    base = recipe()["base"] | {"source": "owner/sd", "revision": SHA, "license": declared}
    text = render(folder(tmp_path, recipe(base=base), files=(ONNX,)), REPO)
    data = front(text)
    assert {k: v for k, v in data.items() if k.startswith("license")} == expected
    assert data["base_model"] == "owner/sd" and data["base_model_relation"] == "finetune"
    assert ModelCard(text).data.to_dict() == data == ModelCardData(**data).to_dict()
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert metadata_load(tmp_path / "README.md") == data


def test_what_was_measured_is_in_the_front_matter_as_the_hub_reads_it(tmp_path):
    probe = {
        "seed": 7,
        "attacks": [{"name": "alias", "access": "prompts", "before": counted(9, 10), "after": counted(1, 10)}],
    }
    report = evaluation()
    artifact = folder(tmp_path, report=report)
    assert "model-index" not in front(render(folder(tmp_path / "bare")))
    write_json(tmp_path / "unlearning/probe.json", probe)
    text = render(artifact, REPO)
    data = ModelCard(text).data
    assert data.model_name == "no-pizza" and "model_index" not in data.to_dict()
    found = {(r.dataset_config, r.metric_name): (r.metric_value, r.metric_args) for r in data.eval_results}
    for name, seen in report["pipelines"].items():
        before, after = seen["before"]["others"], seen["after"]["others"]
        assert found[name, "Others"] == (after["rate"], {"n": after["n"], "before": before["rate"]})
    assert found["alias", "Concept brought back"] == (0.1, {"n": 10, "before": 0.9})
    assert len(found) == len(data.eval_results) == 9
    assert front(text)["model-index"] == data.to_dict()["model-index"]


@pytest.mark.parametrize("source", ["demo", "/home/someone/models/sd", "models/sd", "./sd", "~/sd", "C:\\models\\sd"])
def test_only_a_hub_id_becomes_the_base_model(tmp_path, source):
    text = render(folder(tmp_path, recipe(base=recipe()["base"] | {"source": source}), report=evaluation()))
    assert "base_model" not in front(text)
    assert "/home" not in text and "C:" not in text


def test_a_registered_profile_says_what_the_card_calls_its_base(tmp_path, monkeypatch):
    made = recipe(base=recipe()["base"] | {"source": "mine"})
    path = folder(tmp_path, made, evaluation(judges={"scorer": "clip:me/judge", "features": None}))
    text = render(path)  # the control: nobody knows it
    assert "`mine` is the folder of the base" in text and "--scorer clip:me/judge" in text
    own = Profile(title="my base", note="of two layers", scorer="clip:me/judge", t2v=("mine:clip",), snippet=SNIPPET)
    monkeypatch.setitem(found("bases"), "mine", lambda: None)
    monkeypatch.setitem(found("profiles"), "mine", lambda: own)
    text = render(path)
    assert "(CLIPTextModel) of **my base**" in text and "- Base: my base, of two layers; sha256" in text
    assert 'draw("a picture of a pizza", CLIPTextModel.from_pretrained("out", subfolder="text_encoder"))' in text
    assert 'load_pipeline("mine:clip", ' in text
    assert "folder of the base" not in text and "--scorer" not in text and "--base mine" in text


def test_names_from_users_break_neither_tables_nor_code(tmp_path):
    odd = 'a|b*c_`d` <i>"e"\n[f](g) \\'
    concepts = [recipe()["concepts"][0] | {"name": odd, "aliases": ["x|y"], "anchor": "it's"}]
    report = evaluation()
    for moment in ("before", "after"):
        report["pipelines"]["t2i"][moment]["by_concept"][odd] = counted(1, 2)
    text = render(folder(tmp_path, recipe(concepts=concepts), report), REPO)
    for lines in lines_of_tables(text):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, lines[0]
    assert "<i>" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\\<i\\>", "")
    assert odd in shlex.split(re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1])
    for code in snippets(text):
        compile(code, "snippet", "exec")


def test_the_card_is_clean(tmp_path):
    for made in (None, evaluation()):
        text = render(folder(tmp_path, report=made, files=(ONNX, *PICTURES)), REPO)
        assert "More Information" not in text and "\n\n\n" not in text and "None" not in text
        assert not re.search(r"[ \t]+$", text, re.MULTILINE) and text.endswith(f".\n\n{END}\n")


def commands(text):
    """The shell lines under "Make it again", continuations joined."""
    block = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1]
    return block.replace("\\\n", " ").splitlines()


def parsed(line):
    """What the command line makes of it; an option that it does not have raises."""
    _, name, *args = shlex.split(line)
    return cli.main.commands[name].make_context(name, args).params


def test_the_commands_say_what_the_recipe_says(tmp_path):
    made = recipe(images=[[{"file": "1.png", "sha256": "c" * 64}]])
    made["method"] = {"name": "few-shot", "options": {"images": 4, "lr": 3e-5, "parts": ["mlp", "last-attention"]}}
    made["base"] |= {"source": "owner/sd", "revision": SHA}
    text = render(folder(tmp_path, made, evaluation(), files=(ONNX,)))
    assert "arXiv:2405.07288" in text and "arXiv:2407.14209" in text and "2303.13516" not in text
    erased, evaluated, verified = map(parsed, commands(text))
    concept = Concept(erased["concepts"][0], erased["kind"], erased["aliases"], erased["anchor"], erased["retain"])
    assert concept == Concept("pizza", "object", ("pepperoni", "pizza slice"), "hamburger", ("bread",))
    assert (erased["source"], erased["revision"], erased["seed"]) == ("owner/sd", SHA, 3)
    assert erased["no_evaluate"] and not erased["no_onnx"] and str(erased["images"]) == "pictures"
    method = make_method(erased["method"], dict(option.split("=") for option in erased["options"]))
    assert (method.lr, method.parts) == (3e-5, ("mlp", "last-attention"))
    assert evaluated["seed"] == 1000 and evaluated["t2v"] == ("demo:t2v-motion",) and evaluated["target_images"] == 24
    assert str(verified["folder"]) == "out"


def test_several_concepts_are_a_plan(tmp_path):
    first = recipe()["concepts"][0]
    concepts = [first, first | {"name": "ink", "kind": "style", "anchor": "flat", "aliases": []}]
    path = folder(tmp_path, recipe(concepts=concepts))
    erased = parsed(commands(render(path))[0])
    assert not erased["concepts"] and str(erased["plan"]) == "recipe.json"
    assert read_plan(path.path / "unlearning" / "recipe.json") == [Concept.from_json(c) for c in concepts]


def stable_diffusion(original):
    """A random Stable Diffusion around the encoder; its parts are those that AnimateDiff takes too."""
    tokens = tiny.tokenizer(Path(original.folder) / "words")
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        **tiny._unet(),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    parts = {"vae": tiny._vae(), "text_encoder": original, "tokenizer": tokens, "unet": unet}
    return StableDiffusionPipeline(
        **parts, scheduler=tiny._scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def test_the_commands_make_the_same_weights_again(tmp_path):
    original = tiny.encoder()
    original.folder = tmp_path
    stable_diffusion(original).save_pretrained(tmp_path / "sd")
    shutil.copy(tmp_path / "words/vocab.json", tmp_path / "sd/tokenizer")
    shutil.copy(tmp_path / "words/merges.txt", tmp_path / "sd/tokenizer")
    base = load_base(str(tmp_path / "sd"))
    method = make_method("anchor", {"steps": "2", "batch": "2", "parts": "mlp"})
    first = erase(base, [Concept("Pizza", aliases=("calzone",))], method, seed=5)
    assert first.recipe.concepts[0].aliases == ("calzone",)  # "pizza" is the name itself

    line = commands(render(folder(tmp_path / "artifact", first.recipe.to_json())))[0]
    said = parsed(line)
    concept = Concept(said["concepts"][0], said["kind"], said["aliases"], said["anchor"], said["retain"])
    again = make_method(said["method"], dict(option.split("=") for option in said["options"]))
    second = erase(base, [concept], again, seed=said["seed"])
    assert second.recipe == first.recipe
    state, control = second.encoder.state_dict(), base.encoder.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.encoder.state_dict().items())
    assert any(not torch.equal(tensor, state[name]) for name, tensor in control.items())


RUN = """
import json, os, sys
import torch
for folder, snippets in json.load(sys.stdin):
    os.chdir(folder)
    spaces = []
    for code in snippets:
        space = {}
        exec(code, space)
        spaces.append(space)
    tokens = torch.as_tensor(spaces[-1]["tokens"].input_ids)
    states = [torch.as_tensor(space["states"]) for space in spaces if "states" in space]
    states += [torch.as_tensor(space["found"]["last_hidden_state"]) for space in spaces if "found" in space]
    with torch.no_grad():
        states += [space["pipe"].text_encoder(tokens)[0] for space in spaces if "pipe" in space]
    print("apart", [float((state - states[0]).abs().max()) for state in states])
"""


def snippets(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def execute(cards, cache):
    """Run every Python snippet of the cards (folder → text) in a fresh process, without a network.

    → for each card, how far the text states of each snippet's encoder or pipeline are from the first one's.
    """
    root = str(Path(model_cards.__file__).parents[1])
    env = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN],
        input=json.dumps([[str(folder), snippets(text)] for folder, text in cards.items()]),
        env=os.environ | env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line.removeprefix("apart")) for line in done.stdout.splitlines() if line.startswith("apart")]


def publish(cache, repo, save):
    """Put a repository into the Hub's cache, as a download would."""
    root = cache / "hub" / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text(SHA)
    (root / "snapshots").mkdir()
    save(root / "snapshots" / SHA)


def random_encoder(width, folder, monkeypatch):
    """tiny's encoder at a real width, its weights narrowed so that float32's rounding does not grow with it."""
    monkeypatch.setattr(tiny, "WIDTH", width)
    original = tiny.encoder()
    with torch.no_grad():
        for name, weight in original.named_parameters():
            weight.mul_(1 if "norm" in name else 0.2)
    original.folder = folder
    return original


def edited_artifact(path, original, source, revision, onnx):
    edited = tiny.edited(original)
    if onnx:
        export_onnx(edited, path / "text_encoder")
    artifact = tiny.artifact(path, edited)
    write_json(
        path / "tokenizer/tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"}
    )
    told = {"tensors": ["text_model.encoder.layers.1.mlp.fc2.weight"], "parameters": 4 * original.config.hidden_size**2}
    base = recipe()["base"] | {"source": source, "revision": revision}
    write_json(path / RECIPE, recipe(base=base, changed=told))
    artifact.seal()
    return artifact


def card_of_hub_ids(folder, cache, monkeypatch):
    """Base and artifact on the Hub, as wide as Stable Diffusion 1.x, with a graph."""
    original = random_encoder(768, folder, monkeypatch)
    artifact = edited_artifact(folder / "artifact", original, "owner/sd", SHA, onnx=True)
    adapter = MotionAdapter(
        block_out_channels=(8, 8), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2
    )
    publish(cache, REPO, lambda to: shutil.copytree(artifact.path, to))
    publish(cache, "owner/sd", stable_diffusion(original).save_pretrained)
    publish(cache, "guoyww/animatediff-motion-adapter-v1-5-2", adapter.save_pretrained)
    return render(artifact, REPO)


def card_of_folders(folder, cache, monkeypatch):
    """Base and artifact in folders, as wide as Stable Diffusion 2.x, without a graph."""
    original = random_encoder(1024, folder, monkeypatch)
    artifact = edited_artifact(folder / "out", original, str(folder / "sd"), None, onnx=False)
    pipe = stable_diffusion(original)
    pipe.save_pretrained(folder / "sd")
    video = tiny.text_to_video(pipe.tokenizer, original)
    publish(cache, "damo-vilab/text-to-video-ms-1.7b", video.save_pretrained)
    return render(artifact)


def test_every_snippet_runs_and_reads_the_edited_encoder(tmp_path, monkeypatch):
    cards = {}
    for make, expected in ((card_of_hub_ids, "AnimateDiffPipeline"), (card_of_folders, "TextToVideoSDPipeline")):
        folder = tmp_path / make.__name__
        folder.mkdir()
        cards[folder] = make(folder, tmp_path / "cache", monkeypatch)
        assert expected in cards[folder]
    of_hub_ids, of_folders = execute(cards, tmp_path / "cache")
    assert len(of_hub_ids) == 5 and max(of_hub_ids) < 1e-4  # ONNX Runtime's is one of them
    assert len(of_folders) == 4 and max(of_folders) == 0
    for folder in cards:
        assert (folder / "picture.png").exists() and (folder / "clip.gif").exists()


@pytest.mark.skipif(not (demo.ROOT / "text_encoder").is_dir(), reason="the demo models are not in this checkout")
def test_every_snippet_runs_with_the_demo_base(tmp_path):
    path = tmp_path / "out"
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(demo.ROOT / part, path / part)
    (path / "unlearning").mkdir()
    write_json(path / RECIPE, recipe())
    for name in ("LICENSE", "NOTICE"):
        (path / name).write_text("text\n")
    artifact = Artifact.open(path)
    artifact.seal()
    (apart,) = execute({tmp_path: render(artifact)}, tmp_path / "cache")
    assert len(apart) == 3 and max(apart) == 0
