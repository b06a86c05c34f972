"""Progress on the terminal: a bar that redraws itself, or plain lines where the output is not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trainer.als import TrainingProgress


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
def training_progress(*, quiet: bool = False) -> Iterator[Callable[[TrainingProgress], None]]:
    """Something to hand to train_als as `on_progress`."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield _Lines(quiet=quiet)
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress)


class _Lines:
    """One line an epoch."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._epoch = 0

    def __call__(self, progress: TrainingProgress) -> None:
        if self._quiet or progress.epoch == self._epoch or progress.loss is None:
            return
        self._epoch = progress.epoch
        left = progress.seconds / progress.done - progress.seconds
        line = f"epoch {progress.epoch}/{progress.epochs}: loss {progress.loss:,.1f}"
        print(f"{line}, {progress.seconds:.1f} s, {left:.0f} s left", file=sys.stderr, flush=True)


class _Bar:
    """A bar with the epoch and the loss."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=1.0)

    def __call__(self, progress: TrainingProgress) -> None:
        loss = "" if progress.loss is None else f", loss {progress.loss:,.1f}"
        text = f"epoch {progress.epoch}/{progress.epochs}{loss}"
        self._progress.update(self._task, completed=progress.done, description=text)
