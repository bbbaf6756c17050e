"""unlearning/certificate.json: an in-toto statement of what the files were made of and how, in the form of SLSA provenance.

It says where files come from and that they are those; nobody should take it for a proof that something was forgotten.
"""

from collections.abc import Mapping
from typing import Any

from .artifact import CERTIFICATE, MANIFEST, Artifact, read_json, sha256, write_json
from .recipe import Recipe, told
from .records import as_json

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD = "urn:unlearn-export:erase:v1"
WEIGHTS = (".safetensors", ".onnx", ".onnx_data")
PROVES = "origin and integrity of these files; not that anything was forgotten"


def certify(artifact: Artifact) -> None:
    """Seal an artifact, with a statement about what was sealed among its files."""
    artifact.seal()
    manifest = read_json(artifact.path / MANIFEST)
    digests = {name: digest for name, digest in manifest["files"].items() if name != CERTIFICATE}
    write_json(artifact.path / CERTIFICATE, statement(artifact.recipe, digests))
    digests[CERTIFICATE] = sha256(artifact.path / CERTIFICATE)
    write_json(artifact.path / MANIFEST, manifest | {"files": digests})


def statement(recipe: Recipe, digests: Mapping[str, str]) -> dict[str, Any]:
    """The statement about files, each with its sha256: the weights and graphs are its subject, all else came of them."""
    subject = [_resource(name, digest) for name, digest in digests.items() if name.endswith(WEIGHTS)]
    others = [_resource(name, digest) for name, digest in digests.items() if not name.endswith(WEIGHTS)]
    return {
        "_type": STATEMENT,
        "subject": subject,
        "predicateType": PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {
                    "concepts": as_json(recipe.concepts),
                    "method": as_json(recipe.method),
                    "seed": recipe.seed,
                },
                "internalParameters": {"versions": dict(recipe.versions)},
                "resolvedDependencies": _dependencies(recipe),
            },
            "runDetails": {
                "builder": {"id": "urn:unlearn-export", "version": dict(recipe.versions)},
                "byproducts": others,
            },
            "unlearn-export_proves": PROVES,
        },
    }


def _dependencies(recipe: Recipe) -> list[dict[str, Any]]:
    """The base's encoders and tokenizers, the file that they came in, and the pictures that were looked at."""
    base = recipe.base
    uri = {"uri": f"pkg:huggingface/{base.source}@{base.revision}"} if base.revision else {}
    found = []
    for name, seat in told(recipe.to_json()).items():
        weights = seat.get("sha256", base.text_encoder_sha256)
        words = seat.get("tokenizer_sha256", base.tokenizer_sha256)
        found.append(_resource(f"base/{name}", weights) | uri)
        found.append(_resource(f"base/{seat['tokenizer']}", words) | uri)
    if base.file:
        found.append(_resource(f"base/{base.source.removeprefix('./')}", base.file.sha256))
    for picture in (picture for shot in recipe.images for picture in shot):
        # of a picture that the base drew itself, the hash is of its latents
        name = f"images/{picture['file']}" if "file" in picture else f"latents/{picture.get('prompt', '')}"
        found.append(_resource(name, picture["sha256"]))
    return found


def _resource(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}
