"""What may go into which pipeline, and what of it an edit does not reach, known from files."""

import copy
import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny_pipelines
import torch
from accelerate import cpu_offload_with_hook
from click.testing import CliRunner
from tiny_artifacts import artifact, edited
from tiny_pipelines import PIPELINES, draw, save_like_hub
from transformers import PreTrainedModel

from unlearn_export.cli import main
from unlearn_export.errors import EncoderError, UncoveredWarning, UnlearnExportError
from unlearn_export.families import table
from unlearn_export.families.contract_rows import CONTRACTS
from unlearn_export.pipelines import check as checking
from unlearn_export.pipelines.check import check
from unlearn_export.pipelines.encoders import load_encoder
from unlearn_export.pipelines.load import load_pipeline
from unlearn_export.weights import INDEX

POOLED = "text_encoder_2 (CLIP-L): its pooled vector of the whole prompt"
GLYPHS = "text_encoder_2 (ByT5) reads the words in quotation marks"


@pytest.fixture
def nothing_loaded(monkeypatch):
    """Whoever loads a model's weights fails."""

    def refuse(*args, **options):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)
    monkeypatch.setattr(checking, "load_folder", refuse)


@pytest.mark.parametrize(
    ("name", "uncovered"),
    [
        ("WanPipeline", []),
        ("CogVideoXPipeline", []),
        ("SanaVideoPipeline", []),
        ("Kandinsky5T2VPipeline", [POOLED]),
        ("HunyuanVideoPipeline", [POOLED]),
        ("HunyuanVideo15Pipeline", [GLYPHS]),
        ("AnimateDiffSDXLPipeline", ["text_encoder_2 (bigG): its states and its pooled vector"]),
    ],
)
def test_a_folder_is_checked_without_its_weights(name, uncovered, tmp_path, nothing_loaded):
    pipe = PIPELINES[name]()
    source = artifact(tmp_path / "artifact", pipe)
    folder = save_like_hub(pipe, tmp_path / "pipe", shards=2)
    found = check(source.path, folder)
    assert (found.pipeline, found.seats, list(found.uncovered)) == (name, ("text_encoder",), uncovered)
    assert found.complete == (not uncovered) and found == check(source.path, pipe)
    shutil.rmtree(folder / ("unet" if "unet" in pipe.components else "transformer"))
    assert check(source.path, folder) == found


def test_every_seat_that_is_edited_is_covered(tmp_path):
    pipe = PIPELINES["HunyuanVideoPipeline"]()
    both = artifact(tmp_path, pipe, ("text_encoder", "text_encoder_2"))
    assert check(both.path, pipe).complete
    second = check(both.path / "text_encoder_2", pipe)
    assert second.seats == ("text_encoder_2",) and second.uncovered == ("text_encoder (Llama): its states",)


def test_raw_embeddings_and_prompt_enhancers_are_told(tmp_path):
    pipe = PIPELINES["LTX2Pipeline"]()
    layers = check(artifact(tmp_path / "layers", pipe).path, pipe).uncovered
    assert len(layers) == 2 and "raw word embeddings" in layers[0] and layers[1].startswith("prompt_enhancer")
    rows = artifact(tmp_path / "rows", pipe, changed=["model.language_model.embed_tokens.weight"])
    assert check(rows.path, pipe).uncovered == layers[1:]


@pytest.mark.parametrize(
    ("readers", "words"),
    [
        (["CogVideoXPipeline"], None),
        (["LTXPipeline"], "another span of positions"),
        (["MochiPipeline"], "fitted as MochiPipeline reads, and a CogVideoXPipeline reads with another mask"),
        (["MochiPipeline", "CogVideoXPipeline"], None),
    ],
)
def test_a_way_of_reading_that_was_not_fitted_is_told(readers, words, tmp_path):
    pipe = PIPELINES["CogVideoXPipeline"]()
    found = check(artifact(tmp_path, pipe, readers=readers).path, pipe)
    assert found.complete if words is None else words in found.uncovered[0]


def test_an_edit_under_another_template_is_told(tmp_path):
    pipe = PIPELINES["Kandinsky5T2VPipeline"]()
    found = check(artifact(tmp_path, pipe, readers=["QwenImagePipeline"]).path, pipe)
    assert "another template" in found.uncovered[0] and found.uncovered[1] == POOLED


def test_a_pipeline_that_is_not_known_names_the_nearest(tmp_path):
    pipe = PIPELINES["WanPipeline"]()
    source, folder = artifact(tmp_path / "artifact", pipe), save_like_hub(pipe, tmp_path / "pipe")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "WanPainterPipeline"}))
    [told] = check(source.path, folder).uncovered
    assert told.startswith("how a WanPainterPipeline reads its text encoder is not known") and "Wan" in told[70:]


def test_what_does_not_belong_is_refused_in_one_line(tmp_path, nothing_loaded):
    wan, cog, sdxl, motion = (
        PIPELINES[f"{name}Pipeline"]() for name in ("Wan", "CogVideoX", "AnimateDiffSDXL", "AnimateDiff")
    )
    sources = {name: artifact(tmp_path / name, pipe).path for name, pipe in (("wan", wan), ("cog", cog))}
    both = artifact(tmp_path / "both", sdxl, ("text_encoder", "text_encoder_2")).path
    folder = save_like_hub(cog, tmp_path / "pipe", shards=2)
    foreign = tiny_pipelines.t5(seed=5)
    for source, pipe, words in (
        (sources["wan"], folder, "its class is UMT5EncoderModel, its own has T5EncoderModel"),
        (sources["cog"], wan, "its class is T5EncoderModel, its own has UMT5EncoderModel"),
        (foreign, folder, "of another base: its token_embedding differs"),
        (tiny_pipelines.t5(width=64), folder, "its hidden_size is 64, its own has 32"),
        (both, motion, "no seat for the text_encoder_2 .* this AnimateDiffPipeline has text_encoder; give the folder"),
        ({"text_encoder_2": sources["cog"]}, folder, "no seat for the text_encoder_2"),
    ):
        with pytest.raises(EncoderError, match=words) as caught:
            check(source, pipe)
        assert "\n" not in str(caught.value)
    assert check(both / "text_encoder", motion).complete  # the control: of the same weights
    shard = next((folder / "text_encoder").glob("model-00001*"))
    shard.rename(tmp_path / "away")
    with pytest.raises(UnlearnExportError, match="shard .* is missing"):
        check(sources["cog"], folder)


@pytest.mark.parametrize("name", ["WanPipeline", "AnimateDiffPipeline", "LTX2Pipeline", "HunyuanVideo15Pipeline"])
def test_a_pipeline_with_other_layers_above_the_same_table_is_refused(name, tmp_path):
    pipe = PIPELINES[name]()
    source = artifact(tmp_path / "artifact", pipe, onnx=name == "WanPipeline").path
    tuned = copy.copy(pipe)
    tuned.register_modules(text_encoder=copy.deepcopy(pipe.text_encoder))
    key, weight = [p for p in tuned.text_encoder.named_parameters() if p[1].ndim == 2 and ".3." in p[0]][-1]
    with torch.no_grad():
        weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    for backend in ("torch", "onnx") if name == "WanPipeline" else ("torch",):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            tuned.text_encoder.to(dtype), pipe.text_encoder.to(dtype)
            for given in (tuned, save_like_hub(tuned, tmp_path / f"tuned-{backend}-{dtype}", shards=2)):
                with pytest.raises(EncoderError, match=r"of another base: its [\w.]+ differs") as caught:
                    load_pipeline(given, encoder=source, backend=backend)
                assert caught.match(re.escape(key.split(".3.")[1])) and "\n" not in str(caught.value)
            assert load_pipeline(pipe, encoder=source, backend=backend).text_encoder.dtype == dtype  # the control
            check(source, save_like_hub(pipe, tmp_path / f"own-{backend}-{dtype}", shards=2))
    shutil.copytree(source / "text_encoder", tmp_path / "text_encoder")
    check(tmp_path / "text_encoder", tuned)  # without a recipe nobody knows which layers are edited


def test_an_edit_of_embedding_rows_fits_where_the_recipe_names_them(tmp_path):
    pipe = PIPELINES["WanPipeline"]()
    source = artifact(tmp_path / "artifact", pipe, changed=["shared.weight"]).path
    loaded = load_pipeline(pipe, encoder=source).text_encoder
    assert not torch.equal(loaded.shared.weight, pipe.text_encoder.shared.weight)
    assert check(source, save_like_hub(pipe, tmp_path / "pipe")).complete
    load_encoder(source, like=pipe.text_encoder)
    shutil.copytree(source / "text_encoder", tmp_path / "text_encoder")
    with pytest.raises(EncoderError, match="of another base: its token_embedding differs"):
        check(tmp_path / "text_encoder", pipe)
    other = copy.copy(pipe)
    other.register_modules(text_encoder=tiny_pipelines.t5(multilingual=True, seed=5))
    with pytest.raises(EncoderError, match="of another base: its encoder.block"):
        check(source, other)


def test_the_second_encoder_of_one_pipeline_is_the_first_of_another(tmp_path):
    flux, cog = PIPELINES["FluxPipeline"](), PIPELINES["CogVideoXPipeline"]()
    both = artifact(tmp_path, flux, ("text_encoder", "text_encoder_2"))
    assert check(both.path / "text_encoder_2", cog).seats == ("text_encoder",)
    assert check({"text_encoder": both.path / "text_encoder_2"}, cog).seats == ("text_encoder",)
    loaded = load_pipeline(cog, encoder=both.path / "text_encoder_2")
    expected = edited(cog.text_encoder).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.text_encoder.state_dict().items())


def test_loading_seats_every_encoder_and_warns_of_the_rest(tmp_path):
    pipe = PIPELINES["HunyuanVideoPipeline"]()
    one = artifact(tmp_path / "one", pipe).path
    both = artifact(tmp_path / "both", pipe, ("text_encoder", "text_encoder_2")).path
    folder = save_like_hub(pipe, tmp_path / "pipe", shards=2)
    with pytest.warns(UncoveredWarning, match="not covered by the edit: text_encoder_2 .CLIP-L.: its pooled vector"):
        first = draw(load_pipeline(folder, encoder=one), "pizza")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncoveredWarning)
        loaded = load_pipeline(folder, encoder=both)
        mapped = load_pipeline(pipe, encoder={seat: both / seat for seat in ("text_encoder", "text_encoder_2")})
        plain = load_pipeline(folder)
    second, again, original = (draw(p, "pizza") for p in (loaded, mapped, plain))
    assert np.abs(second - again).max() < 1e-5
    assert np.abs(first - second).max() > 5e-5 and np.abs(first - original).max() > 5e-5


def test_arguments_that_are_configuration_survive(tmp_path):
    pipe = PIPELINES["WanPipeline"](boundary_ratio=0.5)
    source = artifact(tmp_path / "artifact", pipe).path
    for given in (pipe, save_like_hub(pipe, tmp_path / "pipe")):
        loaded = load_pipeline(given, encoder=source)
        assert loaded.config.boundary_ratio == 0.5 and loaded.transformer_2 is not None


def test_the_encoder_takes_the_dtype_that_its_own_would_have(tmp_path):
    pipe = PIPELINES["WanPipeline"]()
    source = artifact(tmp_path / "artifact", pipe, onnx=True).path
    pipe.text_encoder.to(torch.bfloat16)
    folder = save_like_hub(pipe, tmp_path / "pipe")
    for backend in ("torch", "onnx"):
        loaded = load_pipeline(folder, encoder=source, backend=backend)
        assert loaded.text_encoder.dtype == load_pipeline(folder).text_encoder.dtype == torch.bfloat16
        half = load_pipeline(folder, encoder=source, backend=backend, dtype=torch.bfloat16)
        assert half.text_encoder.dtype == half.transformer.dtype == torch.bfloat16
        assert np.isfinite(draw(half, "pizza")).all()


@torch.no_grad()
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_offload_hooks_carry_both_encoders(tmp_path, backend):
    pipe = PIPELINES["AnimateDiffSDXLPipeline"]()
    source = artifact(tmp_path, pipe, ("text_encoder", "text_encoder_2"), onnx=True)
    loaded = load_pipeline(pipe, encoder=source.path, backend=backend)
    expected = draw(loaded, "pizza")
    hooks = [
        cpu_offload_with_hook(part, "cpu")[1] for part in (loaded.text_encoder, loaded.text_encoder_2, loaded.unet)
    ]
    assert np.array_equal(draw(loaded, "pizza"), expected)
    for hook in hooks:
        hook.offload()
    assert np.array_equal(draw(loaded, "pizza"), expected)


def test_a_pipeline_on_the_hub_gives_no_more_than_its_tables(tmp_path, monkeypatch, nothing_loaded):
    pipe = PIPELINES["WanPipeline"]()
    source = artifact(tmp_path / "artifact", pipe).path
    remote, asked = save_like_hub(pipe, tmp_path / "remote", shards=3), []

    def download(repo_id, revision, allow_patterns):
        asked.extend(allow_patterns)
        for file in remote.rglob("*"):
            name = file.relative_to(remote)
            if file.is_file() and any(name.match(pattern) for pattern in allow_patterns):
                (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tmp_path / "cache" / name)
        return str(tmp_path / "cache")

    monkeypatch.setattr(checking, "snapshot_download", download)
    assert check(source, "owner/name").complete
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1


def test_a_pipeline_on_the_hub_whose_table_lies_alone_shows_a_layer_too(tmp_path, monkeypatch, nothing_loaded):
    pipe = PIPELINES["WanPipeline"]()
    source = artifact(tmp_path / "artifact", pipe).path
    tuned = copy.copy(pipe)
    tuned.register_modules(text_encoder=copy.deepcopy(pipe.text_encoder))
    for name, weight in tuned.text_encoder.named_parameters():
        if not name.startswith(("shared", "encoder.embed_tokens")):
            weight.data += 0.1  # trained with frozen embeddings
    asked = []

    def download(repo_id, revision, allow_patterns):
        asked.extend(allow_patterns)
        return str(tmp_path / repo_id)

    monkeypatch.setattr(checking, "snapshot_download", download)
    for name, held in (("hub/own", pipe), ("hub/tuned", tuned)):
        folder = save_like_hub(held, tmp_path / name)
        (folder / "text_encoder/model.safetensors").unlink()
        held.text_encoder.save_pretrained(folder / "text_encoder", max_shard_size="4KB")
        listed = json.loads((folder / "text_encoder" / INDEX).read_text())["weight_map"]
        assert sum(file == listed["shared.weight"] for file in listed.values()) == 1, "the table lies alone"
    assert check(source, "hub/own").complete  # the control
    assert len({name for name in asked if name.endswith(".safetensors")}) == 2
    with pytest.raises(EncoderError, match="of another base"):
        check(source, "hub/tuned")


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_tells_and_its_exit_code_too(tmp_path):
    pipe = PIPELINES["Kandinsky5T2VPipeline"]()
    source, folder = artifact(tmp_path / "artifact", pipe).path, save_like_hub(pipe, tmp_path / "pipe")
    told = run("check", source, "--t2v", folder)
    assert told.exit_code == 3
    assert told.stdout.splitlines() == ["fits Kandinsky5T2VPipeline: text_encoder", f"not covered: {POOLED}"]
    assert run("check", source, "--t2v", folder, "--allow").exit_code == 0
    as_json = json.loads(run("check", source, "--t2v", folder, "--json").stdout)
    assert as_json["uncovered"] == [POOLED] and as_json["complete"] is False
    both = artifact(tmp_path / "both", pipe, ("text_encoder", "text_encoder_2")).path
    covered = run("check", both, "--t2v", folder)
    assert covered.exit_code == 0 and "every text path is covered" in covered.stdout
    wrong = run("check", source, "--t2v", tmp_path / "both")
    assert wrong.exit_code == 2 and wrong.stderr.count("\n") == 1 and "is no pipeline" in wrong.stderr


def test_families_are_the_contracts():
    listed = json.loads(run("families", "--json").stdout)["readers"]
    assert listed == table.rows() and len(listed) == len(CONTRACTS)
    assert {name for row in listed for name in row["pipelines"]} == {n for c in CONTRACTS for n in c.pipelines}
    text = run("families").stdout
    for contract in CONTRACTS:
        assert contract.weights[0] in text and contract.pipelines[0].removesuffix("Pipeline") in text


def test_the_documents_hold_the_same_table():
    document = (Path(__file__).parent.parent / "docs/families.md").read_text(encoding="utf-8")
    assert document.partition("<!-- families -->\n")[2].partition("<!-- /families -->")[0] == table.markdown()
