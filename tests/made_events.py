"""Files of made events in every form, and interactions as plain values that can be compared."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainer.cleaning import Cleaning
from trainer.events import EventColumns
from trainer.interactions import Interactions, read_interactions

HEADER = "user_id,item_id,timestamp,event,quantity,price,basket_id\n"
ROWS = [
    ("ann", "00123", "2024-03-01 10:00:00", "purchase", "2", "9.5", "b1"),
    ("ann", "tea, green", "2024-03-01 10:00:00", "purchase", "1", "3.25", "b1"),
    ("bob", "00123", "2024-03-02 11:30:00", "view", "1", "9.5", ""),
    ("Çelik", 'say "hi"', "2024-03-03 00:00:00", "purchase", "4", "1", "b2"),
    ("Çelik", "00123", "2024-03-03 00:00:00", "purchase", "1", "9", "b2"),
]
NOW = Cleaning(now=1_800_000_000.0)


def csv_text(separator: str = ",") -> str:
    lines = [",".join(HEADER.strip().split(",")).replace(",", separator)]
    for row in ROWS:
        lines.append(separator.join('"' + field.replace('"', '""') + '"' if field else "" for field in row))
    return "\n".join(lines) + "\n"


def records() -> list[dict[str, object]]:
    names = HEADER.strip().split(",")
    out = []
    for row in ROWS:
        record: dict[str, object] = {name: field for name, field in zip(names, row, strict=True) if field}
        out.append({**record, "quantity": int(row[4]), "price": float(row[5])})
    return out


def jsonl_text() -> str:
    return "".join(json.dumps(record) + "\n" for record in records())


def read(*sources: Path, **mapping: str) -> Interactions:
    return read_interactions([str(source) for source in sources], EventColumns(**mapping), cleaning=NOW)


def user_ids(found: Interactions) -> list[str]:
    return found.user_ids.take(np.arange(found.n_users))


def item_ids(found: Interactions) -> list[str]:
    return found.item_ids.take(np.arange(found.n_items))


def described(found: Interactions) -> object:
    baskets = None
    if found.baskets is not None:
        of_items = found.baskets.indptr, found.baskets.indices, found.baskets.places
        of_baskets = found.baskets.user_rows, np.nan_to_num(found.baskets.seconds, nan=-1.0)
        baskets = [each.tolist() for each in (*of_items, *of_baskets)]
    return (
        user_ids(found),
        item_ids(found),
        found.by_user.indptr.tolist(),
        found.by_user.indices.tolist(),
        found.by_user.values.tolist(),
        found.counts.tolist(),
        found.quantities.tolist(),
        [None if math.isnan(time) else time for time in found.last_times.tolist()],
        baskets,
        None if found.prices is None else found.prices.tolist(),
        found.report,
    )


def written(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = zstd(data)
    path.write_bytes(data)
    return path


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()
