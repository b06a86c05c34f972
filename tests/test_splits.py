from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_rows import NOTHING, NOW, SCHEMA, common_rows, read_rows, rows_of_events

from engine.errors import UsageError
from trainer.choices import byte_ranks, parse_split
from trainer.cleaning import Cleaning, Reason
from trainer.errors import NothingLeft
from trainer.interactions import Interactions
from trainer.splits import Split, read_split

DAY = 86_400.0
RULES = Cleaning(now=NOW, weighting="count")
file_settings = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def split_rows(
    path: Path, rows: list[dict[str, Any]], split: str, *, cleaning: Cleaning = RULES, **options: Any
) -> Split:
    full = [{**NOTHING, **row} for row in rows]
    pq.write_table(pa.table({name: [row[name] for row in full] for name in SCHEMA.names}, schema=SCHEMA), path)
    return read_split([str(path)], split=split, cleaning=cleaning, **options)


def pairs_of(part: Interactions | None) -> dict[tuple[str, str], tuple[float, int, float]]:
    """(user id, item id) -> value, count, last time (0 where unknown)."""
    if part is None:
        return {}
    users = np.repeat(np.arange(part.n_users), np.diff(part.by_user.indptr))
    names = zip(part.user_ids.take(users), part.item_ids.take(part.by_user.indices), strict=True)
    times = np.nan_to_num(part.last_times)
    columns = zip(part.by_user.values.tolist(), part.counts.tolist(), times.tolist(), strict=True)
    return dict(zip(names, columns, strict=True))


def baskets_of(part: Interactions) -> list[tuple[str, set[str]]]:
    if part.baskets is None or not len(part.baskets):
        return []
    held = np.split(part.baskets.indices, part.baskets.indptr[1:-1])
    owners = part.user_ids.take(part.baskets.user_rows)
    return [(owner, set(part.item_ids.take(each))) for owner, each in zip(owners, held, strict=True)]


def assert_well_formed(part: Interactions) -> None:
    """Sorted as trainer.interactions promises, with the same entries both ways and nothing empty."""
    sizes, popularity = np.diff(part.by_user.indptr), np.diff(part.by_item.indptr)
    assert sizes.min() > 0
    assert popularity.min() > 0
    assert np.array_equal(byte_ranks(part.user_ids.strings), np.arange(part.n_users))
    ranks = byte_ranks(part.item_ids.strings)
    assert np.array_equal(np.lexsort((ranks, -popularity)), np.arange(part.n_items))
    assert (part.by_user.n_rows, part.by_user.n_columns) == (part.n_users, part.n_items)
    for row in range(part.n_users):
        items, values = part.by_user.row(row)
        assert np.all(np.diff(items) > 0)
        for item, value in zip(items, values, strict=True):
            users, mirrored = part.by_item.row(int(item))
            assert mirrored[users == row] == [value]
    assert int(part.counts.sum()) == part.report.rows_kept


def parts_of(split: Split) -> list[Interactions]:
    return [part for part in (split.train, split.history, split.test) if part is not None]


def made(generator: np.random.Generator, n_users: int = 40, n_items: int = 15) -> list[dict[str, Any]]:
    """Users with 1 to 12 different items, at times that are all different, each two in a basket."""
    rows = []
    for user in range(n_users):
        for place, item in enumerate(generator.permutation(n_items)[: generator.integers(1, 13)].tolist()):
            rows.append({"user_id": f"u{user}", "item_id": f"i{item}", "basket_id": f"b{user}-{place // 2}"})
    times = 1.6e9 + generator.permutation(len(rows)) * 3600.0
    return [{**row, "timestamp": float(time)} for row, time in zip(rows, times, strict=True)]


@file_settings
@given(
    rows=st.one_of(rows_of_events, common_rows),
    split=st.sampled_from(["random:0.3", "last"]),
    cleaning=st.sampled_from([RULES, replace(RULES, event_weights={"dislike": -1.0, "view": 0.5}, half_life_days=90)]),
    seed=st.integers(0, 2**70),
)
def test_parts_share_no_pair_are_everything_together_and_do_not_depend_on_the_order_of_rows(
    tmp_path: Path, rows: list[dict[str, Any]], split: str, cleaning: Cleaning, seed: int
) -> None:
    view = {"event": "view", "timestamp": 1.6e9}
    rows = [*rows, *({"user_id": "eve", "item_id": item, **view} for item in ("hat", "tea", "urn"))]
    rows = [*rows, *({"user_id": "fay", "item_id": item, **view} for item in ("hat", "urn", "zip"))]
    unclear = [row for row in rows if any(isinstance(v, float) and not math.isfinite(v) for v in row.values())]
    if len(unclear) > len(rows) / 2:
        return
    whole = read_rows(tmp_path / "e.parquet", rows, cleaning)
    found = split_rows(tmp_path / "e.parquet", rows, split, cleaning=cleaning, seed=seed)
    train, test, everything = pairs_of(found.train), pairs_of(found.test), pairs_of(whole)
    assert not train.keys() & test.keys()
    assert train.keys() | test.keys() == everything.keys()
    assert {user for user, _ in train} == {user for user, _ in everything}
    assert {pair: each[1:] for pair, each in (train | test).items()} == {p: each[1:] for p, each in everything.items()}
    assert found.report.rows_read == len(rows)
    assert found.report == whole.report
    for part in parts_of(found):
        assert_well_formed(part)
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    again = split_rows(tmp_path / "e.parquet", shuffled, split, cleaning=cleaning, seed=seed, threads=2)
    assert pairs_of(again.train) == train
    assert pairs_of(again.test) == test
    assert again.report == found.report


def test_a_share_of_each_users_items_is_held_out_and_the_seed_chooses_which(tmp_path: Path) -> None:
    rows = [{"user_id": f"u{n}", "item_id": f"i{item}"} for n in range(1, 11) for item in range(n)]
    found, again, other, nearly_all = (
        split_rows(tmp_path / "e.parquet", rows, split, seed=seed)
        for split, seed in (("random:0.2", 1), ("random:0.2", 1), ("random:0.2", 2), ("random:0.99", 1))
    )
    test = [user for user, _ in pairs_of(found.test)]
    assert {n: test.count(f"u{n}") for n in range(1, 11)} == dict(
        zip(range(1, 11), (0, 0, 1, 1, 1, 1, 1, 2, 2, 2), strict=True)
    )
    assert pairs_of(again.test) == pairs_of(found.test)
    assert pairs_of(other.test) != pairs_of(found.test)
    assert sorted(user for user, _ in pairs_of(nearly_all.train)) == sorted(f"u{n}" for n in range(1, 11))


def test_a_random_choice_is_fair_to_items_and_users(tmp_path: Path) -> None:
    rows = [{"user_id": f"u{user}", "item_id": f"i{item}"} for user in range(400) for item in range(20)]
    popularity = split_rows(tmp_path / "e.parquet", rows, "random:0.2", seed=9).test.popularity()
    assert popularity.sum() == 1600
    assert abs(popularity - 80).max() < 4 * math.sqrt(80)
    users = [set(pairs_of(split_rows(tmp_path / "e.parquet", rows, "users:0.1", seed=seed).test)) for seed in (1, 2)]
    assert [len({user for user, _ in each}) for each in users] == [40, 40]
    assert users[0] != users[1]


def test_the_last_item_is_the_one_of_the_newest_time_and_then_of_the_greater_id(tmp_path: Path) -> None:
    bought = [
        *[("ann", "tea", 3.0), ("ann", "cup", 9.0), ("ann", "tea", 5.0), ("ann", "pot", None)],
        *[("bob", "i10", 7.0), ("bob", "i9", 7.0), ("bob", "tea", 7.0), ("cat", "cup", 8.0)],
        *[("dan", "cup", None), ("dan", "tea", None), ("eve", "cup", 1.0), ("eve", "pot", 2.0)],
    ]
    rows: list[dict[str, Any]] = [
        {"user_id": user, "item_id": item, "timestamp": None if day is None else 1.6e9 + day * DAY}
        for user, item, day in bought
    ]
    rows += [{"user_id": "eve", "item_id": "pot", "timestamp": 1.6e9 + 3 * DAY, "quantity": -1.0}]  # returned
    rows += [{"user_id": "eve", "item_id": "tea", "timestamp": 1.6e9}]
    rows += [{"user_id": "eve", "item_id": "hat", "timestamp": 1.61e9, "event": "dislike"}]
    cleaning = replace(RULES, event_weights={"dislike": -1.0})
    found = split_rows(tmp_path / "e.parquet", rows, "last", cleaning=cleaning)
    assert pairs_of(found.test).keys() == {("ann", "cup"), ("bob", "tea"), ("eve", "cup")}
    assert ("cat", "cup") in pairs_of(found.train)
    assert {user for user, _ in pairs_of(found.train)} == {"ann", "bob", "cat", "dan", "eve"}


@file_settings
@given(rows=common_rows, length=st.sampled_from(["1h", "20d", "500d", "82w"]))
def test_a_split_by_time_leaks_no_time(tmp_path: Path, rows: list[dict[str, Any]], length: str) -> None:
    new = {"user_id": "eve", "item_id": "hat", "timestamp": 1.66e9, "event": "view"}
    rows = [*rows, new, {**new, "timestamp": 1.59e9}]
    found = split_rows(tmp_path / "e.parquet", rows, f"time:{length}")
    cut = 1.66e9 - {"h": 3600, "d": DAY, "w": 7 * DAY}[length[-1]] * int(length[:-1])
    last = found.train.last_times
    assert np.nanmax(last) < cut
    assert found.test.last_times.min() >= cut
    # the training is what reading the older events alone gives
    old = [row for row in rows if (row["timestamp"] or 0) < cut]
    assert pairs_of(found.train) == pairs_of(read_rows(tmp_path / "old.parquet", old, RULES))
    assert found.report.rows_kept + sum(count for _, count in found.report.dropped) == len(rows)
    assert found.report.rows_kept == found.train.report.rows_kept + found.test.report.rows_kept


def test_an_item_can_be_bought_again_in_the_test_and_a_later_return_changes_no_training(tmp_path: Path) -> None:
    tea = {"user_id": "ann", "item_id": "tea"}
    rows = [tea | {"timestamp": 1.6e9}, tea | {"timestamp": 1.6e9 + 40 * DAY}, tea | {"quantity": 5.0}]
    rows += [{**tea, "item_id": "cup", "timestamp": 1.6e9}]
    rows += [{**tea, "item_id": "cup", "timestamp": 1.6e9 + 41 * DAY, "quantity": -1.0}]
    found = split_rows(tmp_path / "e.parquet", rows, "time:2w")
    assert pairs_of(found.train) == {("ann", "tea"): (2.0, 2, 1.6e9), ("ann", "cup"): (1.0, 1, 1.6e9)}
    assert pairs_of(found.test) == {("ann", "tea"): (1.0, 1, 1.6e9 + 40 * DAY)}
    assert dict(found.test.report.dropped) == {Reason.RETURN.value: 1}
    assert (found.report.rows_read, found.report.rows_kept) == (5, 4)


def test_the_newest_basket_of_those_with_two_is_the_test_with_its_returns(tmp_path: Path) -> None:
    bought = [
        *[("ann", "b1", "tea", 1, 1), ("ann", "b1", "cup", 1, 1), ("ann", "b2", "tea", 2, 1)],
        *[("ann", "b2", "pot", 2, 2), ("ann", "c1", "pot", 3, -2), ("bob", "b1", "tea", 5, 1)],
        *[("cat", "b8", "tea", 4, 1), ("cat", "b9", "cup", 4, 1), ("cat", None, "hat", 6, 1)],
        *[("dan", "b3", "tea", 1, 1), ("dan", "b4", "cup", None, 1)],
    ]
    rows = [
        {"user_id": user, "basket_id": basket, "item_id": item, "quantity": float(quantity)}
        | {"timestamp": None if day is None else 1.6e9 + day * DAY}
        for user, basket, item, day, quantity in bought
    ]
    found = split_rows(tmp_path / "e.parquet", rows, "basket")
    assert pairs_of(found.test).keys() == {("ann", "tea"), ("cat", "cup"), ("dan", "tea")}
    assert pairs_of(found.train).keys() == {
        *[("ann", "tea"), ("ann", "cup"), ("bob", "tea"), ("cat", "tea"), ("cat", "hat"), ("dan", "cup")]
    }
    assert dict(found.test.report.dropped) == {Reason.RETURN.value: 1, Reason.RETURNED.value: 1}
    assert baskets_of(found.train) == [("ann", {"tea", "cup"})]


@file_settings
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.05, 0.3, 0.7]), order=st.integers(0, 99))
def test_held_out_users_are_not_trained_on_and_four_fifths_of_their_items_are_known(
    tmp_path: Path, seed: int, share: float, order: int
) -> None:
    rows = made(np.random.default_rng(11))
    sizes = {f"u{n}": sum(row["user_id"] == f"u{n}" for row in rows) for n in range(40)}
    shuffled = [rows[i] for i in np.random.default_rng(order).permutation(len(rows))]
    found = split_rows(tmp_path / "e.parquet", shuffled, f"users:{share}", seed=seed, threads=1 + order % 2)
    train, history, test = (pairs_of(part) for part in (found.train, found.history, found.test))
    trained, held_out = {user for user, _ in train}, {user for user, _ in test}
    assert not trained & (held_out | {user for user, _ in history})
    assert len(held_out) == max(1, int(share * sum(size >= 5 for size in sizes.values()) + 0.5))
    assert not history.keys() & test.keys()
    assert {item for _, item in history} <= {item for _, item in train}
    for user in held_out:
        assert sizes[user] >= 5
        assert sum(owner == user for owner, _ in test) == int(0.2 * sizes[user] + 0.5)
    assert sum(len(each) for each in (train, history, test)) + sum(c for _, c in found.report.dropped) == len(rows)
    assert found.report.rows_kept + sum(c for _, c in found.report.dropped) == len(rows)


def test_what_a_held_out_user_returned_is_no_training_either(tmp_path: Path) -> None:
    rows = [{"user_id": f"u{user}", "item_id": f"i{item}"} for user in range(10) for item in range(5)]
    rows += [{"user_id": f"u{user}", "item_id": "hat", "quantity": sign} for user in range(10) for sign in (1.0, -1.0)]
    found = split_rows(tmp_path / "e.parquet", rows, "users:0.3")
    assert found.history is not None
    assert (found.train.report.rows_read, found.history.report.rows_read) == (7 * 7, 3 * 6)
    assert dict(found.history.report.dropped) == {Reason.RETURN.value: 3, Reason.RETURNED.value: 3}


def test_what_training_never_saw_is_left_out_of_the_history_and_counted(tmp_path: Path) -> None:
    rows = [{"user_id": "ann", "item_id": item} for item in ("tea", "cup")]
    rows += [{"user_id": "bob", "item_id": item} for item in ("tea", "cup", "a", "b", "c", "d")]
    found = split_rows(tmp_path / "e.parquet", rows, "users:0.5", seed=3)
    assert found.history is not None
    assert {user for user, _ in pairs_of(found.train)} == {"ann"}
    assert {item for _, item in pairs_of(found.history)} <= {"tea", "cup"}
    dropped = dict(found.history.report.dropped)
    assert dropped == {Reason.UNKNOWN_ITEM.value: 5 - len(pairs_of(found.history))}
    assert dict(found.report.dropped) == dropped
    assert found.report.rows_read == 8


def test_training_knows_neither_ages_nor_statistics_nor_support_of_the_test(tmp_path: Path) -> None:
    rows = made(np.random.default_rng(4))
    for index, row in enumerate(rows):
        row["timestamp"] = 1.6e9 + index % 50 * DAY
    cleaning = replace(RULES, weighting="bm25", half_life_days=20, min_user_items=2, min_item_users=3)
    found = split_rows(tmp_path / "e.parquet", rows, "time:14d", cleaning=cleaning)
    old = [row for row in rows if row["timestamp"] < 1.6e9 + 35 * DAY]
    alone = read_rows(tmp_path / "old.parquet", old, cleaning)
    assert pairs_of(found.train) == pairs_of(alone)
    assert np.mean(found.train.by_user.values) == pytest.approx(1)
    assert alone.report.dropped == found.train.report.dropped
    last = split_rows(tmp_path / "e.parquet", rows, "last", cleaning=cleaning)
    assert last.test.n_users == last.test.n_entries  # a test user needs no second item
    assert np.diff(last.train.by_user.indptr).min() >= 2
    assert np.diff(last.train.by_item.indptr).min() >= 3


@pytest.mark.parametrize(
    ("split", "wrong"),
    [
        *[("", "expected random:SHARE"), ("half", "expected random:SHARE"), ("random", "expected random:SHARE")],
        *[("random:x", "expected random:SHARE"), ("random:0", "a share above 0"), ("users:1", "below 1")],
        *[("time:28", "expected random:SHARE"), ("time:0d", "a length above 0"), ("random:0.2d", "random:SHARE")],
        *[("last:2", "'last' alone"), ("basket:1", "'basket' alone"), ("time:-3d", "expected random:SHARE")],
    ],
)
def test_a_split_that_is_not_one_is_wrong_usage(split: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        parse_split(split)


def test_lengths_are_hours_days_and_weeks() -> None:
    amounts = [parse_split(f"time:{each}").amount for each in ("12h", "1.5d", "2w")]
    assert amounts == [12 * 3600, 1.5 * DAY, 14 * DAY]


def test_a_split_says_what_the_events_lack(tmp_path: Path) -> None:
    path, tea = tmp_path / "e.parquet", {"user_id": "ann", "item_id": "tea"}
    timed = [tea | {"timestamp": 1.6e9}, tea | {"timestamp": 1.6e9 + DAY}]
    for split in ("last", "time:1d", "basket"):
        with pytest.raises(UsageError, match=r"needs times.*--timestamp-column"):
            split_rows(path, [tea], split)
    with pytest.raises(UsageError, match=r"needs baskets.*--basket-column"):
        split_rows(path, timed, "basket")
    for split, part in (("random:0.2", "test"), ("last", "test"), ("users:0.1", "history")):
        with pytest.raises(NothingLeft, match=f"leaves nothing in {part}; it needs users"):
            split_rows(path, timed, split)
    with pytest.raises(NothingLeft, match="leaves nothing in test; it needs users with two baskets"):
        split_rows(path, [each | {"basket_id": "b"} for each in timed], "basket")
    with pytest.raises(NothingLeft, match="leaves nothing in train; it needs events in the last part"):
        split_rows(path, timed, "time:1w")
    with pytest.raises(NothingLeft, match="no events are left"):
        split_rows(path, [tea | {"quantity": 0.0}], "last")
