"""The plot of benchmarks.recall: for every set and length, recall against the time of a query, a line for each rival.

Times are of users one by one; a line is a rival's frontier, Nearcart's markers are its promises. Recall is stretched
towards 1, as log10 of what is missed; everything found is drawn at the upper edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.recall_tables import Point, Row, frontier, points

_MOST = 0.9999
"""Recall at the upper edge, where 1 is drawn."""
_TICKS = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
_LEAST = 0.5


def plot(rows: Sequence[Row], path: Path) -> None:
    """Write the plot, in the format that the path's ending says."""
    from matplotlib import use

    use("Agg")
    from matplotlib import pyplot, ticker

    searches = [row for row in rows if row["part"] == "search" and row["mode"] == "single" and row["kind"] == "user"]
    panels = list(dict.fromkeys((row["set"], row["factors"]) for row in searches))
    rivals = list(dict.fromkeys(row["rival"] for row in searches))
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4.2 * columns + 1.5, 3.6 * lines), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, panel in zip(axes.flat, panels, strict=False):
        of_panel = [row for row in searches if (row["set"], row["factors"]) == panel]
        found = points(of_panel, ["user"])
        for i, rival in enumerate(rivals):
            line = frontier([point for point in found if point.rival == rival])
            _draw(axis, rival, line, colour=f"C{i % 10}")
        axis.set(xscale="log", title=f"{panel[0]}, d = {panel[1]}, {of_panel[0]['items']:,} items")
        axis.set_ylim(_height(_LEAST), _height(1.0) + 0.1)
        axis.set_yticks([_height(each) for each in (*_TICKS, 1.0)], [*(f"{each:g}" for each in _TICKS), "all"])
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.grid(alpha=0.3, which="both", linewidth=0.5)
    for axis in list(axes.flat)[len(panels) :]:
        axis.axis("off")
    for axis in axes[-1]:
        axis.set_xlabel("microseconds a query, one thread")
    for axis in axes[:, 0]:
        axis.set_ylabel("recall@20 of users")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw(axis, rival: str, line: Sequence[Point], *, colour: str) -> None:  # type: ignore[no-untyped-def]
    ours = rival == "nearcart"
    axis.plot(
        [point.us for point in line],
        [_height(point.recall) for point in line],
        color="black" if ours else colour,
        marker="D" if ours else ".",
        linewidth=2 if ours else 1,
        markersize=6,
        zorder=3 if ours else 2,
        label=rival,
    )


def _height(recall: float) -> float:
    return float(-np.log10(1 - min(recall, _MOST)))
