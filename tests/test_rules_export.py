"""Association rules as a file, against counting by hand."""

from __future__ import annotations

import itertools

import pytest
from pyarrow import parquet

from engine.cli import main

BASKETS = [("a", "b"), ("a", "b"), ("a", "c"), ("b", "c", "d"), ("a", "b", "d"), ("d",)]


@pytest.fixture
def events(tmp_path):
    path = tmp_path / "events.csv"
    lines = [f"u{number},{item},r{number}" for number, basket in enumerate(BASKETS) for item in basket]
    path.write_text("user_id,item_id,basket_id\n" + "\n".join(lines) + "\n")
    return path


def expected(baskets, least):
    rows = {}
    for item, other in itertools.permutations(sorted({each for basket in baskets for each in basket}), 2):
        both = sum(item in basket and other in basket for basket in baskets)
        with_item, with_other = (sum(each in basket for basket in baskets) for each in (item, other))
        if both >= least:
            confidence = both / with_item
            lift = confidence / (with_other / len(baskets))
            rows[item, other] = (both, both / len(baskets), confidence, lift)
    return rows


@pytest.mark.parametrize("least", [1, 2])
def test_rules_are_those_of_counting_baskets_of_two_items_or_more(events, tmp_path, least, capsys):
    output = tmp_path / "rules.parquet"
    assert main(["rules", str(events), "--output", str(output), "--min-count", str(least), "--quiet"]) == 0
    rows = parquet.read_table(output).to_pylist()
    found = {(row["item_id"], row["with_item_id"]): (row["count"], *list(row.values())[3:]) for row in rows}
    wanted = expected([basket for basket in BASKETS if len(basket) > 1], least)
    assert found.keys() == wanted.keys()
    for pair, values in found.items():
        assert values == pytest.approx(wanted[pair])
    assert f"{len(wanted)} rules of 5 baskets, each pair in {least} or more" in capsys.readouterr().err


def test_histories_are_counted_where_events_name_no_baskets(tmp_path, capsys):
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id\nu1,a\nu1,b\nu2,a\nu2,b\nu3,b\n")
    output = tmp_path / "rules.parquet"
    assert main(["rules", str(path), "--output", str(output), "--min-count", "2", "--quiet"]) == 0
    rows = parquet.read_table(output).to_pylist()
    assert [(row["item_id"], row["with_item_id"], row["count"]) for row in rows] == [("b", "a", 2), ("a", "b", 2)]
    assert [row["confidence"] for row in rows] == pytest.approx([2 / 3, 1.0])
    assert "2 rules of 3 histories" in capsys.readouterr().err


def test_a_directory_that_is_not_there_is_said_before_events_are_read(tmp_path, capsys):
    assert main(["rules", "nowhere.csv", "--output", str(tmp_path / "no" / "rules.parquet")]) == 2
    assert "found no directory" in capsys.readouterr().err
