"""Progress of a training: a line an epoch, and below them, on a terminal, a bar that redraws itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from trainer.als import Epoch, TrainingProgress


class Steps:
    """Says what is happening, one line a step, on standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        """Say one step."""
        if not self._quiet:
            print(f"[{time.monotonic() - self._started:6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def training_progress(
    *, quiet: bool = False, validation: Callable[[], str] | None = None
) -> Iterator[Callable[[TrainingProgress], None]]:
    """Something to hand to train as `on_progress`; `validation` says what was measured after the last epoch."""
    if quiet:
        yield lambda progress: None
        return
    console = Console(stderr=True)
    lines = _Lines(validation or (lambda: ""), console.width if console.is_terminal else None)
    if not console.is_terminal:
        yield lines
        return
    columns = (BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.description}"))
    # What is printed meanwhile, the lines too, rich puts above the bar.
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def show(progress: TrainingProgress) -> None:
            lines(progress)
            bar.update(task, completed=progress.done, description=_position(progress))

        yield show


class _Lines:
    """One line an epoch, when it is done; on a narrow terminal without the parts of the objective."""

    def __init__(self, validation: Callable[[], str], width: int | None = None) -> None:
        self._validation = validation
        self._width = width
        self._told: Epoch | None = None

    def __call__(self, progress: TrainingProgress) -> None:
        last = progress.last
        if last is None or last is self._told:
            return
        self._told = last
        rows = (len(last.item_vectors) + last.n_users) / last.seconds
        loss = f"loss {last.loss:,.0f}"
        rest = [self._validation(), f"{_short(rows)} rows/s", f"{_seconds_left(progress):,.0f} s left"]
        for objective in (f"{loss} = {_parts(last)}", loss):
            line = ", ".join(filter(None, (f"epoch {last.epoch}/{progress.epochs}: {objective}", *rest)))
            if self._width is None or len(line) < self._width:
                break
        print(line, file=sys.stderr, flush=True)


def _position(progress: TrainingProgress) -> str:
    """What the bar says: the epoch in work, and the time."""
    epoch = progress.last.epoch + 1 if progress.last else None
    told = f"epoch {min(epoch, progress.epochs)}/{progress.epochs}, " if epoch else ""
    return f"{told}{progress.seconds:,.0f} s, {_seconds_left(progress):,.0f} s left"


def _parts(epoch: Epoch) -> str:
    """The parts of the objective."""
    parts = {"observed": epoch.observed, "unobserved": epoch.unobserved, "penalty": epoch.penalty}
    return " + ".join(f"{name} {_short(value)}" for name, value in parts.items())


def _short(value: float) -> str:
    """Three digits, such as 1.23M: a line has many numbers."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # From 999.5 on three digits are those of the next letter.
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _seconds_left(progress: TrainingProgress) -> float:
    return progress.seconds / progress.done - progress.seconds if progress.done else 0.0
