"""Attributes of items: the five kinds, and how a release holds them.

The manifest lists name and kind, `items/attributes/<n>` holds the n-th one, in the order of the item rows. Written when
a release is published, memory-mapped when it is opened. Round trips in tests/test_attributes.py, the layout in
docs/release-format.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ReleaseCorrupt
from engine.ids import StringTable
from engine.release import Draft, Release

TEXT, LIST, NUMBER, BOOLEAN, DATE = "text", "list", "number", "boolean", "date"
_FOLDER = "items/attributes"


@dataclass(frozen=True)
class Dates:
    """`seconds` float64 (n_items,) since 1970 in UTC, NaN where there is none."""

    seconds: NDArray[np.float64]


@dataclass(frozen=True)
class Lists:
    """The texts of row r are those of `texts` from starts[r] to starts[r + 1]: `starts` int64 (n_items + 1,)."""

    starts: NDArray[np.int64]
    texts: StringTable


Attribute = StringTable | Lists | NDArray[np.float64] | NDArray[np.bool_] | Dates
"""Text ("" where there is none), lists of texts, numbers (NaN), booleans (False), dates."""


def kind_of(attribute: Attribute) -> str:
    """The kind, as the manifest names it."""
    match attribute:
        case StringTable():
            return TEXT
        case Lists():
            return LIST
        case Dates():
            return DATE
        case _:
            return BOOLEAN if attribute.dtype == np.bool_ else NUMBER


def appended(attribute: Attribute, more: Attribute | None, n_more: int) -> Attribute:
    """An attribute with the values of `n_more` further items, of the same kind; None: they have none."""
    match attribute:
        case StringTable():
            return attribute.followed_by(more if isinstance(more, StringTable) else StringTable.of([""] * n_more))
        case Lists():
            empty = Lists(np.zeros(n_more + 1, dtype=np.int64), StringTable.of([]))
            lists = more if isinstance(more, Lists) else empty
            starts = np.concatenate([attribute.starts, attribute.starts[-1] + lists.starts[1:]])
            return Lists(starts, attribute.texts.followed_by(lists.texts))
        case Dates():
            seconds = more.seconds if isinstance(more, Dates) else np.full(n_more, np.nan)
            return Dates(np.concatenate([attribute.seconds, seconds]))
        case _:
            missing = False if attribute.dtype == np.bool_ else np.nan
            values: NDArray[Any] = more if isinstance(more, np.ndarray) else np.full(n_more, missing)
            together: NDArray[Any] = np.concatenate([attribute, values.astype(attribute.dtype)])
            return together


def add_attributes(draft: Draft, attributes: Mapping[str, Attribute]) -> list[dict[str, str]]:
    """Write them into a draft; returns the manifest's list of them. Raises PublishFailed."""
    for i, attribute in enumerate(attributes.values()):
        name = f"{_FOLDER}/{i}"
        match attribute:
            case StringTable():
                draft.add_arrays(name, attribute.arrays())
            case Lists():
                draft.add_array(f"{name}.starts", attribute.starts)
                draft.add_arrays(name, attribute.texts.arrays())
            case Dates():
                draft.add_array(name, attribute.seconds)
            case _:
                draft.add_array(name, attribute)
    return [{"name": name, "kind": kind_of(attribute)} for name, attribute in attributes.items()]


def read_attributes(release: Release, n_items: int) -> dict[str, Attribute]:
    """Those of a release by name, memory-mapped. A kind that this program does not know is left out.

    Raises ReleaseCorrupt.
    """
    attributes: dict[str, Attribute] = {}
    for i, described in enumerate(release.manifest["attributes"]):
        attribute = _read(release, f"{_FOLDER}/{i}", described["kind"], n_items)
        if attribute is not None:
            attributes[described["name"]] = attribute
    return attributes


def _read(release: Release, name: str, kind: str, n_items: int) -> Attribute | None:
    match kind:
        case "text":
            return StringTable.from_arrays(release.table(name, n_items))
        case "list":
            starts = release.array(f"{name}.starts", np.int64, (n_items + 1,))
            if starts[0] != 0 or starts[-1] < 0:
                raise ReleaseCorrupt(
                    f"{release.directory}/{name}.starts.npy leads from {starts[0]:,} to {starts[-1]:,}, expected from "
                    "0 to the number of texts: copy the release again, or roll back"
                )
            return Lists(starts, StringTable.from_arrays(release.table(name, int(starts[-1]))))
        case "number":
            return release.array(name, np.float64, (n_items,))
        case "boolean":
            return release.array(name, np.bool_, (n_items,))
        case "date":
            return Dates(release.array(name, np.float64, (n_items,)))
        case _:
            return None
