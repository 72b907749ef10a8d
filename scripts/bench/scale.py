"""Measure how time and memory grow when the work grows by 10 and by 100, on a CPU.

    python scripts/bench/scale.py                      # sizes up to 100,000 pairs; some minutes
    python scripts/bench/scale.py --divide 100         # a hundredth of them, to try it
    python scripts/bench/scale.py --subjects pairs     # those whose names begin so

Every size runs in a process of its own. Time is CPU time, which other work on the machine changes little; memory is the
most that the process holds beyond what it held before. Writes scale.jsonl, scale.md and scale.png.
"""

import os
import tempfile

from dsd.runs.command import quiet

if __name__ == "__main__":
    quiet()  # before the libraries are imported
    CACHE = os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="dsd-scale-")  # datasets reads it when imported

# isort: split
import argparse
import json
import math
import multiprocessing
import platform
import resource
import shutil
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from growth import SUBJECTS, Subject
from matplotlib.figure import Figure

from dsd.io.files import atomic
from dsd.runs.manifest import versions

LINEAR = 1.15  # exponent of the last tenfold step up to which growth is called linear
FLAT = 0.35  # exponent up to which memory is called flat; 1 MB is the least that is told
LEAST_MB = 1.0
LEAST_SECONDS = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--divide", type=int, default=1, help="sizes are these parts of the full ones")
    parser.add_argument("--subjects", nargs="+", default=[""], help="beginnings of names; by default all")
    parser.add_argument("--output", default="outputs/bench/scale", help="folder of the report")
    arguments = parser.parse_args()
    folder, rows = Path(arguments.output), []
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "scale.jsonl").open("w", encoding="utf-8") as out:
        for subject in SUBJECTS:
            if subject.name.startswith(tuple(arguments.subjects)):
                sizes = [max(1, size // arguments.divide) for size in subject.sizes]
                row = judged(subject, [measured(subject, size) for size in sizes])
                rows.append(row)
                out.write(json.dumps(row) + "\n")
                out.flush()
                print(line(row), flush=True)
    about = f"{platform.machine()} CPU, torch {torch.__version__}, dsd {versions()['dsd']}"
    with atomic(folder / "scale.md") as temporary:
        temporary.write_text("\n".join([about, "", *HEAD, *map(line, rows)]) + "\n", encoding="utf-8")
    plot(folder / "scale.png", rows)
    print(f"{folder}: {len(rows)} subjects")


def measured(subject: Subject, size: int) -> dict[str, Any]:
    """Measure one size in a fork of this process, which has imported everything and done nothing."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(subject, size, sender))
    process.start()
    sender.close()
    try:
        found: dict[str, Any] = receiver.recv()
    except EOFError:
        found = {"error": "the process ended without an answer"}
    process.join()
    if "error" in found:
        raise SystemExit(f"scale: {subject.name}, {size}: {found['error']}")
    return found


def child(subject: Subject, size: int, sender: Connection) -> None:
    """Prepare, then measure; send the numbers back."""
    with tempfile.TemporaryDirectory(prefix="dsd-scale-") as folder:
        try:
            work = subject.make(Path(folder), size)
            before, began, cpu = peak_mb(forget=True), time.monotonic(), cpu_seconds()
            more = work()
            took = {"cpu_seconds": cpu_seconds() - cpu, "seconds": time.monotonic() - began}
            sender.send({"size": size, **took, "memory_mb": max(0.0, peak_mb() - before), **more})
        except Exception as error:  # of any library
            sender.send({"error": f"{type(error).__name__}: {error}"})


def cpu_seconds() -> float:
    """CPU time of this process, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb(forget: bool = False) -> float:
    """Read the most memory that this process has held; `forget` begins anew from what it holds now."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def exponent(small: float, large: float, least: float) -> float:
    """Find the power by which something grows over a tenfold step; what is below `least` counts as that."""
    return math.log10(max(large, least) / max(small, least))


def judged(subject: Subject, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Say how time and memory grow over the last tenfold step, and why where that is faster than linear or not flat."""
    time_grows = exponent(found[1]["cpu_seconds"], found[2]["cpu_seconds"], LEAST_SECONDS)
    memory_grows = exponent(found[1]["memory_mb"], found[2]["memory_mb"], LEAST_MB)
    return {
        "subject": subject.name, "sizes": found, "time_exponent": time_grows, "memory_exponent": memory_grows,
        "time": "linear or better" if time_grows <= LINEAR else subject.time or "faster than linear, unexplained",
        "memory": "flat" if memory_grows <= FLAT else subject.memory or "grows, unexplained",
    }  # fmt: skip


HEAD = (
    "| work | n, 10 n, 100 n | CPU-seconds | exponent | time | MB beyond the start | exponent | memory |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)


def line(row: dict[str, Any]) -> str:
    """Write a row of the table."""
    sizes = [f"{found['size']:,}" for found in row["sizes"]]
    times = [f"{found['cpu_seconds']:.3g}" for found in row["sizes"]]
    memory = [f"{found['memory_mb']:.0f}" for found in row["sizes"]]
    cells = (row["subject"], "; ".join(sizes), ", ".join(times), f"{row['time_exponent']:.2f}", row["time"],
             ", ".join(memory), f"{row['memory_exponent']:.2f}", row["memory"])  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def plot(file: Path, rows: list[dict[str, Any]]) -> None:
    """Draw time and memory over size, a line for each kind of work."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2), ("cpu_seconds", "memory_mb"), ("CPU-seconds", "MB beyond the start"), strict=True
    ):
        for row in rows:
            sizes = [found["size"] for found in row["sizes"]]
            axes.loglog(sizes, [max(found[key], 1e-3) for found in row["sizes"]], "o-", label=row["subject"])
        axes.set(xlabel="items", ylabel=label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="x-small")
    with atomic(file) as temporary:
        figure.savefig(temporary, dpi=120)


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(CACHE, ignore_errors=True)
