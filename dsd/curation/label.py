"""A page on which a person says of pairs of panels whether they show the same subject: two keys, no mouse.

    python dsd/curation/label.py outputs/demo/grids --labels labels.jsonl --num 200

Opens http://127.0.0.1:8765; S is same, D is different, U takes the last answer back. Every answer is on disk at once;
stop and start again as you like. `dsd-curate mode=agreement labels=labels.jsonl` reads the file.
"""

import dsd.errors  # first, as it quietens the libraries

# isort: split
import argparse
import json
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import combinations
from pathlib import Path
from threading import Lock

import numpy as np
from datasets import Dataset

from dsd.curation.agreement import Key, read_labels
from dsd.curation.seams import exact, found
from dsd.files import atomic
from dsd.records import layout_shape
from dsd.runs.shards import read_shards

PAGE = Path(__file__).with_suffix(".html")


class Labelling:
    """The pairs to be labelled, in a fixed random order, and the labels so far."""

    def __init__(self, grids: Dataset, labels: Path, num: int, seed: int, seams: bool) -> None:
        self.grids, self.file, self.cut, self.lock = grids, labels, found if seams else exact, Lock()
        self.row_of = {index: row for row, index in enumerate(grids["index"])}
        pairs = [
            (index, first, second)
            for index, layout in zip(grids["index"], grids["layout"], strict=True)
            for first, second in combinations(range(int(np.prod(layout_shape(layout)))), 2)
        ]
        chosen = np.random.default_rng(seed).permutation(len(pairs))[:num]
        self.pairs: list[Key] = [pairs[number] for number in chosen]
        self.labels: dict[Key, bool] = read_labels(labels) if labels.is_file() and labels.stat().st_size else {}

    def next(self) -> dict[str, int | None]:
        left = [pair for pair in self.pairs if pair not in self.labels]
        grid, first, second = left[0] if left else (None, None, None)
        counts = {"labelled": len(self.pairs) - len(left), "num": len(self.pairs)}
        return {"grid": grid, "first": first, "second": second, **counts}

    def label(self, pair: Key, same: bool) -> None:
        with self.lock:
            self.labels.pop(pair, None)
            self.labels[pair] = same
            self.save()

    def undo(self) -> None:
        with self.lock:
            if self.labels:
                self.labels.popitem()
                self.save()

    def save(self) -> None:
        rows = [{"grid": g, "first": a, "second": b, "same": same} for (g, a, b), same in self.labels.items()]
        with atomic(self.file) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def panel(self, grid: int, number: int) -> bytes:
        row, buffer = self.grids[self.row_of[grid]], BytesIO()
        self.cut(row["image"], row["layout"]).images[number].save(buffer, "PNG")
        return buffer.getvalue()


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
            self.answer(self.labelling.panel(int(parts[1]), int(parts[2])), "image/png")
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        if self.path == "/label":
            self.labelling.label((said["grid"], said["first"], said["second"]), bool(said["same"]))
        elif self.path == "/undo":
            self.labelling.undo()
        self.answer_next()

    def answer_next(self) -> None:
        self.answer(json.dumps(self.labelling.next()).encode(), "application/json")

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The page shows what there is to see."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", help="output_dir of dsd-data-gen")
    parser.add_argument("--labels", type=Path, default=Path("labels.jsonl"))
    parser.add_argument("--num", type=int, default=200, help="pairs, chosen at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seams", action="store_true", help="find the panels' seams, as dsd-curate panels=seams does")
    parser.add_argument("--port", type=int, default=8765)
    arguments = parser.parse_args()
    grids = read_shards(arguments.grids, "grids")
    labelling = Labelling(grids, arguments.labels, arguments.num, arguments.seed, arguments.seams)
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), partial(Handler, labelling))
    print(f"http://127.0.0.1:{server.server_port}  (labels go to {arguments.labels}; Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(f"\n{arguments.labels}: {len(labelling.labels)} labels")


if __name__ == "__main__":
    try:
        main()
    except dsd.errors.UserError as error:
        sys.exit(f"label_pairs.py: error: {error}")
