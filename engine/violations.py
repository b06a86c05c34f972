"""What is wrong with one request, collected field by field until a refusal holds no more.

Used by whatever reads requests (engine.requests, engine.filter_messages) or finds later that one does not fit the
release (engine.masks). Kept honest by tests/test_service.py.
"""

from __future__ import annotations

from engine.errors import InvalidQuery, Violation

MAX_VIOLATIONS = 20
"""Violations one refusal lists, so that it fits into the 8 KiB that HTTP/2 peers accept as trailers."""
_MAX_BYTES = 3_500
"""Fields and descriptions of one refusal, for the same reason; filters have long field names."""


class Violations:
    """The first violations of one request: `found`."""

    def __init__(self) -> None:
        self.found: list[Violation] = []
        self._size_bytes = 0

    def add(self, field: str, description: str) -> None:
        """Enter what is wrong with a field, unless the refusal is full."""
        if not self.full:
            self.found.append(Violation(field, description))
            self._size_bytes += len(field.encode()) + len(description.encode())

    @property
    def full(self) -> bool:
        """Whether looking for more is of no use."""
        return len(self.found) >= MAX_VIOLATIONS or self._size_bytes >= _MAX_BYTES

    def close(self) -> None:
        """Raise InvalidQuery if there were any."""
        if self.found:
            raise InvalidQuery(self.found)


def shown(text: str, most: int = 40) -> str:
    """A text of a request as a description quotes it."""
    return repr(text if len(text) <= most else text[:most] + "...")
