"""Answers for every user in Parquet: those of a snapshot to the bit, and the same bytes however often interrupted."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import signal
import subprocess
import sys

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from rich.console import Console
from small_release import DISLIKES_USER, EVERYTHING_USER, SOLD_OUT_ROWS, publish, small_shop

from engine.cli import main
from engine.errors import PublishFailed, ReleaseCorrupt
from engine.parts import USERS
from engine.plan import IndexPlan
from engine.queries import Repeat, Source, UserQuery
from engine.release import Release
from engine.repository import Repository
from engine.retrieval import Snapshot
from trainer import progress, recommend_all
from trainer.errors import OutputMismatch
from trainer.progress import users_progress
from trainer.recommend_all import DONE_FILE, JOB_FILE, part_name

KILLED = """
import os, signal, sys
from pathlib import Path
from pyarrow import parquet
from engine.release import Release
from engine.repository import Repository
from trainer import recommend_all
recommend_all._PART_USERS, recommend_all._BLOCK_USERS = 9, 4
write = parquet.write_table
def write_or_die(table, path, **settings):
    write(table, path, **settings)
    if "00002" in path.name:
        os.kill(os.getpid(), signal.SIGKILL)
parquet.write_table = write_or_die
release = Release(Repository(Path(sys.argv[1])).current_path())
recommend_all.recommend_all(release, Path(sys.argv[2]), limit=20, repeat="never", threads=1)
"""


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 9 users, of blocks of 4: the last part, and the last block of each, are shorter."""
    monkeypatch.setattr(recommend_all, "_PART_USERS", 9)
    monkeypatch.setattr(recommend_all, "_BLOCK_USERS", 4)


@pytest.fixture(scope="module", params=[IndexPlan(), IndexPlan("Flat"), IndexPlan("HNSW16", "efSearch=32")], ids=str)
def large_repository(request, tmp_path_factory):
    """100 users and more items than answers have, with an index of each kind."""
    repository = Repository(tmp_path_factory.mktemp("large"))
    with pytest.MonkeyPatch.context() as patched:
        # Batches are exact, however fast the machine says that blocks are.
        patched.setattr("engine.calibration.fewest_in_blocks", lambda *others: 1)
        publish(repository, small_shop(n_users=100, n_items=2500, seed=3), plan=request.param)
    return repository


def live(repository):
    return Release(repository.current_path())


def write(repository, output, *, limit=20, repeat="never", threads=2):
    return recommend_all.recommend_all(live(repository), output, limit=limit, repeat=repeat, threads=threads)


def contents(directory):
    """Every file by its name, hidden ones too."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def answers(directory):
    """user_id, item_ids, scores and source of every user, in the order of the parts."""
    columns = parquet.read_table(directory).to_pydict()
    return list(zip(*columns.values(), strict=True))


def history_of(shop, user):
    """The item rows and values of a user."""
    entries = slice(shop.indptr[user], shop.indptr[user + 1])
    return shop.indices[entries], shop.values[entries]


def assert_answers_are_those_of(snapshot, user_ids, directory, limit, repeat):
    expected = snapshot.recommend_for_users([UserQuery(each, limit, repeat=Repeat(repeat)) for each in user_ids])
    found = answers(directory)
    assert [user_id for user_id, *_ in found] == user_ids
    for (_, item_ids, scores, source), answer in zip(found, expected, strict=True):
        assert item_ids == answer.item_ids
        np.testing.assert_array_equal(np.array(scores, dtype=np.float32), answer.scores)
        assert source == answer.source.value


# What is written.


@pytest.mark.parametrize(("limit", "repeat"), [(1, "never"), (20, "never"), (20, "mix"), (1000, "never")])
def test_answers_are_those_of_a_snapshot_to_the_bit(large_repository, limit, repeat, tmp_path, monkeypatch):
    monkeypatch.setattr(recommend_all, "_BLOCK_USERS", 60)
    write(large_repository, tmp_path, limit=limit, repeat=repeat)
    snapshot = Snapshot.open(large_repository.current_path())
    assert_answers_are_those_of(snapshot, [f"u{row}" for row in range(100)], tmp_path, limit, repeat)


def test_what_the_user_has_and_what_is_sold_out_is_left_out(small_repository, shop, tmp_path):
    write(small_repository, tmp_path, limit=1000)
    sold_out = {shop.item_ids[row] for row in SOLD_OUT_ROWS}
    for user, (_, item_ids, scores, _) in enumerate(answers(tmp_path)):
        seen = {shop.item_ids[row] for row in history_of(shop, user)[0]}
        assert set(item_ids) == set(shop.item_ids) - seen - sold_out
        assert scores == sorted(scores, reverse=True)


def test_users_without_a_vector_get_what_is_popular_and_are_marked(small_repository, shop, snapshot, tmp_path):
    write(small_repository, tmp_path)
    found = {user_id: (item_ids, source) for user_id, item_ids, _, source in answers(tmp_path)}
    assert found[DISLIKES_USER] == (snapshot.recommend_for_users([UserQuery(DISLIKES_USER)])[0].item_ids, "popular")
    assert found[EVERYTHING_USER] == ([], Source.PERSONAL.value)
    without = {each for user, each in enumerate(shop.user_ids) if not (history_of(shop, user)[1] > 0).any()}
    assert {user_id for user_id, (_, source) in found.items() if source == "popular"} == without
    assert json.loads((tmp_path / DONE_FILE).read_text())["popular_users"] == len(without)


def test_the_columns_are_plain_and_other_readers_understand_them(small_repository, tmp_path, small_parts):
    write(small_repository, tmp_path)
    schema = parquet.read_schema(tmp_path / part_name(0))
    assert schema.names == ["user_id", "item_ids", "scores", "source"]
    assert schema.field("user_id").type == schema.field("source").type == pa.string()
    assert schema.field("item_ids").type.value_type == pa.string()
    assert schema.field("scores").type.value_type == pa.float32()
    assert schema.metadata[b"nearcart.release_id"].decode() == small_repository.current()
    query = f"SELECT count(*), sum(len(item_ids)), sum(len(scores)) FROM '{tmp_path}/*.parquet'"
    counts = json.loads((tmp_path / DONE_FILE).read_text())
    assert duckdb.sql(query).fetchall() == [(40, counts["items"], counts["items"])]
    assert (counts["users"], counts["parts"]) == (40, 5)


def test_parts_are_fixed_ranges_of_users(small_repository, shop, tmp_path, small_parts):
    write(small_repository, tmp_path)
    assert sorted(contents(tmp_path)) == sorted([DONE_FILE, JOB_FILE, *map(part_name, range(5))])
    third = parquet.read_table(tmp_path / part_name(2)).column("user_id").to_pylist()
    assert third == shop.user_ids[18:27]


def test_parts_have_fewer_users_where_each_gets_many_items(small_repository, tmp_path, monkeypatch):
    monkeypatch.setattr(recommend_all, "_PART_ITEMS", 100)
    write(small_repository, tmp_path, limit=10)
    assert [parquet.read_metadata(path).num_rows for path in sorted(tmp_path.glob("*.parquet"))] == [10] * 4


def test_a_release_without_users_gives_one_part_that_is_empty(shop, tmp_path, monkeypatch):
    nobody = dataclasses.replace(
        shop,
        user_ids=[],
        user_vectors=shop.user_vectors[:0],
        indptr=shop.indptr[:1],
        indices=shop.indices[:0],
        values=shop.values[:0],
    )
    repository = Repository(tmp_path / "releases")
    publish(repository, nobody)
    write(repository, tmp_path / "output")
    assert answers(tmp_path / "output") == []
    assert parquet.read_schema(tmp_path / "output" / part_name(0)).names[0] == "user_id"


def test_a_release_without_items_to_show_gives_every_user_nothing(shop, tmp_path):
    repository = Repository(tmp_path / "releases")
    publish(repository, dataclasses.replace(shop, available=np.zeros(60, dtype=bool)))
    write(repository, tmp_path / "output")
    assert [item_ids for _, item_ids, _, _ in answers(tmp_path / "output")] == [[]] * 40


# Threads and interruptions.


def test_the_bytes_do_not_depend_on_the_number_of_threads(small_repository, tmp_path, small_parts):
    for threads in (1, 2, 5):
        write(small_repository, tmp_path / str(threads), threads=threads)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "5")


def test_an_interrupted_run_goes_on_to_the_same_bytes(small_repository, tmp_path, small_parts, monkeypatch, capsys):
    write(small_repository, tmp_path / "whole")
    output, writing = tmp_path / "output", parquet.write_table
    written = []

    def interrupted(table, path, **settings):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        writing(table, path, **settings)

    command = ["recommend-all", "--releases", str(small_repository.root), "--output", str(output), "--threads", "1"]
    monkeypatch.setattr(parquet, "write_table", interrupted)
    assert main(command) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert sorted(contents(output)) == sorted([JOB_FILE, part_name(0), part_name(1)])
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    monkeypatch.setattr(parquet, "write_table", writing)
    assert main(command) == 0
    assert "answering 22 users; 2 of 5 parts are there" in capsys.readouterr().err
    assert contents(output) == contents(tmp_path / "whole")
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in output.iterdir()}.items()


def test_what_a_killed_run_was_writing_does_not_stay(small_repository, tmp_path, small_parts):
    write(small_repository, tmp_path / "whole")
    output = tmp_path / "output"
    command = [sys.executable, "-c", KILLED, small_repository.root, output]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert f".{part_name(2)}.partial" in contents(output)
    write(small_repository, output)
    assert contents(output) == contents(tmp_path / "whole")


def test_a_full_disk_leaves_the_parts_that_are_whole(small_repository, tmp_path, small_parts, monkeypatch):
    writing = parquet.write_table

    def fail(table, path, **settings):
        if part_name(1) in path.name:
            raise OSError(28, "No space left on device")
        writing(table, path, **settings)

    monkeypatch.setattr(parquet, "write_table", fail)
    with pytest.raises(PublishFailed, match="the same command goes on"):
        write(small_repository, tmp_path, threads=1)
    assert sorted(contents(tmp_path)) == sorted([JOB_FILE, part_name(0)])


def test_a_part_that_was_cut_is_written_again(small_repository, tmp_path, small_parts):
    write(small_repository, tmp_path)
    whole = contents(tmp_path)
    (tmp_path / DONE_FILE).unlink()
    (tmp_path / part_name(3)).write_bytes(whole[part_name(3)][:-20])
    (tmp_path / part_name(4)).unlink()
    write(small_repository, tmp_path)
    assert contents(tmp_path) == whole


def test_a_finished_directory_is_left_alone_and_says_so(small_repository, tmp_path, capsys):
    command = ["recommend-all", "--releases", str(small_repository.root), "--output", str(tmp_path)]
    told = f"40 users, 2 of them with what is popular, 780 items, release {small_repository.current()}"
    assert main(command) == 0
    assert f"{tmp_path}: {told}" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert main(command) == 0
    printed = capsys.readouterr()
    assert f"{tmp_path} was complete before: {told}" in printed.err
    assert printed.out == ""
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


# What can go wrong.


@pytest.mark.parametrize(
    ("options", "message"),
    [({"limit": 5}, "there limit 20, here 5"), ({"repeat": "mix"}, "there repeat never, here mix")],
)
def test_a_directory_of_another_job_is_refused(small_repository, tmp_path, options, message):
    write(small_repository, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(OutputMismatch, match=message):
        write(small_repository, tmp_path, **options)
    assert contents(tmp_path) == before


def test_a_directory_of_another_release_is_refused_and_the_message_names_that_release(repository, shop, tmp_path):
    first = repository.current()
    write(repository, tmp_path / "output")
    publish(repository, shop)
    with pytest.raises(OutputMismatch, match=f"or --release {first} to go on there"):
        write(repository, tmp_path / "output")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", "mine", "holds 'notes.txt' but no _job.json"),
        (JOB_FILE, "{", "is not JSON"),
        (JOB_FILE, "[]", "is not what this command writes"),
        (JOB_FILE, "{}", "there format None, here 1"),
    ],
)
def test_a_directory_that_is_not_of_this_command_is_refused(small_repository, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(OutputMismatch, match=message):
        write(small_repository, tmp_path)
    assert list(contents(tmp_path)) == [name]


def test_an_output_that_is_a_file_is_refused(small_repository, tmp_path):
    (tmp_path / "output").write_text("mine")
    with pytest.raises(PublishFailed, match="Name a directory"):
        write(small_repository, tmp_path / "output")
    assert (tmp_path / "output").read_text() == "mine"


def test_a_damaged_release_answers_nobody(repository, tmp_path):
    path = repository.current_path() / f"{USERS.codes}.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(ReleaseCorrupt, match="changed or damaged"):
        write(repository, tmp_path / "output")
    assert contents(tmp_path / "output") == {}


# Progress.


def test_without_a_terminal_there_is_a_line_now_and_then(small_repository, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    command = ["recommend-all", "--releases", str(small_repository.root), "--output", str(tmp_path / "output")]
    assert main(command) == 0
    assert "40 of 40 users, " in capsys.readouterr().err
    shutil.rmtree(tmp_path / "output")
    assert main([*command, "--quiet"]) == 0
    assert "of 40 users, " not in capsys.readouterr().err


def test_a_terminal_shows_a_bar_with_speed_and_time_left(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **options: Console(file=screen, force_terminal=True, width=100))
    with users_progress(1_000) as show:
        show(0)
        show(250)
    assert "250 of 1,000 users, " in screen.getvalue()
    assert " s left" in screen.getvalue()
