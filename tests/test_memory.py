"""Memory: the prediction against a process that trains, and what systems say is left, from files made for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from made_interactions import interactions_of, random_matrix

from engine.cli import main
from trainer import memory
from trainer.als import train
from trainer.early_stopping import ITEM_COPIES
from trainer.errors import MemoryShort
from trainer.memory import available_bytes, predicted_bytes, require_memory
from trainer.options import AlsOptions

MIB = 1 << 20

MEASURE = """
import contextlib
import sys
from pathlib import Path
import numpy as np
from made_interactions import interactions_of, random_matrix
from engine.ids import IdTable
from trainer.als import train
from trainer.checkpoint import Checkpoint
from trainer.cleaning import Report
from trainer.early_stopping import EarlyStopping
from trainer.interactions import Csr, Interactions
from trainer.options import AlsOptions

n_users, n_items, factors, per_user = map(int, sys.argv[1:5])
start, checkpoint = sys.argv[5], Path(sys.argv[6])
options = AlsOptions(factors=factors, epochs=2, threads=2)
train(interactions_of(random_matrix(30, 20, seed=0)), options)  # what libraries take once is not the training's
indptr = np.arange(n_users + 1, dtype=np.int64) * per_user
starts = np.random.default_rng(0).integers(0, n_items - per_user, n_users)
indices = (starts[:, np.newaxis] + np.arange(per_user)).astype(np.int32).ravel()
by_user = Csr(indptr, indices, np.ones(len(indices), dtype=np.float32), n_columns=n_items)
user_ids, item_ids = (IdTable.of([str(row) for row in range(n)]) for n in (n_users, n_items))
by_item = by_user.transposed()
ones = np.ones(len(indices), dtype=np.int32)
made = Interactions(user_ids, item_ids, by_user, by_item, ones, ones, ones, None, None, Report(0, 0, ()))
def kilobytes(name):  # ru_maxrss would begin with the peak of the process that forked
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

class Stop(Exception):
    pass

def stop(progress):
    if progress.last is not None:
        raise Stop

before = kilobytes("VmRSS:")
if start == "random":
    train(made, options)
elif start == "warm":
    train(made, options, initial_items=np.full((n_items, factors), 0.1, dtype=np.float32))
else:
    stopping = EarlyStopping(made, options, 5) if "early stopping" in start else None
    if stopping is not None:
        made, options = stopping.training, stopping.options
    before = kilobytes("VmRSS:")
    others = {"on_progress": stop} if "stopped" in start else {}
    with contextlib.suppress(Stop):
        train(made, options, checkpoint=Checkpoint(checkpoint, companion=stopping), on_epoch=stopping, **others)
print((kilobytes("VmHWM:") - before) * 1024)
"""


def taken_bytes(n_users, n_items, start, checkpoint):
    """What a training of 256 factors took at its peak, beside the events."""
    command = [sys.executable, "-c", MEASURE, str(n_users), str(n_items), "256", "6", start, str(checkpoint)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    return int(ran.stdout)


@pytest.mark.parametrize(
    ("n_users", "n_items", "start", "item_copies"),
    [
        (60_000, 20_000, "random", 1),  # of momentum
        (20_000, 60_000, "random", 1),
        (10_000, 60_000, "warm", 2),  # and what training starts from
        (5_000, 90_000, "resumed", 1),
        (10_000, 60_000, "resumed with early stopping", 1 + ITEM_COPIES),
    ],
)
def test_the_prediction_is_above_what_training_takes_and_not_by_much(n_users, n_items, start, item_copies, tmp_path):
    if start.startswith("resumed"):
        taken_bytes(n_users, n_items, start.replace("resumed", "stopped"), tmp_path / "state.npz")
        assert (tmp_path / "state.npz").exists()
    taken = taken_bytes(n_users, n_items, start, tmp_path / "state.npz")
    predicted = predicted_bytes(n_users, n_items, 256, threads=2, item_copies=item_copies)
    assert 0.6 * (predicted - 60 * MIB) < taken < predicted


def test_what_grows_with_the_data_is_counted():
    nothing = predicted_bytes(0, 0, 100, 0)
    assert predicted_bytes(1000, 500, 100, 0) - nothing == 1500 * 100 * 4 + 1000 * (100 * 2 + 4) + 100 * 100 * 8
    assert predicted_bytes(500, 1000, 100, 0) == predicted_bytes(1000, 500, 100, 0)
    assert predicted_bytes(9, 1000, 100, 0, item_copies=2) - predicted_bytes(9, 1000, 100, 0) == 2 * 1000 * 100 * 4


def test_what_each_thread_works_in_is_counted_up_to_the_size_of_a_table():
    one, many = (predicted_bytes(100_000, 500, 100, threads) for threads in (1, 65))
    assert many - one == 64 * (4 + 1 + 1) * MIB
    one, many = (predicted_bytes(10, 5, 100, threads) for threads in (1, 65))
    assert many - one == 64 * 3 * 10 * 100 * 4


def test_a_training_that_does_not_fit_is_refused_before_it_starts():
    interactions = interactions_of(random_matrix(40, 30, seed=0))
    needed, options = predicted_bytes(40, 30, 8, 2, item_copies=1), AlsOptions(factors=8, threads=2)
    require_memory(interactions, options, available=needed)
    expected = r"40 users and 30 items with 8 factors takes about 48 MiB .* 48 MiB are available: lower --factors"
    with pytest.raises(MemoryShort, match=expected):
        require_memory(interactions, options, available=needed - 1)
    with pytest.raises(MemoryShort, match=r"takes about 7\.6 GiB .* 2\.0 GiB are available"):
        require_memory(interactions, AlsOptions(factors=12_000), available=2 << 30)


def test_training_asks_for_the_memory_first(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: MIB)
    with pytest.raises(MemoryShort, match="1 MiB are available"):
        train(interactions_of(random_matrix(40, 30, seed=0)), on_progress=lambda progress: pytest.fail("it began"))


def test_the_command_says_so_and_ends_with_1(monkeypatch, tmp_path, capsys):
    (tmp_path / "events.csv").write_text("user_id,item_id\na,b\na,c\n")
    monkeypatch.setattr(memory, "available_bytes", lambda: MIB)
    assert main(["train", str(tmp_path / "events.csv"), "--releases", str(tmp_path / "releases"), "--quiet"]) == 1
    assert "nearcart train: training 1 users and 2 items with 128 factors takes about" in capsys.readouterr().err


@pytest.fixture
def system(tmp_path):
    """Write files, pairs of path and text, below a root of their own."""

    def write(*files):
        for path, text in files:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return write


MACHINE = ("proc/meminfo", "MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:    4096 kB\n")


def group(directory, limit, used, file_pages=0, names=("memory.max", "memory.current"), prefix=""):
    statistics = f"cache 77\n{prefix}inactive_file {file_pages}\n{prefix}active_file 0\n"
    values = (str(limit), str(used), statistics)
    names = (*names, "memory.stat")
    return [(f"sys/fs/cgroup/{directory}{name}", value) for name, value in zip(names, values, strict=True)]


V1 = {"names": ("memory.limit_in_bytes", "memory.usage_in_bytes"), "prefix": "total_"}


def test_a_system_that_says_nothing_is_unknown_and_never_in_the_way(tmp_path):
    assert available_bytes(tmp_path) is None


def test_without_groups_it_is_what_the_machine_has_left(system):
    assert available_bytes(system(MACHINE)) == 4096 * 1024


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", group("", 3 * MIB, MIB), 2 * MIB),
        ("0::/\n", group("", "max", MIB), 4 * MIB),
        ("0::/\n", group("", 3 * MIB, 5 * MIB), 0),
        # Pages of files that were read give way.
        ("0::/\n", group("", 3 * MIB, MIB, file_pages=MIB // 2), 5 * MIB // 2),
        # The group of a service, the slice it is in, and what is above.
        ("0::/a.slice/b.service\n", group("a.slice/b.service/", "max", 9), 4 * MIB),
        ("0::/a.slice/b.service\n", group("a.slice/", 2 * MIB, MIB), MIB),
        # A container sees its own group at the top, under the name that the host has for it.
        ("0::/docker/0123\n", group("", 3 * MIB, 2 * MIB), MIB),
        ("5:cpu:/x\n4:memory:/docker/0123\n", group("memory/", 3 * MIB, 2 * MIB, **V1), MIB),
        ("5:cpu:/x\n4:memory:/x\n0::/\n", group("memory/x/", 3 * MIB, 2 * MIB, MIB // 2, **V1), 3 * MIB // 2),
        ("4:memory:/\n", group("memory/", 9223372036854771712, MIB, **V1), 4 * MIB),
    ],
)
def test_a_control_group_may_leave_less(system, own, files, expected):
    assert available_bytes(system(MACHINE, ("proc/self/cgroup", own), *files)) == expected


def test_this_machine_is_understood():
    left = available_bytes()
    assert left is None or MIB < left < 1 << 60
