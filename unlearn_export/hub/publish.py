"""Publish an artifact folder to the Hugging Face Hub: one commit of what differs, on the very head that was looked at."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import GitRefInfo
from huggingface_hub.utils import validate_repo_id

from ..artifact import CARD, CARD_SIGNATURE, Artifact
from ..card_text import reconciled
from ..errors import AuthenticationError, ConflictError, HubError, UsageError
from ..net.endpoint import check_endpoint
from ..net.requests import HUB_ERRORS, WAITS, ask, explained, is_lost, one_line, pause, sent_once, status_of
from ..release import ASKED, check_gates, check_named, check_release, hub_base, objections
from .remote import Changes, Content, Contents, Remote, Tree, differing, head_of, is_open
from .signed import check_signed_card, held, signatures

MESSAGE = "Publish the edited text encoder"
TAG = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")
STALE = (409, 412)  # the parent that a commit names is no longer the head


@dataclass(frozen=True)
class Pushed:
    """What a push put on the Hub, or would put there.

    url: the commit's page, or the pull request's; after a dry run the repo's.
    revision: the commit's oid; empty after a dry run.
    files: every (path, bytes) of the artifact, sorted. changes: what differed there; None after a dry run, which does not
    look.
    """

    url: str
    revision: str
    repo_id: str
    files: tuple[tuple[str, int], ...]
    tag: str | None = None
    changes: Changes | None = None

    @property
    def sent(self) -> tuple[tuple[str, int], ...]:
        """The files that were new there or other ones, each with its bytes."""
        there = self.changes.unchanged if self.changes else ()
        return tuple((name, size) for name, size in self.files if name not in there)


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    create_pr: bool = False,
    tag: str | None = None,
    dry_run: bool = False,
    message: str | None = None,
    card: str | Callable[[], str] | None = None,
    replace_card: bool = False,
    require: str = "",
    despite: Sequence[str] = (),
    sign_key: Path | None = None,
) -> Pushed:
    """Publish a finished artifact folder as exactly one commit, and tag that commit where ``tag`` is given.

    The repo is created where it does not exist. Files of an artifact that was published there before, as its manifest
    lists them, go where this one has none of that name; all others that the artifact has not are left alone.
    card: takes the place of the folder's README.md, such as one whose snippets name the repo, or makes it
    once the folder is verified; None sends the file. What
    somebody wrote into the card on the Hub outside of its generated part stays, unless ``replace_card``.
    Where the folder is on the Hub already, no commit is made and the newest one is returned. A dry run makes the
    local checks and sends no request at all. Afterwards the commit is read back and compared, by hash and size.
    require: gates, as ``Gate.parse`` reads them. despite: reasons of ``release.REASONS`` against giving it to everybody
    that are known to whoever publishes it. The Hub is asked whether a base that came from there is open to everybody;
    after a dry run that is not known. sign_key: a private key (see ``signature``); what is sent is signed with it, the
    folder stays as it is, and signatures by it that are there and hold are kept.

    The token is HF_TOKEN's or the saved login's. Raises ArtifactError where the folder does not match its manifest,
    UsageError where the token would travel unencrypted or a reason does not hold, GateError where a gate is not met or a
    reason was not named, ConflictError where the head moved meanwhile, the tag is at
    another commit or two cards differ, other HubErrors where the name or tag is unusable, the repo is public and should
    be private (or the reverse), or the Hub refuses, cannot be reached or keeps something else than was sent. Nothing is
    sent before the folder is verified, and nothing is committed before visibility, tag and card are checked.
    """
    _check_names(repo_id, tag)
    artifact = Artifact.open(folder)
    artifact.verify()
    check_gates(artifact, require)
    reasons = [] if private else objections(artifact)
    check_release(reasons, despite)
    if private and despite:
        raise UsageError("--despite belongs to --public: leave it out, or give both")
    contents: Contents = {name: Content(artifact.path / name) for name in artifact.files()}
    if card is not None:
        contents[CARD] = Content((card if isinstance(card, str) else card()).encode())
    if sign_key is not None:
        contents |= signatures(artifact, contents[CARD].text, sign_key)
    elif CARD_SIGNATURE in contents:
        check_signed_card(artifact, contents[CARD].text, repo_id)
    planned = Pushed(f"{constants.ENDPOINT}/{repo_id}", "", repo_id, _sizes(contents), tag)
    asked = None if private else hub_base(artifact.recipe.base)
    check_named([*reasons, ASKED] if asked else reasons, despite)
    if dry_run:
        return planned

    remote = Remote(HfApi(token=_token(repo_id), library_name="unlearn-export"), repo_id)
    if asked and not is_open(asked):
        reasons.append(ASKED)
        check_release(reasons, despite)
    check_named(reasons, despite)
    ask(repo_id, lambda: remote.api.create_repo(repo_id, private=private, exist_ok=True))
    _check_visibility(repo_id, bool(ask(repo_id, lambda: remote.api.repo_info(repo_id)).private), private)
    refs = remote.refs()
    head = head_of(refs.branches)
    tree = remote.tree(head)
    if CARD in tree and CARD in contents and head and not replace_card:
        contents[CARD] = _with_their_card(remote, tree, contents[CARD], head)
    if sign_key is not None and head:
        contents |= held(artifact, contents[CARD].text, sign_key, remote, tree, head)
    changes = Changes.between(contents, remote, tree, head)
    _check_tag(repo_id, tag, refs.tags, None if changes.needed else head)

    url, revision = f"{constants.ENDPOINT}/{repo_id}/commit/{head}", str(head)
    if changes.needed:
        commit = _Commit(remote, contents, changes, message or MESSAGE, head, create_pr, refs.pull_requests or [])
        url, revision = commit.make()
        if wrong := differing(remote.tree(revision), contents, changes.deleted):
            raise HubError(f"{url} was made, but its {wrong} is not what was sent: do not use it, and push again")
    if tag is not None:
        _tag(remote, tag, revision, url)
    return replace(planned, url=url, revision=revision, files=_sizes(contents), changes=changes)


@dataclass(frozen=True)
class _Commit:
    """One commit on top of ``head``. pulls: the pull requests that were there before."""

    remote: Remote
    contents: Contents
    changes: Changes
    message: str
    head: str | None
    create_pr: bool
    pulls: Sequence[GitRefInfo]

    def make(self) -> tuple[str, str]:
        """Its page and its oid, made once whatever gets lost on the way: the head that it names can have one child.

        Raises ConflictError where the head has moved and does not hold what was to be committed.
        """
        added = [*self.changes.new, *self.changes.changed]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, self.contents[name].data) for name in added),
            *(CommitOperationDelete(name) for name in self.changes.deleted),
        ]
        for wait in (*WAITS, None):
            try:
                info = self.remote.api.create_commit(
                    self.remote.repo_id,
                    operations,
                    commit_message=self.message,
                    create_pr=self.create_pr,
                    parent_commit=self.head,
                )
                return info.pr_url or info.commit_url, info.oid
            except HUB_ERRORS as error:
                if (is_lost(error) or status_of(error) in STALE) and (landed := self._landed(error)):
                    return landed
                seconds = wait if status_of(error) is None and is_lost(error) else pause(error, wait)
                if seconds is None or not (sent_once(error) or status_of(error) is None):
                    told = explained(error, self.remote.repo_id)
                    raise (type(told)(f"{told}; the commit was not seen there") if is_lost(error) else told) from error
            time.sleep(seconds)
        raise AssertionError("the last try returns or raises")

    def _landed(self, error: Exception) -> tuple[str, str] | None:
        """The page and the oid of what holds this commit's files already; None where nothing has moved."""
        try:
            refs = self.remote.refs()
            heads = (
                [] if self.create_pr else [ref for ref in refs.branches if ref.target_commit == head_of(refs.branches)]
            )
            if self.create_pr:
                known = {(ref.ref, ref.target_commit) for ref in self.pulls}
                heads = [ref for ref in refs.pull_requests or [] if (ref.ref, ref.target_commit) not in known]
            for ref in heads:
                if ref.target_commit != self.head and self._is(ref.target_commit):
                    page = f"discussions/{ref.ref.rsplit('/')[-1]}" if self.create_pr else f"commit/{ref.target_commit}"
                    return f"{self.remote.api.endpoint}/{self.remote.repo_id}/{page}", ref.target_commit
            moved = head_of(refs.branches)
        except HubError:
            return None  # the Hub is still away: the first error is the one to report
        if moved != self.head:
            raise ConflictError(
                f"{self.remote.repo_id} was changed at the same time: it is at {str(moved)[:12]} now, with other files, and "
                "nothing was overwritten; look at what is there, then push again"
            ) from error
        return None

    def _is(self, revision: str) -> bool:
        return differing(self.remote.tree(revision), self.contents, self.changes.deleted) is None


def _token(repo_id: str) -> str:
    check_endpoint()
    token = ask(repo_id, get_token)
    if not token:
        raise AuthenticationError("no Hugging Face token: set HF_TOKEN or run `hf auth login`, then push again")
    return token


def _sizes(contents: Contents) -> tuple[tuple[str, int], ...]:
    return tuple((name, content.size) for name, content in sorted(contents.items()))


def _check_names(repo_id: str, tag: str | None) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(one_line(error)) from error
    if "/" not in repo_id:
        raise HubError(f"{repo_id!r} has no owner: give it as owner/name")
    if tag is not None and not TAG.fullmatch(tag):
        raise HubError(f"{tag!r} cannot be a tag: use letters and digits, joined by single '.', '_' or '-'")


def _check_visibility(repo_id: str, is_private: bool, private: bool) -> None:
    if private and not is_private:
        raise HubError(f"{repo_id} is public and this push is private: choose another name, or push with --public")
    if is_private and not private:
        raise HubError(f"{repo_id} is private and this push is public: make it public on the Hub, or drop --public")


def _with_their_card(remote: Remote, tree: Tree, ours: Content, head: str) -> Content:
    """The card with what somebody wrote around its generated part on the Hub."""
    if ours.is_at(tree[CARD]):
        return ours
    both = reconciled(ours.text, remote.read(CARD, head).decode("utf-8", "replace"))
    if both is None:
        raise ConflictError(
            f"the card of {remote.repo_id} has text of its own, and so has the one here: copy theirs into README.md, or "
            "send this one as it is with --replace-card"
        )
    return Content(both.encode())


def _check_tag(repo_id: str, tag: str | None, tags: Sequence[GitRefInfo], revision: str | None) -> None:
    """Raise ConflictError where the tag is there, at another commit than ``revision``; None is one still to be made."""
    for ref in tags:
        if ref.name == tag and ref.target_commit != revision:
            raise ConflictError(
                f"{repo_id} has a tag {tag!r} already, at {ref.target_commit[:12]}: choose another one, or delete it there"
            )


def _tag(remote: Remote, tag: str, revision: str, url: str) -> None:
    """Tag a commit; it may be tagged so already."""

    def create() -> None:
        try:
            remote.api.create_tag(remote.repo_id, tag=tag, revision=revision)
        except HUB_ERRORS as error:
            if status_of(error) != 409 and not (is_lost(error) and status_of(error) is None):
                raise
            there = {ref.name: ref.target_commit for ref in remote.refs().tags}
            if there.get(tag) != revision:
                raise

    try:
        ask(remote.repo_id, create)
    except HubError as error:
        raise type(error)(f"pushed {url}, but the tag {tag!r} failed: {error}") from error
