from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_events import HEADER, csv_text, read, written

from engine.errors import UsageError
from trainer.errors import EventsUnreadable, IdTooLong, NothingLeft
from trainer.interactions import read_interactions


def parquet_bytes(tmp_path: Path) -> bytes:
    n = 50_000
    table = pa.table({"user_id": [f"u{i * 7919 % n}" for i in range(n)], "item_id": [f"i{i % 977}" for i in range(n)]})
    pq.write_table(table, tmp_path / "whole.parquet", compression="zstd")
    return (tmp_path / "whole.parquet").read_bytes()


def test_a_cut_parquet_file_is_refused_by_name(tmp_path: Path) -> None:
    data = parquet_bytes(tmp_path)
    for kept in (3, len(data) // 2, len(data) - 1):
        path = tmp_path / "cut.parquet"
        path.write_bytes(data[:kept])
        with pytest.raises(EventsUnreadable, match=r"cut\.parquet"):
            read(path)


def test_a_parquet_file_with_overwritten_pages_is_refused_by_name(tmp_path: Path) -> None:
    data = bytearray(parquet_bytes(tmp_path))
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    path = tmp_path / "broken.parquet"
    path.write_bytes(data)
    with pytest.raises(EventsUnreadable, match=r"broken\.parquet"):
        read(path)


@pytest.mark.parametrize("name", ["e.csv.gz", "e.csv.zst", "e.jsonl.gz", "e.jsonl.zst"])
def test_a_cut_compressed_stream_is_refused_even_between_two_rows(tmp_path: Path, name: str) -> None:
    text = (HEADER if "csv" in name else "") + "".join(
        f"u{i},i{i},,,,,\n" if "csv" in name else f'{{"user_id":"u{i}","item_id":"i{i}"}}\n' for i in range(20_000)
    )
    whole = written(tmp_path / name, text).read_bytes()
    for kept in (len(whole) // 2, len(whole) - 1, len(whole) - 5, 1):
        path = tmp_path / f"cut.{name}"
        path.write_bytes(whole[:kept])
        with pytest.raises(EventsUnreadable, match=r"cut\.e.*cut or corrupt"):
            read(path)


def test_a_gzip_stream_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    data = bytearray(written(tmp_path / "e.csv.gz", csv_text()).read_bytes())
    data[-6] ^= 1
    (tmp_path / "e.csv.gz").write_bytes(data)
    with pytest.raises(EventsUnreadable, match=r"e\.csv\.gz"):
        read(tmp_path / "e.csv.gz")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("quote.csv", 'user_id,item_id\na,x\n"b,y\n'),
        ("junk.csv", 'user_id,item_id\na,x\n"b"c,y\n'),
        ("short.csv", "user_id,item_id,price\na,x,1\nb,y\n"),
        ("long.csv", "user_id,item_id\na,x\nb,y,3\n"),
        ("header.csv", 'user_id,"item_id\n'),
        ("latin.csv", b"user_id,item_id\nJos\xe9,x\n"),
        ("latin_header.csv", b"user_id,item_id,pre\xe7o\na,x,1\n"),
        ("cut.jsonl", '{"user_id": "a", "item_id": "x"}\n{"user_id": "b", "it'),
        ("number.jsonl", '{"user_id": "a", "item_id": "x"}\n5\n'),
        ("binary.dat", b"\x00\x01\x02\x03"),
        ("text.parquet", "user_id,item_id\na,x\n"),
        ("plain.csv.gz", ""),
        ("short.rating", "1\t2\t3\t978824351\n1\t2\n"),
    ],
)
def test_a_malformed_file_is_refused_by_name_in_few_words(tmp_path: Path, name: str, content: str | bytes) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(EventsUnreadable) as caught:
        read(path)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_among_several_files_the_malformed_one_is_named(tmp_path: Path) -> None:
    good = written(tmp_path / "good.csv", "user_id,item_id\na,x\n")
    written(tmp_path / "worse.csv", 'user_id,item_id\n"a,x\n')
    with pytest.raises(EventsUnreadable, match=r"worse\.csv is cut"):
        read(good, tmp_path / "worse.csv")


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    written(tmp_path / "empty.csv", "")
    os.mkfifo(tmp_path / "pipe.csv")
    for source, words in (
        ("none.csv", "does not exist"),
        ("*.parquet", "no file matches"),
        ("folder", "holds no events"),
        ("empty.csv", "is empty"),
        ("pipe.csv", "neither a file nor a directory"),
    ):
        with pytest.raises(EventsUnreadable, match=words):
            read(tmp_path / source)
    with pytest.raises(EventsUnreadable, match="no events were named"):
        read_interactions([])


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_an_id_over_the_bound_is_refused_with_column_length_and_beginning(tmp_path: Path, column: str) -> None:
    names = {"user_id": "a", "item_id": "x"}
    fits, over = "é" * 256, "é" * 257
    assert read(written(tmp_path / "e.jsonl", json.dumps(names | {column: fits}))).n_entries == 1
    with pytest.raises(IdTooLong, match=f'"{column}".*{"é" * 40}\'\\.\\.\\. has 514 bytes .*512'):
        read(written(tmp_path / "e.jsonl", json.dumps(names | {column: over})))


def test_an_id_with_a_nul_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdTooLong, match="NUL"):
        read(written(tmp_path / "e.csv", b"user_id,item_id\na\x00b,x\n"))
    with pytest.raises(IdTooLong, match="NUL"):
        read(written(tmp_path / "e.jsonl", '{"user_id": "a", "item_id": "x\\u0000"}\n'))


def test_a_header_without_rows_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(NothingLeft, match=r"e\.csv: no events are left"):
        read(written(tmp_path / "e.csv", HEADER))
    with pytest.raises(NothingLeft, match=r"no user id +-1"):
        read(written(tmp_path / "e.csv", "user_id,item_id\n ,x\n"))


def test_threads_and_memory_that_make_no_sense_are_wrong_usage(tmp_path: Path) -> None:
    path = str(written(tmp_path / "e.csv", csv_text()))
    with pytest.raises(UsageError, match="threads is -1"):
        read_interactions([path], threads=-1)
    with pytest.raises(UsageError, match="memory limit 'much'"):
        read_interactions([path], memory_limit="much")


def test_everything_needed_is_built_into_duckdb() -> None:
    with duckdb.connect(
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    ) as connection:
        built_in = connection.execute(
            "SELECT extension_name FROM duckdb_extensions() WHERE install_mode = 'STATICALLY_LINKED'"
        ).fetchall()
    assert {"parquet", "json", "icu"} <= {name for (name,) in built_in}


def test_nothing_is_left_in_the_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    read(written(tmp_path / "e.csv", csv_text()))
    with pytest.raises(EventsUnreadable):
        read(written(tmp_path / "e.jsonl", "{"))
    assert list((tmp_path / "temporary").iterdir()) == []


_INTERRUPTED = """
import os, signal, sys, threading
from trainer.interactions import read_interactions
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
def on_step(text):
    if text.startswith("reading"):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    read_interactions([sys.argv[1]], on_step=on_step)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interrupt_stops_reading_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path, temporary = tmp_path / "long.parquet", tmp_path / "temporary"
    temporary.mkdir()
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT hash(range) AS user_id, range % 10007 AS item_id FROM range(3000000)) TO '{path}'"
        )
    command = [sys.executable, "-c", _INTERRUPTED, str(path)]
    paths = os.pathsep.join(sys.path)
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": paths}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert child.returncode in (130, -signal.SIGINT), child.stderr
    assert list(temporary.iterdir()) == []
