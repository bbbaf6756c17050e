"""Probe an artifact on disk and keep the result in it."""

from collections.abc import Sequence

from ..artifact import Artifact, renewed
from ..scorers import load_scorer
from ..stages import base_of, finish, read_encoders
from .run import Probe, probe
from .subject import Attack, OnProgress


def probe_artifact(
    artifact: Artifact,
    attacks: Sequence[Attack] | None = None,
    *,
    seed: int = 0,
    source: str | None = None,
    config: str | None = None,
    scorer: str | None = None,
    strict: bool = False,
    on_progress: OnProgress | None = None,
) -> Probe:
    """Attack an artifact's encoders, write unlearning/probe.json, and renew the manifest and the card.

    source, config: as ``base_of`` takes them. scorer: as ``load_scorer`` names them; None takes the one that
    the base's profile names, if any: without one only attacks without pictures run.
    Raises what ``base_of`` and ``probe`` raise; then nothing was written.
    """
    with renewed(artifact) as twin:
        base = base_of(artifact, source, config)
        concepts = artifact.recipe.concepts
        scorer = scorer or base.scorer
        result = probe(
            base,
            read_encoders(base, artifact),
            concepts,
            load_scorer(scorer, base, concepts) if scorer else None,
            attacks,
            seed=seed,
            guidance=base.guidance,
            strict=strict,
            on_progress=on_progress,
        )
        result.write(twin.path / "unlearning")
        finish(twin)
    return result
