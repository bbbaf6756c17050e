"""Encoders on disk: every shard is read and written, and what has no place is refused."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from unlearn_export.errors import BaseError
from unlearn_export.weights import INDEX, Weights


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "sharded"
    tiny.encoder("T5EncoderModel").save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture
def folder(sharded: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(sharded, tmp_path / "copy")


def everything(folder: Path) -> dict[str, torch.Tensor]:
    return {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}


def test_all_shards_are_read(sharded: Path) -> None:
    weights = Weights.open(sharded)
    expected = everything(sharded)
    assert set(weights.files) == set(expected)
    assert all(torch.equal(weights.get(key), tensor) for key, tensor in expected.items())
    assert weights.parameters == sum(t.numel() for t in expected.values())
    assert weights.shape("shared.weight") == tuple(expected["shared.weight"].shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_only_what_changed_differs_in_the_copy(tmp_path: Path, dtype: torch.dtype) -> None:
    tiny.encoder("T5EncoderModel").to(dtype).save_pretrained(tmp_path / "own", max_shard_size="10KB")
    weights, before = Weights.open(tmp_path / "own"), everything(tmp_path / "own")
    key = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    weights.write(tmp_path / "new", {key: before[key] * 2})
    after = everything(tmp_path / "new")
    assert {k for k in before if not torch.equal(before[k], after[k])} == {key}
    assert torch.equal(after[key], before[key] * 2) and after[key].dtype == dtype
    assert all(torch.equal(tensor, everything(tmp_path / "own")[k]) for k, tensor in before.items())
    shutil.copy(tmp_path / "own" / "config.json", tmp_path / "new")
    loaded = type(tiny.encoder("T5EncoderModel")).from_pretrained(tmp_path / "new")
    assert torch.equal(loaded.state_dict()[key], after[key])
    untouched = [f.name for f in (tmp_path / "own").glob("*.safetensors") if key not in load_file(f)]
    assert untouched and all(
        (tmp_path / "own" / n).read_bytes() == (tmp_path / "new" / n).read_bytes() for n in untouched
    )


def test_what_does_not_fit_is_refused(sharded: Path, tmp_path: Path) -> None:
    weights = Weights.open(sharded)
    with pytest.raises(BaseError, match="no tensor lm_head"):
        weights.write(tmp_path / "a", {"lm_head": torch.zeros(1)})
    with pytest.raises(BaseError, match=r"shared.weight is F32\[207, 32\].*F32\[1, 32\]"):
        weights.write(tmp_path / "b", {"shared.weight": torch.zeros(1, 32)})
    with pytest.raises(BaseError, match="the edit's is BF16"):
        weights.write(tmp_path / "c", {"shared.weight": torch.zeros(207, 32, dtype=torch.bfloat16)})


def test_a_missing_shard_is_named(folder: Path) -> None:
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(BaseError, match=f"the shard {lost.name} is missing"):
        Weights.open(folder)


@pytest.mark.parametrize("where", ["index", "shard"])
def test_a_tensor_without_a_place_is_named(folder: Path, where: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    key, name = sorted(index["weight_map"].items())[0]
    if where == "index":
        del index["weight_map"][key]
        (folder / INDEX).write_text(json.dumps(index))
    else:
        tensors = load_file(folder / name)
        del tensors[key]
        save_file(tensors, folder / name)
    with pytest.raises(BaseError, match=f"the tensor {key} "):
        Weights.open(folder)


def test_other_layouts(folder: Path, tmp_path: Path) -> None:
    (folder / INDEX).unlink()
    with pytest.raises(BaseError, match="which tensor is where"):
        Weights.open(folder)
    with pytest.raises(BaseError, match="convert the encoder to safetensors"):
        Weights.open(tmp_path)
    save_file({"a": torch.ones(2)}, tmp_path / "model.fp16.safetensors")
    assert Weights.open(tmp_path).names == ("model.fp16.safetensors",)
    (tmp_path / "model.fp16.safetensors").write_bytes(b"broken")
    with pytest.raises(BaseError, match="cannot load"):
        Weights.open(tmp_path)


def test_the_fingerprint_follows_the_bytes_and_is_computed_once(folder: Path, sharded: Path) -> None:
    weights, same = Weights.open(folder), Weights.open(sharded)
    assert weights.fingerprint == same.fingerprint
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert weights.fingerprint == same.fingerprint  # once read, it is known
    assert Weights.open(folder).fingerprint != same.fingerprint
