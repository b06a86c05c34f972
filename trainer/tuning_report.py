"""What a search found, for people and for `nearcart train`: a table, all trials as CSV, the best as TOML, a plot.

Nothing is searched or measured here: trainer.tuning, trainer.trials. Checked by tests/test_tuning.py.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from trainer.parts_tuning import TriedPart
from trainer.trials import Tried, ranked
from trainer.weighting import Weighting

TRIALS_FILE, BEST_FILE, PLOT_FILE = "trials.csv", "best.toml", "trials.png"
PARTS_TRIALS_FILE = "parts-trials.csv"
PARTS_METRIC = "ndcg@20"

_ROWS = 5
"""Trials in the table for each number of factors."""
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The palette of Okabe and Ito, which colour-blind people can tell apart."""
_MARKERS = ("o", "s", "^", "D", "v", "P")
_FAINT = "#9a9a9a"
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
}


def pareto_front(tried: Sequence[Tried]) -> list[Tried]:
    """Complete trials than which none is both cheaper to train and better, the cheapest first."""
    front: list[Tried] = []
    for each in sorted(ranked(tried), key=lambda each: (each.training_seconds, -each.metric)):
        if not front or each.metric > front[-1].metric:
            front.append(each)
    return front


def write_trials(path: Path, tried: Sequence[Tried], metric: str) -> None:
    """Every trial, a row each; the metric and the seconds of each epoch are separated by spaces."""
    names = ("factors", "number", "state", "weighting", "regularization", "unobserved_weight", "exponent", "strength")
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([*names, metric, "epochs", "training_seconds", f"{metric} by epoch", "seconds by epoch"])
        for each in tried:
            known = [each.metric, each.epochs, round(each.training_seconds, 3)] if each.by_epoch else ["", "", ""]
            lists = [" ".join(f"{value:.6g}" for value in values) for values in (each.by_epoch, each.seconds)]
            rows.writerow([*(getattr(each, name) for name in names), *known, *lists])


def write_best(path: Path, best: Tried, metric: str, others: Mapping[str, Any]) -> None:
    """A file for `nearcart train --config` and `nearcart evaluate --config`, with other options that it needs."""
    options: dict[str, Any] = {
        "factors": best.factors,
        "epochs": best.epochs,
        "regularization": best.regularization,
        "unobserved_weight": best.unobserved_weight,
        "regularization_exponent": best.exponent,
        "weighting": best.weighting,
        **others,
    }
    write_toml(
        path, f"{metric} {best.metric:.4f} on the validation events, {best.training_seconds:.3g} s of training", options
    )


def write_toml(path: Path, comment: str, options: Mapping[str, Any]) -> None:
    """Options for --config, below a comment; those that are None have their default."""
    lines = [f"# {comment}", *(f"{name} = {_toml(value)}" for name, value in options.items() if value is not None)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_parts_trials(path: Path, tried: Sequence[TriedPart]) -> None:
    """Every trial of a part, a row each."""
    names = list(dict.fromkeys(name for each in tried for name in each.values))
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["part", "number", *names, PARTS_METRIC, "seconds"])
        for each in tried:
            values = ["" if each.values.get(name) is None else each.values[name] for name in names]
            rows.writerow([each.part, each.number, *values, each.metric, round(each.seconds, 3)])


def print_parts_table(console: Console, tried: Sequence[TriedPart]) -> None:
    """The best trials of each part, and in the last row of a part what its defaults find."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("part", PARTS_METRIC, "trial", "options"):
        table.add_column(name, justify="right" if name in (PARTS_METRIC, "trial") else "left")
    for part in dict.fromkeys(each.part for each in tried):
        of_part = [each for each in tried if each.part == part]
        best = sorted(of_part, key=lambda each: -each.metric)[:_ROWS]
        for each in [*best, *([of_part[0]] if of_part[0] not in best else [])]:
            told = ", ".join(f"{name} {value}" for name, value in each.values.items())
            mark = " (defaults)" if each is of_part[0] else ""
            style = "bold" if each is best[0] else None
            table.add_row(part, f"{each.metric:.4f}", str(each.number), told + mark, style=style)
        table.add_section()
    console.print(table)


def print_table(console: Console, tried: Sequence[Tried], metric: str, popularity: float) -> None:
    """The best trials for each number of factors; a star marks those of the Pareto front."""
    front = pareto_front(tried)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("factors", metric, "", "epochs", "seconds", "lambda", "a0", "nu", "weighting"):
        table.add_column(name, justify="left" if name in ("", "weighting") else "right", no_wrap=True)
    best = ranked(tried)
    for factors in sorted({each.factors for each in tried}):
        for each in [each for each in best if each.factors == factors][:_ROWS]:
            table.add_row(
                str(factors),
                f"{each.metric:.4f}",
                "*" if each in front else "",
                str(each.epochs),
                f"{each.training_seconds:.3g}",
                f"{each.regularization:g}",
                f"{each.unobserved_weight:g}",
                f"{each.exponent:g}",
                each.weighting,
                style="bold" if each is best[0] else None,
            )
        table.add_section()
    console.print(table)
    counts = {state: sum(each.state == state for each in tried) for state in ("complete", "pruned", "diverged")}
    ends = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    console.print(f"{len(tried)} trials: {ends}. * No other is both faster and better.")
    console.print(f"The most popular items, for everyone alike: {popularity:.4f}")


def plot_trials(path: Path, tried: Sequence[Tried], metric: str) -> None:
    """A PNG: the metric against the seconds of training, with the Pareto front, and against each parameter."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 8), layout="constrained")
        axes = figure.subplot_mosaic([["seconds"] * 4, ["strength", "a0", "nu", "weighting"]], height_ratios=[1.35, 1])
        _plot_seconds(axes["seconds"], tried, metric)
        used = {each.weighting for each in tried}
        weightings = [each for each in get_args(Weighting) if each in used]
        panels = {
            "strength": ("λ (as strong with ν = 1)", [each.strength for each in tried]),
            "a0": ("a0, weight of the unobserved", [each.unobserved_weight for each in tried]),
            "nu": ("ν, exponent of λ", [each.exponent for each in tried]),
            "weighting": ("weighting", [float(weightings.index(each.weighting)) for each in tried]),
        }
        for name, (label, values) in panels.items():
            _plot_parameter(axes[name], tried, values, label, spread=0.0 if name in ("strength", "a0") else 0.12)
        for name in ("strength", "a0"):
            axes[name].set_xscale("log")
            axes[name].xaxis.set_major_formatter(_plain)
        axes["nu"].set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
        axes["weighting"].set_xticks(range(len(weightings)), weightings, rotation=30)
        axes["strength"].set_ylabel(metric)
        for name in ("a0", "nu", "weighting"):
            axes[name].sharey(axes["strength"])
            axes[name].tick_params(labelleft=False)
        _zoom(axes["strength"], tried)
        _zoom(axes["seconds"], tried)
        figure.savefig(path, dpi=150)


def _plot_seconds(axes: Axes, tried: Sequence[Tried], metric: str) -> None:
    front, best = pareto_front(tried), ranked(tried)
    axes.step(
        [each.training_seconds for each in front],
        [each.metric for each in front],
        where="post",
        color="#444444",
        linewidth=1.2,
        zorder=1,
        label="none is both faster and better",
    )
    for factors, color, marker in _series(tried):
        chosen = [each for each in best if each.factors == factors]
        axes.scatter(
            [each.training_seconds for each in chosen],
            [each.metric for each in chosen],
            s=[52 if each in front else 26 for each in chosen],
            color=color,
            marker=marker,
            alpha=0.9,
            edgecolors="white",
            linewidths=0.6,
            zorder=2,
            label=f"{factors} factors",
        )
    axes.scatter([], [], s=20, color=_FAINT, marker="x", linewidths=0.8, label="stopped early (below)")
    axes.set_title(f"best: {best[0].told}, {best[0].factors} factors", loc="left", fontsize=10)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_plain)
    if np.ptp(np.log10(axes.get_xlim())) < 2:
        axes.xaxis.set_minor_formatter(_plain)
    axes.set_xlabel("seconds of training until the best epoch")
    axes.set_ylabel(metric)
    axes.legend(loc="lower right")


def _plot_parameter(axes: Axes, tried: Sequence[Tried], values: Sequence[float], label: str, *, spread: float) -> None:
    # Values that many trials share are drawn beside each other.
    shift = spread * (np.modf(np.arange(len(tried)) * 0.618)[0] - 0.5) * (1 if max(values) > 1 else 0.5)
    placed = np.asarray(values) + shift
    pruned = [place for place, each in enumerate(tried) if each.state == "pruned"]
    axes.scatter(placed[pruned], [tried[p].metric for p in pruned], s=14, color=_FAINT, marker="x", linewidths=0.8)
    for factors, color, marker in _series(tried):
        chosen = [p for p, each in enumerate(tried) if each.factors == factors and each.state == "complete"]
        metrics = [tried[place].metric for place in chosen]
        axes.scatter(placed[chosen], metrics, s=20, color=color, marker=marker, alpha=0.85, linewidths=0)
    axes.set_xlabel(label)


def _plain(value: float, place: float) -> str:
    """A label for 1, 2 and 5 of each power of ten."""
    return f"{value:g}" if f"{value:.0e}"[0] in "125" else ""


def _zoom(axes: Axes, tried: Sequence[Tried]) -> None:
    """The complete trials fill the height; a few that are far below do not press the others together."""
    metrics = [each.metric for each in ranked(tried)]
    if len(metrics) > 1 and metrics[0] > metrics[-1]:
        low = max(metrics[-1], metrics[0] - 3 * (metrics[0] - float(np.median(metrics))))
        margin = 0.1 * (metrics[0] - low) or 0.01
        axes.set_ylim(low - margin, metrics[0] + 2 * margin)


def _series(tried: Sequence[Tried]) -> list[tuple[int, str, str]]:
    """The numbers of factors, each with its colour and marker."""
    factors = sorted({each.factors for each in tried})
    return [(each, _COLORS[i % len(_COLORS)], _MARKERS[i % len(_MARKERS)]) for i, each in enumerate(factors)]


def _toml(value: Any) -> str:
    if isinstance(value, str):
        # A JSON string is a TOML string, except for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
