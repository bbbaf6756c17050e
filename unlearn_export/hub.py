"""Publish an artifact folder to the Hugging Face Hub, as one commit."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import GitRefInfo, RepoFile
from huggingface_hub.utils import validate_repo_id

from .artifact import CARD, Artifact, sha256
from .errors import HubError

BRANCH = "main"
MESSAGE = "Publish the edited text encoder"
TAG = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")
# What the client raises for trouble outside this machine: its transport's errors, refused requests (OSError too),
# a card that the Hub rejects (ValueError), and an upload that failed in a thread (RuntimeError).
HUB_ERRORS = (HTTPError, OSError, ValueError, RuntimeError)
T = TypeVar("T")
Contents = dict[str, Path | bytes]  # path in the repository → a file here, or its bytes


@dataclass(frozen=True)
class Pushed:
    """What a push put on the Hub, or would put there.

    url: the commit's page, or the pull request's; after a dry run the repo's.
    revision: the commit's oid; empty after a dry run.
    files: every (path, bytes) of the artifact, sorted.
    """

    url: str
    revision: str
    repo_id: str
    files: tuple[tuple[str, int], ...]
    tag: str | None = None


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    create_pr: bool = False,
    tag: str | None = None,
    dry_run: bool = False,
    message: str | None = None,
    card: str | None = None,
) -> Pushed:
    """Publish a finished artifact folder as exactly one commit, and tag that commit where ``tag`` is given.

    The repo is created where it does not exist. Files that the Hub has and the artifact has not are left alone.
    card: takes the place of the folder's README.md, such as one whose snippets name the repo; None sends the file.
    Where the folder is on the Hub already, no commit is made and the newest one is returned. A dry run makes the
    local checks and sends no request at all.

    The token is HF_TOKEN's or the saved login's. Raises ArtifactError where the folder does not match its manifest,
    HubError where the name or tag is unusable, the repo is public and should be private (or the reverse), the tag
    exists, or the Hub refuses or cannot be reached. Nothing is sent before the folder is verified, and nothing is
    committed before visibility and tag are checked.
    """
    _check_names(repo_id, tag)
    artifact = Artifact.open(folder)
    artifact.verify()
    contents: Contents = {name: artifact.path / name for name in artifact.files()}
    if card is not None:
        contents[CARD] = card.encode()
    files = tuple((name, len(c) if isinstance(c, bytes) else c.stat().st_size) for name, c in contents.items())
    if dry_run:
        return Pushed(f"{constants.ENDPOINT}/{repo_id}", "", repo_id, files, tag)

    token = _ask(repo_id, get_token)
    if not token:
        raise HubError("no Hugging Face token: set HF_TOKEN or run `hf auth login`, then push again")
    api = HfApi(token=token, library_name="unlearn-export")
    _ask(repo_id, lambda: api.create_repo(repo_id, private=private, exist_ok=True))
    _check_visibility(repo_id, bool(_ask(repo_id, lambda: api.repo_info(repo_id)).private), private)
    refs = _ask(repo_id, lambda: api.list_repo_refs(repo_id, include_pull_requests=True))
    if tag in [ref.name for ref in refs.tags]:
        raise HubError(f"{repo_id} has a tag {tag!r} already: choose another one, or delete it there first")

    before = [*refs.branches, *(refs.pull_requests or [])]
    url, revision = _commit(api, repo_id, contents, create_pr=create_pr, message=message or MESSAGE, before=before)
    if tag is not None:
        try:
            api.create_tag(repo_id, tag=tag, revision=revision)
        except HUB_ERRORS as error:
            raise HubError(f"pushed {url}, but the tag {tag!r} failed: {_explain(error, repo_id)}") from error
    return Pushed(url, revision, repo_id, files, tag)


def _check_names(repo_id: str, tag: str | None) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(_one_line(error)) from error
    if "/" not in repo_id:
        raise HubError(f"{repo_id!r} has no owner: give it as owner/name")
    if tag is not None and not TAG.fullmatch(tag):
        raise HubError(f"{tag!r} cannot be a tag: use letters and digits, joined by single '.', '_' or '-'")


def _check_visibility(repo_id: str, is_private: bool, private: bool) -> None:
    if private and not is_private:
        raise HubError(f"{repo_id} is public and this push is private: choose another name, or push with --public")
    if is_private and not private:
        raise HubError(f"{repo_id} is private and this push is public: make it public on the Hub, or drop --public")


def _commit(
    api: HfApi, repo_id: str, contents: Contents, *, create_pr: bool, message: str, before: Sequence[GitRefInfo]
) -> tuple[str, str]:
    """The page and the oid of one new commit of ``contents``."""
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    try:
        info: CommitInfo = api.create_commit(repo_id, operations, commit_message=message, create_pr=create_pr)
        return info.pr_url or info.commit_url, info.oid
    except HUB_ERRORS as error:
        if not _is_lost(error):
            raise HubError(_explain(error, repo_id)) from error
        landed = _find_landed(api, repo_id, contents, create_pr=create_pr, before=before)
        if landed is None:
            raise HubError(f"{_explain(error, repo_id)}; the commit was not seen there") from error
        page = f"discussions/{landed.ref.rsplit('/')[-1]}" if create_pr else f"commit/{landed.target_commit}"
        return f"{api.endpoint}/{repo_id}/{page}", landed.target_commit


def _find_landed(
    api: HfApi, repo_id: str, contents: Contents, *, create_pr: bool, before: Sequence[GitRefInfo]
) -> GitRefInfo | None:
    """The head that moved since ``before`` and holds every file as it is here: the commit whose answer was lost."""
    known = {(ref.ref, ref.target_commit) for ref in before}
    try:
        refs = api.list_repo_refs(repo_id, include_pull_requests=True)
        heads = refs.pull_requests or [] if create_pr else [ref for ref in refs.branches if ref.name == BRANCH]
        for head in heads:
            if (head.ref, head.target_commit) not in known and _holds(api, repo_id, head.target_commit, contents):
                return head
    except HUB_ERRORS:
        pass  # the Hub is still away: the first error is the one to report
    return None


def _holds(api: HfApi, repo_id: str, revision: str, contents: Contents) -> bool:
    entries = {entry.path: entry for entry in api.get_paths_info(repo_id, list(contents), revision=revision)}
    return all(isinstance(entry := entries.get(name), RepoFile) and _same(entry, c) for name, c in contents.items())


def _same(entry: RepoFile, content: Path | bytes) -> bool:
    """Large files are compared by sha256, the others by git's own name for their content."""
    if entry.lfs is not None and isinstance(content, Path):
        return entry.lfs.sha256 == sha256(content)
    content = content if isinstance(content, bytes) else content.read_bytes()
    if entry.lfs is not None:
        return entry.lfs.sha256 == hashlib.sha256(content).hexdigest()
    return entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _ask(repo_id: str, request: Callable[[], T]) -> T:
    """The answer to a request. Raises HubError in place of the client's own errors."""
    try:
        return request()
    except HUB_ERRORS as error:
        raise HubError(_explain(error, repo_id)) from error


def _is_lost(error: Exception) -> bool:
    """Whether the request may have been carried out all the same: no answer came, or a gateway's."""
    if isinstance(error, (OfflineModeIsEnabled, ValueError, RuntimeError)):
        return False
    return _status(error) is None or _status(error) in (500, 502, 503, 504)


def _explain(error: BaseException, repo_id: str) -> str:
    """One line for the user: the fact, the value, the next step."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # "Error while uploading …" hides the reason
    hub = constants.ENDPOINT
    status = _status(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on: unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE, then push again"
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated and this token is not admitted: ask for access at {hub}/{repo_id}"
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return f"{hub} does not accept this token (401): renew HF_TOKEN or run `hf auth login`, then push again"
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo_id} does not exist or this token may not see it: check the name and the token's permissions"
    if status == 403:
        return f"this token may not write to {repo_id} (403): use one with write access, or push under your own name"
    if status == 409:
        return f"{repo_id} was changed at the same time (409): push again"
    if status == 429:
        return f"{hub} allows no more requests for now (429): wait some minutes, then push again"
    if status is not None and status >= 500:
        return f"{hub} has a fault of its own ({status}): push again later"
    if status is not None:
        return f"{hub} refused the push of {repo_id} ({status}): {_one_line(error)}"
    if isinstance(error, ValueError) and "README.md" in str(error):
        return f"{hub} rejects the model card: {_one_line(error)} Correct README.md, then push again"
    if isinstance(error, (HTTPError, OSError)):
        return f"cannot reach {hub} ({_one_line(error)}): check the network and HF_ENDPOINT, then push again"
    return f"the push to {repo_id} failed: {_one_line(error)}"


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
