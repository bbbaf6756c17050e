"""An artifact computes what was measured, on every backend, and is what its recipe makes."""

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import onnx
import pytest
import tiny_pipelines
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from test_card import recipe
from test_recipe import third

from unlearn_export import golden
from unlearn_export.artifact import CERTIFICATE, GOLDEN, Artifact, read_json, sha256, write_json
from unlearn_export.base import load_base
from unlearn_export.certificate import statement
from unlearn_export.cli import main
from unlearn_export.concept import Concept
from unlearn_export.erasers import Anchor
from unlearn_export.recipe import Recipe
from unlearn_export.stages import build

WEIGHTS = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 encoder's folder."""
    folder = tmp_path_factory.mktemp("base") / "base"
    tiny_pipelines.t5().save_pretrained(folder)
    tiny_pipelines.t5_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(base: Path) -> Path:
    """An artifact with a graph."""
    few = Anchor(steps=3, pool=16, batch=4, keep=0)
    return build(load_base(base), [Concept("pizza", anchor="clown")], few, base.parent / "made").path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "out")


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.stdout or done.stderr.splitlines()[-1]


def test_the_states_at_sealing_come_again_on_every_backend(made: Path) -> None:
    code, said = run("verify", made, "--deep", "--json")
    assert code == 0, said
    found = json.loads(said)["golden"]
    assert [(one["seat"], one["backend"]) for one in found] == [("text_encoder", "torch"), ("text_encoder", "onnx")]
    assert all(one["apart"] < 1e-4 for one in found)
    assert "golden" not in json.loads(run("verify", made, "--json")[1])


def test_a_graph_that_computes_something_else_is_seen_though_all_is_sealed(folder: Path) -> None:
    path = folder / "text_encoder/model.onnx"
    graph = onnx.load(path)
    [weight] = [w for w in graph.graph.initializer if w.name.endswith("final_layer_norm.weight")]
    weight.CopyFrom(onnx.numpy_helper.from_array(1.1 * onnx.numpy_helper.to_array(weight), weight.name))
    onnx.save(graph, path)
    Artifact.open(folder).seal()
    assert run("verify", folder)[0] == 0  # the control: hashes alone say nothing
    code, said = run("verify", folder, "--deep")
    assert code == 1 and "text_encoder" in said and "on onnx answers" in said and "1.0e-01 apart" in said, said


def test_weights_that_compute_something_else_are_seen(folder: Path) -> None:
    assert golden.check(Artifact.open(folder))
    tensors = load_file(folder / WEIGHTS)
    last = next(key for key in tensors if key.endswith("final_layer_norm.weight"))
    tensors[last] *= 1.01
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(Exception, match="on torch answers .* 1.0e-02 apart, the tolerance is 0.001"):
        golden.check(Artifact.open(folder))
    assert golden.check(Artifact.open(folder), tolerance=0.02)


def test_states_that_cannot_be_read_are_refused_in_a_line(folder: Path) -> None:
    data = read_json(folder / GOLDEN)
    text = data["seats"]["text_encoder"]
    for other, words in (
        (data | {"format": 9}, "has format 9"),
        (data | {"seats": {}}, "tells nothing of text_encoder"),
        (data | {"seats": {"text_encoder": text | {"shadows": {"states": [[1.0]]}}}}, "does not fit"),
        (data | {"seats": {"text_encoder": text | {"reader": "NoPipeline"}}}, "nothing is known"),
        (None, "has no unlearning/golden.json"),
    ):
        if other is None:
            (folder / GOLDEN).unlink()
        else:
            write_json(folder / GOLDEN, other)
        Artifact.open(folder).seal()
        code, said = run("verify", folder, "--deep")
        assert code == 1 and words in said and said.startswith("error: "), said


def edited(folder: Path, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], base: Path) -> None:
    """Another edit of the same tensors, sealed."""
    mine, own = load_file(folder / WEIGHTS), load_file(base / "model.safetensors")
    for key in Artifact.open(folder).recipe.seats["text_encoder"].changed:
        mine[key] = change(mine[key], own[key])
    save_file(mine, folder / WEIGHTS, metadata={"format": "pt"})
    Artifact.open(folder).seal()


def test_an_edit_done_again_is_the_same_or_about_or_not(folder: Path, base: Path) -> None:
    where = ("--base", base)
    code, said = run("rebuild", folder, *where)
    assert code == 0 and "are the same byte for byte" in said, said
    edited(folder, lambda mine, own: mine + 1e-3 * (mine - own), base)
    assert run("verify", folder)[0] == 0
    code, said = run("rebuild", folder, *where, "--json")
    found = json.loads(said)
    assert code == 0 and found["identical"] is False and found["differing"]
    assert found["worst"] == pytest.approx(1e-3, rel=0.01) and found["versions"] == {}
    edited(folder, lambda mine, own: (mine + own) / 2, base)
    code, said = run("rebuild", folder, *where)
    assert code == 3 and "is not what its recipe makes" in said and "differ, by 1.0e+00 of the edit" in said, said
    assert run("rebuild", folder)[0] == 1, "its base was a folder: nobody knows where it is"


def test_the_statement_tells_what_was_made_of_what(made: Path, base: Path, folder: Path) -> None:
    attestation = pytest.importorskip("in_toto_attestation.v1.statement")
    told = read_json(made / CERTIFICATE)
    subject = {one["name"]: one["digest"]["sha256"] for one in told["subject"]}
    assert subject == {name: sha256(made / name) for name in (WEIGHTS, "text_encoder/model.onnx")}
    build = told["predicate"]["buildDefinition"]
    sources = {one["name"]: one["digest"]["sha256"] for one in build["resolvedDependencies"]}
    assert sources["base/text_encoder"] == sha256(base / "model.safetensors") != subject[WEIGHTS]
    assert build["externalParameters"]["concepts"][0]["name"] == "pizza"
    others = {one["name"]: one["digest"]["sha256"] for one in told["predicate"]["runDetails"]["byproducts"]}
    assert others[GOLDEN] == sha256(made / GOLDEN) and CERTIFICATE not in others
    assert "not that anything was forgotten" in told["predicate"]["unlearn-export_proves"]
    parts = [attestation.ResourceDescriptor(name=n, digest={"sha256": d}).pb for n, d in subject.items()]
    attestation.Statement(parts, told["predicateType"], told["predicate"]).validate()
    assert run("verify", made)[0] == 0
    (folder / CERTIFICATE).write_text("{}")
    assert "certificate.json" in run("verify", folder)[1]


def test_the_statement_names_the_pictures_that_were_looked_at() -> None:
    drawn = [[{"prompt": "a photo of a pizza", "sha256": "e" * 64}]]
    for made, name, digest in (
        (third(), "images/1.png", "c" * 64),
        (third() | {"images": drawn}, "latents/a photo of a pizza", "e" * 64),
    ):
        told = statement(Recipe.from_json(made), {WEIGHTS: "f" * 64})
        sources = told["predicate"]["buildDefinition"]["resolvedDependencies"]
        assert {"name": name, "digest": {"sha256": digest}} in sources
    assert statement(Recipe.from_json(recipe()), {WEIGHTS: "f" * 64})["subject"], "the first format too"


def test_the_bill_of_materials_is_what_cyclonedx_asks_for(made: Path, tmp_path: Path) -> None:
    cyclonedx, schemas = pytest.importorskip("cyclonedx.schema"), pytest.importorskip("jsonschema_rs")
    out = tmp_path / "bom.cdx.json"
    code, said = run("export", made, "--layout", "cyclonedx", "-o", out)
    assert code == 0, said
    folder = files(cyclonedx) / "_res"
    held = {f.name: json.loads(f.read_text()) for f in folder.iterdir() if f.name.endswith(".SNAPSHOT.schema.json")}
    named = {f"http://cyclonedx.org/schema/{name}": schema for name, schema in held.items()}
    valid = schemas.Draft7Validator(held["bom-1.6.SNAPSHOT.schema.json"], retriever=named.__getitem__)
    told = read_json(out)
    assert [error.message for error in valid.iter_errors(told)] == []
    assert list(valid.iter_errors(told | {"specVersion": 7})), "the control"
    model = told["metadata"]["component"]
    listed = {part["name"]: part["hashes"][0]["content"] for part in model["components"]}
    assert listed[WEIGHTS] == sha256(made / WEIGHTS)
    assert "not that anything was forgotten" in model["modelCard"]["considerations"]["technicalLimitations"][0]
    code, said = run("export", made, "--layout", "cyclonedx", "-o", out)
    assert code == 2 and "exists already" in said
