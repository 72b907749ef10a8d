"""A hub on this machine that speaks the Hugging Face hub's protocol, for the genuine client library."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"  # the one commit of every repository


class Hub(ThreadingHTTPServer):
    """Keeps files by repository, and the names of those that were downloaded."""

    daemon_threads = True

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.downloaded: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo: str, folder: Path) -> None:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        self.repos[repo] = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}

    def handle_error(self, *_: object) -> None:
        """Clients that end early are no news."""


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/").split("/")
        if path[:2] == ["api", "models"]:
            self.about("/".join(path[2:4]), "tree" in path[4:])
        else:
            self.file("/".join(path[:2]), "/".join(path[4:]))  # user/name/resolve/revision/file

    def do_POST(self) -> None:
        body, path = self.body(), urlsplit(self.path).path.strip("/").split("/")
        if path[-2:] == ["repos", "create"]:
            given = json.loads(body)
            repo = f"{given.get('organization') or 'user'}/{given['name']}"
            self.server.repos.setdefault(repo, {})
            self.answer({"url": f"{self.server.url}/{repo}", "name": repo})
        elif "preupload" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "commit" in path:
            repo = "/".join(path[2:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{self.server.url}/{repo}/commit/{SHA}", "commitOid": SHA, "success": True})
        else:  # validate-yaml
            self.answer({"errors": [], "warnings": []})

    def about(self, repo: str, tree: bool) -> None:
        if repo not in self.server.repos:
            return self.refuse(404, "RepoNotFound")
        files = self.server.repos[repo]
        if tree:
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": etag(data)} for name, data in files.items()
            ]
            return self.answer(rows)
        siblings = [{"rfilename": name} for name in files]
        self.answer({"id": repo, "modelId": repo, "sha": SHA, "siblings": siblings, "tags": [], "private": False})

    def file(self, repo: str, name: str) -> None:
        if repo not in self.server.repos:
            return self.refuse(404, "RepoNotFound")
        if repo in self.server.gated:
            return self.refuse(403, "GatedRepo")
        if name not in self.server.repos[repo]:
            return self.refuse(404, "EntryNotFound")
        data = self.server.repos[repo][name]
        if self.command == "GET":
            self.server.downloaded.append(name)
        self.answer(data, {"ETag": f'"{etag(data)}"', "X-Repo-Commit": SHA})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def refuse(self, status: int, code: str) -> None:
        self.answer({"error": code}, {"X-Error-Code": code}, status)

    def answer(self, said: Any, headers: dict[str, str] | None = None, status: int = 200) -> None:
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serve_hub() -> Iterator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
