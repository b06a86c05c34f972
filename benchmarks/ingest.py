"""How long does it take to read events, and how much memory does the whole process need?

    python -m benchmarks.ingest [--rows 10000000] [--quick] [--json FILE]

Makes events of a large shop (a tenth as many users as rows, a hundredth as many items, all columns filled, a few
returns) as Parquet and as CSV, and reads each in a process of its own, whose peak of resident memory is what the kernel
says of it (VmHWM), interpreter and libraries included. `--quick` checks that it works and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.raw_rows import write_rows

_CHILD = """
import json, sys, time
from trainer.interactions import read_interactions
path, threads, memory_limit = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
before, start = peak(), time.perf_counter()
steps = []
def on_step(text):
    steps.append((round(time.perf_counter() - start, 2), text.split(" /")[0]))
found = read_interactions([path], threads=threads, memory_limit=memory_limit, on_step=on_step)
print(json.dumps({"seconds": time.perf_counter() - start, "peak_bytes": peak(), "import_bytes": before, "steps": steps,
                  "users": found.n_users, "items": found.n_items, "entries": found.n_entries,
                  "baskets": len(found.baskets), **found.report.as_dict()}))
"""

_EVENTS_SQL = """
    SELECT 'user-' || (user_number // 1) AS user_id, 'sku-' || lpad(item_number::VARCHAR, 8, '0') AS item_id,
           TIMESTAMP '2025-01-01' + to_seconds((row_number * 31536000) // $rows) AS timestamp,
           CASE WHEN luck < 0.7 THEN 'view' WHEN luck < 0.85 THEN 'cart' ELSE 'purchase' END AS event,
           CASE WHEN luck > 0.99 THEN -1 ELSE 1 + (luck * 3)::INTEGER END AS quantity,
           round(1 + (item_number % 9973) / 100, 2) AS price,
           'basket-' || (user_number * 7 + (luck * 5)::INTEGER) AS basket_id
    FROM (SELECT range AS row_number, ($rows / 10 * random() ** 1.5)::BIGINT AS user_number,
                 ($rows / 100 * random() ** 3)::BIGINT AS item_number, random() AS luck FROM range($rows))"""


def main() -> None:
    arguments = _arguments()
    n_rows = 20_000 if arguments.quick else arguments.rows
    results = []
    with tempfile.TemporaryDirectory(prefix="nearcart-benchmark-") as directory:
        for path in _make(Path(directory), n_rows):
            result = _measured(path, arguments.threads, arguments.memory_limit)
            results.append(result)
            rows, seconds = result["rows_read"], result["seconds"]
            peak, before = result["peak_bytes"] / 2**20, result["import_bytes"] / 2**20
            print(
                f"{result['form']:8} {rows:>12,} rows  {seconds:7.1f} s  {rows / seconds:>10,.0f} rows/s  "
                f"peak {peak:,.0f} MiB (of which {before:,.0f} before the first byte was read)",
                flush=True,
            )
    if arguments.json:
        write_rows(arguments.json, results)


def _make(directory: Path, n_rows: int) -> list[Path]:
    paths = [directory / "events.parquet", directory / "events.csv"]
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SELECT setseed(0.5)").fetchall()
        events = _EVENTS_SQL.replace("$rows", str(n_rows))
        connection.execute(f"COPY ({events}) TO '{paths[0]}' (FORMAT parquet, COMPRESSION zstd)")
        connection.execute(f"COPY (FROM '{paths[0]}') TO '{paths[1]}' (FORMAT csv, HEADER)")
    return paths


def _measured(path: Path, threads: int, memory_limit: str) -> dict[str, Any]:
    command = [sys.executable, "-c", _CHILD, str(path), str(threads), memory_limit]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        raise SystemExit(f"reading {path} failed:\n{child.stderr}")
    setting = {"form": path.suffix[1:], "file_bytes": path.stat().st_size, "threads": threads}
    return {**setting, "memory_limit": memory_limit, **json.loads(child.stdout)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="events to make (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="threads for DuckDB, 0 for all cores")
    parser.add_argument("--memory-limit", default="2GB", help="what DuckDB may hold (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="20,000 rows: checks that the benchmark runs")
    parser.add_argument("--json", type=Path, help="write the raw rows to this file, one JSON object a line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
