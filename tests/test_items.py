from __future__ import annotations

import datetime
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.attributes import Dates, Lists, kind_of
from engine.ids import IdTable, StringTable
from trainer.errors import ColumnMissing, ItemsError
from trainer.events import EventColumns
from trainer.interactions import read_interactions
from trainer.items import Items, read_catalogue, read_items
from trainer.shop import bundled_shop
from trainer.titles import read_titles

CATALOGUE = IdTable.of(["tea", "cup", "007", "pot"])
CSV = """item_id,title,category,price,available,colour,grams,organic,code
tea,Green tea,drinks,4.5,true,,100,true,001
cup,Old name,ware,9,no,red,,false,2
cup,Tea cup,ware,8,no,red,,false,2
007,,,cheap,,blue,3e2,,03
unknown,Never bought,,,,,,,
,Nameless,,,,,,,
"""


def texts(items: Items, name: str) -> list[str]:
    column = items.attributes[name]
    assert isinstance(column, StringTable)
    return column.take(np.arange(len(column)))


def numbers(items: Items, name: str) -> list[float | None]:
    column = items.attributes[name]
    assert isinstance(column, np.ndarray)
    assert column.dtype == np.float64
    return [None if np.isnan(value) else value for value in column.tolist()]


def test_attributes_are_aligned_to_the_catalogue_with_their_kinds(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(CSV)
    items = read_items(str(tmp_path / "items.csv"), CATALOGUE)
    assert list(items.attributes) == ["title", "category", "price", "colour", "grams", "organic", "code"]
    assert texts(items, "title") == ["Green tea", "Tea cup", "", ""]
    assert texts(items, "category") == ["drinks", "ware", "", ""]
    assert numbers(items, "price") == [4.5, 8.0, None, None]
    assert items.available.tolist() == [True, False, True, True]
    assert texts(items, "colour") == ["", "red", "blue", ""]
    assert numbers(items, "grams") == [100.0, None, 300.0, None]
    organic = items.attributes["organic"]
    assert isinstance(organic, np.ndarray)
    assert organic.tolist() == [True, False, False, False]
    assert texts(items, "code") == ["001", "2", "03", ""]


def test_the_report_counts_what_was_not_used(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(CSV)
    report = read_items(str(tmp_path / "items.csv"), CATALOGUE).report
    assert report.as_dict() == {
        "rows_read": 6,
        "rows_used": 3,
        "without_id": 1,
        "superseded": 1,
        "not_in_catalogue": 1,
        "items_without_row": 1,
        "prices_unclear": 1,
    }
    assert "items without events, not added" in report.table()


def test_parquet_and_json_lines_give_the_same_as_csv(tmp_path: Path) -> None:
    rows = [
        {"item_id": "tea", "title": "Green tea", "price": 4.5, "available": True, "stock": 3},
        {"item_id": "cup", "title": "Tea cup", "price": 8.0, "available": False, "stock": 5},
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    (tmp_path / "items.csv").write_text("stock,item_id;title\n".replace(",", ";") + "3;tea;Green tea\n5;cup;Tea cup\n")
    for name in ("items.jsonl", "items.parquet", "items.csv"):
        items = read_items(str(tmp_path / name), CATALOGUE)
        assert texts(items, "title") == ["Green tea", "Tea cup", "", ""]
        assert numbers(items, "stock") == [3.0, 5.0, None, None]
        assert items.report.rows_used == 2
        if "price" in items.attributes:
            assert numbers(items, "price") == [4.5, 8.0, None, None]
            assert items.available.tolist() == [True, False, True, True]


def test_text_in_parquet_stays_text_even_where_it_looks_like_a_number(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["tea"], "code": ["12"]}), tmp_path / "items.parquet")
    assert texts(read_items(str(tmp_path / "items.parquet"), CATALOGUE), "code") == ["12", "", "", ""]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sku,title\ntea,x\n", 'no column "item_id".*found: sku, title'),
        ("item_id,available\ntea,perhaps\n", "'perhaps'; expected true or false"),
        ('item_id,title\ntea,"x\n', "malformed"),
        ("item_id,title\n" + "é" * 300 + ",x\n", "600 bytes"),
        ("", "empty"),
    ],
)
def test_an_items_file_that_cannot_be_used_is_refused_by_its_own_error(
    tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "items.csv").write_text(content)
    with pytest.raises(ItemsError, match=words):
        read_items(str(tmp_path / "items.csv"), CATALOGUE)
    with pytest.raises(ItemsError, match="does not exist"):
        read_items(str(tmp_path / "none.csv"), CATALOGUE)


def test_the_most_frequent_title_of_the_events_wins_and_of_equals_the_smaller(tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    events.write_text(
        "item_id,user_id,name\ntea,a,?\ntea,b,Tea\ntea,c, Tea \ncup,a,B\ncup,a,A\npot,a,\nother,a,Other\n"
    )
    titles = read_titles([str(events)], EventColumns(), "name", CATALOGUE)
    assert titles.take(np.arange(4)) == ["Tea", "A", "", ""]
    with pytest.raises(ColumnMissing, match=r'"label".*found: item_id, user_id, name.*--title-column'):
        read_titles([str(events)], EventColumns(), "label", CATALOGUE)


def test_the_items_file_goes_before_titles_from_events(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\ncup,Tea cup\n")
    events = tmp_path / "events.csv"
    events.write_text("item_id,user_id,name\ntea,a,Tea\ncup,a,CUP\n")
    both = read_catalogue(tmp_path / "items.csv", [str(events)], EventColumns(), "name", CATALOGUE)
    assert texts(both, "title") == ["Tea", "Tea cup", "", ""]
    neither = read_catalogue(None, [str(events)], EventColumns(), None, CATALOGUE)
    assert neither.attributes == {}
    assert neither.available.tolist() == [True] * 4
    assert neither.report.items_without_row == 4


def test_every_product_of_the_bundled_shop_has_a_title() -> None:
    shop = bundled_shop()
    found = read_interactions([str(shop.events)], shop.columns, cleaning=shop.cleaning)
    titles = read_titles([str(shop.events)], shop.columns, shop.title_column, found.item_ids)
    assert titles[found.item_ids.row("22423")] == "REGENCY CAKESTAND 3 TIER"
    assert titles[found.item_ids.row("85123A")] == "WHITE HANGING HEART T-LIGHT HOLDER"
    assert not [found.item_ids[row] for row in range(found.n_items) if not titles[row]]


def test_a_key_that_only_the_last_of_many_records_has_is_an_attribute(tmp_path: Path) -> None:
    lines = [json.dumps({"item_id": f"x{n}"}) for n in range(21_000)] + [
        json.dumps({"item_id": "cup", "available": False})
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    assert read_items(str(tmp_path / "items.jsonl"), CATALOGUE).available.tolist().count(False) == 1


def test_the_last_row_of_an_item_counts_across_files_of_any_columns(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("item_id,title\ncup,old\n")
    (tmp_path / "2.csv").write_text("item_id,title,category\ncup,mid,c\n")
    (tmp_path / "3.csv").write_text("item_id,title\ncup,new\n")
    items = read_items(str(tmp_path), CATALOGUE)
    assert "new" in texts(items, "title")
    assert "mid" not in texts(items, "title")


def dates(items: Items, name: str) -> list[str | None]:
    column = items.attributes[name]
    assert isinstance(column, Dates)
    assert column.seconds.dtype == np.float64
    return [
        None if math.isnan(each) else datetime.datetime.fromtimestamp(each, datetime.UTC).isoformat()
        for each in column.seconds.tolist()
    ]


def lists(items: Items, name: str) -> list[list[str]]:
    column = items.attributes[name]
    assert isinstance(column, Lists)
    starts = column.starts.tolist()
    return [[column.texts[place] for place in range(start, stop)] for start, stop in itertools.pairwise(starts)]


def test_dates_and_lists_are_known_by_their_form_in_csv_and_json(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(
        "item_id,added,seen,tags,almost\n"
        'tea,2026-11-22,2026-11-22T07:00:00+02:00,"[""green"", ""hot"", """", null, 7]",2026-11-22\n'
        "cup,2026-01-02 03:04,2026-11-22T07:00:00.25Z,[],2026-13-22\n"
        "pot,,,,\n"
    )
    (tmp_path / "items.jsonl").write_text(
        '{"item_id": "tea", "added": "2026-11-22", "seen": "2026-11-22T07:00:00+02:00", "almost": "2026-11-22",'
        ' "tags": ["green", "hot", "", null, 7]}\n'
        '{"item_id": "cup", "added": "2026-01-02 03:04", "seen": "2026-11-22 07:00:00.25Z",'
        ' "almost": "x", "tags": []}\n'
        '{"item_id": "pot"}\n'
    )
    for name in ("items.csv", "items.jsonl"):
        items = read_items(str(tmp_path / name), CATALOGUE)
        assert dates(items, "added") == ["2026-11-22T00:00:00+00:00", "2026-01-02T03:04:00+00:00", None, None]
        assert dates(items, "seen") == ["2026-11-22T05:00:00+00:00", "2026-11-22T07:00:00.250000+00:00", None, None]
        assert lists(items, "tags") == [["green", "hot", "7"], [], [], []]
        assert kind_of(items.attributes["almost"]) == "text"


def test_dates_and_lists_are_known_by_their_type_in_parquet(tmp_path: Path) -> None:
    moment = datetime.datetime(2026, 11, 22, 7, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "item_id": ["cup", "tea", "elsewhere"],
            "added": pa.array([moment.date(), None, moment.date()]),
            "seen": pa.array([moment, moment, None], pa.timestamp("us", "UTC")),
            "naive": pa.array([moment.replace(tzinfo=None)] * 3, pa.timestamp("ns")),
            "tags": [["a", None, "b"], None, ["c"]],
            "sizes": [[36, 37], [], [38]],
            "category": [["ware", "gifts"], ["drinks"], []],
            "said": ["2026-11-22", '["a"]', "x"],
        }
    )
    pq.write_table(table, tmp_path / "items.parquet")
    items = read_items(str(tmp_path / "items.parquet"), CATALOGUE)
    assert dates(items, "added") == [None, "2026-11-22T00:00:00+00:00", None, None]
    assert dates(items, "seen") == [moment.isoformat(), moment.isoformat(), None, None]
    assert dates(items, "naive") == [moment.isoformat(), moment.isoformat(), None, None]
    assert lists(items, "tags") == [[], ["a", "b"], [], []]
    assert lists(items, "sizes") == [[], ["36", "37"], [], []]
    assert lists(items, "category") == [["drinks"], ["ware", "gifts"], [], []]
    assert texts(items, "said") == ['["a"]', "2026-11-22", "", ""]


def test_a_column_of_dates_or_lists_may_be_all_empty(tmp_path: Path) -> None:
    schema = pa.schema([("item_id", pa.string()), ("added", pa.date32()), ("tags", pa.list_(pa.string()))])
    for rows in ([], [{"item_id": "cup"}]):
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "items.parquet")
        items = read_items(str(tmp_path / "items.parquet"), CATALOGUE)
        assert dates(items, "added") == [None] * 4
        assert lists(items, "tags") == [[]] * 4
