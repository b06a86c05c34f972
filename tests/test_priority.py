"""Threads in the background give way, and nobody else does."""

from __future__ import annotations

import hashlib
import os
import sys
import threading

import pytest

from engine.priority import gentle_thread
from engine.release import Draft, Release
from engine.repository import Repository

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")


def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def in_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_a_gentle_thread_gives_way_and_so_do_its_threads_and_no_others():
    found = {}

    def gentle():
        found["before"] = niceness()
        gentle_thread()
        found["after"] = niceness()
        in_a_thread(lambda: found.update(its=niceness()))

    before = niceness()
    in_a_thread(gentle)
    in_a_thread(lambda: found.update(others=niceness()))
    assert found == {"before": before, "after": max(10, before), "its": max(10, before), "others": before}
    assert niceness() == before


def test_where_priorities_are_forbidden_the_work_is_done_all_the_same(monkeypatch):
    def forbidden(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", forbidden)
    gentle_thread()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_what_is_hashed_in_pieces_is_the_hash_of_the_whole(tmp_path, size):
    content = os.urandom(size)
    with Draft(tmp_path, "r") as draft:
        draft.add_file("file", lambda path: path.write_bytes(content))
        fields = {"created_at": "", "sizes": {}, "parts": [], "index": {}, "attributes": []}
        release = Release(tmp_path / Repository(tmp_path).publish(draft, fields, promote=False))
    assert release.manifest["files"]["file"]["sha256"] == hashlib.sha256(content).hexdigest()
    release.verify()
