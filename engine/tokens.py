"""Who may call: bearer tokens with roles, from a file that may change while the server runs.

Only SHA-256 digests are kept, and each check compares all of them, so that neither time nor a dump of this object tells
anything of a token; no token, nor any word of the file, is ever logged or quoted in an error. Where in a call the check
stands, and which method asks which role, is decided where calls are admitted. Kept honest by tests/test_tokens.py.
"""

from __future__ import annotations

import enum
import logging
import re
import time
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from engine.errors import Forbidden, Unauthenticated, UsageError
from engine.watched_files import Contents, WatchedFiles, warn_if_others_may_read

FLAG = "--tokens"
HEADER = "authorization"
"""The metadata key that a token comes under, as `Bearer TOKEN`."""
MIN_TOKEN_CHARACTERS = 16
MAX_TOKEN_CHARACTERS = 1_024
MAX_TOKENS = 256
"""Every check compares them all."""
_SCHEME = "bearer "
_HASHED = "sha256:"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""The letters of RFC 6750, section 2.1."""
_LINE = "expected `query TOKEN`, `admin TOKEN`, or the role and sha256: with 64 hexadecimal digits"

logger = logging.getLogger(__name__)


class Role(enum.IntEnum):
    """What the holder of a token may do; each role may do what those before it may."""

    QUERY = 1
    ADMIN = 2


_Entry = tuple[bytes, int]
"""The SHA-256 of a token, and its role, as a plain number because every check multiplies by it."""


class Tokens:
    """The tokens of a file, as they are now: it is looked at again, at most once a second, while calls are checked.

    A file that becomes unreadable or wrong is logged, once for each change, and the tokens it had before stay valid.
    `clock` counts seconds and never goes back. Raises UsageError.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._watched = WatchedFiles({FLAG: path}, partial(_read, path), "tokens", clock)
        self._log("read")

    def role_of(self, header: str | None) -> Role | None:
        """Of the sender of this header; None where there is none, or it holds no valid token.

        Takes the same time for any token of one length: a digest is made, and compared with each there is.
        """
        if self._watched.refresh():
            self._log("read anew")
        if header is None or header[: len(_SCHEME)].lower() != _SCHEME:
            return None
        digest = _digest(header[len(_SCHEME) :].strip(" "))
        found = 0
        for known, role in self._watched.value:  # to the end, whatever is found: see above
            found += compare_digest(digest, known) * role
        return Role(found) if found else None

    def require(self, header: str | None, role: Role) -> None:
        """Raises Unauthenticated without a valid token, Forbidden where its role may not do what `role` may."""
        found = self.role_of(header)
        if found is None:
            raise Unauthenticated(
                f"no valid token in the metadata; expected {HEADER!r}: 'Bearer TOKEN', with a token that the server's "
                "--tokens file knows"
            )
        if found < role:
            raise Forbidden(
                f"the token has the role {found.name.lower()}; this method needs the role {role.name.lower()}: send a "
                "token of that role"
            )

    def __repr__(self) -> str:
        return f"Tokens({str(self._path)!r}, {len(self._watched.value)} tokens)"

    def _log(self, what: str) -> None:
        roles = [role for _, role in self._watched.value]
        counts = ", ".join(f"{roles.count(role)} of the role {role.name.lower()}" for role in Role)
        logger.info("tokens %s from %s: %s", what, self._path, counts)


def header_in(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The one authorization header of a call's metadata; None where there is none, or where several contradict."""
    found = [value for key, value in metadata if key == HEADER]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else None


def _read(path: Path, contents: Contents) -> tuple[_Entry, ...]:
    """The entries of a file. Raises UsageError, which names lines by their number and nothing of what they hold."""
    try:
        text = contents[FLAG].decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{FLAG} {path} is not UTF-8; expected lines of text, each a role and a token") from None
    entries: list[_Entry] = []
    lines: dict[bytes, int] = {}
    has_secrets = False
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        place = f"{FLAG} {path}, line {number}"
        digest, role = _entry(words, place)
        if digest in lines:
            raise UsageError(f"{place} repeats the token of line {lines[digest]}: remove one of the two")
        lines[digest] = number
        entries.append((digest, role))
        has_secrets |= not words[1].startswith(_HASHED)
    if not entries:
        raise UsageError(f"{FLAG} {path} holds no token; expected one a line: `query TOKEN` or `admin TOKEN`")
    if len(entries) > MAX_TOKENS:
        raise UsageError(f"{FLAG} {path} holds {len(entries)} tokens; expected at most {MAX_TOKENS}")
    if has_secrets:
        warn_if_others_may_read(path, FLAG)
    return tuple(entries)


def _entry(words: list[str], place: str) -> _Entry:
    """Of the words of a line. Raises UsageError."""
    roles = {role.name.lower(): role for role in Role}
    if words[0] not in roles:
        raise UsageError(f"{place} does not begin with a role; {_LINE}")
    if len(words) == 1 or (len(words) > 2 and not words[2].startswith("#")):
        raise UsageError(f"{place} has {len(words)} words; {_LINE}, and after them nothing but a # comment")
    role, token = roles[words[0]], words[1]
    if token.startswith(_HASHED):
        digits = token.removeprefix(_HASHED)
        if not re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
            raise UsageError(f"{place} has {len(digits)} characters after sha256:; {_LINE}")
        return bytes.fromhex(digits), int(role)
    if not MIN_TOKEN_CHARACTERS <= len(token) <= MAX_TOKEN_CHARACTERS:
        raise UsageError(
            f"{place} has a token of {len(token)} characters; expected {MIN_TOKEN_CHARACTERS} to "
            f"{MAX_TOKEN_CHARACTERS}: make one with `openssl rand -hex 32`"
        )
    if not _TOKEN.fullmatch(token):
        raise UsageError(
            f"{place} has a token with a character that a header may not carry; expected letters, digits and "
            "-._~+/, with = at the end only: make one with `openssl rand -hex 32`"
        )
    return _digest(token), int(role)


def _digest(token: str) -> bytes:
    # What a peer sent may hold anything, halves of surrogate pairs too.
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
