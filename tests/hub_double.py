"""A Hugging Face Hub for tests: speaks what huggingface_hub 2 sends, over plain HTTP on this machine, from a folder.

```python
with HubDouble(folder, token="hf_test") as hub:
    subprocess.run(..., env={"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"})
```
or `python tests/hub_double.py --folder DIR --port 0`, whose first line on stdout is its URL. Clients need
HF_HUB_DISABLE_XET=1 unless a folder for Xet is given: large files travel as LFS, basic or multipart, to and from a second
origin (the CDN).
State survives a restart: blobs/ holds contents by sha256, state.json the repos.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".onnx", ".onnx_data", ".bin", ".pt", ".mp4", ".zip")
LFS_BYTES = 10 * 2**20
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]*\w)?")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
LICENSES = (
    "apache-2.0 mit openrail openrail++ creativeml-openrail-m bigscience-openrail-m cc0-1.0 cc-by-4.0 cc-by-sa-4.0 "
    "cc-by-nc-4.0 cc-by-nc-sa-4.0 bsd-2-clause bsd-3-clause gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 other unknown"
)
PIPELINE_TAGS = (
    "text-to-image text-to-video image-to-image image-to-video feature-extraction sentence-similarity "
    "zero-shot-image-classification text-generation fill-mask image-feature-extraction other"
)
RELATIONS = "adapter merge quantized finetune"


class Refused(Exception):
    """A request's error reply. code goes into X-Error-Code, which the client's typed errors hang on."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.body, self.headers = status, message, code, body, headers or {}


class Dropped(Exception):
    """The connection closes without an answer."""


class HubDouble:
    """The double. ``user`` and ``orgs`` are the namespaces that the token may write to.

    part_size: larger LFS files are uploaded in parts of so many bytes.
    xet: a folder in place of Xet's content-addressed store, for clients that use one; what they say is there is believed.
    requests: every (method, path?query) that arrived, in order.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        token: str = "hf_test",
        user: str = "owner",
        orgs: tuple[str, ...] = (),
        port: int = 0,
        part_size: int = 16 * 2**20,
        xet: Path | None = None,
    ):
        self.folder, self.token, self.user, self.orgs, self.part_size = Path(folder), token, user, orgs, part_size
        self.xet = xet
        self.blobs = self.folder / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.state = self.folder / "state.json"
        self.repos: dict[str, dict[str, Any]] = json.loads(self.state.read_text()) if self.state.exists() else {}
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self._faults: list[tuple[re.Pattern[str], int, str | None, dict[str, str]]] = []
        self._drop: str | None = None
        self._altered: dict[str, bytes | None] = {}
        self._parts: dict[str, dict[int, Path]] = {}
        self._hub = _Server(port, HubHandler, self)
        self._cdn = _Server(0, CdnHandler, self)
        self.url, self.cdn_url = self._hub.url, self._cdn.url

    def __enter__(self) -> Self:
        for server in (self._hub, self._cdn):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    # What tests ask and arrange

    @property
    def writes(self) -> list[tuple[str, str]]:
        """The requests that upload or change something: all but GET, HEAD and the two POSTs that only look."""
        looks = ("/api/validate-yaml", "/paths-info/")
        return [
            (method, path)
            for method, path in self.requests
            if method not in ("GET", "HEAD") and not any(look in path for look in looks)
        ]

    def commits(self, repo_id: str, revision: str = "main") -> list[dict[str, Any]]:
        """A revision's commits, newest first. The first of a repo is the Hub's own, with .gitattributes."""
        commits = self.repos[repo_id]["commits"]
        chain, oid = [], self.resolve(repo_id, revision)
        while oid:
            chain.append(commits[oid])
            oid = commits[oid]["parent"]
        return chain

    def fail_next(
        self, path: str, status: int, *, code: str | None = None, times: int = 1, headers: dict[str, str] | None = None
    ) -> None:
        """Refuse the next requests whose path matches the regular expression, before they have any effect.

        status: 0 closes the connection without an answer.
        """
        self._faults += [(re.compile(path), status, code, headers or {})] * times

    def alter_next_commit(self, path: str, content: bytes | None) -> None:
        """Keep something else at one path of the next commit than was sent; None keeps nothing."""
        self._altered = {path: content}

    def drop_next_commit_answer(self, *, landed: bool = True) -> None:
        """Close the connection in place of the next commit's answer, with the commit made or not."""
        self._drop = "after" if landed else "before"

    # Repos

    def create(self, repo_id: str, *, private: bool, gated: bool = False) -> None:
        """A new repo, with the commit that the Hub makes itself."""
        self.repos[repo_id] = {"private": private, "gated": gated, "commits": {}, "refs": {}, "created": _now()}
        self.commit(repo_id, "refs/heads/main", None, {".gitattributes": self.store(GITATTRIBUTES)}, "initial commit")

    def commit(
        self, repo_id: str, ref: str, parent: str | None, files: dict[str, Any], title: str, text: str = ""
    ) -> str:
        """Record a commit, move the ref to it, return its oid."""
        repo = self.repos[repo_id]
        made = {"title": title, "message": text, "date": _now(), "parent": parent, "files": files}
        oid = hashlib.sha1(json.dumps([made, len(repo["commits"])], sort_keys=True).encode()).hexdigest()
        repo["commits"][oid] = {"id": oid, **made}
        repo["refs"][ref] = oid
        self.save()
        return oid

    def save(self) -> None:
        part = self.state.with_suffix(".part")
        part.write_text(json.dumps(self.repos))
        part.replace(self.state)

    def store(self, content: bytes) -> dict[str, Any]:
        """Keep a regular file's content; returns its entry in a commit."""
        sha = hashlib.sha256(content).hexdigest()
        (self.blobs / sha).write_bytes(content)
        return {"oid": _git_oid(content), "size": len(content), "sha256": sha, "lfs": False}

    def resolve(self, repo_id: str, revision: str) -> str:
        """A revision's commit oid: a branch, a tag, a ref or an oid."""
        refs, commits = self.repos[repo_id]["refs"], self.repos[repo_id]["commits"]
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in refs:
                return refs[name]
        found = [oid for oid in commits if len(revision) >= 7 and oid.startswith(revision)]
        if len(found) != 1:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def fault(self, path: str) -> None:
        """Raise the fault that was arranged for this path, once."""
        for fault in self._faults:
            if fault[0].search(path):
                self._faults.remove(fault)
                if not fault[1]:
                    raise Dropped
                raise Refused(fault[1], "arranged by the test", fault[2], headers=fault[3])

    def drops(self, when: str) -> bool:
        """Whether this commit's answer is to be lost at this point, once."""
        if self._drop != when:
            return False
        self._drop = None
        return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler], hub: HubDouble):
        super().__init__(("127.0.0.1", port), handler)
        self.hub = hub
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """What both origins share: reading bodies, answering, ranges."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    @property
    def hub(self) -> HubDouble:
        return self.server.hub

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        # Split first: a pull request's ref arrives as refs%2Fpr%2F1, one part of the path.
        self.parts = [unquote(part) for part in url.path.split("/")[1:]]
        self._body = self._read_body()
        self.hub.requests.append((self.command, self.path))
        try:
            self.hub.fault(url.path)
            self.route()
        except Refused as error:
            headers = {"X-Error-Message": error.message, **({"X-Error-Code": error.code} if error.code else {})}
            headers |= error.headers
            self.reply(error.body or {"error": error.message}, status=error.status, headers=headers)
        except Dropped:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        for _ in self._body:  # what nobody read would be taken for the next request
            pass

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def route(self) -> None:
        raise NotImplementedError

    def _read_body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left and (chunk := self.rfile.read(min(left, 2**20))):
            left -= len(chunk)
            yield chunk

    def body(self) -> bytes:
        return b"".join(self._body)

    def json(self) -> Any:
        return json.loads(self.body() or b"{}")

    def reply(self, data: Any = None, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reply_file(self, path: Path, headers: dict[str, str]) -> None:
        """A file's content, or the one range of it that was asked for."""
        size = path.stat().st_size
        start, stop = 0, size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start, stop = int(wanted[1]), min(size, int(wanted[2] or size - 1) + 1)
            if start >= size:
                raise Refused(416, "range not satisfiable")
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        for name, value in {**headers, "Accept-Ranges": "bytes", "Content-Length": str(stop - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with path.open("rb") as file:
                file.seek(start)
                _copy(file, self.wfile, stop - start)


class CdnHandler(Handler):
    """Large contents, up and down, by address alone: a token that arrives here has leaked and is refused."""

    def route(self) -> None:
        if "Authorization" in self.headers:
            raise Refused(400, "only one auth mechanism allowed: this origin must not be sent the token")
        match (self.command, *self.parts):
            case ("GET" | "HEAD", "lfs", oid) if (self.hub.blobs / oid).is_file():
                self.reply_file(self.hub.blobs / oid, {"ETag": f'"{oid}"', "Content-Type": "application/octet-stream"})
            case ("PUT", "lfs", oid):
                self.receive(oid)
            case ("PUT", "lfs", oid, part):
                path, etag = self.spool()
                with self.hub.lock:
                    self.hub._parts.setdefault(oid, {})[int(part)] = path
                self.reply(headers={"ETag": f'"{etag}"'})
            case _:
                raise Refused(404, "no such object")

    def receive(self, oid: str) -> None:
        path, sha = self.spool()
        if sha != oid:
            path.unlink()
            raise Refused(400, "the content does not have that sha256")
        path.replace(self.hub.blobs / oid)
        self.reply(headers={"ETag": f'"{oid}"'})

    def spool(self) -> tuple[Path, str]:
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self.hub.folder, suffix=".part", delete=False) as file:
            for chunk in self._body:
                digest.update(chunk)
                file.write(chunk)
        return Path(file.name), digest.hexdigest()


class HubHandler(Handler):
    """The Hub's own origin: the API, git-LFS's, and resolve."""

    def route(self) -> None:
        self.authorised = self.check_token()
        with self.hub.lock:
            match (self.command, *self.parts):
                case ("GET", "api", "whoami-v2"):
                    self.whoami()
                case ("POST", "api", "repos", "create"):
                    self.create_repo()
                case ("POST", "api", "validate-yaml"):
                    self.validate_yaml()
                case (_, "api", "models", owner, name, *rest):
                    self.repo_id = f"{owner}/{name}"
                    self.model(rest)
                case ("POST", owner, name, "info", "lfs", "objects", action) if name.endswith(".git"):
                    self.repo_id = f"{owner}/{name.removesuffix('.git')}"
                    self.lfs(action)
                case ("GET" | "HEAD", owner, name, "resolve", revision, *path):
                    self.repo_id = f"{owner}/{name}"
                    self.serve(revision, "/".join(path))
                case _:
                    raise Refused(404, f"no route for {self.command} {self.path}")

    # Who may do what

    def check_token(self) -> bool:
        header = self.headers.get("Authorization")
        if header is not None and header != f"Bearer {self.hub.token}":
            raise Refused(401, "Invalid credentials in Authorization header")
        return header is not None

    def need_read(self) -> dict[str, Any]:
        """The repo. A private one does not exist for strangers."""
        repo = self.hub.repos.get(self.repo_id)
        if repo is None or (repo["private"] and not self.may_write(self.repo_id)):
            raise Refused(404 if self.authorised else 401, "Repository not found", "RepoNotFound")
        return repo

    def need_content(self) -> dict[str, Any]:
        """The repo, where its files may be read."""
        repo = self.need_read()
        if repo["gated"] and not self.may_write(self.repo_id):
            raise Refused(403 if self.authorised else 401, f"Access to {self.repo_id} is restricted", "GatedRepo")
        return repo

    def need_write(self) -> dict[str, Any]:
        repo = self.need_read()
        if not self.authorised:
            raise Refused(401, "Invalid username or password.")
        if not self.may_write(self.repo_id):
            raise Refused(403, "You don't have the rights to write to this repo")
        return repo

    def may_write(self, repo_id: str) -> bool:
        return self.authorised and repo_id.split("/")[0] in (self.hub.user, *self.hub.orgs)

    # The account, and a new repo

    def whoami(self) -> None:
        if not self.authorised:
            raise Refused(401, "Invalid username or password.")
        orgs = [{"type": "org", "name": name, "roleInOrg": "write"} for name in self.hub.orgs]
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        self.reply({"type": "user", "id": "1", "name": self.hub.user, "orgs": orgs, "auth": auth})

    def create_repo(self) -> None:
        asked = self.json()
        if not self.authorised:
            raise Refused(401, "Invalid username or password.")
        repo_id = f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        url = f"{self.hub.url}/{repo_id}"
        if not NAME.fullmatch(asked["name"]) or asked.get("type", "model") != "model":
            raise Refused(400, "Invalid repo name or type")
        if not self.may_write(repo_id):
            raise Refused(403, f"You don't have the rights to create {repo_id}")
        if repo_id in self.hub.repos:
            message = "You already created this model repo"
            raise Refused(409, message, body={"error": message, "url": url})
        private = asked["visibility"] == "private" if "visibility" in asked else bool(asked.get("private"))
        self.hub.create(repo_id, private=private)
        self.reply({"url": url, "name": repo_id, "id": "1"})

    def validate_yaml(self) -> None:
        errors, warnings = check_card(self.json()["content"])
        self.reply({"errors": errors, "warnings": warnings}, status=400 if errors else 200)

    # One model's API

    def model(self, rest: list[str]) -> None:
        match (self.command, *rest):
            case ("GET",) | ("GET", "revision", _):
                self.info(rest[1] if rest else "main")
            case ("GET", "auth-check", *write):
                self.need_write() if write else self.need_content()
                self.reply({})
            case ("GET", "tree", revision, *path):
                self.tree(revision, "/".join(path))
            case ("POST", "paths-info", revision):
                self.paths_info(revision)
            case ("GET", "refs"):
                self.refs()
            case ("GET", "xet-write-token", _) if self.hub.xet:
                self.need_commit()
                self.xet_token(self.hub.xet)
            case ("GET", "commits", revision):
                self.commits(revision)
            case ("POST", "preupload", revision):
                self.preupload(revision)
            case ("POST", "commit", revision):
                self.commit(revision)
            case ("POST", "tag", revision):
                asked = self.json()
                self.need_write()
                self.new_ref(f"refs/tags/{asked['tag']}", revision)
            case ("POST", "branch", name):
                asked = self.json()
                self.need_write()
                self.new_ref(f"refs/heads/{name}", asked.get("startingPoint", "main"))
            case ("DELETE", "tag" | "branch" as kind, name):
                self.delete_ref(f"refs/{'tags' if kind == 'tag' else 'heads'}/{name}")
            case _:
                raise Refused(404, f"no route for {self.command} {self.path}")

    def files(self, revision: str) -> tuple[str, dict[str, dict[str, Any]]]:
        repo = self.need_content()
        oid = self.hub.resolve(self.repo_id, revision)
        return oid, repo["commits"][oid]["files"]

    def info(self, revision: str) -> None:
        repo = self.need_read()
        oid = self.hub.resolve(self.repo_id, revision)
        commit = repo["commits"][oid]
        readme = commit["files"].get("README.md")
        card = read_card((self.hub.blobs / readme["sha256"]).read_text(encoding="utf-8")) if readme else None
        siblings = []
        for path, file in sorted(commit["files"].items()):
            blob: dict[str, Any] = {"size": file["size"], "blobId": file["oid"]}
            if file["lfs"]:  # named otherwise than in the tree: sha256, not oid
                pointer = _pointer(file["sha256"], file["size"])
                blob["lfs"] = {"sha256": file["sha256"], "size": file["size"], "pointerSize": len(pointer)}
            siblings.append({"rfilename": path, **(blob if "blobs" in self.query else {})})
        self.reply(
            {
                "id": self.repo_id,
                "modelId": self.repo_id,
                "author": self.repo_id.split("/")[0],
                "sha": oid,
                "private": repo["private"],
                "gated": "auto" if repo["gated"] else False,
                "disabled": False,
                "lastModified": commit["date"],
                "createdAt": repo["created"],
                "downloads": 0,
                "likes": 0,
                "tags": (card or {}).get("tags") or [],
                "cardData": {k: v for k, v in (card or {}).items() if k != "model-index"},  # too deep for read_card
                "siblings": siblings,
            }
        )

    def tree(self, revision: str, folder: str) -> None:
        _, files = self.files(revision)
        prefix = f"{folder}/" if folder else ""
        found = [path for path in sorted(files) if path.startswith(prefix)]
        if not found and folder:
            raise Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        folders = {path[: cut.start()] for path in found for cut in re.finditer("/", path) if cut.start() > len(prefix)}
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": path, "oid": _git_oid(path.encode()), "size": 0} for path in sorted(folders)
        ]
        entries += [_entry(path, files[path]) for path in found]
        if self.query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(prefix)]
        self.reply(entries)

    def paths_info(self, revision: str) -> None:
        wanted = parse_qs(self.body().decode()).get("paths", [])
        if len(wanted) > 1000:
            raise Refused(413, "too many parameters")
        _, files = self.files(revision)
        self.reply([_entry(path, files[path]) for path in wanted if path in files])

    def refs(self) -> None:
        repo = self.need_read()

        def listed(prefix: str) -> list[dict[str, str]]:
            found = [(ref, oid) for ref, oid in sorted(repo["refs"].items()) if ref.startswith(prefix)]
            return [{"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid} for ref, oid in found]

        answer = {"branches": listed("refs/heads/"), "converts": [], "tags": listed("refs/tags/")}
        self.reply(answer | ({"pullRequests": listed("refs/pr/")} if "include_prs" in self.query else {}))

    def commits(self, revision: str) -> None:
        self.need_read()
        keys = ("id", "title", "message", "date")
        chain = self.hub.commits(self.repo_id, revision)
        self.reply([{key: c[key] for key in keys} | {"authors": [{"user": self.hub.user}]} for c in chain])

    def new_ref(self, ref: str, revision: str) -> None:
        oid = self.hub.resolve(self.repo_id, revision)
        if ref in self.hub.repos[self.repo_id]["refs"]:
            raise Refused(409, f"Reference already exists: {ref}")
        self.hub.repos[self.repo_id]["refs"][ref] = oid
        self.hub.save()
        self.reply({})

    def delete_ref(self, ref: str) -> None:
        if self.need_write()["refs"].pop(ref, None) is None:
            raise Refused(404, f"no {ref}", "RevisionNotFound")
        self.hub.save()
        self.reply({})

    # A commit

    def need_commit(self) -> bool:
        """Whether this is a pull request, which everyone who can read may open. Raises Refused where it may not be."""
        pull_request = self.query.get("create_pr") == ["1"]
        if not pull_request:
            self.need_write()
        elif self.need_content() and not self.authorised:
            raise Refused(401, "Invalid username or password.")
        return pull_request

    def preupload(self, revision: str) -> None:
        asked = self.json()["files"]
        self.need_commit()
        _, files = self.files(revision)
        answers = []
        for file in asked:
            sample = base64.b64decode(file["sample"])
            large = file["path"].endswith(LFS_SUFFIXES) or file["size"] > LFS_BYTES or b"\0" in sample
            answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            stored = files.get(file["path"])
            if stored:
                answer["oid"] = stored["sha256" if stored["lfs"] else "oid"]
            answers.append(answer)
        self.reply({"files": answers})

    def xet_token(self, store: Path) -> None:
        token = {
            "X-Xet-Cas-Url": f"local://{store}",
            "X-Xet-Access-Token": "xet",
            "X-Xet-Token-Expiration": "9999999999",
        }
        body = {"casUrl": f"local://{store}", "accessToken": "xet", "exp": 9999999999}
        self.reply(body, headers=token)

    def commit(self, revision: str) -> None:
        lines = [json.loads(line) for line in self.body().splitlines() if line.strip()]
        if self.hub.drops("before"):
            raise Dropped
        pull_request = self.need_commit()
        parent, old = self.files(revision)
        header, files = lines[0]["value"], dict(old)
        if not header.get("summary"):
            raise Refused(400, "a commit needs a summary")
        if header.get("parentCommit") not in (None, parent):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            self.apply(line["key"], line["value"], files)
        for path, content in self.hub._altered.items():
            files.pop(path, None)
            files |= {} if content is None else {path: self.hub.store(content)}
        self.hub._altered = {}
        repo = self.hub.repos[self.repo_id]
        number = 1 + sum(ref.startswith("refs/pr/") for ref in repo["refs"])
        ref = f"refs/pr/{number}" if pull_request else f"refs/heads/{revision}"
        if not pull_request and ref not in repo["refs"]:
            ref = revision if revision in repo["refs"] else ref
        oid = self.hub.commit(self.repo_id, ref, parent, files, header["summary"], header.get("description", ""))
        if self.hub.drops("after"):
            raise Dropped
        page = f"{self.hub.url}/{self.repo_id}"
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{page}/commit/{oid}", "hookOutput": ""}
        self.reply(answer | ({"pullRequestUrl": f"{page}/discussions/{number}"} if pull_request else {}))

    def apply(self, kind: str, value: dict[str, Any], files: dict[str, Any]) -> None:
        """One line of a commit."""
        path = value["path"]
        if not path or path.startswith("/") or ".." in path.split("/"):
            raise Refused(400, f"bad path {path!r}")
        if kind == "file":
            content = base64.b64decode(value["content"])
            errors, _ = check_card(content.decode()) if path == "README.md" else ([], [])
            if errors:
                raise Refused(400, errors[0]["message"])
            files[path] = self.hub.store(content)
        elif kind == "lfsFile":
            blob = self.hub.blobs / value["oid"]
            if not blob.is_file() and not self.hub.xet:
                raise Refused(400, f"LFS object {value['oid']} was not uploaded")
            size = blob.stat().st_size if blob.is_file() else value["size"]
            pointer = _pointer(value["oid"], size)
            files[path] = {"oid": _git_oid(pointer), "size": size, "sha256": value["oid"], "lfs": True}
        elif kind in ("deletedFile", "deletedFolder"):
            gone = [p for p in files if p == path or (kind == "deletedFolder" and p.startswith(path.rstrip("/") + "/"))]
            if not gone:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Refused(400, f"unknown operation {kind!r}")

    # Large files

    def lfs(self, action: str) -> None:
        asked = self.json()
        if action == "complete":  # reached by its address alone, like the parts
            self.lfs_complete(asked)
            return
        self.need_content()
        if not self.authorised:
            raise Refused(401, "Invalid username or password.")
        if action == "verify":
            blob = self.hub.blobs / asked["oid"]
            if not blob.is_file() or blob.stat().st_size != asked["size"]:
                raise Refused(404, "object not found or of another size")
            self.reply({})
            return
        chosen = "basic"
        objects: list[dict[str, Any]] = []
        for item in asked["objects"]:
            oid, size = item["oid"], item["size"]
            if (self.hub.blobs / oid).is_file():
                objects.append({"oid": oid, "size": size})
                continue
            upload: dict[str, Any] = {"href": f"{self.hub.cdn_url}/lfs/{oid}"}
            base = f"{self.hub.url}/{self.repo_id}.git/info/lfs/objects"
            if size > self.hub.part_size and "multipart" in asked["transfers"]:
                chosen = "multipart"
                count = -(-size // self.hub.part_size)
                parts = {str(n): f"{self.hub.cdn_url}/lfs/{oid}/{n}" for n in range(1, count + 1)}
                upload = {"href": f"{base}/complete", "header": {"chunk_size": str(self.hub.part_size), **parts}}
            actions = {"upload": upload, "verify": {"href": f"{base}/verify"}}
            objects.append({"oid": oid, "size": size, "actions": actions})
        self.reply({"transfer": chosen, "objects": objects})

    def lfs_complete(self, asked: dict[str, Any]) -> None:
        oid = asked["oid"]
        parts = self.hub._parts.pop(oid, {})
        with tempfile.NamedTemporaryFile(dir=self.hub.folder, suffix=".part", delete=False) as file:
            for part in asked["parts"]:
                path = parts.pop(part["partNumber"], None)
                if path is None:
                    raise Refused(400, f"part {part['partNumber']} was not uploaded")
                with path.open("rb") as source:
                    shutil.copyfileobj(source, file)
                path.unlink()
        whole = Path(file.name)
        with whole.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != oid:
                raise Refused(400, "the parts together do not have that sha256")
        whole.replace(self.hub.blobs / oid)
        self.reply({})

    def serve(self, revision: str, path: str) -> None:
        oid, files = self.files(revision)
        headers = {"X-Repo-Commit": oid}
        file = files.get(path)
        if file is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self.reply({"error": "Entry not found"}, status=404, headers=headers)
        elif file["lfs"]:
            linked = {"X-Linked-Etag": f'"{file["sha256"]}"', "X-Linked-Size": str(file["size"])}
            location = {"Location": f"{self.hub.cdn_url}/lfs/{file['sha256']}", "ETag": f'"{file["oid"]}"'}
            self.reply(status=302, headers={**headers, **linked, **location})
        else:
            headers |= {"ETag": f'"{file["oid"]}"', "Content-Type": "text/plain; charset=utf-8"}
            self.reply_file(self.hub.blobs / file["sha256"], headers)


def read_card(text: str) -> dict[str, Any] | None:
    """A card's front matter: top-level scalars and lists of scalars; deeper levels are passed over. None without one.

    Raises ValueError at a line that is no YAML of that kind.
    """
    block = re.match(r"---\r?\n(.*?)^---\s*$", text, re.DOTALL | re.MULTILINE)
    if block is None:
        return None
    data: dict[str, Any] = {}
    key = ""
    for line in block[1].splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if pair := re.fullmatch(r"([\w-]+):(?:\s+(.*))?", line):
            key, value = pair[1], (pair[2] or "").strip()
            flow = value.startswith("[") and value.endswith("]")
            data[key] = [_scalar(v) for v in value[1:-1].split(",") if v.strip()] if flow else _scalar(value)
        elif (item := re.fullmatch(r"\s*-\s+(.*)", line)) and isinstance(data.get(key) or [], list):
            data[key] = [*(data.get(key) or []), _scalar(item[1])]
        elif not line.startswith(" ") or not key:
            raise ValueError(f"cannot read the line {line!r}")
    return data


def check_card(text: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The Hub's errors and warnings about a card, in small."""
    try:
        card = read_card(text)
    except ValueError as error:
        return [{"message": f"YAML: {error}"}], []
    if card is None:
        return [], [{"message": "empty or missing yaml metadata in repo card"}]
    errors = []
    for key, allowed in (("license", LICENSES), ("pipeline_tag", PIPELINE_TAGS), ("base_model_relation", RELATIONS)):
        for value in _listed(card.get(key)):
            if value not in allowed.split():
                errors.append(f'"{key}" must be one of [{", ".join(allowed.split())}], not "{value}"')
    for value in _listed(card.get("base_model")):
        if not HUB_ID.fullmatch(value):
            errors.append(f'"base_model" with value "{value}" is not valid. Use a model id from https://hf.co/models.')
    return [{"message": message} for message in errors], []


def _listed(value: Any) -> list[str]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _scalar(text: str) -> str | None:
    text = re.sub(r"\s+#.*", "", text.strip()) if text.strip()[:1] not in ("'", '"') else text.strip()[1:-1]
    return text or None


def _entry(path: str, file: dict[str, Any]) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "oid": file["oid"], "size": file["size"]}
    if file["lfs"]:
        pointer = _pointer(file["sha256"], file["size"])
        entry["lfs"] = {"oid": file["sha256"], "size": file["size"], "pointerSize": len(pointer)}
    return entry


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _pointer(oid: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _copy(source: BinaryIO, target: Any, left: int) -> None:
    while left and (chunk := source.read(min(left, 2**20))):
        target.write(chunk)
        left -= len(chunk)


def main() -> None:
    parser = argparse.ArgumentParser(description="A Hugging Face Hub for tests, on 127.0.0.1.")
    parser.add_argument("--folder", type=Path, required=True, help="where the repos are kept")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--token", default="hf_test", help="the one token that is accepted")
    parser.add_argument("--user", default="owner", help="the namespace that the token may write to")
    options = parser.parse_args()
    with HubDouble(options.folder, token=options.token, user=options.user, port=options.port) as hub:
        print(hub.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
