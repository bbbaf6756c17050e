"""What speaks against giving an artifact to everybody; each reason can be named, and then the card tells of it."""

from collections.abc import Collection

from .artifact import Artifact
from .errors import GateError, UsageError
from .gates import Gate, check, not_erased
from .licences import is_declared
from .recipe import BaseRecord

REASONS = {
    "unmeasured": "no picture of it was judged, so nobody knows whether the concept is gone",
    "not-erased": "what was erased is still seen",
    "gated-base": "the base is not open to everybody: its owner lets users in one by one, and its terms bind every copy",
    "unlicensed-base": "the base declares no licence, so nothing says that a copy may be used",
}
ASKED = "gated-base"  # which the Hub alone knows


def objections(artifact: Artifact) -> list[str]:
    """The reasons that the artifact's own files give, in the order of ``REASONS``; the Hub is not asked."""
    report, base = artifact.evaluation, artifact.recipe.base
    text = (artifact.path / "LICENSE").read_text(encoding="utf-8", errors="replace")
    found = {
        "unmeasured": report is None or not report.pipelines,
        "not-erased": bool(not_erased(report)),
        "unlicensed-base": not is_declared(base.license, text),
    }
    return [reason for reason in REASONS if found.get(reason)]


def check_release(found: Collection[str], despite: Collection[str]) -> None:
    """Raise GateError for a reason that nobody named."""
    if unnamed := [reason for reason in found if reason not in despite]:
        told = "; ".join(REASONS[reason] for reason in unnamed)
        flags = " ".join(f"--despite {reason}" for reason in unnamed)
        raise GateError(f"not published for everybody: {told}; leave --public out, or pass {flags}")


def check_named(found: Collection[str], despite: Collection[str]) -> None:
    """Raise UsageError for a reason that is none, or that does not hold: a habit of naming them all would say nothing."""
    for reason in despite:
        if reason not in REASONS:
            raise UsageError(f"no reason is called {reason!r}: choose from {', '.join(REASONS)}")
        if reason not in found:
            raise UsageError(f"--despite {reason} does not hold of this artifact: leave it out")


def check_gates(artifact: Artifact, require: str) -> None:
    """Raise GateError unless the gates are met, as ``Gate.parse`` reads them, by what the artifact records."""
    if failed := check(artifact.evaluation, Gate.parse(require), artifact.probe):
        raise GateError(f"gate not met: {'; '.join(failed)}")


def hub_base(base: BaseRecord) -> str | None:
    """The Hub id of a base that was downloaded; None of one that was a folder, a file or embedded."""
    return base.source if base.revision and not base.source.startswith("./") else None
