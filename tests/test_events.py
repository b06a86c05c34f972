from __future__ import annotations

import contextlib
import json
import math
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_events import csv_text, described, item_ids, jsonl_text, read, records, user_ids, written

from engine.errors import UsageError
from trainer.cleaning import Cleaning
from trainer.errors import ColumnMissing, NothingLeft
from trainer.events import open_workspace
from trainer.interactions import read_interactions


@pytest.fixture
def plain(tmp_path: Path) -> object:
    return described(read(written(tmp_path / "plain.csv", csv_text())))


def test_the_plain_file_is_read_as_written(tmp_path: Path) -> None:
    found = read(written(tmp_path / "events.csv", csv_text()))
    assert user_ids(found) == ["ann", "bob", "Çelik"]
    assert item_ids(found) == ["00123", 'say "hi"', "tea, green"]
    assert found.by_user.indices.tolist() == [0, 2, 0, 0, 1]
    assert found.last_times.tolist() == [1709287200.0, 1709287200.0, 1709379000.0, 1709424000.0, 1709424000.0]
    assert found.baskets is not None
    assert found.baskets.indices.tolist() == [0, 2, 0, 1]
    assert found.prices is not None
    assert found.prices.tolist() == [9.5, 1.0, 3.25]
    assert found.report.as_dict() == {"rows_read": 5, "rows_kept": 5, "dropped": {}}


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_delimiters_are_seen_in_the_header(tmp_path: Path, plain: object, separator: str) -> None:
    assert described(read(written(tmp_path / "events.csv", csv_text(separator)))) == plain


@pytest.mark.parametrize(
    "name",
    ["e.csv.gz", "e.csv.zst", "e.CSV", "e.jsonl", "e.ndjson", "e.json", "e.jsonl.gz", "e.json.zst", "e.txt", "e.tsv"],
)
def test_every_text_form_gives_the_same_interactions(tmp_path: Path, plain: object, name: str) -> None:
    text = jsonl_text() if "json" in name else csv_text("\t" if "tsv" in name else ",")
    assert described(read(written(tmp_path / name, text))) == plain


def test_a_json_array_and_carriage_returns_and_a_byte_order_mark_change_nothing(tmp_path: Path, plain: object) -> None:
    assert described(read(written(tmp_path / "e.json", json.dumps(records(), indent=1)))) == plain
    assert described(read(written(tmp_path / "e.csv", "\ufeff" + csv_text().replace("\n", "\r\n")))) == plain


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_gives_the_same_whatever_type_holds_the_time(tmp_path: Path, plain: object, unit: str) -> None:
    table = pa.Table.from_pylist(records())
    times = table["timestamp"].cast(pa.timestamp(unit))
    for name, column in (("typed", times), ("number", times.cast(pa.int64()))):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(table.set_column(table.schema.get_field_index("timestamp"), "timestamp", column), path)
        assert described(read(path)) == plain


@pytest.mark.parametrize(
    "text",
    [
        "1709287200",
        "1709287200000",
        "1709287200.0",
        "2024-03-01T10:00:00Z",
        "2024-03-01T12:00+02:00",
        " 2024-03-01 10:00",
    ],
)
def test_a_time_may_be_written_in_many_ways(tmp_path: Path, text: str) -> None:
    found = read(written(tmp_path / "e.csv", f"user_id,item_id,timestamp\na,x,{text}\n"))
    assert found.last_times.tolist() == [1709287200.0]


def test_whole_numbers_are_the_same_ids_in_every_type(tmp_path: Path) -> None:
    users, items = [17850, None, 3], [5, 6, 7]
    ints = pa.table({"user_id": pa.array(users, pa.int64()), "item_id": pa.array(items, pa.int16())})
    floats = pa.table({"user_id": pa.array(users, pa.float64()), "item_id": pa.array(items, pa.float32())})
    decimals = pa.table({"user_id": ints["user_id"].cast(pa.decimal128(23, 2)), "item_id": ints["item_id"]})
    paths = []
    for name, table in (("ints", ints), ("floats", floats), ("decimals", decimals)):
        paths.append(tmp_path / f"{name}.parquet")
        pq.write_table(table, paths[-1])
    paths.append(written(tmp_path / "holes.csv", "user_id,item_id\n17850.0,5\n,6\n3.0,7\n"))
    paths.append(
        written(tmp_path / "e.jsonl", '{"user_id":17850.0,"item_id":5}\n{"item_id":6}\n{"user_id":3,"item_id":"7"}\n')
    )
    results = [described(read(path)) for path in paths]
    assert results[0][0] == ["17850", "3"]  # type: ignore[index]
    assert all(result == results[0] for result in results)


def test_text_ids_that_only_look_like_numbers_are_left_alone(tmp_path: Path) -> None:
    found = read(written(tmp_path / "e.csv", "user_id,item_id\n007,1.0\n7,1.1\n"))
    assert user_ids(found) == ["007", "7"]
    assert item_ids(found) == ["1.0", "1.1"]


def test_globs_directories_and_lists_of_files_are_read_together(tmp_path: Path, plain: object) -> None:
    folder = tmp_path / "events"
    (folder / "more").mkdir(parents=True)
    lines = csv_text().splitlines(keepends=True)
    written(folder / "a.csv", "".join(lines[:3]))
    written(folder / "more" / "b.jsonl.gz", "".join(jsonl_text().splitlines(keepends=True)[2:3]))
    written(folder / "more" / "c[1].csv.zst", lines[0] + "".join(lines[4:]))
    written(folder / "README.md", "not events")
    written(folder / "_SUCCESS.csv", "neither")
    assert described(read(folder)) == plain
    assert described(read(folder / "**" / "[a-z]*.*s*")) == plain
    assert described(read(folder / "a.csv", folder / "a.csv", folder / "more")) == plain


def test_a_file_may_lack_an_optional_column_that_another_has(tmp_path: Path) -> None:
    first = written(tmp_path / "a.csv", "user_id,item_id,price\na,x,2\n")
    second = written(tmp_path / "b.csv", "item_id,user_id\nx,b\n")
    found = read(first, second)
    assert found.n_entries == 2
    assert found.prices is not None
    assert found.prices.tolist() == [2.0]


def test_ratings_and_lists_without_header_are_recognised(tmp_path: Path) -> None:
    ratings = read(written(tmp_path / "ml.test.rating", "0\t25\t5\t978824351\n1\t133\t3\t978300174\n"))
    assert user_ids(ratings) == ["0", "1"]
    assert ratings.last_times.tolist() == [978824351.0, 978300174.0]
    assert ratings.quantities.tolist() == [1.0, 1.0]
    timeless = read(written(tmp_path / "u.data", "0\t25\t5\n"))
    assert math.isnan(timeless.last_times[0])
    lists = read(written(tmp_path / "train.txt.zst", "0 5 6 7\n1 6\n2\n\n3  5 6 \n"))
    assert user_ids(lists) == ["0", "1", "3"]
    assert item_ids(lists) == ["6", "5", "7"]
    assert lists.report.rows_read == 6


def test_columns_can_have_foreign_names(tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", "Customer,The Item,When\na,x,2024-03-01\n")
    assert read(path, user="Customer", item="The Item", timestamp="When").last_times.tolist() == [1709251200.0]


def test_a_missing_column_is_named_with_what_was_found_and_its_flag(tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", "Customer,item_id\na,x\n")
    with pytest.raises(
        ColumnMissing, match=r'e\.csv has no column "user_id" .* found: Customer, item_id; .*--user-column'
    ):
        read(path)
    with pytest.raises(ColumnMissing, match=r'"paid".*--price-column'):
        read(path, user="Customer", price="paid")
    json_path = written(tmp_path / "e.jsonl", '{"Customer": 1, "item_id": 2}\n')
    with pytest.raises(ColumnMissing, match=r'"user_id".*found: Customer, item_id'):
        read(json_path)
    pq.write_table(pa.table({"user_id": [1], "sku": [2]}), tmp_path / "e.parquet")
    with pytest.raises(ColumnMissing, match=r'"item_id".*found: user_id, sku.*--item-column'):
        read(tmp_path / "e.parquet")


def test_a_key_that_only_a_late_json_record_has_is_found(tmp_path: Path) -> None:
    anonymous = '{"item_id": 1}\n' * 21_000
    assert read(written(tmp_path / "e.jsonl", anonymous + '{"item_id": 1, "user_id": "late"}\n')).n_users == 1


def test_times_in_another_form_are_read_by_their_format(tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", "user_id,item_id,timestamp\na,x,12/1/2010 8:26\nb,x,13/1/2010 8:26\n")
    found = read_interactions([str(path)], timestamp_format="%m/%d/%Y %H:%M")
    assert found.last_times.tolist() == [1291191960.0]
    assert found.report.as_dict()["dropped"] == {"time cannot be understood": 1}
    with pytest.raises(NothingLeft, match="--timestamp-format"):
        read_interactions([str(path)])


def test_a_format_of_times_that_is_none_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", "user_id,item_id,timestamp\na,x,12/1/2010\n")
    with pytest.raises(UsageError, match="%d"):
        read_interactions([str(path)], timestamp_format="%Q")


def test_a_file_whose_values_are_mostly_not_understood_is_not_trained_on_what_is_left(tmp_path: Path) -> None:
    rows = "".join(f"u{n},x,{'2,55' if n % 10 else '2'}\n".replace("2,55", '"2,55"') for n in range(100))
    path = written(tmp_path / "e.csv", "user_id,item_id,price\n" + rows)
    with pytest.raises(NothingLeft, match="most rows hold values that cannot be understood") as refused:
        read(path)
    assert "price is not a number" in str(refused.value)


@pytest.mark.parametrize("name", ["e.dat", "e.txt", "e.tsv"])
def test_a_header_without_the_named_columns_is_not_taken_for_a_list_of_items(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, "customer,sku,name\n1,2,white hanging heart\n3,4,red mug\n")
    with pytest.raises(ColumnMissing, match="customer, sku, name"):
        read(path)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_quoted_header_is_read_as_its_names(tmp_path: Path, separator: str) -> None:
    lines = ('"user_id"', '"item_id"'), ('"u, 1"', '"a;b|c"')
    path = written(tmp_path / "e.csv", "".join(separator.join(line) + "\n" for line in lines))
    found = read(path)
    assert (user_ids(found), item_ids(found)) == (["u, 1"], ["a;b|c"])


@pytest.mark.parametrize("name", ["e.csv", "e.jsonl", "e.parquet"])
def test_the_name_of_a_directory_is_no_value_of_a_column(tmp_path: Path, name: str) -> None:
    path = tmp_path / "item_id=x7" / name
    path.parent.mkdir()
    if name == "e.parquet":
        pq.write_table(pa.table({"user_id": ["u"], "item_id": ["a"]}), path)
    else:
        written(path, "user_id,item_id\nu,a\n" if name == "e.csv" else '{"user_id": "u", "item_id": "a"}\n')
    assert item_ids(read(path)) == ["a"]


def test_records_of_many_sparse_keys_are_records(tmp_path: Path) -> None:
    lines = [json.dumps({"user_id": "u", "item_id": f"i{n}", f"key {n}": n}) for n in range(300)]
    assert read(written(tmp_path / "e.jsonl", "\n".join(lines))).n_items == 300


def test_a_key_that_differs_from_a_column_in_case_is_another_key(tmp_path: Path) -> None:
    path = written(tmp_path / "e.jsonl", '{"user_id": "u", "item_id": "a", "Price": 3, "Quantity": -9}\n')
    found = read(path)
    assert found.report.rows_kept == 1
    assert found.prices is None


def test_one_file_under_two_names_is_read_once(tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", "user_id,item_id\nu,a\n")
    (tmp_path / "latest.csv").symlink_to(path)
    spelled = tmp_path / ".." / tmp_path.name / "e.csv"
    assert read_interactions([str(path), str(spelled), str(tmp_path)]).report.rows_read == 1


def test_a_list_of_numbers_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    pq.write_table(pa.table({"user_id": ["u", "v"], "item_id": ["a", "b"], "quantity": [[1, 2], None]}), path)
    assert read(path).report.as_dict()["dropped"] == {"quantity is not a number": 1}


def test_weights_for_kinds_that_no_event_has_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "e.csv", "user_id,item_id,event\nu,a,View\n")
    with pytest.raises(UsageError, match="given for view, but the kinds of the events are: View"):
        read_interactions([str(path)], cleaning=Cleaning(event_weights={"view": 0.5}))
    path = written(tmp_path / "f.csv", "user_id,item_id,event_type\nu,a,view\n")
    with pytest.raises(UsageError, match="no column holds them"):
        read_interactions([str(path)], cleaning=Cleaning(event_weights={"view": 0.5}))


def test_a_weighted_kind_is_found_among_however_many_kinds(tmp_path: Path) -> None:
    rows = "".join(f"u,i{n},kind {n:04}\n" for n in range(1500)) + "u,last,view\n"
    path = written(tmp_path / "e.csv", "user_id,item_id,event\n" + rows)
    found = read_interactions([str(path)], cleaning=Cleaning(event_weights={"view": 0.5}))
    assert found.n_items == 1501


def test_an_interrupt_that_a_library_swallows_still_ends_the_reading():
    def swallowing(then=None):
        with open_workspace(1, "1GB"):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            if then is not None:
                raise then

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        swallowing()
    with pytest.raises(KeyboardInterrupt):
        swallowing(then=ImportError("half imported"))
    assert signal.getsignal(signal.SIGINT) is before
    with open_workspace(1, "1GB") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
