"""Serve the page of `Labelling` on this machine alone."""

import json
import logging
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from omegaconf import DictConfig

from dsd.curation.label.labelling import Labelling
from dsd.errors import UserError
from dsd.runs.shards import read_shards

log = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("page.html")


def run(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    tables = [read_shards(cfg.curated, name) for name in ("pairs", "rejected")]
    labelling = Labelling(tables, Path(cfg.labels), cfg.num_pairs, cfg.seed)
    with serve(labelling, cfg.port) as server:
        log.info("label: open http://127.0.0.1:%d; labels go to %s; Ctrl-C ends", server.server_port, cfg.labels)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("label: %d labels in %s", len(labelling.labels), cfg.labels)


def serve(labelling: Labelling, port: int) -> ThreadingHTTPServer:
    """Bind the server. UserError where the port is taken."""
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, labelling))
    except OSError as error:
        raise UserError(f"port={port}: {error.strerror}; choose another, or port=0 for a free one") from error


class Handler(BaseHTTPRequestHandler):
    """GET / the page, /next a pair, /panel/GRID/NUMBER.png; POST /label and /undo answer with the next pair."""

    def __init__(self, labelling: Labelling, *arguments: object) -> None:
        self.labelling = labelling
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        parts = self.path.strip("/").removesuffix(".png").split("/")
        if self.path == "/":
            self.answer(PAGE.read_bytes(), "text/html; charset=utf-8")
        elif self.path == "/next":
            self.answer_next()
        elif parts[0] == "panel" and len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
            self.answer_panel(int(parts[1]), int(parts[2]))
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        if self.path == "/undo":
            self.labelling.undo()
        elif self.path == "/label":
            try:
                said = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                pair, same = (int(said["grid"]), int(said["first"]), int(said["second"])), bool(said["same"])
            except (ValueError, KeyError, TypeError):
                return self.send_error(400)
            self.labelling.label(pair, same)
        else:
            return self.send_error(404)
        return self.answer_next()

    def answer_next(self) -> None:
        """Send the next pair as JSON."""
        self.answer(json.dumps(self.labelling.next()).encode(), "application/json")

    def answer_panel(self, grid: int, number: int) -> None:
        """Send the picture of a panel."""
        try:
            self.answer(self.labelling.panel(grid, number), "image/png")
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
