"""Values made of small files: what holds up replaces the former value, what does not is logged and leaves it."""

from __future__ import annotations

import errno
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from made_certificates import write_settled

from engine.errors import UsageError
from engine.watched_files import MAX_FILE_BYTES, WatchedFiles, warn_if_others_may_read


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def pass_time(self) -> None:
        self.seconds += 1.0


def number(contents: dict[str, bytes]) -> int:
    try:
        return int(contents["--number"])
    except ValueError:
        raise UsageError("--number is no number; expected one") from None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_settled(tmp_path / "number", "1")
    return tmp_path / "number"


def watch(path: Path, clock: Clock, make=number) -> WatchedFiles[int]:
    return WatchedFiles({"--number": path}, make, "numbers", clock)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_a_change_is_seen_at_the_next_look_and_looks_are_a_second_apart(path: Path) -> None:
    clock = Clock()
    watched = watch(path, clock)
    write_settled(path, "2")
    clock.seconds = 0.999
    assert (watched.refresh(), watched.value) == (False, 1)
    clock.seconds = 1.0
    assert (watched.refresh(), watched.value) == (True, 2)
    write_settled(path, "3")
    clock.seconds = 1.999
    assert (watched.refresh(), watched.value) == (False, 2)
    clock.seconds = 2.0
    assert (watched.refresh(), watched.value) == (True, 3)
    clock.seconds = 9.0
    assert (watched.refresh(), watched.value) == (False, 3)


def test_between_looks_no_file_is_touched(path: Path) -> None:
    watched = watch(path, Clock())
    path.unlink()
    assert not any(watched.refresh() for _ in range(100))


@pytest.mark.parametrize(
    ("age_seconds", "is_taken"), [(-3600.0, True), (0.0, False), (0.999, False), (1.0, True), (86_400.0, True)]
)
def test_files_that_were_written_within_the_last_second_are_left_for_a_later_look(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, age_seconds: float, is_taken: bool
) -> None:
    """Half of a file may be a sound one: a list of tokens without its end, say. The future is another machine's."""
    clock = Clock()
    watched = watch(path, clock)
    path.write_text("25")
    os.utime(path, (1_800_000_000, 1_800_000_000))
    monkeypatch.setattr("time.time", lambda: 1_800_000_000 + age_seconds)
    clock.pass_time()
    assert (watched.refresh(), watched.value, errors(caplog)) == (is_taken, 25 if is_taken else 1, [])
    monkeypatch.setattr("time.time", lambda: 1_800_000_100)
    clock.pass_time()
    assert (watched.refresh(), watched.value) == (not is_taken, 25)


def test_a_change_of_the_same_size_and_time_is_seen(path: Path) -> None:
    clock = Clock()
    watched = watch(path, clock)
    times = path.stat()
    path.write_text("7")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    clock.pass_time()
    assert (watched.refresh(), watched.value) == (True, 7)


@pytest.mark.parametrize("way", ["wrong", "missing", "directory", "pipe", "too large"])
def test_files_that_do_not_hold_up_leave_the_value_and_are_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    clock = Clock()
    watched = watch(path, clock)
    path.unlink()
    match way:
        case "wrong":
            write_settled(path, "x")
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "too large":
            write_settled(path, "1" * (MAX_FILE_BYTES + 1))
    for _ in range(5):
        clock.pass_time()
        assert (watched.refresh(), watched.value) == (False, 1)
    (message,) = errors(caplog)
    assert message.startswith("--number")
    assert "numbers stay in use" in message


def test_each_change_for_the_worse_is_logged_and_one_for_the_better_taken(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    watched = watch(path, clock)
    for content, n_errors in (("x", 1), ("y", 2), ("y", 2), ("1", 2), ("y", 3)):
        write_settled(path, content)
        clock.pass_time()
        assert watched.refresh() == (content == "1")
        assert (len(errors(caplog)), watched.value) == (n_errors, 1)


@pytest.mark.parametrize("content", [b"2", None])
def test_files_that_change_while_a_value_is_made_of_them_are_looked_at_again(path: Path, content: bytes | None) -> None:
    clock = Clock()

    def make(contents: dict[str, bytes]) -> int:
        if contents["--number"] == b"5":
            path.unlink()
            if content is not None:
                write_settled(path, content)
        return number(contents)

    watched = watch(path, clock, make)
    write_settled(path, "5")
    clock.pass_time()
    assert (watched.refresh(), watched.value) == (False, 1)
    write_settled(path, "2")
    clock.pass_time()
    assert (watched.refresh(), watched.value) == (True, 2)


def test_while_one_thread_looks_the_others_go_on_with_the_former_value(path: Path) -> None:
    clock = Clock()
    entered, leave = threading.Event(), threading.Event()

    def make(contents: dict[str, bytes]) -> int:
        if contents["--number"] == b"2":
            entered.set()
            assert leave.wait(10)
        return number(contents)

    watched = watch(path, clock, make)
    write_settled(path, "2")
    with ThreadPoolExecutor(1) as pool:
        clock.pass_time()
        looking = pool.submit(watched.refresh)
        assert entered.wait(10)
        clock.pass_time()
        assert (watched.refresh(), watched.value) == (False, 1)
        leave.set()
        assert looking.result(10)
    assert watched.value == 2


@pytest.mark.parametrize(
    ("make_wrong", "message"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: os.mkfifo(path), "no regular file"),
        (lambda path: path.write_bytes(b"1" * (MAX_FILE_BYTES + 1)), "right file"),
        (lambda path: path.write_bytes(b"x"), "no number"),
    ],
)
def test_what_is_wrong_at_the_start_is_refused(path: Path, make_wrong, message: str) -> None:
    path.unlink()
    make_wrong(path)
    with pytest.raises(UsageError, match=f"--number.*{message}"):
        watch(path, Clock())


def test_a_file_without_the_right_to_read_it_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.open", refuse)  # for root, who runs some of these tests, nothing is forbidden
    with pytest.raises(UsageError, match=r"cannot be read: Permission denied.*this user may read"):
        watch(path, Clock())


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_a_secret_that_everybody_may_read_is_warned_of(
    path: Path, caplog: pytest.LogCaptureFixture, mode: int, warns: bool
) -> None:
    path.chmod(mode)
    warn_if_others_may_read(path, "--number")
    assert [f"mode {mode:o}" in record.getMessage() for record in caplog.records] == [True] * warns
