"""When kernels are compiled: once for a processor, a numba and a version of ours, then read from numba's cache.

Kernels have explicit signatures (engine.signatures), so importing their modules compiles or reads them, and nothing is
compiled later. The modules are entry points of the group "nearcart.kernels". Checked by tests/test_kernels.py.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import time
from dataclasses import dataclass

from numba.core import event

GROUP = "nearcart.kernels"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A module of kernels that was imported: how long that took, and how many kernels were compiled for it."""

    module: str
    seconds: float
    compiled: int


class _Listener(event.Listener):  # type: ignore[misc]
    """Counts compilations, and says at the first one why nothing happens for a while."""

    def __init__(self) -> None:
        self.compiled = 0

    def on_start(self, event: event.Event) -> None:
        self.compiled += 1
        if self.compiled == 1:
            _log.info("compiling kernels for this processor, some ten seconds; later starts read them from the cache")

    def on_end(self, event: event.Event) -> None:
        pass


_listener = _Listener()


def tell_of_compiling() -> None:
    """Log a line when a kernel has to be compiled; numba tells of no compilation that the cache spares."""
    event.register("numba:compile", _listener)


def load_kernels() -> list[Loaded]:
    """Import every module of kernels whose packages are installed."""
    loaded = []
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.value):
        compiled, started = _listener.compiled, time.monotonic()
        try:
            importlib.import_module(entry.value)
        except ModuleNotFoundError as error:
            _log.info("%s is left out: %s is not installed", entry.value, error.name)
            continue
        loaded.append(Loaded(entry.value, time.monotonic() - started, _listener.compiled - compiled))
    return loaded
