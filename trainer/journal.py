"""The journal of a search: what Optuna knows of it, in a file that one process holds and the next goes on from.

Used by trainer.tuning and trainer.parts_tuning; checked by tests/test_tuning.py.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

from engine.errors import UsageError


@contextmanager
def opened(journal: Path) -> Iterator[JournalStorage]:
    """The journal, held against other processes. A lock of the system is gone with its process, however it ends."""
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        file = journal.open("a+b")
    except OSError as error:
        raise UsageError(f"{journal}: {error.strerror}: expected a directory that can be written to") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"another search is writing {journal}: wait for its end, or give another --output"
            ) from None
        file.seek(0)
        # Whoever was killed while writing left part of a line, which the next one would be appended to.
        file.truncate(file.read().rfind(b"\n") + 1)
        try:
            storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=_Held(str(journal))))
        except (ValueError, KeyError) as error:
            raise UsageError(f"{journal} is damaged ({error}): remove it to start anew") from error
        yield storage


class _Held(JournalFileSymlinkLock):
    """Optuna's lock for each write stays behind when a process is killed, and is not needed: see `opened`."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def require_same(study: optuna.Study, identity: Mapping[str, Any], journal: Path) -> None:
    """Raises UsageError where the study is of a search with another identity; a new study gets this one."""
    wanted = dict(identity)
    found = study.user_attrs.get("identity")
    if found is None:
        study.set_user_attr("identity", wanted)
        return
    for name in [name for name in wanted if found.get(name) != wanted[name]]:
        what = "other events" if name == "events" else f"{name} {found.get(name)!r}; here it is {wanted[name]!r}"
        raise UsageError(
            f"{journal} holds a search with {what}: give another --output, or the events and options of that search"
        )


def run_again(study: optuna.Study) -> None:
    """The trial that was running when its process ended; one that ended two of them is left alone."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params and "again" not in trial.user_attrs:
            study.enqueue_trial(trial.params, user_attrs={"again": True})
