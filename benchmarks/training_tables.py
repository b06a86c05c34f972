"""The tables of benchmarks.training, computed from its raw rows: one row per epoch of a trainer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]

_TOLERANCE = 1e-6
"""Relative: the float32 vectors of two exact trainers differ by less after the same epochs."""


def epochs_to(objectives: Sequence[float], goal: float) -> int | None:
    """After how many epochs the objective was at the goal or below it; None: not yet."""
    limit = goal * (1 + _TOLERANCE)
    return next((epoch for epoch, found in enumerate(objectives, start=1) if found <= limit), None)


def print_tables(rows: Rows) -> None:
    """What an epoch costs, and what a rival's objective costs, on one set with vectors of one length."""
    trainers: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        trainers.setdefault((row["trainer"], row["exponent"]), []).append(row)
    first = rows[0]
    print(
        f"\n{first['set']}, d = {first['factors']}: {first['users']:,} users, {first['items']:,} items, "
        f"{first['entries']:,} entries; both CSRs and the vectors take {first['theoretical_bytes'] / 2**20:,.0f} MiB"
    )
    print(
        f"{'trainer':19} {'nu':>2} {'s/epoch':>9} {'least':>9} {'most':>9} {'ratio':>6} {'objective':>10} "
        f"{'peak MiB':>8} {'Gflop/s':>8} {'gather GB/s':>11}"
    )
    for (name, exponent), epochs in trainers.items():
        _print_epochs(name, exponent, epochs, _nearcart(trainers, exponent))
    rivals = [key for key in trainers if not is_nearcart(key[0])]
    if rivals:
        print(
            f"{'to the objective of':19} {'nu':>2} {'epochs':>6} {'seconds':>9}   {'takes':19} {'epochs':>6} "
            f"{'seconds':>9} {'ratio':>6}"
        )
    for rival in rivals:
        for key in trainers:
            if is_nearcart(key[0]) and key[1] == rival[1]:
                _print_time_to_objective(rival, trainers[rival], key[0], trainers[key])


def is_nearcart(name: str) -> bool:
    return name.startswith("nearcart-")


def _nearcart(trainers: dict[tuple[str, float], list[dict[str, Any]]], exponent: float) -> Rows:
    """The first of Nearcart's solvers with this nu: what the others are relative to."""
    return next(epochs for (name, nu), epochs in trainers.items() if is_nearcart(name) and nu == exponent)


def _timed(epochs: Rows) -> list[float]:
    """Seconds without those of the warm-up epoch."""
    return [row["seconds"] for row in epochs[1:] or epochs]


def _print_epochs(name: str, exponent: float, epochs: Rows, base: Rows) -> None:
    timed, row = _timed(epochs), epochs[0]
    median, common = statistics.median(timed), min(len(epochs), len(base)) - 1
    flops = statistics.median(each["flops"] for each in epochs) / median / 1e9
    print(
        f"{name:19} {exponent:2g} {median:9.4f} {min(timed):9.4f} {max(timed):9.4f} "
        f"{median / statistics.median(_timed(base)):6.2f} "
        f"{epochs[common]['objective'] / base[common]['objective'] - 1:+10.1e} {row['peak_bytes'] / 2**20:8,.0f} "
        f"{flops:8.1f} {row['gather_bytes'] / median / 1e9:11.2f}",
        flush=True,
    )


def _print_time_to_objective(rival: tuple[str, float], theirs: Rows, name: str, ours: Rows) -> None:
    needed = epochs_to([row["objective"] for row in ours], theirs[-1]["objective"])
    seconds = sum(row["seconds"] for row in theirs)
    start = f"{rival[0]:19} {rival[1]:2g} {len(theirs):6} {seconds:9.3f}   {name:19}"
    if needed is None:
        print(f"{start} not reached in {len(ours)} epochs", flush=True)
        return
    mine = sum(row["seconds"] for row in ours[:needed])
    print(f"{start} {needed:6} {mine:9.3f} {seconds / mine:6.2f}", flush=True)
