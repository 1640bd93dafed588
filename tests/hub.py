"""A mirror of a Hugging Face hub on the loopback interface, with the routes that downloads of models need.

with Hub(tmp_path / "cache") as hub:
    hub.add("org/model", folder)                       # main; `revision` names another branch or tag
    subprocess.run([...], env=hub.environment)         # HF_ENDPOINT is read when the library is imported
    hub.requests                                       # [("GET", "/org/model/resolve/main/config.json", "")]
"""

import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories of models, and what clients have requested.

    cache: the HF_HOME of clients. gated: status by repository, 401 or 403, with which its files are refused.
    cut: by file name, how many of its next downloads break off after half of the bytes that were requested.
    requests: method, path and Range header of each request.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.gated: dict[str, int] = {}
        self.cut: dict[str, int] = {}
        self.requests: list[tuple[str, str, str]] = []
        self._folders: dict[tuple[str, str], Path] = {}  # by repository, and commit or name of a revision
        self._commits: dict[tuple[str, str], str] = {}
        hub = self

        class Handler(_Handler):
            """A handler that knows its hub."""

            repositories = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of a client that knows no other hub, cache or token."""
        ours = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return kept | {"HF_ENDPOINT": self.url, "HF_HOME": str(self.cache), "NO_PROXY": "127.0.0.1"}

    def add(self, name: str, folder: Path, revision: str = "main") -> str:
        """Publish the files of a folder as a revision of a repository, and return its commit."""
        digest = hashlib.sha1(f"{name} {revision}".encode())
        for path in sorted(folder.rglob("*")):
            digest.update(path.read_bytes() if path.is_file() else b"")
        commit = digest.hexdigest()
        for key in (revision, commit):
            self._folders[name, key], self._commits[name, key] = folder, commit
        return commit

    def find(self, name: str, revision: str) -> tuple[Path, str] | None:
        """The folder and the commit of a revision, if there is one."""
        key = (name, revision)
        return (self._folders[key], self._commits[key]) if key in self._folders else None

    def has(self, name: str) -> bool:
        return any(repository == name for repository, _ in self._folders)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: tests read `Hub.requests`."""

    def _answer(self) -> None:
        hub, path = self.repositories, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range", "")))
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(/.+)?)?", path)
        match = file or listing
        if match is None:
            self._refuse(404, "EntryNotFound", f"no route {path}")
            return
        name, revision = match[1], (match[2] if file else match[3]) or "main"
        if (status := hub.gated.get(name)) is not None:
            self._refuse(status, "GatedRepo", f"Access to model {name} is restricted.")
            return
        if not hub.has(name):
            self._refuse(401, "", "Invalid username or password.")  # the hub hides which names exist
            return
        if (found := hub.find(name, revision)) is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        folder, commit = found
        if file:
            self._send_file(folder / file[3], commit)
        else:
            self._send_listing(name, folder, commit, kind=match[2], below=(match[4] or "").strip("/"))

    def _send_listing(self, name: str, folder: Path, commit: str, *, kind: str | None, below: str) -> None:
        paths = [path for path in sorted((folder / below).rglob("*")) if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path for path in paths}
        if kind == "tree":
            if not files:
                self._refuse(404, "EntryNotFound", f"{below} does not exist on {commit}")
                return
            rows = [
                {"type": "file", "path": each, "size": path.stat().st_size, "oid": _etag(path)}
                for each, path in files.items()
            ]
            self._send_json(rows)
            return
        siblings = [{"rfilename": each, "size": path.stat().st_size} for each, path in files.items()]
        self._send_json({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []})

    def _send_file(self, path: Path, commit: str) -> None:
        if not path.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found", commit)
            return
        data = path.read_bytes()
        start, status = 0, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, status = int(wanted[1]), 206
            end = int(wanted[2] or len(data) - 1)
        else:
            end = len(data) - 1
        part = data[start : end + 1]
        self.send_response(status)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{_etag(path)}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.repositories.cut
        if cut.get(path.name, 0):
            cut[path.name] -= 1
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
            return
        self.wfile.write(part)

    def _send_json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str, commit: str = "") -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        for name, value in (
            ("X-Error-Code", code),
            ("X-Error-Message", message),
            ("X-Repo-Commit", commit),
        ):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
