"""Every example of docs/plugins.md, installed as its package would be, works; without it, the same call is refused."""

import copy
import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast

from unlearn_export import plugins
from unlearn_export.artifact import Artifact
from unlearn_export.base import Base, load_base
from unlearn_export.concept import Concept
from unlearn_export.demo.scorer import DemoScorer
from unlearn_export.erase import erase
from unlearn_export.erasers import Anchor, make_method
from unlearn_export.errors import BaseError, EncoderError, UnlearnExportError, UsageError
from unlearn_export.families import families, family_of
from unlearn_export.families.contract_rows import CONTRACTS
from unlearn_export.families.contracts import contracts_of, readers_of
from unlearn_export.families.tokens import final_states, tokenise
from unlearn_export.loading import load_torch
from unlearn_export.pipelines.check import check
from unlearn_export.pipelines.encoders import load_encoder
from unlearn_export.pipelines.load import load_pipeline
from unlearn_export.probe import make_attacks, probe
from unlearn_export.scorers import load_scorer
from unlearn_export.stages import _label, build

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(
    r'```toml\n\[project\.entry-points\."(unlearn_export\.(\w+))"\]\n(.+?)```\s+```python\n(# (\w+)\.py\n.+?)```', re.S
)
EXAMPLES = {kind: (group, lines, code, module) for group, kind, lines, code, module in EXAMPLE.findall(PAGE)}
ANCHOR = Anchor(steps=60, batch=8, pool=64)
Install = Callable[..., None]


def package(folder: Path, name: str, module: str, code: str, group: str, lines: str) -> None:
    """Lay a package out as pip installs it: a module, and a dist-info folder with its entry points."""
    (folder / f"{module}.py").write_text(code)
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{lines.replace(chr(34), '')}\n")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs the page's example of a kind for one test, its code as it stands or with a change."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    modules: list[str] = []

    def put(kind: str, change: Callable[[str], str] = str) -> None:
        group, lines, code, module = EXAMPLES[kind]
        package(folder, f"example-{kind}", module, change(code), group, lines)
        modules.append(module)
        monkeypatch.syspath_prepend(folder)
        importlib.invalidate_caches()
        plugins.found.cache_clear()

    yield put
    plugins.found.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("demo")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder with a random BERT and a tokenizer of letters."""
    letters = "abcdefghijklmnopqrstuvwxyz'-."
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "picture", "photo", "of", "the", "pizza", "car", "cat"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*words, *letters, *(f"##{c}" for c in letters)]))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    folder = tmp_path / "my-bert"
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    model = BertModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm" not in name:
                weight.normal_(0, 0.2)
    model.save_pretrained(folder)
    return folder


def test_the_page_has_one_of_each_kind() -> None:
    assert set(EXAMPLES) == {"families", "erasers", "attacks", "scorers"}
    assert set(EXAMPLES) <= set(plugins.OURS)


def test_a_family_of_one_file_is_erased_from_end_to_end(install: Install, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="knows BertModel: known are .*CLIPTextModel.*T5EncoderModel"):
        load_base(bert)  # the control: nobody knows it yet
    install("families")
    before = (bert / "model.safetensors").read_bytes()
    own = load_base(bert)
    assert own.seat.family.name == "bert" and contracts_of("MyVideoPipeline") == own.seat.contracts

    artifact = build(own, [Concept("pizza", anchor="car")], ANCHOR, tmp_path / "out", onnx=False)
    assert (bert / "model.safetensors").read_bytes() == before
    assert Artifact.open(artifact.path).verify() > 0
    recipe = artifact.recipe
    [seat] = recipe.seats.values()
    assert (seat.architecture, seat.family, seat.readers) == ("BertModel", "bert", ("MyVideoPipeline",))
    assert seat.loss is not None and seat.loss[1] < seat.loss[0]
    assert all("encoder.layer.0." in key for key in recipe.changed.tensors)

    edited = load_torch(artifact.path / "text_encoder", "BertModel", torch.float32)

    def states(encoder: torch.nn.Module, text: str) -> torch.Tensor:
        tokens = tokenise(own.seat.tokenizer, [text], own.seat.contract)
        with torch.no_grad():
            return final_states(own.seat.family.call(encoder, tokens, True))[-1][tokens.read]

    wanted = states(own.encoder, "a photo of a car")
    far, near = ((states(e, "a photo of a pizza") - wanted).norm() for e in (own.encoder, edited))
    kept = (states(edited, "a photo of a cat") - states(own.encoder, "a photo of a cat")).norm()
    assert near < 0.85 * far  # random weights 32 wide leave little room: 0.78 here
    assert kept < far - near, "another word moved more than the concept came nearer"
    assert torch.allclose(states(edited, ""), states(own.encoder, ""), atol=1e-4)


class MyVideoPipeline(DiffusionPipeline):
    """The text side of the pipeline that the page's family is read by."""

    def __init__(self, text_encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.register_modules(text_encoder=text_encoder, tokenizer=tokenizer)


def as_a_class_of_its_own(code: str) -> str:
    """The page's family for a class that transformers does not have."""
    own = code.replace('"BertModel"', '"MyBert"').replace("text_class = BertModel", "text_class = MyBert")
    return own.replace("class Bert(", "class MyBert(BertModel):\n    pass\n\n\nclass Bert(")


@pytest.mark.parametrize("kind", ["BertModel", "MyBert"])
def test_an_artifact_of_a_family_of_one_file_goes_into_its_pipeline(
    install: Install, bert: Path, tmp_path: Path, kind: str
) -> None:
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(config | {"architectures": [kind]}))
    with pytest.raises(EncoderError, match=f"names {kind}: expected CLIPTextModel.*T5EncoderModel"):
        load_encoder(bert)  # the control: nobody knows it yet
    install("families", str if kind == "BertModel" else as_a_class_of_its_own)
    own = load_base(bert)
    artifact = build(own, [Concept("pizza", anchor="car")], ANCHOR, tmp_path / "out", onnx=False)
    loaded = load_encoder(artifact.path)
    assert type(loaded).__name__ == kind and not torch.equal(*(weights(e) for e in (loaded, own.encoder)))

    pipe = MyVideoPipeline(copy.deepcopy(own.encoder), own.seat.tokenizer)
    seated: Any = load_pipeline(pipe, encoder=artifact.path)
    assert torch.equal(weights(seated.text_encoder), weights(loaded))
    pipe.save_pretrained(tmp_path / "pipe")
    assert check(artifact.path, tmp_path / "pipe").complete
    other = MyVideoPipeline(type(own.encoder)(own.encoder.config), own.seat.tokenizer)
    with pytest.raises(EncoderError, match="of another base: its token_embedding differs"):
        load_pipeline(other, encoder=artifact.path)


def weights(encoder: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in encoder.state_dict().values()])


def test_an_eraser(install: Install, base: Base) -> None:
    with pytest.raises(UsageError, match="unknown method 'rename'"):
        make_method("rename", {})
    install("erasers")
    pizza, burger, cat = (base.tokens([f"a picture of a {name}"]) for name in ("pizza", "hamburger", "cat"))
    erased = erase(base, [Concept("pizza", anchor="hamburger")], make_method("rename", {"share": "1.0"}))
    assert erased.recipe.method.options == {"share": 1.0}
    with torch.no_grad():
        assert not torch.allclose(base.encoder(pizza)[0], base.encoder(burger)[0], atol=0.1)  # the control
        assert torch.equal(erased.encoder(pizza)[0], base.encoder(burger)[0])
        assert torch.equal(erased.encoder(cat)[0], base.encoder(cat)[0])
    with pytest.raises(UsageError, match="rename has no option 'lr'"):
        make_method("rename", {"lr": "1"})
    with pytest.raises(UsageError, match="say what 'pizza' is to become"):
        erase(base, [Concept("pizza")], make_method("rename", {}))


def test_an_attack(install: Install, base: Base) -> None:
    with pytest.raises(UsageError, match="unknown attack 'spelt'"):
        make_attacks(["spelt"])
    install("attacks")
    assert [a.name for a in make_attacks()][-1] == "spelt"  # it is among all
    chosen = make_attacks(["spelt"], ["quick", "spelt.images=4"])
    report = probe(base, copy.deepcopy(base.encoder), [Concept("key")], DemoScorer(), chosen, steps=2).report
    [entry] = report["attacks"]
    assert (entry["name"], entry["before"]["n"], entry["options"]["images"]) == ("spelt", 4, 4)
    assert entry["before"] == entry["after"]  # the same encoder
    prompts = [p["prompt"] for p in entry["targets"]["key"]["before"]["detail"]["prompts"]]
    assert prompts == ["a picture of a k e y", "a picture of a k-e-y", "a picture of a k.e.y"]


def test_a_scorer(install: Install, base: Base) -> None:
    with pytest.raises(UsageError, match="no scorer 'tint'"):
        load_scorer("tint", base)
    install("scorers")
    grey, red = torch.full((1, 3, 8, 8), 0.5), torch.tensor([1.0, 0.1, 0.0])[None, :, None, None].expand(1, 3, 8, 8)
    scores = load_scorer("tint:0.6", base).score(torch.cat([grey, red]))
    assert scores.concepts_seen(("red", "green", "blue")) == ["", "red"]
    with pytest.raises(UsageError, match="no scorer 'mint': give demo.*, tint$"):
        load_scorer("mint", base)


def test_what_cannot_be_used_is_one_line(install: Install, tmp_path: Path, base: Base) -> None:
    folder = tmp_path / "site-packages"
    package(folder, "broken", "broken", "import nowhere_to_be_found\n", "unlearn_export.scorers", "bad = broken:Bad")
    package(folder, "poor", "poor", "def poor(*_):\n    return 3\n", "unlearn_export.scorers", "poor = poor:poor")
    install("scorers")
    with pytest.raises(UnlearnExportError, match="cannot load the plug-in 'bad' of scorers .*nowhere_to_be_found"):
        load_scorer("bad", base)
    with pytest.raises(UsageError, match="'poor' is no scorer: it has no name, concepts"):
        load_scorer("poor", base)
    package(folder, "twin", "twin", "", "unlearn_export.attacks", "direct = twin:Direct")
    plugins.found.cache_clear()
    with pytest.raises(UnlearnExportError, match="two attacks are called 'direct'"):
        make_attacks()
    shutil.rmtree(folder / "twin-1.0.dist-info")


def test_every_part_of_ours_is_there_under_its_name() -> None:
    for kind, parts in plugins.OURS.items():
        for name in parts:
            part = plugins.load(kind, name)
            assert getattr(part, "name", name) == name, kind


def test_contracts_and_families_agree_on_what_is_causal() -> None:
    known = {architecture for family in families().values() for architecture in family.architectures}
    for contract in CONTRACTS:
        for architecture in set(contract.architectures) & known:
            assert family_of(architecture).causal == contract.causal, contract.pipelines[0]
            assert contract in readers_of(architecture)
    assert all(not family.contracts for family in families().values())  # ours are in the table


def test_a_report_calls_a_pipeline_by_what_its_plug_in_makes_it_of(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("demo:t2v-motion", "owner/name", "mine:a/b")
    assert [_label(name) for name in names] == ["t2v-motion", "owner--name", "mine:a--b"]  # mine is not registered
    monkeypatch.setitem(plugins.found("pipelines"), "mine", lambda: None)
    assert [_label(name) for name in names] == ["t2v-motion", "owner--name", "a--b"]
