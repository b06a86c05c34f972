"""Trainers in processes of their own that run one epoch at a time, when they are told to.

A `Worker` is the parent's end: it starts the process, asks for an epoch, and reads seconds, peak memory and vectors.
Requests and answers are lines over pipes; vectors come back through anonymous shared memory. Between requests a trainer
waits inside its own loop, so training goes on where it was. The clock runs inside the process, from the request to the
end of the epoch; the peak of memory is read after the first epoch, before anybody has asked for vectors.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rivals import Entries, Setting, Vectors, child_environment, trainer_named

_CHILD = "from benchmarks.interleaved import serve; serve()"


class TrainerFailed(Exception):
    """A trainer's process ended before it was told to; its own words stand on standard error."""


class Worker:
    """One trainer on one set: `epoch()` runs the next and returns its seconds; `vectors()` shows what it learned."""

    def __init__(self, name: str, entries: Path, setting: Setting) -> None:
        """Starts the process and waits until it could run its first epoch."""
        self.name, self.setting = name, setting
        self.seconds: list[float] = []
        self.objectives: list[float] = []
        self.multiply_adds: list[float | None] = []
        self._shared = os.memfd_create(name)
        task = {"name": name, "entries": str(entries), "setting": asdict(setting), "shared": self._shared}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(task)],
            cwd=Path(__file__).parents[1],
            env={**os.environ, **child_environment(name)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(self._shared,),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        try:
            self.facts = self._answer()
            """version, setup_seconds; after the first epoch, peak_bytes."""
        except TrainerFailed:
            self.stop()
            raise
        rows = self.facts.pop("n_users"), self.facts.pop("n_items")
        size = sum(rows) * setting.factors * 4
        os.ftruncate(self._shared, size)
        both = np.frombuffer(mmap.mmap(self._shared, size), dtype=np.float32).reshape(sum(rows), setting.factors)
        self._vectors = both[: rows[0]], both[rows[0] :]

    def epoch(self) -> float:
        answer = self._ask("epoch")
        self.facts.setdefault("peak_bytes", answer["peak_bytes"])
        self.seconds.append(answer["seconds"])
        self.multiply_adds.append(answer["multiply_adds"])
        return self.seconds[-1]

    def vectors(self) -> Vectors:
        """After the last epoch; overwritten by the next call."""
        self._ask("vectors")
        return self._vectors

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # a request that nobody read is still in the buffer
            self._requests.close()
        self._answers.close()
        os.close(self._shared)

    def _ask(self, command: str) -> dict[str, Any]:
        try:
            self._requests.write(command + "\n")
            self._requests.flush()
        except BrokenPipeError as error:
            raise TrainerFailed(f"{self.name} ended early") from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise TrainerFailed(f"{self.name} ended early, with exit status {self._process.wait()}")
        return dict(json.loads(line))


def serve() -> None:
    """The process's end: prepare, then an epoch or the vectors for each line of standard input."""
    task = json.loads(sys.argv[1])
    # Whatever a library prints belongs on standard error: standard output carries the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    rival, setting = trainer_named(task["name"]), Setting(**task["setting"])
    folder = Path(task["entries"])
    entries = Entries(
        np.load(folder / "indptr.npy"), np.load(folder / "indices.npy"), int(np.load(folder / "n_items.npy"))
    )

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    started = time.perf_counter()
    run = rival.prepare(entries, setting)
    answer(
        version=importlib.metadata.version(rival.library),
        setup_seconds=time.perf_counter() - started,
        n_users=entries.n_users,
        n_items=entries.n_items,
    )
    released = _wait(None, answer, task["shared"])

    def after_epoch(
        vectors: Callable[[], Vectors], seconds: float | None = None, multiply_adds: float | None = None
    ) -> None:
        nonlocal released
        taken = time.perf_counter() - released if seconds is None else seconds
        answer(seconds=taken, multiply_adds=multiply_adds, peak_bytes=_peak_bytes())
        released = _wait(vectors, answer, task["shared"])

    run(after_epoch)


def _wait(vectors: Callable[[], Vectors] | None, answer: Callable[..., None], shared: int) -> float:
    """Hand vectors out until an epoch is asked for; returns the time of that. Ends the process with the parent."""
    for line in iter(sys.stdin.readline, ""):
        if line.strip() == "epoch":
            return time.perf_counter()
        assert vectors is not None, "no epoch has been run"
        users, items = vectors()
        both = np.frombuffer(mmap.mmap(shared, 0), dtype=np.float32)
        both[: users.size], both[users.size :] = users.ravel(), items.ravel()
        del users, items, both
        answer(done=True)
    sys.stdout.flush()
    os._exit(0)


def _peak_bytes() -> int:
    """The kernel's high-water mark of this program; getrusage would carry the parent's over."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
