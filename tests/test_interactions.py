from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_rows import NOW, common_rows, read_rows
from shared_data import shared_data

from trainer.cleaning import Cleaning, Reason
from trainer.errors import EventsError
from trainer.events import EventColumns
from trainer.interactions import Csr, Interactions, read_interactions
from trainer.shop import bundled_shop


def arrays_of(found: Interactions) -> list[np.ndarray[Any, Any]]:
    arrays = [found.by_user.indptr, found.by_user.indices, found.by_user.values, found.counts, found.quantities]
    arrays += [found.by_item.indptr, found.by_item.indices, found.by_item.values, found.last_times]
    arrays += [found.user_ids.strings.data, found.user_ids.strings.offsets, found.item_ids.strings.data]
    arrays += [] if found.baskets is None else list(vars(found.baskets).values())
    return arrays if found.prices is None else [*arrays, found.prices]


def assert_same_bits(one: Interactions, other: Interactions) -> None:
    for mine, theirs in zip(arrays_of(one), arrays_of(other), strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.tobytes() == theirs.tobytes()
    assert one.report == other.report


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=common_rows.filter(bool), seed=st.integers(0, 2**32 - 1), threads=st.integers(1, 4))
def test_neither_the_order_of_rows_nor_the_threads_change_a_bit(
    tmp_path: Path, rows: list[dict[str, Any]], seed: int, threads: int
) -> None:
    rows = [*rows, {"user_id": "ann", "item_id": "sugar"}]
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    one = read_rows(tmp_path / "one.parquet", rows, threads=1)
    assert_same_bits(one, read_rows(tmp_path / "other.parquet", shuffled, threads=threads))


def test_many_rows_shuffled_on_one_and_more_threads_give_the_same_bits(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    n = 400_000
    table = pa.table(
        {
            "user_id": generator.integers(0, 30_000, n),
            "item_id": (2_000 * generator.random(n) ** 3).astype(np.int64),
            "timestamp": generator.integers(1_600_000_000, 1_690_000_000, n),
            "quantity": np.round(generator.normal(2, 1.5, n), 3),
            "price": np.round(generator.random(n), 2),
            "basket_id": generator.integers(0, 90_000, n),
        }
    )
    results = []
    for threads in (1, 2, 3):
        path = tmp_path / f"{threads}.parquet"
        pq.write_table(table.take(generator.permutation(n)), path, row_group_size=50_000)
        cleaning = Cleaning(now=NOW, weighting="bm25", half_life_days=90, min_user_items=3, min_item_users=2)
        results.append(read_interactions([str(path)], cleaning=cleaning, threads=threads))
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])
    by_user = results[0].by_user
    assert all(np.all(np.diff(by_user.row(row)[0]) > 0) for row in range(by_user.n_rows))
    n_users = np.diff(results[0].by_item.indptr)
    ids = [id_.encode() for id_ in results[0].item_ids.take(np.arange(results[0].n_items))]
    places = list(zip((-n_users).tolist(), ids, strict=True))
    assert places == sorted(places), "popular items must come first, and of equals the smaller id"


def test_both_directions_hold_the_same_entries(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    rows = [
        {"user_id": f"u{generator.integers(40)}", "item_id": f"i{generator.integers(25)}", "event": "view"}
        for _ in range(300)
    ]
    found = read_rows(tmp_path / "e.parquet", rows, Cleaning(weighting="count", now=NOW))
    assert (found.by_item.n_rows, found.by_item.n_columns) == (found.n_items, found.n_users)
    dense = np.zeros((found.n_users, found.n_items), dtype=np.float32)
    for row in range(found.n_users):
        columns, values = found.by_user.row(row)
        dense[row, columns] = values
    for row in range(found.n_items):
        columns, values = found.by_item.row(row)
        assert np.array_equal(np.flatnonzero(dense[:, row]), columns)
        assert np.array_equal(dense[columns, row], values)
    for csr in (found.by_user, found.by_item):
        assert (csr.indptr.dtype, csr.indices.dtype, csr.values.dtype) == (np.int64, np.int32, np.float32)
    assert (found.counts.dtype, found.quantities.dtype, found.last_times.dtype) == (np.int32, np.float32, np.float64)


def test_an_empty_row_stays_a_row_when_turned() -> None:
    csr = Csr(np.array([0, 0, 2]), np.array([0, 2], np.int32), np.array([1, 2], np.float32), n_columns=4)
    turned = csr.transposed()
    assert turned.indptr.tolist() == [0, 1, 1, 2, 2]
    assert turned.indices.tolist() == [1, 1]
    assert turned.n_columns == 2


def test_a_basket_id_that_two_users_share_is_two_baskets_in_the_order_of_basket_then_user(tmp_path: Path) -> None:
    bought = {("ann", "b2"): ["tea", "cup"], ("bob", "b1"): ["tea", "pot"], ("bob", "b2"): ["cup", "pot"]}
    rows = [
        {"user_id": user, "basket_id": basket, "item_id": item}
        for (user, basket), items in bought.items()
        for item in items
    ]
    found = read_rows(tmp_path / "e.parquet", [*rows, {"user_id": "ann", "basket_id": "b1", "item_id": "pot"}])
    assert found.baskets is not None
    held = np.split(found.baskets.indices, found.baskets.indptr[1:-1])
    assert [set(found.item_ids.take(each)) for each in held] == [{"tea", "pot"}, {"tea", "cup"}, {"cup", "pot"}]
    assert found.user_ids.take(found.baskets.user_rows) == ["bob", "ann", "bob"]


def test_columns_that_no_event_fills_are_none_and_unknown_times_are_nan(tmp_path: Path) -> None:
    found = read_rows(tmp_path / "e.parquet", [{"user_id": "ann", "item_id": "tea"}])
    assert found.baskets is None
    assert found.prices is None
    assert math.isnan(found.last_times[0])


def test_a_limit_that_is_too_small_says_what_to_do(tmp_path: Path) -> None:
    n = 200_000
    pq.write_table(pa.table({"user_id": range(n), "item_id": range(n)}), tmp_path / "e.parquet")
    with pytest.raises(EventsError, match="allow more memory"):
        read_interactions([str(tmp_path / "e.parquet")], memory_limit="2MB", threads=1)


@pytest.fixture(scope="module")
def shop() -> Interactions:
    bundled = bundled_shop()
    return read_interactions([str(bundled.events)], bundled.columns, cleaning=bundled.cleaning)


def test_the_bundled_shop_is_whole(shop: Interactions) -> None:
    assert shop.report.rows_read == 541_909
    assert dict(shop.report.dropped)[Reason.NO_USER.value] == 135_080
    assert shop.report.rows_kept + sum(count for _, count in shop.report.dropped) == 541_909
    assert shop.item_ids[0] == "22423"  # the Regency cake stand
    assert shop.baskets is not None
    assert shop.prices is not None


def test_the_bundled_shop_agrees_with_a_query_written_independently(shop: Interactions) -> None:
    bundled = bundled_shop()
    with duckdb.connect() as connection:
        pairs = connection.execute(
            """
            SELECT CustomerID, StockCode, sum(Quantity), count(*) FILTER (Quantity > 0) FROM read_parquet(?)
            WHERE CustomerID IS NOT NULL
              AND upper(StockCode) NOT IN ('POST', 'DOT', 'M', 'D', 'S', 'C2', 'B', 'BANK CHARGES', 'AMAZONFEE', 'CRUK',
                                           '23444', '23702')
              AND StockCode NOT LIKE 'gift%'
            GROUP BY 1, 2 HAVING sum(Quantity) > 0""",
            [str(bundled.events)],
        ).fetchall()
    assert shop.n_entries == len(pairs)
    assert shop.n_users == len({user for user, _, _, _ in pairs})
    assert shop.n_items == len({item for _, item, _, _ in pairs})
    assert float(shop.quantities.sum(dtype=np.float64)) == sum(quantity for _, _, quantity, _ in pairs)
    assert int(shop.counts.sum()) == sum(count for _, _, _, count in pairs) == shop.report.rows_kept
    assert (shop.n_users, shop.n_items, shop.n_entries, shop.report.rows_kept) == (4_322, 3_642, 264_612, 394_664)


def test_the_published_sizes_of_the_leaderboard_files_are_found() -> None:
    gowalla = shared_data("gowalla-lightgcn")
    train = read_interactions([str(gowalla / "train.txt.zst")])
    assert (train.n_users, train.n_items, train.n_entries) == (29_858, 40_981, 810_128)
    assert read_interactions([str(gowalla / "test.txt.zst")]).n_entries == 217_242
    ratings = read_interactions([str(shared_data("ml-1m/ncf/ml-1m.test.rating.zst"))])
    assert ratings.n_entries == ratings.n_users == 6_040


def test_unix_seconds_and_kinds_of_events_of_a_real_log_are_read() -> None:
    path = shared_data("retailrocket-multibehaviour/train_events.parquet")
    weights = Cleaning(event_weights={"view": 0.2}, weighting="count")
    found = read_interactions([str(path)], EventColumns(user="user", item="item"), cleaning=weights)
    assert found.report.rows_read == found.report.rows_kept
    assert found.by_user.values.min() == pytest.approx(0.2)
    assert 1.42e9 < found.last_times.min() < found.last_times.max() < 1.45e9
