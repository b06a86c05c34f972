"""How long does it take to choose and build the index of ten million items, and in how much memory?

    python -m benchmarks.index_build [--items 10000000] [--factors 64] [--recall 0.99] [--seconds 20] [--quick]
        [--json FILE]

Makes a catalogue (benchmarks/made_catalogue.py), writes its vectors to a file, and builds its index in a process of its
own as `nearcart index` does: `auto`, measured on users and carts, with the same lines of progress. Peaks of memory are
what the kernel says: of all pages (VmHWM), and, watched every .2 s, of those that are no file's (RssAnon): vectors and
finished arrays are mapped from files, which the kernel can drop.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.made_catalogue import made_catalogue
from benchmarks.raw_rows import write_rows

_CHILD = """
import json, sys, threading, time
from pathlib import Path
import numpy as np
from engine.calibration import add_measured_index
from engine.index_progress import IndexLines
from engine.measurement import Queries
from engine.plan import AUTO, IndexPlan
from engine.release import Draft
folder, recall, seconds = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
def kilobytes(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
peak, done = [kilobytes("RssAnon:")], threading.Event()
def watch():
    while not done.wait(0.2):
        peak[0] = max(peak[0], kilobytes("RssAnon:"))
threading.Thread(target=watch, daemon=True).start()
vectors = np.load(folder / "items.npy", mmap_mode="r")
queries = {}
for kind in ("user", "cart"):
    asked = np.load(folder / f"{kind}.npy")
    queries[kind] = Queries(asked, [np.empty(0, dtype=np.int32)] * len(asked))
started = time.perf_counter()
lines = []
def say(text):
    lines.append((round(time.perf_counter() - started, 1), text))
    print(f"[{lines[-1][0]:7.1f} s] {text}", file=sys.stderr, flush=True)
with Draft(folder, "r") as draft:
    available = np.ones(len(vectors), dtype=np.bool_)
    index = add_measured_index(draft, IndexPlan(AUTO), vectors, available, queries, recall, seconds, IndexLines(say))
    size = sum(path.stat().st_size for path in draft.directory.rglob("*") if path.is_file())
done.set()
print(json.dumps({"seconds": time.perf_counter() - started, "index_bytes": size, "index": index, "lines": lines,
                  "anonymous_peak_bytes": peak[0] * 1024, "peak_bytes": kilobytes("VmHWM:") * 1024}))
"""


def main() -> None:
    arguments = _arguments()
    n_items, factors = (12_000, 16) if arguments.quick else (arguments.items, arguments.factors)
    with tempfile.TemporaryDirectory(prefix="nearcart-benchmark-") as name:
        folder = Path(name)
        vectors_bytes = _make(folder, n_items, factors)
        command = [sys.executable, "-c", _CHILD, name, str(arguments.recall), str(arguments.seconds)]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = {"items": n_items, "factors": factors, "vectors_bytes": vectors_bytes}
    row |= json.loads(found.stdout)
    index = row["index"]
    print(
        f"{n_items:,} x {factors}: {row['seconds']:.0f} s, {row['index_bytes'] / 2**20:,.0f} MiB beside "
        f"{vectors_bytes / 2**20:,.0f} MiB of vectors; peak {row['anonymous_peak_bytes'] / 2**20:,.0f} MiB, "
        f"with mapped files {row['peak_bytes'] / 2**20:,.0f} MiB"
    )
    print(f"{index['factory']} {index['search_parameters']}: {index['measured']}")
    if arguments.json is not None:
        write_rows(arguments.json, [row])


def _make(folder: Path, n_items: int, factors: int) -> int:
    """Vectors and queries of a made catalogue as files; returns the bytes of the vectors."""
    started = time.perf_counter()
    catalogue = made_catalogue(n_items, factors)
    np.save(folder / "items.npy", catalogue.vectors)
    np.save(folder / "user.npy", catalogue.tuning["user"])
    np.save(folder / "cart.npy", np.concatenate([each for kind, each in catalogue.tuning.items() if kind != "user"]))
    print(f"made {n_items:,} x {factors} in {time.perf_counter() - started:.0f} s", flush=True)
    return catalogue.vectors.nbytes


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--seconds", type=float, default=20.0, help="as of `nearcart index` (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="12,000 items: does it run?")
    parser.add_argument("--json", type=Path, help="write the raw row to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
