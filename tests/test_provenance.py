"""An artifact's weights are the base's but for what its recipe names: whatever else a fresh seal covers is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_pipelines
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from unlearn_export.artifact import RECIPE, Artifact, read_json, write_json
from unlearn_export.base import load_base
from unlearn_export.cli import main
from unlearn_export.concept import Concept
from unlearn_export.erasers import Anchor
from unlearn_export.errors import ArtifactError
from unlearn_export.stages import build
from unlearn_export.weights import Weights, hashes, sha256, tensor_digest

DEMO = Path(__file__).parents[1] / "unlearn_export/demo/text_encoder/model.safetensors"
WEIGHTS = "text_encoder/model.safetensors"
OTHER = "text_model.final_layer_norm.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    build(load_base("demo"), [Concept("pizza")], Anchor(steps=2, pool=32), out, onnx=False)
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to forge."""
    return shutil.copytree(made, tmp_path / "out")


def forge(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Artifact:
    """Other weights under a seal that covers them."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    Artifact.open(folder).seal()
    return Artifact.open(folder)


def as_format(folder: Path, number: int) -> None:
    """The recipe as an earlier version wrote it."""
    recipe = read_json(folder / RECIPE) | {"format": number}
    for seat in recipe["seats"].values():
        del seat["tensor_sha256"]
    if number == 1:
        del recipe["seats"], recipe["base"]["kind"]
    write_json(folder / RECIPE, recipe)
    Artifact.open(folder).seal()


def refused(folder: Path, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        Artifact.open(folder).verify()
    assert "\n" not in str(caught.value)


def test_the_recipe_has_the_hash_of_every_tensor_of_the_base(made: Path) -> None:
    seat = Artifact.open(made).recipe.seats["text_encoder"]
    own, mine = Weights.open(DEMO.parent), Weights.open(made / "text_encoder")
    assert dict(seat.tensor_sha256) == own.tensor_digests
    assert set(seat.changed) == {key for key in own.files if not torch.equal(own.get(key), mine.get(key))} != set()


@pytest.mark.parametrize("number", [3, 2, 1])
def test_the_bases_own_weights_are_refused_however_they_are_sealed(folder: Path, number: int) -> None:
    if number < 3:
        as_format(folder, number)
    assert Artifact.open(folder).verify() > 0  # the control
    shutil.copyfile(DEMO, folder / WEIGHTS)
    Artifact.open(folder).seal()
    refused(folder, "base's own: nothing was erased")


def test_a_file_of_another_layout_is_no_way_round(folder: Path) -> None:
    save_file(load_file(DEMO), folder / WEIGHTS, metadata={"format": "pt", "note": "x"})
    assert sha256(folder / WEIGHTS) != sha256(DEMO)
    Artifact.open(folder).seal()
    refused(folder, "base's own: nothing was erased")


def test_a_change_that_the_recipe_does_not_name_is_refused_and_so_is_one_that_lacks(folder: Path) -> None:
    forge(folder, lambda tensors: tensors[OTHER].add_(1))
    refused(folder, f"{OTHER} of the text_encoder .* is not its base's")
    [*_, key] = Artifact.open(folder).recipe.seats["text_encoder"].changed
    base = load_file(DEMO)
    forge(folder, lambda tensors: tensors.update({OTHER: base[OTHER], key: base[key]}))
    refused(folder, f"{key} of the text_encoder .* is its base's own, and the recipe names it as changed")


@pytest.mark.parametrize("name", ["text_encoder/model.fp16.safetensors", "tokenizer/model.safetensors", "old.bin"])
def test_the_bases_weights_beside_the_edited_ones_are_refused(folder: Path, name: str) -> None:
    assert Artifact.open(folder).verify() > 0  # the control
    shutil.copyfile(DEMO, folder / name)  # `variant="fp16"` would load the first of them
    Artifact.open(folder).seal()
    refused(folder, f"{name} in .* is none of its weights")


def test_hashes_that_lack_are_refused(folder: Path) -> None:
    recipe = read_json(folder / RECIPE)
    del recipe["seats"]["text_encoder"]["tensor_sha256"][OTHER]
    write_json(folder / RECIPE, recipe)
    Artifact.open(folder).seal()
    refused(folder, "does not have the hash of each")
    write_json(folder / RECIPE, recipe | {"seats": {}})
    Artifact.open(folder).seal()
    refused(folder, "tells of no encoder")


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.output


@pytest.mark.parametrize("number", [3, 1])
def test_the_base_itself_sees_through_a_forged_recipe(folder: Path, number: int) -> None:
    if number < 3:
        as_format(folder, number)
    assert run("verify", folder, "--base", "demo", "--json")[0] == 0  # the control
    forge(folder, lambda tensors: tensors[OTHER].add_(1))
    if number == 3:
        recipe = read_json(folder / RECIPE)
        recipe["seats"]["text_encoder"]["tensor_sha256"][OTHER] = hashes(folder / WEIGHTS).tensors[OTHER]
        write_json(folder / RECIPE, recipe)
        Artifact.open(folder).seal()
    assert run("verify", folder)[0] == 0
    code, said = run("verify", folder, "--base", "demo")
    assert code == 1 and f"{OTHER} of the text_encoder" in said and said.count("\n") == 1
    assert run("verify", folder, "--base-config", "x")[0] == 2


def test_a_push_of_the_bases_own_weights_is_refused_before_any_request(folder: Path) -> None:
    command = ("push", folder, "owner/name", "--public", "--despite", "unmeasured", "--dry-run")
    assert run(*command)[0] == 0  # the control
    shutil.copyfile(DEMO, folder / WEIGHTS)
    Artifact.open(folder).seal()
    code, said = run(*command)
    assert code == 1 and "nothing was erased" in said


def test_a_tensors_hash_is_of_its_type_its_shape_and_its_bytes(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(6).reshape(3, 2).to(torch.bfloat16)}
    save_file(tensors, tmp_path / "one.safetensors")
    save_file({"c": torch.ones(5), **tensors}, tmp_path / "two.safetensors", metadata={"x": "y"})
    one, two = (hashes(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert one.file == sha256(tmp_path / "one.safetensors") != two.file
    assert {key: two.tensors[key] for key in tensors} == one.tensors
    assert {key: tensor_digest(tensor) for key, tensor in tensors.items()} == one.tensors
    variants = (tensors["a"], tensors["a"].reshape(3, 2), tensors["a"].half(), tensors["a"].view(torch.int32))
    assert len({tensor_digest(tensor) for tensor in variants}) == 4
    assert json.dumps(one.tensors)


def test_an_artifact_is_verified_without_torch(made: Path) -> None:
    code = "import sys; from unlearn_export.artifact import Artifact; print(Artifact.open(sys.argv[1]).verify(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(made)], capture_output=True, text=True)
    assert done.stdout.split()[1:] == ["False"] and int(done.stdout.split()[0]) > 5, done.stderr


def test_the_tensors_are_those_that_the_base_had(folder: Path) -> None:
    forge(folder, lambda tensors: tensors.update(extra=torch.ones(1)))
    refused(folder, "text_encoder in .* has, and its base has not, the tensor extra: it is no complete edit")
    forge(folder, lambda tensors: [tensors.pop("extra"), tensors.pop(OTHER)])
    refused(folder, f"text_encoder in .* lacks the tensor {OTHER}")


def test_shards_are_verified_as_one_file_is(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny_pipelines.t5().save_pretrained(base, max_shard_size="20KB")
    tiny_pipelines.t5_tokenizer().save_pretrained(base)
    few = Anchor(steps=1, pool=16, batch=4, keep=0)
    made = build(load_base(base), [Concept("pizza", anchor="clown")], few, tmp_path / "out", onnx=False)
    index = "model.safetensors.index.json"
    assert (made.path / "text_encoder" / index).read_bytes() == (base / index).read_bytes()
    assert made.verify() > 0
    seat = made.recipe.seats["text_encoder"]
    assert dict(seat.tensor_sha256) == Weights.open(base).tensor_digests
    shards = [file.name for file in base.glob("*.safetensors")]
    differ = {name for name in shards if sha256(base / name) != sha256(made.path / "text_encoder" / name)}
    assert 0 < len(differ) < len(shards)
    for name in differ:
        shutil.copyfile(base / name, made.path / "text_encoder" / name)
    made.seal()
    refused(made.path, "base's own: nothing was erased")
