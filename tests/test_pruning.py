"""How many neighbours are enough: known answers by construction."""

from __future__ import annotations

import numpy as np
import pytest
from made_blends import N_ITEMS, cases_with, part_of

from trainer.pruning import SIZES, Pruning, choose_pruning, pruned


def fan(strengths):
    """Item 0 has neighbours 60, 61, ... of these strengths."""
    return part_of("fan", {0: {60 + place: strength for place, strength in enumerate(strengths)}})


def test_pruning_keeps_the_strongest_of_each_row():
    memory = part_of("rows", {0: {60: 1.0, 61: -3.0, 62: 2.0}, 5: {70: 1.0}}).memory
    small = pruned(memory, 2)
    small.require_sound(N_ITEMS)
    assert small.n_rows == memory.n_rows
    assert dict(zip(*map(np.ndarray.tolist, small.row(0)), strict=True)) == {61: -3.0, 62: 2.0}
    assert small.row(5)[0].tolist() == [70]


def test_the_fewest_are_taken_where_they_find_as_much():
    part = fan([40.0 - place for place in range(40)])
    found = choose_pruning(part, cases_with([{0: 0}] * 9, [[60]] * 9), None)
    assert found.neighbours == SIZES[0]
    assert found.recall == 1.0


def test_more_are_kept_where_fewer_lose_what_was_held_out():
    # Two items share a neighbour that is weak for each of them, and best for both together.
    entries = {place: 2.0 + place for place in range(60, 100)}
    part = part_of("shared", {0: {**entries, 59: 61.0}, 1: {**{50 - n: 80.0 for n in range(40)}, 59: 61.0}})
    cases = cases_with([{0: 0, 1: 0}] * 20, [[59]] * 20)
    assert choose_pruning(part, cases, None).neighbours > SIZES[0]


def test_a_number_that_is_given_is_taken_and_what_it_costs_is_told():
    part = fan([40.0 - place for place in range(40)])
    found = choose_pruning(part, cases_with([{0: 0}] * 3, [[60]] * 3), 5)
    assert found == Pruning(5, pytest.approx(0.25))
    assert found.told == {"neighbours": 5, "recall@20": pytest.approx(0.25), "against_neighbours": 500}
