"""The tables of benchmarks.latency, computed from its raw rows: medians over the repeats, and what is judged by them.

Checked by tests/test_latency_benchmark.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.latency_rounds import BATCH, BATCHES, FLOOR_SHARES, ONE_IN_FLIGHT, SATURATION

BESIDE_US = 45.0
"""What everything but the search may cost of a core, over the native transport."""
_SHOWN = ("achieved", "p50_ms", "p99_ms", "us_a_call", "in_flight_mean", "recall", "send_lag_p99_ms")
RawRow = Mapping[str, Any]


def told(row: RawRow) -> str:
    """One raw row on a line."""
    who = f"{row['items']:,} x {row['factors']}  {row['server']} {row['transport']}"
    if "absent" in row:
        return f"{who}: absent: {row['absent']}"
    shown = [f"{name} {row[name]:,.4g}" for name in _SHOWN if row.get(name) is not None]
    errors = f"  errors {row['errors']}" if row.get("errors") else ""
    late = "  THE SENDER LAGGED" if row.get("sender_lagged") else ""
    return f"{who}  {row['measured']}  {'  '.join(shown)}{errors}{late}"


def summary(rows: Sequence[RawRow]) -> list[dict[str, Any]]:
    """For each size and transport the medians over the repeats, and what is judged by them; NaN where it is absent."""
    sizes = dict.fromkeys((row["items"], row["factors"]) for row in rows)
    found = []
    for items, factors in sizes:
        of_size = [row for row in rows if (row["items"], row["factors"]) == (items, factors)]
        search = _median(of_size, "in process", "none", "search", "us_a_call")
        batched = _median(of_size, "in process", "none", f"search of {BATCH}", "queries_a_second")
        milvus = {
            name: _median(of_size, "milvus", "grpc-go", measured, column)
            for name, measured, column in (
                ("milvus_calls", SATURATION, "achieved"),
                ("milvus_p50_ms", ONE_IN_FLIGHT, "p50_ms"),
                ("milvus_p99_ms", ONE_IN_FLIGHT, "p99_ms"),
                ("milvus_recall", SATURATION, "recall"),
            )
        }
        transports = sorted({row["transport"] for row in of_size if row["server"] == "full"})
        for transport in transports:
            found.append(
                {
                    "items": items,
                    "factors": factors,
                    "transport": transport,
                    "search_us": search,
                    **_of_transport(of_size, transport, search, batched),
                    **milvus,
                }
            )
            found[-1]["over_milvus"] = found[-1]["full_calls"] / milvus["milvus_calls"]
    return found


def _of_transport(rows: Sequence[RawRow], transport: str, search: float, batched: float) -> dict[str, float]:
    def median(server: str, measured: str, column: str) -> float:
        return _median(rows, server, transport, measured, column)

    full, bare = median("full", SATURATION, "achieved"), median("search", SATURATION, "achieved")
    p50 = median("full", ONE_IN_FLIGHT, "p50_ms")
    tails = {
        f"{prefix}p99_over_p50_at_{share:g}": median(server, f"open loop at {share:g}", "p99_ms")
        / median(server, f"open loop at {share:g}", "p50_ms")
        for share in FLOOR_SHARES
        for prefix, server in (("", "full"), ("bare_", "search"), ("empty_", "empty"))
    }
    return {
        "empty_calls": median("empty", SATURATION, "achieved"),
        "bare_calls": bare,
        "full_calls": full,
        "full_spread": _spread(rows, "full", transport, SATURATION, "achieved"),
        "full_over_bare": full / bare,
        "beside_search_us": 1e6 / full - search,
        "asked_calls": 1e6 / (search + BESIDE_US),
        "full_over_asked": full * (search + BESIDE_US) / 1e6,
        "p50_ms": p50,
        "p99_ms": median("full", ONE_IN_FLIGHT, "p99_ms"),
        "p50_beside_search_ms": p50 - search / 1e3,
        **tails,
        "batches_over_in_process": median("full", BATCHES, "queries_a_second") / batched,
        "recall": median("full", SATURATION, "recall"),
    }


def print_summary(rows: Sequence[RawRow]) -> None:
    """A line for each number, a column for each size and transport."""
    found = summary(rows)
    heads = [f"{each['items']:,}x{each['factors']} {each['transport']}" for each in found]
    width = max(map(len, heads), default=0) + 2
    print()
    print(" " * 26 + "".join(f"{head:>{width}}" for head in heads))
    for name in found[0] if found else ():
        if name not in ("items", "factors", "transport"):
            numbers = "".join(f"{'-' if math.isnan(each[name]) else f'{each[name]:,.4g}':>{width}}" for each in found)
            print(f"{name:26}{numbers}")


def _values(rows: Sequence[RawRow], server: str, transport: str, measured: str, column: str) -> list[float]:
    asked = (server, transport, measured)
    chosen = [row for row in rows if (row["server"], row["transport"], row.get("measured")) == asked]
    return [row[column] for row in chosen if row.get(column) is not None]


def _median(rows: Sequence[RawRow], *of: str) -> float:
    values = _values(rows, *of)
    return float(np.median(values)) if values else math.nan


def _spread(rows: Sequence[RawRow], *of: str) -> float:
    """From the least to the most, as a share of the median."""
    values = _values(rows, *of)
    return float((max(values) - min(values)) / np.median(values)) if values else math.nan
