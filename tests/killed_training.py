"""A training that is killed with SIGKILL again and again until it gets to its end; run by tests/test_checkpoint.py.

    python tests/killed_training.py DIR EARLY_STOPPING

A process trains in a child and kills it at random moments of the seed, counted in what the child tells while it works:
within epochs, between them, and every other time while it saves. After each kill the checkpoint must hold the last
epoch that the child told was saved. Prints the number of kills, and leaves the result in DIR/result.npz. Kept out of
pytest's own process, which has threads that a fork would lose.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

import numpy as np
from made_interactions import interactions_of, random_matrix

from trainer.als import train
from trainer.checkpoint import Checkpoint
from trainer.early_stopping import EarlyStopping
from trainer.options import AlsOptions

OPTIONS = AlsOptions(factors=64, epochs=30, regularization=0.001, unobserved_weight=0.1, threads=1)
SEED = 5
MOST_MOMENTS = 30
SAVING = 128
"""Added to the epoch when it begins to be saved."""


def made():
    """What is trained on: epochs of some milliseconds, and items whose vectors take one to write."""
    return interactions_of(random_matrix(200, 3000, seed=3, density=0.01))


class Telling(Checkpoint):
    """Tells that a save begins, so that kills fall into it."""

    def __init__(self, path, tell, **others):
        super().__init__(path, **others)
        self._tell = tell

    def save(self, saved):
        self._tell(len(saved.losses) + SAVING)
        super().save(saved)
        self._tell(len(saved.losses))


def learn(folder, patience, threads=1, tell=None):
    """The whole training, with a checkpoint where it is told about."""
    interactions, options = made(), dataclasses.replace(OPTIONS, threads=threads)
    stopping = EarlyStopping(interactions, options, patience) if patience else None
    if stopping is not None:
        interactions, options = stopping.training, stopping.options
    checkpoint = Telling(folder / "state.npz", tell, companion=stopping) if tell else None
    show = (lambda progress: tell(progress.last.epoch if progress.last else 0)) if tell else None
    embeddings = train(interactions, options, checkpoint=checkpoint, on_progress=show, on_epoch=stopping)
    if stopping is not None:
        embeddings = stopping.completed(embeddings)
    arrays = {"users": embeddings.user_vectors, "items": embeddings.item_vectors, "losses": embeddings.losses}
    return arrays | ({"values": stopping.values} if stopping else {})


def child(folder, patience, threads, writer):
    """Train, one byte for each thing told."""
    arrays = learn(folder, patience, threads, tell=lambda epoch: os.write(writer, bytes([epoch])))
    np.savez(folder / "result.npz", **arrays)


def main(folder, patience):
    generator = np.random.default_rng(SEED)
    kills = 0
    while True:
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            child(folder, patience, 1 + kills % 3, writer)
            os._exit(0)
        os.close(writer)
        moments = int(generator.integers(1, MOST_MOMENTS))
        told = b""
        while (len(told) < moments or (kills % 2 and told[-1] < SAVING)) and (more := os.read(reader, 1)):
            told += more
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        while more := os.read(reader, 1 << 16):
            told += more
        os.close(reader)
        if status == 0:
            break
        assert os.WIFSIGNALED(status), "the training failed"
        kills += 1
        saved = max(epoch for epoch in told if epoch < SAVING)
        if saved:
            with np.load(folder / "state.npz") as file:
                assert len(file["losses"]) >= saved, "more than one epoch was lost"
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
