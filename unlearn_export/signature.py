"""Signatures of an artifact by a key, in the format of OpenSSF model-signing: who stands behind it, and that it is unaltered.

``model.sig`` covers every file but the card, which people may write in; ``unlearning/card.sig`` covers what was generated
of the card. Both prove origin and integrity, not that anything was forgotten.
"""

import base64
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .artifact import CARD, CARD_SIGNATURE, SIGNATURE, SIGNATURES, Artifact, sha256
from .card_text import generated
from .errors import ArtifactError, UsageError
from .extras import need
from .net.download import fetched

CARD_STATEMENT = "generated-card.json"  # what is signed of a card, in a folder of its own
UNSIGNED = (CARD, *SIGNATURES, ".cache")  # and what belongs to git:
GITS = (".git", ".gitattributes", ".github", ".gitignore")


class SignatureError(ArtifactError):
    """Something is not signed, not with this key, or not as it was signed."""


def need_signing() -> None:
    """Raise DependencyError where the packages lack; model-signing imports pyOpenSSL, which it does not ask for."""
    need("a signature", "sign", "model_signing", "OpenSSL")


def sign(artifact: Artifact, key: Path) -> None:
    """Write both signatures into an artifact's folder. key: an elliptic-curve private key, PEM without a password.

    Raises UsageError for another key, ArtifactError for an artifact that is not as it was sealed.
    """
    artifact.verify()
    text = _card(artifact)
    signed, card = signed_files(artifact, key), signed_card(text, key)
    (artifact.path / SIGNATURE).write_bytes(signed)
    (artifact.path / CARD_SIGNATURE).write_bytes(card)


def signed_files(artifact: Artifact, key: Path) -> bytes:
    """A signature of all files but the card, as ``model.sig`` holds it. Raises UsageError for a key that is none."""
    return _signed(artifact.path, key)


def signed_card(text: str, key: Path) -> bytes:
    """A signature of what was generated of a card, as ``unlearning/card.sig`` holds it. Raises ArtifactError for a card
    without marks, UsageError for a key that is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        _write_card(Path(folder), text)
        return _signed(Path(folder), key)


def check_signature(artifact: Artifact, key: Path) -> None:
    """Compare an artifact with its signatures. key: the public key of who should have signed it, PEM.

    Raises SignatureError in one line where it is unsigned, signed with another key, or a file was edited, added or
    removed since, or the card's generated part was edited; UsageError for a key that is none. Links are followed, so a
    snapshot of the Hub's cache is as good as a folder.
    """
    for name in SIGNATURES:
        if not (artifact.path / name).is_file():
            raise SignatureError(f"{artifact.path} is not signed: it has no {name}")
    check_files(artifact, artifact.path / SIGNATURE, key)
    check_card(_card(artifact), artifact.path / CARD_SIGNATURE, key)


def check_files(artifact: Artifact, signature: Path, key: Path) -> None:
    """As ``check_signature``, of all but the card, by a signature that may lie elsewhere."""
    _check(artifact.path, signature, key, str(artifact.path))


def check_card(text: str, signature: Path, key: Path) -> None:
    """As ``check_signature``, of what was generated of a card alone."""
    with tempfile.TemporaryDirectory() as folder:
        _write_card(Path(folder), text)
        _check(Path(folder), signature, key, "the card's generated part")


def signed_source(source: str, revision: str | None, key: Path) -> str | None:
    """The revision of an encoder, a folder or a Hub id, that was found to be signed: of a Hub id the very commit.

    Raises what ``check_signature`` raises, and ArtifactError where the Hub does not give it.
    """
    need_signing()
    if Path(source).is_dir():
        check_signature(Artifact.open(source), key)
        return revision
    folder = fetched(source, revision, ["*"], fails_as=ArtifactError)
    check_signature(Artifact.open(folder), key)
    return folder.name


def public_key(key: Path) -> bytes:
    """The public half of a private key, PEM. Raises UsageError for a key that is none."""
    need_signing()
    from cryptography.hazmat.primitives import serialization

    try:
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise _no_key(key, "private", error) from error
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _signed(folder: Path, key: Path) -> bytes:
    need_signing()
    from model_signing import signing

    try:
        config = signing.Config().use_elliptic_key_signer(private_key=key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _no_key(key, "private", error) from error
    with tempfile.TemporaryDirectory() as out:
        file = Path(out) / "model.sig"
        config.set_hashing_config(_hashing()).sign(folder, file)
        return file.read_bytes()


def _check(folder: Path, signature: Path, key: Path, what: str) -> None:
    need_signing()
    from model_signing import verifying

    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _no_key(key, "public", error) from error
    try:
        config.set_hashing_config(_hashing()).verify(folder, signature)
    except Exception as error:  # parsers, cryptography and model-signing have no error in common
        if "Signature mismatch" in str(error):
            told = _difference(folder, _resources(signature))
            card = f"{what} was edited after it was signed"
            raise SignatureError(card if CARD_STATEMENT in told else f"{told} after {what} was signed") from error
        if "Key mismatch" in str(error):
            raise SignatureError(f"{what} was signed with another key than {key}") from error
        raise SignatureError(f"{signature.name} of {what} is no valid signature by {key}: sign anew") from error


def _difference(folder: Path, signed: Mapping[str, str]) -> str:
    """How a folder differs from what was signed, by the first file in the order of the alphabet."""
    covered = (name for name in Artifact(folder).files() if name not in UNSIGNED and name.partition("/")[0] not in GITS)
    there = {name: sha256(folder / name) for name in covered}
    differ = sorted(name for name in {*there, *signed} if there.get(name) != signed.get(name))
    name, more = differ[0], f" (and {len(differ) - 1} more)" if len(differ) > 1 else ""
    return f"{name}{more} was {'removed' if name not in there else 'edited' if name in signed else 'added'}"


def _resources(signature: Path) -> dict[str, str]:
    """The files in a signature that has been found to be by the key, each with its sha256."""
    bundle = json.loads(signature.read_text(encoding="utf-8"))
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return {one["name"]: one["digest"] for one in statement["predicate"]["resources"]}


def _hashing() -> Any:
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=UNSIGNED, ignore_git_paths=True).set_allow_symlinks(True)


def _card(artifact: Artifact) -> str:
    try:
        return (artifact.path / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {artifact.path / CARD}: render it with `unlearn-export card`") from error


def _write_card(folder: Path, text: str) -> None:
    try:
        (folder / CARD_STATEMENT).write_text(json.dumps(generated(text), sort_keys=True), encoding="utf-8")
    except ValueError as error:
        raise ArtifactError(f"the card has no generated part: {error}; render it with `unlearn-export card`") from error


def _no_key(key: Path, kind: str, error: Exception) -> UsageError:
    why = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:120]
    return UsageError(
        f"{key} is no {kind} key that can be used ({why}): give a PEM file of an elliptic-curve key without a password"
    )
