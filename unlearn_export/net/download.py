"""Files of a repository on the Hub, brought into its cache."""

from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from ..errors import UnlearnExportError
from .endpoint import check_endpoint
from .requests import code_of


def fetched(
    source: str,
    revision: str | None,
    patterns: Sequence[str],
    *,
    ignore: Sequence[str] = (),
    fails_as: Callable[[str], UnlearnExportError],
) -> Path:
    """The snapshot's folder, named after its commit, with the files that match ``patterns`` and none of ``ignore``.

    fails_as: the error for a message; it gets the exit code that says why the Hub did not give them.
    Raises that, and UsageError where a token would travel unencrypted.
    """
    check_endpoint()
    try:
        return Path(
            snapshot_download(source, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(ignore))
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {revision}" if revision else ""
        told = fails_as(f"cannot get {source}{at}: no such folder, and the Hub says: {str(error).splitlines()[0]}")
        told.exit_code = code_of(error)
        raise told from error
