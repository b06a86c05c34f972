"""Association rules between two items, from events to a Parquet file. Checked by tests/test_rules_export.py."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from trainer.contexts import contexts_of
from trainer.interactions import Interactions
from trainer.item_neighbours import pair_rules
from trainer.parquet_files import all_ids, replacing
from trainer.threads import Threads

_OUTCOME = "The file of this name, if there was one, is as it was; free space or choose another, and export again"


def export_rules(interactions: Interactions, path: Path, min_count: int, threads: int = 0) -> str:
    """Write the rules between items that `min_count` baskets or more hold together; returns what was written, in words.

    Histories count where events name no baskets. Raises UsageError, PublishFailed.
    """
    contexts = contexts_of(interactions)
    with Threads(threads) as pool:
        rules = pair_rules(contexts, min_count, pool)
    ids = all_ids(interactions.item_ids.strings)
    columns = {
        "item_id": ids.take(pa.array(rules.sources)).cast(pa.string()),
        "with_item_id": ids.take(pa.array(rules.targets)).cast(pa.string()),
        "count": pa.array(rules.counts.round().astype("int64")),
        "support": pa.array(rules.supports),
        "confidence": pa.array(rules.confidences),
        "lift": pa.array(rules.lifts),
    }
    with replacing(path, _OUTCOME) as beside:
        parquet.write_table(pa.table(columns), beside)
    what = "baskets" if interactions.baskets else "histories"
    return f"{path}: {len(rules):,} rules of {len(contexts):,} {what}, each pair in {min_count:,} or more"
