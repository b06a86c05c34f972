from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_rows import NOW, common_rows, read_rows, rows_of_events, rules
from reference_events import Expected, interactions_of, newest_time, reason_to_drop

from engine.errors import UsageError
from trainer.cleaning import UNCLEAR, Cleaning, Reason, Report
from trainer.errors import NothingLeft
from trainer.interactions import Interactions
from trainer.options import EventOptions
from trainer.weighting import Weighting


def assert_as_expected(found: Interactions, expected: Expected) -> None:
    assert found.report.rows_kept == expected.kept
    assert dict(found.report.dropped) == expected.dropped
    users = found.user_ids.take(np.arange(found.n_users))
    items = found.item_ids.take(np.arange(found.n_items))
    assert users == sorted({user for user, _ in expected.entries}, key=str.encode)
    assert items == expected.items
    seen = {}
    for row, user in enumerate(users):
        for entry in range(found.by_user.indptr[row], found.by_user.indptr[row + 1]):
            seen[user, items[found.by_user.indices[entry]]] = entry
    assert seen.keys() == expected.entries.keys()
    for pair, wanted in expected.entries.items():
        entry = seen[pair]
        assert found.by_user.values[entry] == pytest.approx(wanted.value, rel=1e-6)
        assert found.counts[entry] == wanted.count
        assert found.quantities[entry] == pytest.approx(wanted.quantity, rel=1e-6)
        assert found.last_times[entry] == pytest.approx(wanted.last_time, nan_ok=True, abs=1e-6)
    baskets = found.baskets
    held = [] if baskets is None else np.split(baskets.indices, baskets.indptr[1:-1])[: len(baskets)]
    assert [[items[row] for row in each] for each in held] == expected.baskets
    if baskets is not None:
        assert baskets.seconds.tolist() == pytest.approx(expected.basket_times, nan_ok=True, abs=1e-6)
        assert baskets.places.tolist() == [place for each in expected.basket_places for place in each]
    if found.prices is not None:
        assert found.prices.tolist() == pytest.approx([expected.prices[item] for item in items], rel=1e-6, nan_ok=True)


all_rules = st.builds(
    replace,
    rules,
    weighting=st.sampled_from(get_args(Weighting)),
    half_life_days=st.sampled_from([None, None, 0.01, 100.0, 5e7 / 86_400]),
    min_user_items=st.sampled_from([1, 1, 2, 3]),
    min_item_users=st.sampled_from([1, 1, 2]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.one_of(rows_of_events, common_rows), cleaning=st.one_of(rules, all_rules))
def test_cleaning_agrees_with_its_slow_twin_and_the_report_adds_up(
    tmp_path: Path, rows: list[dict[str, Any]], cleaning: Cleaning
) -> None:
    expected = interactions_of(rows, cleaning)
    assert expected.kept + sum(expected.dropped.values()) == len(rows)
    kinds = {row["event"] for row in rows if (row["event"] or "").strip()}
    if cleaning.event_weights and not kinds & set(cleaning.event_weights):
        with pytest.raises(UsageError, match="event weights are given for"):
            read_rows(tmp_path / "e.parquet", rows, cleaning)
        return
    unclear = sum(expected.dropped.get(reason.value, 0) for reason in UNCLEAR)
    if not expected.entries or unclear > len(rows) / 2:
        with pytest.raises(NothingLeft) as caught:
            read_rows(tmp_path / "e.parquet", rows, cleaning)
        for reason, n_rows in expected.dropped.items():
            assert re.search(rf"{re.escape(reason)} +-{n_rows}\b", str(caught.value))
        return
    events = {None: [row for row in rows if not reason_to_drop(row, cleaning)]}
    if cleaning.half_life_days is not None and newest_time(events) is None:
        with pytest.raises(UsageError, match="a half-life needs times"):
            read_rows(tmp_path / "e.parquet", rows, cleaning)
        return
    found = read_rows(tmp_path / "e.parquet", rows, cleaning)
    assert found.report.rows_read == len(rows)
    assert found.report.rows_kept + sum(count for _, count in found.report.dropped) == len(rows)
    assert int(found.counts.sum()) == found.report.rows_kept
    assert_as_expected(found, expected)


def test_a_return_reduces_and_a_full_return_removes(tmp_path: Path) -> None:
    bought, kept, other = ({"user_id": "ann", "item_id": item} for item in ("cup", "tea", "pot"))
    rows = [
        bought | {"quantity": 3.0},
        bought | {"quantity": -3.0},
        kept | {"quantity": 3.0},
        kept | {"quantity": -1.0},
    ]
    found = read_rows(tmp_path / "e.parquet", [*rows, other | {"quantity": -1.0}])
    assert found.item_ids.take(np.arange(1)) == ["tea"]
    assert found.quantities.tolist() == [2.0]
    assert found.counts.tolist() == [1]
    assert dict(found.report.dropped) == {Reason.RETURN.value: 3, Reason.RETURNED.value: 1}


def test_a_return_does_not_count_as_the_last_time(tmp_path: Path) -> None:
    bought = {"user_id": "ann", "item_id": "tea", "quantity": 2.0, "timestamp": 1.6e9}
    found = read_rows(tmp_path / "e.parquet", [bought, bought | {"quantity": -1.0, "timestamp": 1.65e9}])
    assert found.last_times.tolist() == [1.6e9]


def test_what_is_returned_and_cancels_out_is_reported_once(tmp_path: Path) -> None:
    liked = {"user_id": "ann", "item_id": "tea", "event": "purchase"}
    rows = [liked, liked | {"event": "dislike"}, liked | {"quantity": -2.0}, {"user_id": "ann", "item_id": "cup"}]
    found = read_rows(tmp_path / "e.parquet", rows, Cleaning(event_weights={"dislike": -1.0}, now=NOW))
    assert dict(found.report.dropped) == {Reason.RETURN.value: 1, Reason.RETURNED.value: 2}
    assert found.report.rows_kept == 1


def test_weights_follow_the_kind_of_event_and_the_weighting(tmp_path: Path) -> None:
    kinds = {"tea": ["view", "view", "purchase"], "cup": ["view"], "pot": ["dislike", "view"], "urn": ["noise"]}
    rows = [{"user_id": "ann", "item_id": item, "event": kind} for item, all_ in kinds.items() for kind in all_]
    weights = {"view": 0.2, "dislike": -1.0, "noise": 0.0}

    def values(weighting: Any) -> list[float]:
        cleaning = Cleaning(event_weights=weights, weighting=weighting, now=NOW)
        found = read_rows(tmp_path / "e.parquet", rows, cleaning)
        assert found.item_ids.take(np.arange(3)) == ["cup", "pot", "tea"]
        assert dict(found.report.dropped) == {Reason.WEIGHTLESS.value: 1}
        return found.by_user.values.tolist()

    assert values("binary") == pytest.approx([0.2, -1.0, 1.0])
    assert values("count") == pytest.approx([0.2, -0.8, 1.4])
    assert values("log") == pytest.approx([0.2, -0.8, 1 + math.log(1.4)])


def test_half_of_a_weight_is_left_after_the_half_life_and_a_millionth_for_ever(tmp_path: Path) -> None:
    ages = {"now": 0, "week": 7, "old": 14, "ancient": 7000}
    rows = [
        {"user_id": "ann", "item_id": item, "timestamp": 1.6e9 - days * 86_400, "event": "view"}
        for item, days in ages.items()
    ]
    rows += [{"user_id": "ann", "item_id": "timeless", "event": "view"}]
    rows += [{"user_id": "ann", "item_id": "now", "timestamp": 1.65e9, "quantity": -0.5}]  # a return ages nothing
    for weight in (0.8, -0.8):
        for weighting in ("count", "log", "binary"):
            cleaning = Cleaning(event_weights={"view": weight}, half_life_days=7, weighting=weighting, now=NOW)
            found = read_rows(tmp_path / "e.parquet", rows, cleaning)
            values = dict(zip(found.item_ids.take(found.by_user.indices), found.by_user.values, strict=True))
            sign = math.copysign(1, weight)
            wanted = {"now": 0.8, "week": 0.4, "old": 0.2, "ancient": 1e-6, "timeless": 0.8}
            assert values == pytest.approx({item: sign * value for item, value in wanted.items()})


def test_users_and_items_with_too_few_are_dropped_until_none_is_left(tmp_path: Path) -> None:
    likes = {"ann": "tea cup pot", "bob": "tea cup pot", "cat": "tea cup urn", "dan": "urn tea", "eve": "hat"}
    rows = [{"user_id": user, "item_id": item} for user, items in likes.items() for item in items.split()]
    found = read_rows(tmp_path / "e.parquet", rows, Cleaning(min_user_items=3, min_item_users=2, now=NOW))
    # eve and dan have too few; then the urn has cat alone, then cat too few; the hat went with eve
    assert found.user_ids.take(np.arange(2)) == ["ann", "bob"]
    assert (found.n_users, found.n_items, found.n_entries) == (2, 3, 6)
    assert dict(found.report.dropped) == {Reason.FEW_ITEMS.value: 3 + 2, Reason.FEW_USERS.value: 1}
    assert found.report.rows_kept == 6


def test_a_core_that_is_empty_says_so(tmp_path: Path) -> None:
    rows = [{"user_id": "ann", "item_id": item} for item in ("tea", "cup")]
    with pytest.raises(NothingLeft, match=r"user with too few items +-2"):
        read_rows(tmp_path / "e.parquet", rows, Cleaning(min_user_items=3, now=NOW))


def test_an_item_called_a_or_m_is_a_product_unless_the_pattern_says_otherwise(tmp_path: Path) -> None:
    rows = [{"user_id": "ann", "item_id": item} for item in ("a", "M", "post", "Dotcom Postage", "POSTER")]
    found = read_rows(tmp_path / "e.parquet", rows)
    assert found.item_ids.take(np.arange(3)) == ["M", "POSTER", "a"]
    assert read_rows(tmp_path / "e.parquet", rows, Cleaning(non_product_pattern="", now=NOW)).n_items == 5


def test_rules_that_make_no_sense_are_wrong_usage(tmp_path: Path) -> None:
    wrong_rules: list[dict[str, Any]] = [
        {"weighting": "cubic"},
        {"max_quantity": 0},
        {"event_weights": {"view": math.nan}},
        {"half_life_days": 0.0},
        {"half_life_days": math.nan},
        {"saturation": 0.0},
        {"length_normalization": 1.5},
        {"min_user_items": 0},
        {"min_item_users": 0},
    ]
    for wrong in wrong_rules:
        with pytest.raises(UsageError):
            Cleaning(**wrong)
    with pytest.raises(UsageError, match="regular expression"):
        Cleaning(non_product_pattern="(")
    with pytest.raises(UsageError, match="refused"):  # Python reads it, RE2 does not
        read_rows(tmp_path / "e.parquet", [{"user_id": "a", "item_id": "b"}], Cleaning(non_product_pattern="(?<=a)b"))


def test_the_table_of_the_report_is_aligned() -> None:
    report = Report(1_234_567, 1_234_000, (("no user id", 500), ("quantity is zero", 67)))
    assert report.table().splitlines() == [
        "events read         1,234,567",
        "  no user id             -500",
        "  quantity is zero        -67",
        "events kept         1,234,000",
    ]
    assert report.as_dict()["dropped"] == {"no user id": 500, "quantity is zero": 67}


def test_the_options_without_a_flag_are_the_rules_and_every_flag_reaches_them() -> None:
    assert EventOptions().cleaning() == Cleaning()
    given: dict[str, Any] = {"weighting": "bm25", "saturation": 2.0, "length_normalization": 0.5}
    given |= {"half_life_days": 30.0, "min_user_items": 2, "min_item_users": 3}
    assert EventOptions(**given).cleaning() == Cleaning(**given)
