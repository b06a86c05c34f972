"""The directory of releases: publish, promote, roll back, list and verify.

`CURRENT` is a file that names the live release. It is replaced by rename, as is a finished draft, so a reader sees the
old state or the new one and nothing between, and a crash leaves at most a hidden draft. Checked by
tests/test_repository.py.
"""

from __future__ import annotations

import datetime
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import PromotionRefused, PublishFailed, ReleaseError, ReleaseNotFound
from engine.gate import Comparison, Gate
from engine.in_use import Hold
from engine.manifest import reading
from engine.release import Draft, Release, flush, publishing

CURRENT = "CURRENT"
_GATE = Gate()
_RELEASE_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")

_log = logging.getLogger("nearcart")


@dataclass(frozen=True)
class ReleaseSummary:
    """One line of `nearcart releases list`; `problem` is None for a release that opens."""

    release_id: str
    created_at: str
    size_bytes: int
    is_current: bool
    problem: str | None


class Repository:
    """Releases under one root directory; the root need not exist until the first is published.

    What is to become live passes the gate first: it is compared with what is live.
    """

    def __init__(self, root: Path, gate: Gate = _GATE) -> None:
        self.root = root
        self._gate = gate

    def draft(self) -> Draft:
        """A new draft under a fresh release id: the time in UTC, which sorts, and a random part, for two at once."""
        now = datetime.datetime.now(datetime.UTC)
        return Draft(self.root, f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z-{secrets.token_hex(3)}")

    def publish(self, draft: Draft, fields: Mapping[str, Any], *, promote: bool) -> str:
        """Finish a draft, give it its final name, make it CURRENT if asked. Returns its id; raises PublishFailed.

        Should CURRENT alone not be writable, the release stays and the error names it. So it does where it does not
        pass the gate: raises PromotionRefused.
        """
        draft.finish({"created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **fields})
        final = self.root / draft.release_id
        with Hold(draft.directory):
            with publishing(final):
                draft.directory.rename(final)
                try:
                    flush(self.root)
                except OSError:
                    final.rename(draft.directory)  # a draft again, so that the error's "nothing was published" is true
                    raise
            if promote:
                self.require_passes(draft.release_id)
                self._replace_current(draft.release_id)
        return draft.release_id

    def path(self, release_id: str) -> Path:
        """The directory of a release. Raises ReleaseNotFound."""
        path = self.root / release_id
        if not _RELEASE_ID.fullmatch(release_id) or not path.is_dir():
            known = ", ".join(self._release_ids()[-5:]) or "none"
            raise ReleaseNotFound(
                f"{self.root} has no release {release_id[:128]!r}; the newest are: {known}. "
                "`nearcart releases list` shows all"
            )
        return path

    def current(self) -> str | None:
        """The id that CURRENT names, None where nothing has been promoted. Raises ReleaseError if it cannot be read."""
        path = self.root / CURRENT
        with reading(path):
            try:
                return path.read_text(encoding="utf-8", errors="replace").strip() or None
            except (FileNotFoundError, NotADirectoryError):
                return None

    def current_path(self) -> Path:
        """The directory of the live release. Raises ReleaseNotFound."""
        release_id = self.current()
        if release_id is None and not self.root.exists():
            raise ReleaseNotFound(f"there is no directory {self.root}: expected releases that `nearcart train` made")
        if release_id is None:
            raise ReleaseNotFound(
                f"{self.root} has no live release: train one with `nearcart train EVENTS --releases {self.root}`, "
                "or promote one with `nearcart releases promote ID --releases {self.root}`"
            )
        return self.path(release_id)

    def promote(self, release_id: str, *, force: bool = False) -> None:
        """Let a release pass the gate, verify it in full, then make it CURRENT.

        Raises PromotionRefused where it does not pass, unless forced, which is logged. Raises ReleaseError and changes
        nothing if it is broken.
        """
        lost = self._lost(release_id)
        if lost and not force:
            self._refuse(release_id, lost)
        self.restore(release_id)
        if lost:
            told = "; ".join(each.told for each in lost)
            _log.warning("release %s was promoted by force, although it did not pass the gate: %s", release_id, told)

    def require_passes(self, release_id: str) -> None:
        """Compare a release with the live one, by their manifests. Raises PromotionRefused, ReleaseError."""
        lost = self._lost(release_id)
        if lost:
            self._refuse(release_id, lost)

    def restore(self, release_id: str) -> None:
        """As `promote`, without the gate: for going back to a release."""
        release = Release(self.path(release_id))
        with Hold(release.directory):
            release.verify()
            self._replace_current(release_id)

    def previous_ids(self) -> list[str]:
        """The releases older than the live one, newest first; none where nothing is live."""
        current = self.current()
        return [] if current is None else [each for each in reversed(self._release_ids()) if each < current]

    def rollback(self) -> str:
        """Promote the newest sound release older than CURRENT; returns its id. Raises ReleaseError."""
        for release_id in self.previous_ids():
            try:
                self.restore(release_id)
            except PublishFailed:  # CURRENT cannot be written, whatever it is to name
                raise
            except ReleaseError:
                continue
            return release_id
        raise ReleaseNotFound(
            f"{self.root} has no sound release older than {self.current()}: there is nothing to roll back to"
        )

    def verify(self, release_id: str) -> None:
        """Compare every file of a release with its SHA-256. Raises ReleaseError."""
        Release(self.path(release_id)).verify()

    def summaries(self) -> list[ReleaseSummary]:
        """All releases, oldest first; the broken ones say why."""
        current = self.current()
        return [self._summary(release_id, is_current=release_id == current) for release_id in self._release_ids()]

    def _lost(self, release_id: str) -> list[Comparison]:
        """What does not pass the gate; nothing where nothing is live, or what is live is broken."""
        manifest = Release(self.path(release_id)).manifest
        if self.current() is None:
            return []
        try:
            live = Release(self.current_path())
        except ReleaseError as error:
            _log.info("release %s is compared with nothing, because the live one is broken: %s", release_id, str(error))
            return []
        return [each for each in self._gate.compare(manifest, live.manifest) if not each.passes]

    def _refuse(self, release_id: str, lost: Sequence[Comparison]) -> NoReturn:
        raise PromotionRefused(
            release_id,
            f"release {release_id} is whole but not promoted, and CURRENT is unchanged: against the live release "
            f"{self.current()} it lost much. {'; '.join(each.told for each in lost)}. If that is meant to be, "
            f"`nearcart releases promote {release_id} --force` makes it live, or allow more with --max-loss and "
            "--max-metric-loss",
        )

    def _summary(self, release_id: str, *, is_current: bool) -> ReleaseSummary:
        try:
            manifest = Release(self.path(release_id)).manifest
        except ReleaseError as error:
            return ReleaseSummary(release_id, "", 0, is_current, str(error))
        size_bytes = sum(entry["size_bytes"] for entry in manifest["files"].values())
        return ReleaseSummary(release_id, manifest["created_at"], size_bytes, is_current, None)

    def _release_ids(self) -> list[str]:
        if not self.root.is_dir():
            return []
        with reading(self.root):
            return sorted(each.name for each in self.root.iterdir() if each.is_dir() and not each.name.startswith("."))

    def _replace_current(self, release_id: str) -> None:
        temporary = self.root / f".{CURRENT}-{secrets.token_hex(4)}"
        outcome = (
            f"The release {release_id} is whole but not live, and CURRENT is unchanged; "
            f"free space, and `nearcart releases promote {release_id}`"
        )
        with publishing(self.root / CURRENT, outcome):
            try:
                temporary.write_text(release_id + "\n", encoding="utf-8")
                flush(temporary)
                temporary.replace(self.root / CURRENT)
            finally:
                temporary.unlink(missing_ok=True)
        with publishing(self.root, f"CURRENT names {release_id}, but may not should the machine stop now"):
            flush(self.root)
