"""Progress of a training: a line an epoch, and below them, on a terminal, a bar that redraws itself.

And of answers for many users: that bar alone, or a line now and then where there is no terminal. And of the choice of
an index: a line for each search that was measured, and the bar.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from engine.index_progress import SILENCE, IndexLines, IndexProgress
from trainer.als import Epoch, TrainingProgress

_LINE_SECONDS = 10.0
"""Between lines about users."""


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


@contextmanager
def index_progress(step: Steps, *, quiet: bool = False) -> Iterator[IndexProgress]:
    """Something to hand to publish_release; `step` says what each search came to."""
    if quiet:
        yield SILENCE
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield IndexLines(step)
        return
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(" of "),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    # Drawn seldom, because the bar's thread takes its time from the queries that are timed meanwhile.
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as bar:
        yield _IndexBar(bar, step)


@contextmanager
def users_progress(n_users: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Something to tell how many of n_users have been answered."""
    if quiet:
        yield lambda done: None
        return
    console, started = Console(stderr=True), time.monotonic()
    if not console.is_terminal:
        yield _UserLines(n_users, started)
        return
    columns = (BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=n_users)
        yield lambda done: bar.update(task, completed=done, description=_users_position(done, n_users, started))


class _IndexBar:
    """A bar of the searches that are done, with the name of the one in work; results are lines above it."""

    def __init__(self, bar: Progress, step: Steps) -> None:
        self._bar, self._step = bar, step
        self._total, self._done = 0, 0
        self._task = bar.add_task("", total=0, visible=False)

    def expects(self, more: int) -> None:
        self._total += more
        self._bar.update(self._task, total=self._total, visible=True)

    def begins(self, what: str) -> None:
        self._bar.update(self._task, description=escape(what), refresh=True)

    def tries(self, setting: str) -> None:
        self._bar.update(self._task, description=escape(f"tuning {setting}"))

    def ends(self, result: str = "") -> None:
        self._done += 1
        self._bar.update(self._task, completed=self._done)
        if result:
            self._step(f"{self._done} of {self._total}: {result}")


class _UserLines:
    """One line every _LINE_SECONDS."""

    def __init__(self, n_users: int, started: float) -> None:
        self._n_users, self._started, self._told = n_users, started, started

    def __call__(self, done: int) -> None:
        if time.monotonic() < self._told + _LINE_SECONDS:
            return
        self._told = time.monotonic()
        print(_users_position(done, self._n_users, self._started), file=sys.stderr, flush=True)


def _users_position(done: int, n_users: int, started: float) -> str:
    told = f"{done:,} of {n_users:,} users"
    if not done:
        return told
    speed = done / max(time.monotonic() - started, 1e-9)
    return f"{told}, {_short(speed)} users/s, {(n_users - done) / speed:,.0f} s left"


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
