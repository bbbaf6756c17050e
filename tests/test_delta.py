"""What changed, alone: with the base it is the encoder again, to the last bit, and with anything else it is refused."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from click.testing import CliRunner
from hub_client import REPO, Client, tree
from hub_double import HubDouble
from safetensors.torch import load_file, save, save_file

from unlearn_export.artifact import DELTA, Artifact, sha256
from unlearn_export.base import load_base
from unlearn_export.cli import main
from unlearn_export.concept import Concept
from unlearn_export.delta import Delta, write_delta
from unlearn_export.erasers import Anchor
from unlearn_export.errors import ArtifactError, EncoderError, UsageError
from unlearn_export.pipelines.encoders import load_encoder
from unlearn_export.stages import build
from unlearn_export.weights import Weights

WEIGHTS = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    tiny_pipelines.t5().to(torch.bfloat16).save_pretrained(folder)
    tiny_pipelines.t5_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(base: Path) -> Path:
    few = Anchor(steps=2, pool=16, batch=4, keep=0)
    return build(load_base(base), [Concept("pizza", anchor="clown")], few, base.parent / "made", onnx=False).path


@pytest.fixture(scope="module")
def small(made: Path, base: Path) -> Path:
    out = made.with_name("small")
    assert run("export", made, "--layout", "delta", "--base", base, "-o", out)[0] == 0
    return out


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.stdout or done.stderr


def refused(code: int, said: str, *words: str | Path) -> None:
    found, line = run(*words)
    assert found == code and said in line and line.startswith("error: ") and line.count("\n") == 1, line


def weights(folder: Path, **tensors: torch.Tensor) -> Weights:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    return Weights.open(folder)


def test_the_weights_come_back_byte_for_byte(small: Path, made: Path, base: Path, tmp_path: Path) -> None:
    assert not any(small.glob("text_encoder/*.safetensors")) and (made / WEIGHTS).exists()
    assert (small / DELTA).stat().st_size < (made / WEIGHTS).stat().st_size / 2
    assert run("verify", small, "--base", base)[0] == 0
    code, said = run("apply", small, "--base", base, "-o", tmp_path / "out", "--json")
    assert code == 0 and json.loads(said)["identical"] is True
    assert sha256(tmp_path / "out" / WEIGHTS) == sha256(made / WEIGHTS) != sha256(base / "model.safetensors")
    assert Artifact.open(tmp_path / "out").files() == Artifact.open(made).files()
    assert run("verify", tmp_path / "out", "--deep")[0] == 0
    refused(1, "is whole already", "apply", made, "--base", base, "-o", tmp_path / "twice")


def test_a_base_in_other_files_gives_the_same_tensors(small: Path, made: Path, base: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    tiny_pipelines.t5().to(torch.bfloat16).save_pretrained(shards, max_shard_size="20KB")
    shutil.copytree(base, shards, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    code, said = run("apply", small, "--base", shards, "-o", tmp_path / "out", "--json")
    assert code == 0 and json.loads(said)["identical"] is False, said
    back = Weights.open(tmp_path / "out/text_encoder")
    assert len(back.names) > 1 and back.tensor_digests == Weights.open(made / "text_encoder").tensor_digests


def test_another_base_is_refused_and_leaves_nothing(small: Path, base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    key = next(key for key in tensors if key.endswith("final_layer_norm.weight"))
    tensors[key][0] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    words = ("apply", small, "--base", other, "-o", tmp_path / "out")
    refused(1, f"{key} of the text_encoder in {other} is not the one", *words)
    refused(1, "was made from a local folder", "apply", small, "-o", tmp_path / "out")
    refused(1, "no artifact folder", "apply", tmp_path / "absent", "--base", base, "-o", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_delta_that_was_forged_is_refused_however_it_is_sealed(small: Path, base: Path, tmp_path: Path) -> None:
    for what, said in (
        ("values", "does not come out of"),
        ("base", "was made of another text_encoder"),
        ("result", "changes other tensors"),
        ("lost", "is no complete delta"),
        ("junk", "is no delta"),
    ):
        folder = shutil.copytree(small, tmp_path / what)
        tensors, delta = load_file(folder / DELTA), Delta.open(folder / DELTA)
        told = {name: json.loads(json.dumps(getattr(delta, name))) for name in ("base", "result", "kept")}
        [*_, name] = tensors
        if what == "values":
            tensors[name] = tensors[name] * 2
        elif what == "lost":
            del tensors[name]
        elif what != "junk":
            told[what]["text_encoder"].popitem()
        about = {"delta": json.dumps({"format": 1, **told})}
        (folder / DELTA).write_bytes(b"junk" if what == "junk" else save(tensors, about))
        Artifact.open(folder).seal()
        refused(1, said, "apply", folder, "--base", base, "-o", tmp_path / "out")


def test_what_needs_weights_says_how_to_get_them(small: Path, base: Path) -> None:
    for words in (("verify", small, "--deep"), ("export", small, "--base", base), ("rebuild", small, "--base", base)):
        refused(1, "holds only what changed: rebuild the encoder with `unlearn-export apply", *words)
    with pytest.raises(ArtifactError, match="holds only what changed"):
        load_encoder(small)


def test_an_encoder_is_loaded_of_a_delta_and_its_base(small: Path, made: Path, base: Path) -> None:
    loaded, whole = load_encoder(small, base=base).state_dict(), load_encoder(made).state_dict()
    assert loaded.keys() == whole.keys() and all(torch.equal(loaded[key], whole[key]) for key in whole)
    own = load_base(base).encoder.state_dict()
    assert any(not torch.equal(loaded[key].float(), own[key]) for key in whole), "the control: it is edited"
    with pytest.raises(UsageError, match="leave base out"):
        load_encoder(made, base=base)
    with pytest.raises(UsageError, match="has no graph"):
        load_encoder(small, base=base, backend="onnx")
    with pytest.raises(EncoderError, match="no text encoder at"):
        load_encoder(base.parent / "absent", base=base)


def test_a_tensor_is_kept_in_the_shortest_way_that_is_exact(tmp_path: Path) -> None:
    dice = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        own = torch.randn(96, 128, generator=dice).to(dtype)
        low = (own.float() + torch.randn(96, 1, generator=dice) @ torch.randn(1, 128, generator=dice)).to(dtype)
        few = own.clone()
        few[[3, 50]] += 1
        full = (own.float() + torch.randn(96, 128, generator=dice)).to(dtype)
        before = weights(tmp_path / f"{dtype}/a", low=own, few=own.clone(), full=own.clone(), same=own.clone())
        after = weights(tmp_path / f"{dtype}/b", low=low, few=few, full=full, same=own)
        delta = write_delta(tmp_path / f"{dtype}.safetensors", {"x": before}, {"x": after})
        assert delta.kept == {"x": {"low": "factors", "few": "rows", "full": "whole"}}
        tensors = delta.edit({"x": before}).tensors["x"]
        assert all(torch.equal(tensors[key], after.get(key)) for key in ("low", "few", "full"))
        again = write_delta(tmp_path / "again.safetensors", {"x": before}, {"x": after})
        assert sha256(again.file) == sha256(delta.file), "the same bytes each time"


def test_what_changed_is_pushed_alone_and_applied_from_the_hub(
    hub: HubDouble, client: Client, small: Path, made: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    client.push(made)
    assert WEIGHTS in tree(hub)  # the control
    with client.here():
        refused(1, "is whole already", "apply", REPO, "--base", base, "-o", tmp_path / "whole")
        assert not list((tmp_path / "cache").rglob("model.safetensors")), "11 GB for an error"
        assert run("push", made, REPO, "--delta-only", "--base", base)[0] == 0
    assert WEIGHTS not in tree(hub) and tree(hub)[DELTA]["sha256"] == sha256(small / DELTA)
    card = (hub.blobs / tree(hub)["README.md"]["sha256"]).read_text()
    assert f"unlearn-export apply {REPO} --base BASE -o out" in card and '"out", subfolder="text_encoder"' in card
    with client.here():
        code, said = run("apply", REPO, "--base", base, "-o", tmp_path / "out")
        assert code == 0 and "the files are those that were sealed" in said, said
        assert load_encoder(REPO, base=base).config.d_model == load_encoder(made).config.d_model
        with pytest.raises(ArtifactError, match="holds only what changed"):
            load_encoder(REPO)
    assert sha256(tmp_path / "out" / WEIGHTS) == sha256(made / WEIGHTS)
    refused(2, "--base belongs to --delta-only", "push", made, REPO, "--base", base)
