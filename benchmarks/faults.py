"""Does anybody notice when a server is given another release, loses a worker, or is asked for more than it can?

    python -m benchmarks.faults [--quick] [--json FILE] [--only swaps,kills,overload,hostile,soak]
        [--transport grpcio|native] [--swaps 200] [--kills 10] [--minutes 60] [--plot FILE.png]

Each part has its own server, `nearcart serve` on one core, and its own load on another (benchmarks/load.py; latency
counts from the time a call was due): swaps of releases (fault_swaps), workers that are killed (fault_kills), offered
loads up to five times the peak (fault_overload), clients that break the rules (fault_hostile), and hours of mixed load
(fault_soak). The summary is computed from the rows and says what each number should be.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.bare_servers import TRANSPORTS
from benchmarks.fault_hostile import hostile_rows
from benchmarks.fault_kills import kill_rows
from benchmarks.fault_overload import overload_rows
from benchmarks.fault_setting import Rows, Setting
from benchmarks.fault_soak import plot, soak_rows
from benchmarks.fault_swaps import swap_rows
from benchmarks.fault_tables import print_summary, told
from benchmarks.pinned_servers import Cores
from benchmarks.raw_rows import write_rows
from engine.libraries import use_one_thread

PARTS = ("swaps", "kills", "overload", "hostile", "soak")
Part = Callable[[Setting, Path], Rows]


def main() -> None:
    arguments = _arguments()
    # Ended early it still stops its servers, and keeps what it measured.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    use_one_thread()
    setting = Setting(
        arguments.transport, Cores.of_this_machine(), 0.5 if arguments.quick else arguments.seconds, arguments.quick
    )
    rows: list[dict[str, Any]] = []
    try:
        for name in arguments.only.split(","):
            with tempfile.TemporaryDirectory(prefix="nearcart-faults-") as folder:
                for row in _parts(arguments)[name](setting, Path(folder)):
                    print(told(row), flush=True)
                    rows.append(row)
    finally:
        if arguments.json and rows:
            write_rows(arguments.json, rows)
        soaked = [row for row in rows if row["mode"] == "soak"]
        if arguments.plot and soaked:
            plot(soaked, arguments.plot)
        print_summary(rows)


def _parts(arguments: argparse.Namespace) -> Mapping[str, Part]:
    quick = arguments.quick
    return {
        "swaps": lambda setting, folder: swap_rows(setting, folder, 4 if quick else arguments.swaps, arguments.workers),
        "kills": lambda setting, folder: kill_rows(setting, folder, 2 if quick else arguments.kills),
        "overload": overload_rows,
        "hostile": hostile_rows,
        "soak": lambda setting, folder: soak_rows(setting, folder, 0.1 if quick else arguments.minutes),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts (default: %(default)s)")
    parser.add_argument("--transport", choices=TRANSPORTS, default="grpcio", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement (default: %(default)s)")
    parser.add_argument("--swaps", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="of the server whose releases are swapped")
    parser.add_argument("--kills", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the soak (default: %(default)s)")
    parser.add_argument("--plot", type=Path, help="draw the soak's memory here; needs matplotlib")
    parser.add_argument("--quick", action="store_true", help="small and short: checks that the benchmark runs")
    parser.add_argument("--json", type=Path, help="write the raw rows here")
    arguments = parser.parse_args()
    strangers = set(arguments.only.split(",")) - set(PARTS)
    if strangers:
        parser.error(f"--only: found {', '.join(sorted(strangers))}, expected some of {', '.join(PARTS)}")
    return arguments


if __name__ == "__main__":
    main()
