"""Who stands behind an artifact: whatever was altered, added or removed since it was signed is told apart."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_pipelines
from click.testing import CliRunner
from hub_client import REPO, Client, head, tree
from hub_double import HubDouble
from huggingface_hub import snapshot_download

from unlearn_export.artifact import CARD_SIGNATURE, SIGNATURE, Artifact, sha256
from unlearn_export.base import load_base
from unlearn_export.card_text import END, START
from unlearn_export.cli import main
from unlearn_export.concept import Concept
from unlearn_export.erasers import Anchor
from unlearn_export.stages import build

pytest.importorskip("model_signing")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two key pairs, key.pem and key.pub, other.pem and other.pub, and an RSA key."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    folder = tmp_path_factory.mktemp("keys")
    pairs = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("key", "other")}
    for name, key in (pairs | {"rsa": rsa.generate_private_key(65537, 2048)}).items():
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.pem").write_bytes(private)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    return folder


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base") / "base"
    tiny_pipelines.t5().save_pretrained(base)
    tiny_pipelines.t5_tokenizer().save_pretrained(base)
    few = Anchor(steps=1, pool=16, batch=4, keep=0)
    return build(load_base(base), [Concept("pizza", anchor="clown")], few, base.parent / "out", onnx=False).path


@pytest.fixture
def folder(unsigned: Path, keys: Path, tmp_path: Path) -> Path:
    """A signed artifact."""
    copy = shutil.copytree(unsigned, tmp_path / "out")
    assert run("sign", copy, "--key", keys / "key.pem")[0] == 0
    return copy


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.stdout or done.stderr


def refused(said: str, *words: str | Path, code: int = 1) -> None:
    found, line = run(*words)
    assert found == code and said in line and line.startswith("error: ") and line.count("\n") == 1, line


def replaced(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "README.md").write_text((folder / "README.md").read_text().replace(old, new))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "NOTICE").write_text("mine"), "NOTICE was edited after"),
        (lambda f: (f / "unlearning/more.txt").write_text("x"), "unlearning/more.txt was added after"),
        (lambda f: (f / "README.md.old").write_text("x"), "README.md.old was added after"),
        (lambda f: (f / "LICENSE").unlink(), "LICENSE was removed after"),
        (lambda f: (f / "unlearning/manifest.json").write_text("{}"), "unlearning/manifest.json was edited after"),
        (lambda f: (f / "tokenizer/.hidden").write_text("x"), "tokenizer/.hidden was added after"),
        (lambda f: (f / SIGNATURE).unlink(), "is not signed: it has no model.sig"),
        (lambda f: (f / CARD_SIGNATURE).unlink(), "is not signed: it has no unlearning/card.sig"),
        (lambda f: (f / SIGNATURE).write_text("{}"), "model.sig of"),
        (lambda f: shutil.copyfile(f / CARD_SIGNATURE, f / SIGNATURE), "more) was added after"),
        (replaced("## Removed", "## Kept"), "the card's generated part was edited"),
        (replaced("license:", "license: mit\nwas:"), "the card's generated part was edited"),
        (replaced(END, ""), "the card has no generated part"),
        (lambda f: (f / "README.md").unlink(), "cannot read"),
    ],
)
def test_what_is_not_as_it_was_signed_is_named(
    folder: Path, keys: Path, change: Callable[[Path], object], said: str
) -> None:
    command = ("verify", folder, "--public-key", keys / "key.pub")
    assert run(*command)[0] == 0  # the control
    change(folder)
    refused(said, *command)


def test_people_may_write_into_a_signed_card(folder: Path, keys: Path) -> None:
    replaced(START, f"Read this first.\n\n{START}")(folder)
    replaced("tags:\n", "language: de\ntags:\n- mine\n")(folder)
    code, said = run("verify", folder, "--public-key", keys / "key.pub", "--json")
    assert code == 0 and json.loads(said)["signed"] is True


def test_keys_are_told_apart(folder: Path, unsigned: Path, keys: Path) -> None:
    refused("is not signed", "verify", unsigned, "--public-key", keys / "key.pub")
    refused("was signed with another key than", "verify", folder, "--public-key", keys / "other.pub")
    for file in ("key.pem", "rsa.pub", "absent.pub"):
        refused("is no public key that can be used", "verify", folder, "--public-key", keys / file, code=2)
    for file in ("key.pub", "rsa.pem", "absent.pem"):
        refused("is no private key that can be used", "sign", folder, "--key", keys / file, code=2)


def test_a_stage_that_is_redone_takes_its_signature_away(folder: Path, keys: Path) -> None:
    assert run("card", folder)[0] == 0
    assert (folder / CARD_SIGNATURE).exists(), "the same card"
    assert run("card", folder, "--repo", REPO)[0] == 0
    assert not (folder / CARD_SIGNATURE).exists() and run("verify", folder)[0] == 0
    refused("is not signed", "verify", folder, "--public-key", keys / "key.pub")


def test_a_package_that_lacks_is_named(folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "OpenSSL", None)
    said = "a signature needs OpenSSL: pip install 'unlearn-export[sign]'"
    refused(said, "verify", folder, "--public-key", keys / "key.pub")
    refused(said, "sign", folder, "--key", keys / "key.pem")


def test_a_push_signs_what_it_sends(
    hub: HubDouble, client: Client, unsigned: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def push(*words: str | Path) -> tuple[int, str]:
        with client.here():
            return run("push", unsigned, REPO, *words)

    assert push("--sign-key", keys / "key.pem")[0] == 0
    assert {SIGNATURE, CARD_SIGNATURE} < tree(hub).keys() and not (unsigned / SIGNATURE).exists()
    first = head(hub)
    assert push("--sign-key", keys / "key.pem")[0] == 0 and head(hub) == first, "what holds is not signed again"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with client.here():
        snapshot = Path(snapshot_download(REPO))
        plain = Path(snapshot_download(REPO, local_dir=tmp_path / "plain"))
    assert (snapshot / "LICENSE").is_symlink() and (plain / ".cache").is_dir()
    for where in (snapshot, plain):
        assert run("verify", where, "--public-key", keys / "key.pub")[0] == 0, where
        refused("another key", "verify", where, "--public-key", keys / "other.pub")
    assert push("--sign-key", keys / "other.pem")[0] == 0 and head(hub) != first
    assert push()[0] == 0
    assert not {SIGNATURE, CARD_SIGNATURE} & tree(hub).keys(), "an unsigned push leaves no signature of another"


def test_a_signed_folder_is_sent_as_it_was_signed(hub: HubDouble, client: Client, folder: Path, keys: Path) -> None:
    with client.here():
        refused("the card was signed otherwise than it would be sent", "push", folder, REPO, code=2)
        assert hub.requests == []
        assert run("card", folder, "--repo", REPO)[0] == 0 and run("sign", folder, "--key", keys / "key.pem")[0] == 0
        assert run("push", folder, REPO)[0] == 0
    assert tree(hub)[SIGNATURE]["sha256"] == sha256(folder / SIGNATURE)
    assert Artifact.open(folder).verify() > 0


def test_the_server_refuses_what_is_not_signed(
    folder: Path,
    unsigned: Path,
    keys: Path,
    hub: HubDouble,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    begun: list[str | None] = []
    monkeypatch.setattr("serving.server.serve", lambda engine, *_, **__: begun.append(engine.settings.encoder_revision))

    def serve(*sources: Path | str) -> tuple[str | Path, ...]:
        return ("serve", *sources, "--t2v", "demo:t2v-unet3d", "--data", tmp_path, "--public-key", keys / "key.pub")

    with client.here():
        refused("is not signed", *serve(unsigned))
        refused("is not signed", *serve(folder, unsigned))
        refused("--public-key takes folders", *serve(folder, REPO), code=2)
        assert begun == [] and run(*serve(folder))[0] == 0 and begun == [None]
        assert run("push", unsigned, REPO)[0] == 0
        refused("is not signed", *serve(REPO))
        assert run("push", unsigned, REPO, "--sign-key", keys / "key.pem")[0] == 0
        assert run(*serve(REPO))[0] == 0 and begun == [None, head(hub)], "the commit that was looked at"
