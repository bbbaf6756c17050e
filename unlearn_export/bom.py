"""An artifact as a machine-learning bill of materials, CycloneDX 1.6: what it is, what it was made of, what it is good for."""

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from .artifact import Artifact, sha256
from .certificate import PROVES, WEIGHTS
from .recipe import FIRST_CLASS, told

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"


def bill(artifact: Artifact) -> dict[str, Any]:
    """The bill as JSON: the edited encoders as one model with its files, and the base that it was made from.

    The same artifact gives the same bill. Raises ArtifactError where the recipe or the evaluation cannot be read.
    """
    recipe, base = artifact.recipe, artifact.recipe.base
    files = [name for name in artifact.files() if name.endswith(WEIGHTS)]
    hashes = {name: sha256(artifact.path / name) for name in files}
    names = ", ".join(c.name for c in recipe.concepts)
    source = {"type": "machine-learning-model", "bom-ref": "base", "name": base.source.removeprefix("./")}
    if base.revision:
        source |= {"version": base.revision, "purl": f"pkg:huggingface/{base.source}@{base.revision}"}
    licences = [{"license": {"name": base.license}}]
    seats = told(recipe.to_json())
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": f"text encoder without {names}",
        "licenses": licences,
        "pedigree": {
            "ancestors": [source | {"licenses": licences, "hashes": [_sha(base.text_encoder_sha256)]}],
            "notes": f"edited by the method {recipe.method.name}, seed {recipe.seed}",
        },
        "components": [
            {"type": "file", "bom-ref": name, "name": name, "hashes": [_sha(digest)]} for name, digest in hashes.items()
        ],
        "modelCard": {
            "modelParameters": {
                "task": "feature-extraction",
                "architectureFamily": ", ".join(sorted({about.get("family", "clip") for about in seats.values()})),
                "modelArchitecture": ", ".join(
                    sorted({about.get("architecture", FIRST_CLASS) for about in seats.values()})
                ),
            },
            "considerations": {
                "useCases": [
                    "in place of the base's text encoder, so that prompts that name the concept do not draw it"
                ],
                "technicalLimitations": [
                    f"this bill tells {PROVES}",
                    "undone by whoever loads the base's own encoder, and relearned by fine-tuning",
                ],
            },
            **_measured(artifact),
        },
    }
    whole = ":".join(hashes.values())
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, whole)}",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [
                    {"type": "application", "name": "unlearn-export", "version": recipe.versions["unlearn-export"]}
                ]
            },
            "component": model,
        },
        "dependencies": [{"ref": "model", "dependsOn": list(hashes)}],
    }


def _measured(artifact: Artifact) -> dict[str, Any]:
    report = artifact.evaluation
    metrics = [
        {"type": "erased concept still seen", "value": str(seen.after.erased.told), "slice": name}
        for name, seen in (report.pipelines.items() if report else ())
        if seen.after.erased.told is not None
    ]
    return {"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}


def _sha(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}
