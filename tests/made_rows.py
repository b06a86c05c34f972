"""Made rows of events with every mistake in them, and how to write and read them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from trainer.cleaning import NON_PRODUCTS, Cleaning
from trainer.interactions import Interactions, read_interactions

NOW = 1_700_000_000.0
SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.float64()),
        ("event", pa.string()),
        ("quantity", pa.float64()),
        ("price", pa.float64()),
        ("basket_id", pa.string()),
    ]
)
NOTHING = dict.fromkeys(SCHEMA.names)

rows_of_events = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from([None, "", " \t", "ann", "bob", "ç", "10", "9", "\u00a0"]),
            "item_id": st.sampled_from([None, "  ", "tea", "cup", "M", "a", "POST", "postage", "é", "z" * 40]),
            "timestamp": st.sampled_from([None, 1.6e9, 1.6e9 + 0.5, 1.65e9, math.nan, 5e8, math.inf, NOW + 86_400]),
            "event": st.sampled_from([None, "view", "purchase", "dislike", "noise"]),
            "quantity": st.sampled_from([None, 1.0, 2.0, 0.5, 3.25, -1.0, -2.0, 0.0, math.nan, math.inf, 2e6, 1e6]),
            "price": st.sampled_from([None, 0.0, 1.5, 2.25, 9.0, -1.0, math.inf, math.nan]),
            "basket_id": st.sampled_from([None, "", "b1", "b2", "b10"]),
        }
    ),
    max_size=30,
)
common_rows = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.sampled_from(["ann", "bob", "ç"]),
            "item_id": st.sampled_from(["tea", "cup", "M"]),
            "timestamp": st.sampled_from([None, 1.6e9, 1.65e9]),
            "event": st.sampled_from([None, "view", "purchase", "dislike"]),
            "quantity": st.sampled_from([None, 1.0, 2.0, 3.0, -1.0, -2.0]),
            "price": st.sampled_from([None, 1.5, 2.25, 9.0]),
            "basket_id": st.sampled_from([None, "b1", "b2"]),
        }
    ),
    max_size=40,
)
rules = st.builds(
    Cleaning,
    non_product_pattern=st.sampled_from([NON_PRODUCTS, "", "m|tea"]),
    event_weights=st.sampled_from([{}, {"view": 0.2, "noise": 0.0}, {"dislike": -1.0, "view": 0.5}]),
    weighting=st.sampled_from(["binary", "count", "log"]),
    now=st.just(NOW),
)


def _written(path: Path, rows: list[dict[str, Any]]) -> str:
    full = [{**NOTHING, **row} for row in rows]
    pq.write_table(pa.table({name: [row[name] for row in full] for name in SCHEMA.names}, schema=SCHEMA), path)
    return str(path)


def read_rows(
    path: Path, rows: list[dict[str, Any]], cleaning: Cleaning | None = None, threads: int = 0
) -> Interactions:
    return read_interactions([_written(path, rows)], cleaning=cleaning or Cleaning(now=NOW), threads=threads)
