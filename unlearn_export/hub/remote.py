"""What a repository on the Hub holds, beside what is here: what a push adds, changes, deletes and leaves alone."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.hf_api import GitRefInfo, GitRefs, RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

from ..artifact import CARD, MANIFEST, SIGNATURES, sha256
from ..errors import AuthenticationError, NotFoundError
from ..net.requests import HUB_ERRORS, ask, explained

BRANCH = "main"
Tree = dict[str, RepoFile]


@dataclass(frozen=True)
class Content:
    """What is to be at one path: a file here, or bytes. It is hashed when first asked for, and once."""

    data: Path | bytes

    @cached_property
    def size(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.stat().st_size

    @property
    def text(self) -> str:
        """As UTF-8."""
        return self.data.decode() if isinstance(self.data, bytes) else self.data.read_text(encoding="utf-8")

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest() if isinstance(self.data, bytes) else sha256(self.data)

    def is_at(self, entry: RepoFile) -> bool:
        """Whether it is this file there: by size, and large files by sha256, the others by git's name for their bytes."""
        if entry.size != self.size:
            return False
        if entry.lfs is not None:
            return bool(entry.lfs.sha256 == self.sha256)
        data = self.data if isinstance(self.data, bytes) else self.data.read_bytes()
        return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())


Contents = dict[str, Content]  # by path in the repository


@dataclass(frozen=True)
class Remote:
    """A model repository, read with a token. Every method raises HubError where the Hub refuses or is away."""

    api: HfApi
    repo_id: str

    def refs(self) -> GitRefs:
        return ask(self.repo_id, lambda: self.api.list_repo_refs(self.repo_id, include_pull_requests=True))

    def head(self) -> str | None:
        """The commit that main is at; None of a repository without any."""
        return head_of(self.refs().branches)

    def tree(self, revision: str | None) -> Tree:
        """Every file of a commit."""
        if revision is None:
            return {}
        try:
            entries = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision)
            return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        except HUB_ERRORS as error:
            raise explained(error, self.repo_id) from error

    def read(self, path: str, revision: str) -> bytes:
        """A small file's content."""
        url = hf_hub_url(self.repo_id, path, revision=revision, endpoint=self.api.endpoint)
        try:
            answer = http_backoff("GET", url, headers=build_hf_headers(token=self.api.token))
            hf_raise_for_status(answer)
            return bytes(answer.content)
        except HUB_ERRORS as error:
            raise explained(error, self.repo_id) from error

    def published(self, tree: Tree, revision: str) -> dict[str, str]:
        """The files of an artifact that is there, each with its sha256, as its manifest lists them."""
        if MANIFEST not in tree:
            return {}
        try:
            listed = json.loads(self.read(MANIFEST, revision))["files"]
            return {str(name): str(digest) for name, digest in listed.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}  # somebody else's file of that name


@dataclass(frozen=True)
class Changes:
    """What a push does to a repository's files; each tuple is sorted.

    deleted: files of the artifact that was there before, as they were published, which this one has not. left: files that
    somebody else put there, or altered.
    """

    new: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    deleted: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def needed(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.new or self.changed or self.deleted)

    @classmethod
    def between(cls, contents: Contents, remote: Remote, tree: Tree, revision: str | None) -> "Changes":
        """The difference from a commit's tree."""
        others = sorted(tree.keys() - contents.keys() - {".gitattributes"})
        listed = remote.published(tree, revision) if revision and others else {}

        def is_ours(name: str) -> bool:
            if name in SIGNATURES and listed:
                return True  # of what was published there, which this one is not
            if name not in listed or name in (CARD, MANIFEST):
                return False
            lfs = tree[name].lfs
            found = lfs.sha256 if lfs else hashlib.sha256(remote.read(name, str(revision))).hexdigest()
            return found == listed[name]

        deleted = tuple(filter(is_ours, others))
        kept = {name for name in contents.keys() & tree.keys() if contents[name].is_at(tree[name])}
        return cls(
            tuple(sorted(contents.keys() - tree.keys())),
            tuple(sorted((contents.keys() & tree.keys()) - kept)),
            tuple(sorted(kept)),
            deleted,
            tuple(name for name in others if name not in deleted),
        )


def is_open(repo_id: str) -> bool:
    """Whether everybody may read a repository, without a token and without being let in.

    Raises HubError where the Hub does not say.
    """
    try:
        return not ask(repo_id, lambda: HfApi(token=False).model_info(repo_id)).gated
    except (NotFoundError, AuthenticationError):
        return False


def head_of(branches: list[GitRefInfo]) -> str | None:
    return next((ref.target_commit for ref in branches if ref.name == BRANCH), None)


def differing(tree: Tree, contents: Contents, deleted: tuple[str, ...]) -> str | None:
    """The first file of a tree that is not as it was to become; None where all are."""
    wrong = [name for name, content in contents.items() if name not in tree or not content.is_at(tree[name])]
    return next(iter([*wrong, *(name for name in deleted if name in tree)]), None)
