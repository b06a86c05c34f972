"""AdminService: promote, roll back, reload, status. What it does lives in `engine.holder`; here it meets the wire.

Served on a port of its own, because whoever may ask for recommendations need not be allowed to change them.
Kept honest by tests/test_admin.py.
"""

from __future__ import annotations

import logging
import time

from nearcart.v1 import admin_pb2 as wire

from engine.holder import LoadState, SnapshotHolder, Verification
from engine.methods import Answerer, methods_of
from engine.requests import Check
from engine.serving import Serving

_SERVICE = wire.DESCRIPTOR.services_by_name["AdminService"]
NAME = _SERVICE.full_name
"""The service's full name, as health and reflection use it."""
_LOAD_STATES = {
    LoadState.IDLE: wire.LOAD_STATE_IDLE,
    LoadState.LOADING: wire.LOAD_STATE_LOADING,
    LoadState.LOADED: wire.LOAD_STATE_LOADED,
    LoadState.FAILED: wire.LOAD_STATE_FAILED,
}
_VERIFICATIONS = {
    Verification.OFF: wire.VERIFICATION_OFF,
    Verification.RUNNING: wire.VERIFICATION_RUNNING,
    Verification.PASSED: wire.VERIFICATION_PASSED,
    Verification.FAILED: wire.VERIFICATION_FAILED,
}
_log = logging.getLogger(__name__)


class AdminService:
    """Changes and shows what the holder serves; `serving` is what answers."""

    def __init__(self, holder: SnapshotHolder, serving: Serving) -> None:
        self._holder = holder
        self._serving = serving
        self._started = time.monotonic()

    def methods(self) -> dict[str, Answerer]:
        """Every RPC, by its path."""
        return methods_of(_SERVICE, self)

    def PromoteRelease(self, request: wire.PromoteReleaseRequest) -> wire.PromoteReleaseResponse:  # noqa: N802
        """See the .proto."""
        check = Check()
        release_id = check.id("release_id", request.release_id)
        check.close()
        _log.info("asked to promote %s%s", release_id, ", by force" if request.force else "")
        self._holder.promote(release_id, force=request.force)
        return wire.PromoteReleaseResponse(release_id=release_id)

    def RollbackRelease(self, request: wire.RollbackReleaseRequest) -> wire.RollbackReleaseResponse:  # noqa: N802
        """See the .proto."""
        _log.info("asked to roll back")
        return wire.RollbackReleaseResponse(release_id=self._holder.rollback())

    def ReloadRelease(self, request: wire.ReloadReleaseRequest) -> wire.ReloadReleaseResponse:  # noqa: N802
        """See the .proto."""
        loaded = self._holder.reload(damaged_too=True)
        return wire.ReloadReleaseResponse(release_id=self._holder.status.release_id, loaded=loaded)

    def GetStatus(self, request: wire.GetStatusRequest) -> wire.GetStatusResponse:  # noqa: N802
        """See the .proto."""
        status, figures = self._holder.status, self._serving.figures()
        response = wire.GetStatusResponse(
            release_id=status.release_id,
            current_release_id=self._holder.current(),
            load_state=_LOAD_STATES[status.load_state],
            verification=_VERIFICATIONS[status.verification],
            last_error=status.last_error,
            uptime_seconds=time.monotonic() - self._started,
            in_flight=sum(each["in_flight"] for each in figures),
            answered=sum(n for each in figures for _, _, n in each["calls"]),
            workers=len(figures),
            worker_restarts=self._serving.n_restarts,
        )
        if status.loaded_at is not None:
            response.loaded_at.FromDatetime(status.loaded_at)
        return response
