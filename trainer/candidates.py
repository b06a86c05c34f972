"""The candidates file of the NCF protocol: one test case a line, "(user,item)", then the items it is ranked among.

Fields are separated by tabs; the file may be compressed (.gz, .zst). Form: the `.test.negative` files of He et al.
2017.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.ids import StringTable
from trainer.errors import EvaluationError

_CASE = re.compile(r"\(\s*([^,()]+?)\s*,\s*([^,()]+?)\s*\)")


@dataclass(frozen=True)
class Candidates:
    """user_ids by case; item_ids[starts[c]] is the test item of case c, those up to starts[c + 1] its others."""

    user_ids: StringTable
    item_ids: StringTable
    starts: NDArray[np.int64]


def read_candidates(path: Path) -> Candidates:
    """Read a candidates file. Raises EvaluationError, naming the line."""
    users: list[str] = []
    items: list[str] = []
    starts = [0]
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            text = stream.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        case, *others = line.split("\t")
        match = _CASE.fullmatch(case.strip())
        negatives = [each.strip() for each in others if each.strip()]
        if match is None or not negatives:
            raise EvaluationError(
                f"{path}, line {number}: found {line[:60]!r}, "
                "expected '(user,item)' and then item ids, separated by tabs"
            )
        users.append(match[1])
        items += [match[2], *(each for each in negatives if each != match[2])]
        starts.append(len(items))
    if not users:
        raise EvaluationError(f"{path} is empty: expected one test case a line")
    return Candidates(StringTable.of(users), StringTable.of(items), np.array(starts, dtype=np.int64))
