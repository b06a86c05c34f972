"""Ids to rows and back, against a dict. Runs once more with the JIT off (`make test`), where the big table is small."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.ids import IdTable, StringTable, distinct, slots_for

WITHOUT_JIT = os.environ.get("NUMBA_DISABLE_JIT") == "1"

ids = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.integers(0, 40).map(lambda n: "a shared prefix that is longer than a cache line, then the number " + str(n)),
    st.integers(0, 9).map(lambda n: "é" * n),
    st.integers(1, 3).map(lambda n: "long" * 64 * n),
)


@given(st.lists(ids, unique=True, max_size=60), st.lists(ids, max_size=20))
@example([], ["", "a"])
@example([""], ["", "a"])
@example(["ab", "a", "abc"], ["abc", "ab", "a", "b", "", "abcd"])
def test_every_id_finds_its_row_and_every_other_finds_none(held, asked):
    table = IdTable.of(held)
    rows = {id_: row for row, id_ in enumerate(held)}
    asked = asked + held[::-1]
    assert table.rows(asked).tolist() == [rows.get(id_, -1) for id_ in asked]
    assert [table.row(id_) for id_ in asked] == [rows.get(id_, -1) for id_ in asked]
    assert [table[row] for row in range(len(table))] == held


@given(st.lists(ids, unique=True, min_size=1, max_size=30), st.data())
def test_a_duplicate_is_refused_and_named(held, data):
    twice = data.draw(st.sampled_from(held))
    place = data.draw(st.integers(0, len(held)))
    with pytest.raises(ValueError, match="stands twice") as refused:
        IdTable.of([*held[:place], twice, *held[place:]])
    assert repr(twice) in str(refused.value)


@given(st.lists(ids, max_size=30), st.data())
def test_taken_strings_come_in_the_order_asked_for(strings, data):
    table = StringTable.of(strings)
    rows = data.draw(st.lists(st.integers(0, len(strings) - 1), max_size=20)) if strings else []
    assert table.take(np.array(rows, dtype=np.int32)) == [strings[row] for row in rows]
    assert len(table) == len(strings)


@given(st.lists(st.text(max_size=5) | st.just("\0"), max_size=150), st.data())
def test_tables_of_few_or_many_strings_hold_them_whatever_they_are(strings, data):
    strings = [string.encode(errors="ignore").decode() for string in strings * data.draw(st.integers(1, 20))]
    table = StringTable.of(iter(strings))
    assert [table[row] for row in range(len(table))] == strings
    assert table.offsets.dtype == np.int64
    rows = np.arange(len(strings))[:: data.draw(st.sampled_from([-1, 1, 3]))]
    selected = table.select(rows)
    assert [selected[row] for row in range(len(selected))] == [strings[row] for row in rows]


@given(st.lists(ids, max_size=80))
def test_strings_that_differ_are_numbered_in_the_order_they_first_stand_in(strings):
    table, which = distinct(StringTable.of(strings))
    assert [table[row] for row in range(len(table))] == list(dict.fromkeys(strings))
    assert [table[row] for row in which.tolist()] == strings
    assert table.rows(strings).tolist() == which.tolist()


def test_ids_that_begin_alike_or_are_cut_short_are_different_ids():
    table = IdTable.of(["item 1", "item 10", "item 100", "item"])
    assert table.rows(["item 100", "item", "item 1", "item 1000", "ite", ""]).tolist() == [2, 3, 0, -1, -1, -1]


def test_nothing_asked_finds_nothing():
    assert IdTable.of(["a"]).rows([]).tolist() == []
    assert IdTable.of([]).rows(["a", ""]).tolist() == [-1, -1]


@given(st.integers(0, 2**40))
def test_the_slots_are_a_power_of_two_and_at_least_half_of_them_stay_empty(n):
    slots = slots_for(n)
    assert slots & (slots - 1) == 0
    assert 2 * n <= slots <= max(4 * n, 2)


def test_an_id_whose_slot_is_the_last_and_taken_goes_on_at_the_first():
    names = [str(n) for n in range(40)]
    # Four slots, and two ids that both belong in the last: whichever comes second wraps around.
    crossing = [pair for pair in itertools.permutations(names, 2) if IdTable.of(pair).slots.tolist() == [1, -1, -1, 0]]
    a, b = next(pair for pair in crossing if pair[::-1] in crossing)
    table = IdTable.of([a, b])
    assert table.rows([b, a, "elsewhere"]).tolist() == [1, 0, -1]
    assert table.rows(names).tolist() == [{a: 0, b: 1}.get(name, -1) for name in names]


@pytest.mark.parametrize("held", [["b", "ä", "", "a" * 300], []])
def test_a_table_stored_and_mapped_is_the_same_table(held, tmp_path):
    for name, array in IdTable.of(held).arrays().items():
        np.save(tmp_path / name, array)
    mapped = {
        name: np.asarray(np.load(tmp_path / f"{name}.npy", mmap_mode="r")) for name in ("data", "offsets", "slots")
    }
    table = IdTable.from_arrays(mapped)
    assert np.shares_memory(table.slots, mapped["slots"])
    assert [table[row] for row in range(len(table))] == held
    assert table.rows([*held, "no"]).tolist() == [*range(len(held)), -1]


def test_a_lookup_leaves_read_only_arrays_alone():
    table = IdTable.of(["a", "b"])
    for array in table.arrays().values():
        array.setflags(write=False)
    assert table.rows(["b", "c", "a"]).tolist() == [1, -1, 0]


@given(st.integers(0, 7), st.integers(-(2**31), 2**31 - 1))
@example(0, 2**31 - 1)
@example(0, -(2**31))
def test_a_damaged_slot_is_at_worst_not_found(slot, row):
    table = IdTable.of(["a", "b", "c", "d"])
    slots = table.slots.copy()
    slots[slot] = row
    found = IdTable(table.strings, slots).rows(["a", "b", "c", "d", "e"]).tolist()
    assert all(each in (expected, -1) for each, expected in zip(found, [0, 1, 2, 3, -1], strict=True))


@given(st.integers(0, 4), st.integers(-(2**40), 2**40))
def test_a_damaged_offset_is_never_read_through(place, offset):
    table = IdTable.of(["a", "b", "c", "d"])
    offsets = table.strings.offsets.copy()
    offsets[place] = offset
    found = IdTable(StringTable(table.strings.data, offsets), table.slots).rows(["a", "b", "c", "d", "e"]).tolist()
    assert all(-1 <= each < 4 for each in found)


def test_a_table_without_an_empty_slot_is_searched_once_around():
    table = IdTable.of(["a", "b"])
    assert IdTable(table.strings, np.zeros(4, dtype=np.int32)).rows(["a", "x"]).tolist() == [0, -1]


def test_strings_that_are_a_table_already_are_looked_up_without_decoding():
    assert IdTable.of(["a", "b"]).rows_of(StringTable.of(["b", "x", "b"])).tolist() == [1, -1, 1]


def test_a_million_ids_find_their_rows():
    n = 1_000_000 if not WITHOUT_JIT else 1_000
    # Seven digits each, cut from one block of bytes: as benchmarks/open_release.py makes them.
    digits = np.arange(n)[:, np.newaxis] // 10 ** np.arange(6, -1, -1) % 10 + ord("0")
    strings = StringTable(digits.astype(np.uint8).ravel(), np.arange(n + 1, dtype=np.int64) * 7)
    table = IdTable.over(strings)
    rows = np.random.default_rng(0).permutation(n)[: n // 10]
    assert table.rows([f"{row:07}" for row in rows.tolist()]).tolist() == rows.tolist()
    assert table.rows([f"{n + row:07}" for row in range(100)]).tolist() == [-1] * 100


def test_more_ids_than_rows_can_number_are_refused_before_anything_is_built():
    offsets = np.lib.stride_tricks.as_strided(np.zeros(1, dtype=np.int64), shape=(2**30 + 2,), strides=(0,))
    with pytest.raises(ValueError, match="at most 1,073,741,823"):
        IdTable.over(StringTable(np.empty(0, dtype=np.uint8), offsets))


def test_a_damaged_table_finds_nothing_instead_of_reading_elsewhere():
    ids = [f"id {i}" for i in range(50)]
    table = IdTable.of(ids)
    beyond = IdTable(table.strings, np.full_like(table.slots, 10_000))
    assert (beyond.rows(ids) == -1).all()
    offsets = table.strings.offsets.copy()
    offsets[1:] += 1 << 40
    moved = IdTable(StringTable(table.strings.data, offsets), table.slots)
    assert (moved.rows(ids) == -1).sum() >= 49
    full = IdTable(table.strings, np.zeros_like(table.slots))
    assert full.row("id 7") == -1
