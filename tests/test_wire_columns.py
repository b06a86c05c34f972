"""The bytes of columns, read back by protobuf."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nearcart.v1 import recommendation_pb2 as wire

from engine.errors import ReleaseCorrupt
from engine.ids import MAX_ID_BYTES, StringTable
from engine.stacked import Stacked
from engine.wire_columns import columns_of_each

IDS = ["a", "", "ü" * 60, "x" * 127, "y" * 128, "z" * MAX_ID_BYTES]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, len(IDS) - 1), st.floats(width=32)), max_size=40), min_size=1, max_size=5
    )
)
@settings(deadline=None)
def test_protobuf_reads_what_is_written(answers):
    found = Stacked.of(
        [
            (
                np.array([row for row, _ in each], dtype=np.int32),
                np.array([score for _, score in each], dtype=np.float32),
            )
            for each in answers
        ],
        40,
    )
    table = StringTable.of(IDS)
    for each, written in zip(answers, columns_of_each(table, found), strict=True):
        message = wire.RecommendForUserResponse.FromString(written)
        assert message.item_ids == [IDS[row] for row, _ in each]
        np.testing.assert_array_equal(message.scores, np.array([score for _, score in each], dtype=np.float32))
        assert len(written) == message.ByteSize()
    (flat,) = columns_of_each(table, found.flat())
    message = wire.BatchRecommendForUsersResponse.FromString(flat)
    assert message.item_ids == [IDS[row] for each in answers for row, _ in each]
    assert len(message.scores) == len(message.item_ids)


@pytest.mark.parametrize("row", [-1, 6, 2**31 - 1])
def test_a_row_without_an_id_is_refused(row):
    found = Stacked.one(np.array([row], dtype=np.int32), np.ones(1, dtype=np.float32))
    with pytest.raises(ReleaseCorrupt):
        columns_of_each(StringTable.of(IDS), found)


@pytest.mark.parametrize("offsets", [[0, 5, 2], [0, 1, 1000], [0, -5, 1], [0, 600, 1200]])
def test_offsets_that_leave_the_table_are_refused(offsets):
    table = StringTable(np.zeros(1200 if offsets[1] == 600 else 9, dtype=np.uint8), np.array(offsets, dtype=np.int64))
    found = Stacked.one(np.array([0, 1], dtype=np.int32), np.ones(2, dtype=np.float32))
    with pytest.raises(ReleaseCorrupt):
        columns_of_each(table, found)
