"""Rows of what models measured on the same queries, with the paired differences of the first one to the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from trainer.comparison import compare, intervals
from trainer.metrics import PerUser

PerQuery = Sequence[dict[str, PerUser]]
"""Numbers by query, of one kind of query after the other."""


def comparisons(where: dict[str, str], found: Mapping[str, PerQuery], seed: int) -> list[dict]:
    """One row per metric and model; the first model is the one whose differences to the others are taken."""
    first, rows = next(iter(found)), []
    for kind in range(len(found[first])):
        for name, per_query in found.items():
            numbers = per_query[kind]
            bounds = intervals(numbers, np.random.default_rng(seed))
            ahead = compare(found[first][kind], numbers, np.random.default_rng(seed)) if name != first else {}
            for metric, values in numbers.items():
                row = {**where, "model": name, "row": "test", "metric": metric, "queries": len(values)}
                row |= {"value": float(np.nanmean(values)), "interval": bounds[metric]}
                if ahead:
                    row |= {f"{first}_ahead": asdict(ahead[metric])}
                rows.append(row)
    return rows


def print_comparisons(rows: Sequence[dict]) -> None:
    width = max(12, *(len(row["model"]) for row in rows))
    print(f"{'metric':9}  {'model':{width}}  {'value':>6}  {'95%':14}  {'ahead by':>8}  {'95%':16}  {'p':>6}")
    for metric in dict.fromkeys(row["metric"] for row in rows):
        for row in (row for row in rows if row["metric"] == metric):
            low, high = row["interval"]
            line = f"{metric:9}  {row['model']:{width}}  {row['value']:6.4f}  {low:6.4f}..{high:6.4f}"
            for name in (name for name in row if name.endswith("_ahead")):
                ahead = row[name]
                low, high = ahead["interval"]
                line += f"  {ahead['mean']:+8.4f}  {low:+7.4f}..{high:+7.4f}  {ahead['p']:6.4f}"
            print(line)
    print(flush=True)
