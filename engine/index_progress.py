"""How far building and measuring an index is: what is told of it, and how a program without a terminal's bar says it.

The bar stands in trainer.progress. Checked by tests/test_index_progress.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class IndexProgress(Protocol):
    """Is told of each search that is built or measured, one after the other."""

    def expects(self, more: int) -> None:
        """So many more of them are to come."""

    def begins(self, what: str) -> None:
        """The next one."""

    def tries(self, setting: str) -> None:
        """This setting of it is being measured."""

    def ends(self, result: str = "") -> None:
        """What came out, if there is something to tell."""


class Silence:
    """Says nothing."""

    def expects(self, more: int) -> None:
        """See IndexProgress, as for the others."""

    def begins(self, what: str) -> None:
        """Nothing."""

    def tries(self, setting: str) -> None:
        """Nothing."""

    def ends(self, result: str = "") -> None:
        """Nothing."""


SILENCE: IndexProgress = Silence()


class IndexLines:
    """Hands `say` a line for each beginning and each result, such as "2 of 5: building HNSW32"."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._total = 0
        self._number = 0

    def expects(self, more: int) -> None:
        """See IndexProgress, as for the others."""
        self._total += more

    def begins(self, what: str) -> None:
        """A line."""
        self._number += 1
        self._tell(what)

    def tries(self, setting: str) -> None:
        """No line: there are dozens of settings."""

    def ends(self, result: str = "") -> None:
        """A line, where there is a result."""
        if result:
            self._tell(result)

    def _tell(self, text: str) -> None:
        self._say(f"{self._number} of {self._total}: {text}")
