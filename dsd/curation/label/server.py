"""Serve the page of `Labelling` on this machine alone."""

import json
import logging
import re
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_urlsafe

from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict, ValidationError

from dsd.curation.label.labelling import Labelling
from dsd.errors import UserError
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_shards

log = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page.html")
MOST = 10_000  # bytes of a request


def run(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    grids = str(read_manifest(cfg.curated, "curation").get("grids_config_hash", ""))
    tables = [read_shards(cfg.curated, name) for name in ("pairs", "rejected")]
    labelling = Labelling(tables, Path(cfg.labels), cfg.num_pairs, cfg.seed, grids)
    with serve(labelling, cfg.port) as server:
        log.info("label: open http://127.0.0.1:%d; labels go to %s; Ctrl-C ends", server.server_port, cfg.labels)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("label: %d labels in %s", len(labelling.labels), cfg.labels)


def serve(labelling: Labelling, port: int) -> "Server":
    """Bind the server to this machine alone. UserError where the port is taken."""
    try:
        return Server(labelling, port)
    except OSError as error:
        raise UserError(f"port={port}: {error.strerror}; choose another, or port=0 for a free one") from error


class Said(BaseModel):
    """What the page sends for a pair."""

    model_config = ConfigDict(strict=True)

    grid: int
    first: int
    second: int
    same: bool


class Server(ThreadingHTTPServer):
    """Answers to this machine's own page alone, which knows a token that no other page can read."""

    def __init__(self, labelling: Labelling, port: int) -> None:
        self.labelling, self.token = labelling, token_urlsafe()
        super().__init__(("127.0.0.1", port), Handler)
        self.hosts = [f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")]

    def handle_error(self, *_: object) -> None:
        """Say nothing of a browser that closed its connection."""


class Handler(BaseHTTPRequestHandler):
    """GET / the page, /next a pair, /panel/GRID/NUMBER.png; POST /label and /undo answer with the next pair."""

    server: Server
    timeout = 60  # seconds that a request may keep its thread

    def do_GET(self) -> None:
        parts = self.path.strip("/").removesuffix(".png").split("/")
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(403)
        elif self.path == "/":
            page = PAGE.read_text(encoding="utf-8").replace("TOKEN", self.server.token)
            self.answer(page.encode(), "text/html; charset=utf-8")
        elif self.path == "/next":
            self.answer_next()
        elif parts[0] == "panel" and len(parts) == 3 and all(re.fullmatch("[0-9]{1,18}", p) for p in parts[1:]):
            self.answer_panel(int(parts[1]), int(parts[2]))
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        body = self.body()
        if not self.is_ours():
            return self.send_error(403)
        if self.path == "/undo":
            self.server.labelling.undo()
        elif self.path == "/label":
            try:
                said = Said.model_validate_json(body)
                self.server.labelling.label((said.grid, said.first, said.second), said.same)
            except (ValidationError, KeyError):
                return self.send_error(400)
        else:
            return self.send_error(404)
        return self.answer_next()

    def is_ours(self) -> bool:
        """Tell whether a request comes from our own page: other pages can send one, but do not know the token."""
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        same = host in self.server.hosts and origin in (None, f"http://{host}")
        return same and compare_digest(self.headers.get("X-Token", "").encode(), self.server.token.encode())

    def body(self) -> bytes:
        """Read the body of a request, at most `MOST` bytes."""
        length = self.headers.get("Content-Length", "0")
        return self.rfile.read(int(length)) if re.fullmatch("[0-9]{1,6}", length) and int(length) <= MOST else b""

    def answer_next(self) -> None:
        """Send the next pair as JSON."""
        self.answer(json.dumps(self.server.labelling.next()).encode(), "application/json")

    def answer_panel(self, grid: int, number: int) -> None:
        """Send the picture of a panel."""
        try:
            self.answer(self.server.labelling.panel(grid, number), "image/png")
        except KeyError:
            self.send_error(404)

    def answer(self, body: bytes, kind: str) -> None:
        """Send a whole response."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing of requests; the page shows what there is to see."""
