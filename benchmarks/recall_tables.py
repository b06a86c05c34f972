"""The tables of benchmarks.recall, computed from its raw rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

Row = dict[str, Any]
TARGETS = (0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Point:
    """An index with a setting on some kinds of queries: the least recall and the mean of the times over the kinds."""

    rival: str
    parameters: str
    recall: float
    us: float
    p99_us: float | None
    row: Row


def print_tables(rows: Sequence[Row]) -> None:
    """Of one set with vectors of one length."""
    searches = [row for row in rows if row["part"] == "search"]
    if searches:
        first = searches[0]
        print(f"\n{first['set']}, d = {first['factors']}: {first['items']:,} items")
        _print_builds(searches)
        _print_promises(searches)
        for mode in dict.fromkeys(row["mode"] for row in searches):
            of_mode = [row for row in searches if row["mode"] == mode]
            for title, kinds in groups(of_mode).items():
                _print_targets(f"{mode}, {title}", points(of_mode, kinds))
            if "sgemm_gflops" in of_mode[0]:
                _print_rates(of_mode)
    _print_filters([row for row in rows if row["part"] == "filters"])
    for row in (row for row in rows if row["part"] == "carts"):
        print(
            f"a cart of {row['length']}: {row['encode_us']:.1f} us to encode, {row['answer_us']:.1f} with the search "
            f"(user query {row['user_us']:.1f} us), promise {row['promise']}"
        )


def groups(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Kinds of queries that stand in one table: users, and carts of every length."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    found = {"users": [kind for kind in kinds if kind == "user"], "carts": [kind for kind in kinds if kind != "user"]}
    return {title: each for title, each in found.items() if each}


def points(rows: Iterable[Row], kinds: Sequence[str]) -> list[Point]:
    """Every index and setting over these kinds."""
    by_entry: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["kind"] in kinds:
            by_entry.setdefault((row["rival"], row["build"], row["setting"]), []).append(row)
    return [
        Point(
            rival,
            f"{build} {setting}".strip(),
            min(row["recall"] for row in of),
            statistics.mean(row["us"] for row in of),
            None if of[0]["p99_us"] is None else statistics.mean(row["p99_us"] for row in of),
            of[0],
        )
        for (rival, build, setting), of in by_entry.items()
    ]


def fastest(found: Iterable[Point], rival: str, target: float) -> Point | None:
    """The fastest setting of a rival that finds at least the target; 1.0 stands for every one of the true ones."""
    able = [point for point in found if point.rival == rival and point.recall >= target - 1e-12]
    return min(able, key=lambda point: point.us, default=None)


def frontier(found: Iterable[Point]) -> list[Point]:
    """The points that no other beats in both, by rising time."""
    kept: list[Point] = []
    for point in sorted(found, key=lambda point: (point.us, -point.recall)):
        if not kept or point.recall > kept[-1].recall:
            kept.append(point)
    return kept


def _print_builds(rows: Sequence[Row]) -> None:
    print(f"{'index':13} {'build':24} {'seconds':>8} {'MiB':>8}")
    builds = {(row["rival"], row["build"]): row for row in rows}
    for (rival, build), row in builds.items():
        print(f"{rival:13} {build:24} {row['build_seconds']:8.1f} {row['index_bytes'] / 2**20:8.1f}")


def _print_promises(rows: Sequence[Row]) -> None:
    print(f"{'promise':>7} {'kind':8} {'recall':>7} {'lower':>7} {'us':>8} {'p99':>8}  chosen")
    for row in rows:
        if row["promise"] is not None and row["mode"] == "single":
            print(
                f"{row['promise']:7} {row['kind']:8} {row['recall']:7.4f} {row['lower_95']:7.4f} {row['us']:8.1f} "
                f"{row['p99_us']:8.1f}  {row['chosen']}"
            )


def _print_targets(title: str, found: Sequence[Point]) -> None:
    """The fastest setting of each at each target; ratios: how many times Nearcart is faster, and FAISS Flat slower."""
    rivals = list(dict.fromkeys(point.rival for point in found))
    print(
        f"{title}\n{'recall':>7} {'index':13} {'us':>9} {'p99':>9} {'found':>7} {'/ours':>6} {'flat/':>6}  fastest with"
    )
    flat = fastest(found, "faiss-flat", 1.0)
    for target in TARGETS:
        ours = fastest(found, "nearcart", target)
        for rival in rivals:
            best = fastest(found, rival, target)
            if best is None:
                print(f"{target:7} {rival:13} {'not reached':>9}")
                continue
            p99 = "" if best.p99_us is None else f"{best.p99_us:.1f}"
            to_ours = "" if ours is None else f"{best.us / ours.us:.2f}"
            to_flat = "" if flat is None else f"{flat.us / best.us:.1f}"
            print(
                f"{target:7} {rival:13} {best.us:9.1f} {p99:>9} {best.recall:7.4f} {to_ours:>6} {to_flat:>6}  "
                f"{best.parameters}"
            )


def _print_rates(rows: Sequence[Row]) -> None:
    """Effective Gflop/s, 2 n d m / seconds, of what found everything, beside the matrix product alone."""
    whole = [row for row in rows if row["recall"] == 1.0]
    rates = {row["rival"]: max(each["gflops"] for each in whole if each["rival"] == row["rival"]) for row in whole}
    told = ", ".join(f"{rival} {rate:.0f}" for rival, rate in rates.items())
    print(f"Gflop/s at recall 1: {told}; matrix product alone {rows[0]['sgemm_gflops']:.0f}")


def _print_filters(rows: Sequence[Row]) -> None:
    if not rows:
        return
    print(f"{'filter':22} {'allowed':>9} {'index':22} {'recall':>7} {'us':>9} {'short':>6} of")
    for _, of_filter in groupby(rows, key=lambda row: (row["filter"], row["share"])):
        for row in of_filter:
            print(
                f"{row['filter']:14} {row['share']:7.1%} {row['allowed']:9,} {row['rival'] + ' ' + row['setting']:22} "
                f"{row['recall']:7.4f} {row['us']:9.1f} {row['short']:6} {row['queries']}"
            )
