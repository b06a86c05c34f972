"""Every error the engine raises on purpose.

    NearcartError                     the root of this tree and of the trainer's
    ├── UsageError                    wrong flags, environment or configuration file; exit code 2
    ├── ReleaseError
    │   ├── ReleaseNotFound           no such release, or CURRENT names nothing
    │   ├── ReleaseCorrupt            a file is missing, cut, changed, or disagrees with the manifest
    │   ├── ReleaseIncompatible       written in a format version this program does not read
    │   ├── PromotionRefused          the release lost much against the live one; it is whole, and not live
    │   └── PublishFailed             the disk is full or not writable; nothing was published
    ├── SearchError
    │   ├── IndexUnsupported          a factory string FAISS does not know or cannot search here
    │   └── RecallNotReached          the index missed the promised recall; nothing was published
    ├── QueryError
    │   ├── InvalidQuery              malformed request; carries one violation per field
    │   ├── UnknownUser               strict request for a user this release does not know
    │   └── UnknownItem               strict cart of unknown items, or items similar to an unknown one
    ├── AccessError
    │   ├── Unauthenticated           a call without a valid token
    │   └── Forbidden                 a valid token whose role may not call this
    ├── ServerError                   the server could not start, or has no release to answer from yet
    └── ClientError                   the server could not be reached or refused the call

A message says what was found, what was expected and what to do. Conversion happens once per boundary: exit codes in
engine.cli, gRPC statuses in engine.statuses. tests/test_documentation.py holds that each class is documented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class NearcartError(Exception):
    """Root of every error that Nearcart raises on purpose; its text is meant for the user."""


class UsageError(NearcartError):
    """A flag, environment variable, configuration file, certificate, key or list of tokens is wrong."""


class ReleaseError(NearcartError):
    """Something about a release."""


class ReleaseNotFound(ReleaseError):
    """The named release does not exist, or CURRENT names nothing."""


class ReleaseCorrupt(ReleaseError):
    """A file of the release is missing, cut, changed, or disagrees with the manifest."""


class ReleaseIncompatible(ReleaseError):
    """The release is written in a format version that this program does not read."""


class PromotionRefused(ReleaseError):
    """The release `release_id` has much less than the live one, or finds much less; it is there, and not live."""

    def __init__(self, release_id: str, message: str) -> None:
        super().__init__(message)
        self.release_id = release_id


class PublishFailed(ReleaseError):
    """The release could not be written; nothing was published."""


class SearchError(NearcartError):
    """Something about the search index."""


class IndexUnsupported(SearchError):
    """FAISS does not know the factory string, or cannot build it for these vectors."""


class RecallNotReached(SearchError):
    """The index missed the promised recall on measured queries."""


class QueryError(NearcartError):
    """A query that cannot be answered."""


@dataclass(frozen=True)
class Violation:
    """One field of a request and what is wrong with it."""

    field: str
    description: str


class InvalidQuery(QueryError):
    """A malformed query; `violations` names every offending field."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class UnknownUser(QueryError):
    """A strict query named a user that the release does not hold."""


class UnknownItem(QueryError):
    """A strict cart of items that the release does not hold, or a query for items similar to such an item."""


class AccessError(NearcartError):
    """A call that its sender may not make."""


class Unauthenticated(AccessError):
    """The call has no valid token."""


class Forbidden(AccessError):
    """The call has a valid token, whose role may not do this."""


class ServerError(NearcartError):
    """The server could not start (address taken, device missing), or no release is loaded yet."""


class ClientError(NearcartError):
    """The server could not be reached, or refused the call."""
