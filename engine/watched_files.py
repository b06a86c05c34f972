"""What is made of small files, and made anew when they change, while the program runs: certificates, tokens.

Somebody writes these files while we read them, so what is found must hold up before it replaces what is in use: files
that were written within the last second are left for the next look, and files that cannot be read, or make no sense,
leave the former value in use. Files are compared by content, which no clock, copy or network file system gets wrong.
Kept honest by tests/test_watched_files.py.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from engine.errors import UsageError

LOOK_SECONDS = 1.0
"""Between two looks at the files, at least; so long must a file lie still, too, before it is believed."""
MAX_FILE_BYTES = 1024 * 1024
"""More is no certificate and no list of tokens; it bounds what a look may cost."""

T = TypeVar("T")
Contents = dict[str, bytes]
"""The bytes of each file, by the flag that names it."""

logger = logging.getLogger(__name__)


class WatchedFiles(Generic[T]):
    """`value`, made of files by `make`. `refresh` is for any thread, and costs the reading of a clock between looks.

    `files` maps flags to paths; `make` gets their contents and raises UsageError, in whose text no secret may stand;
    `what` names the value in the log; `clock` counts seconds and never goes back. Raises UsageError.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        make: Callable[[Contents], T],
        what: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = dict(files)
        self._make = make
        self._what = what
        self._clock = clock
        self._looking = threading.Lock()
        self._look_at = clock() + LOOK_SECONDS
        contents, _ = self._read()
        self._seen = _digest(contents)
        """Of what the last look that came to a verdict found: its digest, since it may hold secrets, or its error."""
        self.value = make(contents)

    def refresh(self) -> bool:
        """Look at the files if it is time to; whether `value` was replaced. One thread looks, others never wait."""
        now = self._clock()
        if now < self._look_at or not self._looking.acquire(blocking=False):
            return False
        try:
            self._look_at = now + LOOK_SECONDS
            return self._look()
        finally:
            self._looking.release()

    def _look(self) -> bool:
        try:
            contents, is_settled = self._read()
        except UsageError as error:
            if self._seen != str(error):
                self._seen = str(error)
                self._complain(error)
            return False
        found = _digest(contents)
        if found == self._seen or not is_settled:
            return False
        try:
            value = self._make(contents)
        except UsageError as error:
            self._seen = found
            self._complain(error)
            return False
        # What `make` took from the paths themselves, or one file after another, must be what we hold.
        if self._read_again() != contents:
            return False
        self._seen, self.value = found, value
        return True

    def _complain(self, error: UsageError) -> None:
        logger.error("%s. The former %s stay in use until that is mended", error, self._what)

    def _read(self) -> tuple[Contents, bool]:
        """The contents, and whether all of them have lain still for a while. Raises UsageError."""
        contents, now, is_settled = {}, time.time(), True
        for flag, path in self._files.items():
            contents[flag], written = _read(path, flag)
            # A time in the future, of another machine's clock, says nothing.
            is_settled &= not 0 <= now - written < LOOK_SECONDS
        return contents, is_settled

    def _read_again(self) -> Contents | None:
        try:
            return self._read()[0]
        except UsageError:
            return None


def warn_if_others_may_read(path: Path, flag: str) -> None:
    """Log a warning where the file of a secret is readable by everybody on this machine."""
    try:
        mode = path.stat().st_mode
    except OSError:  # gone since it was read: the next look says so
        return
    if mode & stat.S_IROTH:
        logger.warning(
            "%s %s holds secrets and can be read by every user of this machine (mode %03o): chmod o-rwx it",
            flag,
            path,
            stat.S_IMODE(mode),
        )


def _digest(contents: Contents) -> str:
    return " ".join(hashlib.sha256(content).hexdigest() for content in contents.values())


def _read(path: Path, flag: str) -> tuple[bytes, float]:
    """The content of a small regular file, and when it was written. Raises UsageError."""
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{flag} {path} is no regular file; expected one, since it is read more than once")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{flag} {path} cannot be read: {error.strerror}. Expected a file that this user may read"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise UsageError(f"{flag} {path} has more than {MAX_FILE_BYTES:,} bytes: is it the right file?")
    return content, status.st_mtime


def _open(path: str, flags: int) -> int:
    """Without waiting: opening a named pipe would, until somebody writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)
