"""A worker in a process of its own: commands come as lines of JSON on standard input, and answers leave the same way.

    python -m engine.worker_process < commands

The first line is the options. The process ends when its input does, so that no worker outlives who started it. JSON,
because what a process is told should be readable, and nothing that comes in may run. engine.worker_group is the
other side; kept honest by tests/test_worker_group.py.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from engine.errors import NearcartError
from engine.logs import set_up_logging
from engine.priority import gentle_thread
from engine.serving import Loaded, Serving, WorkerOptions

_THREADS = 4
"""Commands that are followed at the same time: a load takes minutes, and figures are wanted meanwhile."""

logger = logging.getLogger(__name__)


def main(make: Callable[[WorkerOptions], Serving] | None = None) -> None:
    """Be a worker until standard input ends. Tests pass what makes it."""
    commands, answers = sys.stdin, os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints must not be taken for an answer
    for each in (signal.SIGINT, signal.SIGTERM):  # who started this process hears them too, and says when to stop
        signal.signal(each, signal.SIG_IGN)
    first = json.loads(commands.readline())
    set_up_logging(first["log_format"], first["place"])
    if make is None:
        from engine.worker import opened_worker  # which the other side of this module need not load

        make = opened_worker
    try:
        worker = make(options_of(first["options"]))
    except NearcartError as error:  # a file of tokens, a package that is not there
        _answer(answers, {"id": json.loads(commands.readline())["id"], **_told(error)})
    else:
        _Process(worker, answers).follow(commands)
    # At once: Python's own way out waits for every thread, however long it works.
    logging.shutdown()
    os._exit(0)


def options_of(values: dict[str, Any]) -> WorkerOptions:
    """Options as they travel."""
    paths = {
        name: value and Path(value) for name, value in values.items() if name.startswith("tls_") or name == "tokens"
    }
    return WorkerOptions(**{**values, **paths})


def values_of(options: WorkerOptions) -> dict[str, Any]:
    """The inverse of `options_of`."""
    return {name: str(each) if isinstance(each, Path) else each for name, each in dataclasses.asdict(options).items()}


def _told(error: NearcartError) -> dict[str, str]:
    return {"error": type(error).__name__, "message": str(error)}


def _answer(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


class _Process:
    """Follows commands, several at a time."""

    def __init__(self, worker: Serving, answers: TextIO) -> None:
        self._worker, self._answers = worker, answers
        self._writing = threading.Lock()
        self._loaded: dict[str, Loaded] = {}
        self._commands: dict[str, Callable[[Any], Any]] = {
            "bind": self._bind,
            "start": lambda _: worker.start(),
            "load": self._load,
            "serve": self._serve,
            "ping": lambda _: None,
            "forget": lambda _: self._loaded.clear(),
            "healthy": worker.set_healthy,
            "drain": lambda _: worker.drain(),
            "figures": lambda _: worker.figures()[0],
            "stop": worker.stop,
        }

    def follow(self, lines: TextIO) -> None:
        """Until they end; what is still being followed then is nobody's business any more, and not waited for."""
        threads = ThreadPoolExecutor(_THREADS, "nearcart-command")
        for line in lines:
            threads.submit(self._follow, json.loads(line))

    def _follow(self, command: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": command["id"]}
        try:
            answer["value"] = self._commands[command["do"]](command.get("with"))
        except NearcartError as error:
            answer.update(_told(error))
        except Exception as error:  # the other side waits for an answer
            logger.exception("the command %s failed", command["do"])
            answer["error"], answer["message"] = "ServerError", f"{command['do']}: {error!r}; the log has the details"
        with self._writing:
            _answer(self._answers, answer)

    def _bind(self, _: object) -> str:
        self._worker.bind()
        return self._worker.address

    def _load(self, path: str) -> str:
        gentle_thread()  # the other threads that follow commands are asked for little
        self._loaded.clear()  # a release that was loaded, and then not promoted
        loaded = self._worker.load(Path(path))
        self._loaded[path] = loaded
        return loaded.release_id

    def _serve(self, path: str) -> None:
        loaded = self._loaded.pop(path, None)
        self._worker.serve(self._worker.load(Path(path)) if loaded is None else loaded)
        self._loaded.clear()


if __name__ == "__main__":
    main()
