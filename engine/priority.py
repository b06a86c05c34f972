"""Who gives way: threads that read or build beside the answering. Light: the supervisor of servers has them too."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

_GENTLE = 10
"""The niceness of work in the background: a tenth of a processor that another thread wants as well."""


def gentle_thread() -> None:
    """The calling thread, and threads that it starts, give way from now on to others that have something to do.

    For good: a thread may not raise its priority again, so never call it in one of a pool that answers. On Linux
    threads have priorities of their own, which reading from disk follows; elsewhere nothing happens, because it would
    be the whole process that gives way.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # forbidden in some sandboxes, and no reason not to do the work
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _GENTLE)
