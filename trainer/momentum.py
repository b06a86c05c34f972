"""Nesterov's momentum for alternating least squares: an epoch starts beyond the items of the last one.

ALS ends in small steps along the same few directions. Starting an epoch from y + share (y - y_before), with a share
that grows while the loss falls, takes them in strides: (m - 1) / (m + 1) after m epochs, at most `--momentum`, and
nothing after a loss that rose (Mitchell, Ye and De Sterck 2020, "Nesterov acceleration of alternating least squares for
canonical tensor decomposition: momentum step size selection and restart mechanisms"). 15 plain epochs on Gowalla are 9
with it (docs/decisions/0008-momentum.md). What is solved is exact for what it is solved against, so the objective is
the same one; tests/test_momentum.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.threads import Threads

Vectors = NDArray[np.float32]

_BLOCK_FLOATS = 1 << 16
_ROUNDING = 1e-6
"""A loss that rose by no more, relative, did not rise: it is a sum of float32 solutions."""


def share_of_last_step(losses: Sequence[float], most: float) -> float:
    """How much of the last epoch's movement the next one begins with, from the loss of each epoch so far."""
    falling = 0
    for place, loss in enumerate(losses):
        falling = 0 if place and not loss <= losses[place - 1] * (1 + _ROUNDING) else falling + 1
    return min(most, max(0, falling - 1) / (falling + 1))


def extrapolate(before: Vectors, items: Vectors, share: float, pool: Threads) -> None:
    """before = items + share (items - before), in place."""
    size = max(1, _BLOCK_FLOATS // items.shape[1])

    def block(number: int) -> None:
        rows = slice(number * size, (number + 1) * size)
        np.subtract(items[rows], before[rows], out=before[rows])
        before[rows] *= np.float32(share)
        before[rows] += items[rows]

    pool.each(block, -(-len(items) // size))
