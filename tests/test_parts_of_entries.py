"""Entries taken out of interactions: the same as reading their events alone."""

from __future__ import annotations

import numpy as np
import pytest
from made_rows import NOW, read_rows

from benchmarks.parts_of_entries import part_of_entries
from trainer.choices import byte_ranks
from trainer.cleaning import Cleaning

DAY = 86_400.0
CLEANING = Cleaning(now=NOW, weighting="log", event_weights={"dislike": -2.0})


def made(generator, n_users=40, n_items=15):
    """Events of users with 1 to 12 items, two in a basket; a dislike, and something bought again."""
    rows = []
    for user in range(n_users):
        for place, item in enumerate(generator.permutation(n_items)[: generator.integers(1, 13)].tolist()):
            time = 1.6e9 + len(rows) * DAY / 24
            basket = f"b{user}-{place // 2}"
            rows.append({"user_id": f"u{user}", "item_id": f"i{item}", "basket_id": basket, "timestamp": time})
    rows += [{**rows[0], "item_id": "hat", "event": "dislike"}, {**rows[1], "quantity": 3.0}]
    return [{**row, "price": 2.0} for row in rows]


def names_of(whole):
    users = np.repeat(np.arange(whole.n_users), np.diff(whole.by_user.indptr))
    return list(zip(whole.user_ids.take(users), whole.item_ids.take(whole.by_user.indices), strict=True))


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_a_part_is_what_reading_its_events_alone_gives(tmp_path, share):
    rows, generator = made(np.random.default_rng(3)), np.random.default_rng(4)
    whole = read_rows(tmp_path / "e.parquet", rows, CLEANING)
    names = names_of(whole)
    kept = (generator.random(len(names)) < share) | np.array([item == "hat" for _, item in names])
    wanted = {name for name, stays in zip(names, kept, strict=True) if stays}
    part = [row for row in rows if (row["user_id"], row["item_id"]) in wanted]
    expected = read_rows(tmp_path / "part.parquet", part, CLEANING)
    found = part_of_entries(whole, kept, byte_ranks(whole.item_ids.strings), expected.report)
    for one, other in zip(found.arrays(), expected.arrays(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in ((found.by_item, expected.by_item), (found.baskets, expected.baskets)):
        np.testing.assert_array_equal(one.indptr, other.indptr)
        np.testing.assert_array_equal(one.indices, other.indices)
    for name in ("user_rows", "seconds", "places"):
        np.testing.assert_array_equal(getattr(found.baskets, name), getattr(expected.baskets, name))
    for name in ("counts", "quantities", "last_times", "prices"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_basket_of_which_one_item_stays_is_none(tmp_path):
    rows = [
        {"user_id": user, "item_id": item, "basket_id": "b"}
        for user in ("ann", "bob")
        for item in ("tea", "cup", "pot")
    ]
    whole = read_rows(tmp_path / "e.parquet", rows)
    kept = np.array([(user == "ann" and item != "pot") or item == "tea" for user, item in names_of(whole)])
    found = part_of_entries(whole, kept, byte_ranks(whole.item_ids.strings), whole.report)
    assert found.user_ids.take(found.baskets.user_rows) == ["ann"]
    assert set(found.item_ids.take(found.baskets.indices)) == {"tea", "cup"}
