"""The summary of benchmarks.faults: computed from its raw rows, beside what each number should be.

Checked by tests/test_faults_benchmark.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RawRow = Mapping[str, Any]
_HIDDEN = ("mode", "transport", "environment")


@dataclass(frozen=True)
class Line:
    """A number, and what it should be: at most, at least, or nothing that is asked."""

    name: str
    value: float
    most: float | None = None
    least: float | None = None

    @property
    def passes(self) -> bool:
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    def __str__(self) -> str:
        asked = f"at most {self.most:,.4g}" if self.most is not None else ""
        if self.least is not None:
            asked = f"at least {self.least:,.4g}"
        verdict = "" if not asked else "  " if self.passes else "NO"
        return f"{self.name:52}{self.value:>14,.4g}  {verdict:3}{asked}"


def told(row: RawRow) -> str:
    """One raw row on a line."""
    shown = [f"{name} {_text(value)}" for name, value in row.items() if name not in _HIDDEN and value not in (None, {})]
    return f"{row['mode']} {row['transport']}  {'  '.join(shown)}"


def summary(rows: Sequence[RawRow]) -> list[Line]:
    """All lines, part by part."""
    found: list[Line] = []
    for mode, lines in _LINES.items():
        of_mode = [row for row in rows if row["mode"] == mode]
        if of_mode:
            found += lines(of_mode)
    return found


def print_summary(rows: Sequence[RawRow]) -> None:
    print()
    for line in summary(rows):
        print(line)


def _swaps(rows: Sequence[RawRow]) -> Iterator[Line]:
    failed = sum(n for row in rows for name, n in row.items() if name.startswith("failed "))
    yield Line("swaps", rows[-1]["swaps"])
    yield Line("swaps: answers that were right", sum(row.get("right", 0) for row in rows))
    yield Line("swaps: mixed or wrong answers", sum(row.get("mixed", 0) + row.get("wrong", 0) for row in rows), most=0)
    yield Line("swaps: failed calls", failed, most=0)
    yield Line("swaps: seconds of one, median", _median(rows, "swap_seconds"))
    for point in ("p50", "p99"):
        during, steady = (_median(rows, f"{point}_{when}_ms") for when in ("during", "steady"))
        yield Line(f"swaps: {point} ms during one", during)
        yield Line(f"swaps: {point} ms steady", steady)
        yield Line(f"swaps: {point} during / steady", during / steady, most=1.5 if point == "p99" else None)
    tenth = max(1, len(rows) // 10)
    for name, what in (("resident_bytes", "memory"), ("p50_steady_ms", "p50")):
        first, last = _median(rows[:tenth], name), _median(rows[-tenth:], name)
        yield Line(f"swaps: {what}, last tenth / first tenth", last / first, most=1.1 if len(rows) >= 10 else None)
        values = [row[name] for row in rows if row.get(name) is not None]
        if len(values) > 2:
            slope = float(np.polyfit([row["swaps"] for row in rows if row.get(name) is not None], values, 1)[0])
            unit = ("KiB", 1 / 1024) if name == "resident_bytes" else ("us", 1e3)
            yield Line(f"swaps: {what}, {unit[0]} a swap", slope * unit[1])


def _kills(rows: Sequence[RawRow]) -> Iterator[Line]:
    (steady,), (kills,) = ([row for row in rows if row["measured"] == each] for each in ("steady", "kills"))
    yield Line("kills", kills["kills"])
    yield Line("kills: restarts that were counted", kills["restarts"], least=kills["kills"])
    yield Line("kills: errors that clients saw", kills["n_errors"], most=0)
    yield Line("kills: calls", kills["calls"])
    yield Line("kills: longest gap, ms", kills["longest_gap_ms"])
    yield Line("kills: longest gap without, ms", steady["longest_gap_ms"])
    yield Line("kills: longest call, ms", kills["max_ms"])
    yield Line("kills: seconds until a worker was back, median", float(np.median(kills["back_after_seconds"])))


def _overload(rows: Sequence[RawRow]) -> Iterator[Line]:
    offered = [row for row in rows if row["measured"] == "offered"]
    for bound in dict.fromkeys(row["max_in_flight"] for row in offered):
        of_bound = [row for row in offered if row["max_in_flight"] == bound]
        who = f"overload, {'default' if bound is None else bound} in flight"
        yield Line(f"{who}: ms of a search", of_bound[0]["search_ms"], least=3)
        yield Line(f"{who}: peak, calls a second", of_bound[0]["peak"])
        for row in of_bound:
            at = f"{who}, {row['times_peak']:g}x"
            yield Line(
                f"{at}: goodput / peak", row["goodput"] / row["peak"], least=0.9 if row["times_peak"] > 1 else None
            )
            yield Line(f"{at}: p99 ms of answers", _number(row["p99_ms"]), most=200)
            if row["refusal_p99_ms"] is not None:
                yield Line(f"{at}: p50 ms of refusals", row["refusal_p50_ms"])
                yield Line(f"{at}: p99 ms of refusals", row["refusal_p99_ms"])
            yield Line(f"{at}: answers that came to nobody", row["computed_in_vain"])
            yield Line(f"{at}: answers begun 262 ms after arrival", row["begun_after_deadline"], most=0)
    for row in rows:
        if row["measured"] == "burst":
            who = f"overload, {'default' if row['max_in_flight'] is None else row['max_in_flight']} in flight"
            yield Line(f"{who}: seconds to recover", _number(row["recovered_after_seconds"]), most=2)
        if row["measured"] == "refusals":
            yield Line(f"overload: us of a refusal, {row['kind']}", row["us_a_refusal"])
            yield Line(f"overload: p99 ms of a refusal, {row['kind']}, alone", row["refusal_p99_ms"], most=1)


def _hostile(rows: Sequence[RawRow]) -> Iterator[Line]:
    before = next(row for row in rows if row["phase"] == "before")
    after = next((row for row in rows if row["phase"] == "after"), None)
    for row in rows:
        who = f"hostile, {row['phase']}"
        if row.get("held"):
            yield Line(f"{who}: connections", row["opened"])
        yield Line(f"{who}: failed calls of the steady load", sum(row["errors"].values()), most=0)
        yield Line(f"{who}: p99 ms", row["p99_ms"])
        yield Line(f"{who}: calls still under way afterwards", row["in_flight_afterwards"], most=0)
    if after is not None:
        grown = after["resident_bytes_afterwards"] - before["resident_bytes_afterwards"]
        yield Line("hostile: memory afterwards, MiB more than before", grown / 2**20)
        files = after["open_files_afterwards"] - before["open_files_afterwards"]
        yield Line("hostile: open files afterwards, more than before", files, most=10)


def _soak(rows: Sequence[RawRow]) -> Iterator[Line]:
    steady = rows[len(rows) // 10 :]
    yield Line("soak: minutes", rows[-1]["minutes"])
    yield Line("soak: calls", sum(row["calls"] for row in rows))
    yield Line("soak: calls that ended as none should", sum(row["unexpected"] for row in rows), most=0)
    yield Line("soak: calls still under way at the end", rows[-1]["in_flight_afterwards"], most=0)
    for row, when in ((steady[0], "after a tenth"), (rows[-1], "at the end")):
        yield Line(f"soak: memory of its own {when}, MiB", row["anonymous_bytes"] / 2**20)
    if len(steady) > 2:
        sizes = [row["anonymous_bytes"] / 2**20 for row in steady]
        slope = 60 * float(np.polyfit([row["minutes"] for row in steady], sizes, 1)[0])
        # Of a short soak the slope is noise.
        yield Line("soak: memory, MiB more an hour", slope, most=5 if rows[-1]["minutes"] >= 20 else None)


_LINES = {"swaps": _swaps, "kills": _kills, "overload": _overload, "hostile": _hostile, "soak": _soak}


def _median(rows: Sequence[RawRow], name: str) -> float:
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.median(values)) if values else float("nan")


def _number(value: float | None) -> float:
    return float("inf") if value is None else value


def _text(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
