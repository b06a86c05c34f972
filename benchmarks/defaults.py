"""Which hyper-parameters suit a shop that says nothing?

    python -m benchmarks.defaults [--data DIR] [--quick] [--json FILE]

Trains ALS on all but the last four weeks of two shops, the bundled one and completejourney (looked for in --data,
NEARCART_DATA or ../shared/data), and measures the last four weeks:

- user: recall@20 and ndcg@20 of items that are new to the user, history excluded from the ranking;
- cart: the share of baskets (3 to 60 known items, one hidden by seed 7) whose hidden item is in the top 10 for the
  rest, with the cart alone, with cart and history folded in together, and with the sum of cart vector and user vector.

A coordinate search: from a starting point, each parameter in turn takes the value with the best mean over shops and
measures, each relative to the best seen; `unobserved_weight` None is the curve of trainer.options. Everything that
was tried is printed; docs/decisions/0003-defaults.md quotes a run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.raw_rows import write_rows
from benchmarks.real_shops import RealShop, cut, hidden_carts, only_new, real_shops
from trainer.als import Embeddings, train
from trainer.evaluate import HeldOut, Scorer, hold_out, rank_catalogue
from trainer.interactions import Interactions, read_interactions
from trainer.metrics import parse_metrics
from trainer.options import AlsOptions

MEASURES = ("recall@20", "ndcg@20", "cart")
SPACE: dict[str, list] = {
    "unobserved_weight": [0.01, 0.03, 0.1, 0.3, 1.0, None],
    "regularization": [0.001, 0.003, 0.01, 0.03],
    "weighting": ["binary", "log", "count"],
    "factors": [64, 128, 192],
    "epochs": [8, 12, 16],
    "regularization_exponent": [0.5, 1.0],
}
START = {
    "unobserved_weight": None,
    "regularization": 0.003,
    "weighting": "log",
    "factors": 128,
    "epochs": 12,
    "regularization_exponent": 1.0,
}


@dataclass(frozen=True)
class Shop:
    name: str
    train: dict[str, Interactions]
    held_out: HeldOut
    carts: list[tuple[int, np.ndarray, int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NEARCART_DATA", "../shared/data")))
    parser.add_argument("--quick", action="store_true", help="the bundled shop and two settings, for correctness only")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    shops = [split(shop) for shop in real_shops(arguments.data, quick=arguments.quick)]
    rows = search(shops, quick=arguments.quick)
    if arguments.json is not None:
        write_rows(arguments.json, rows)


def split(shop: RealShop) -> Shop:
    with tempfile.TemporaryDirectory() as directory:
        before, after = cut(shop.events, shop.columns, Path(directory))
        train = {
            weighting: read_interactions(
                [str(before)], shop.columns, cleaning=replace(shop.cleaning, weighting=weighting)
            )
            for weighting in SPACE["weighting"]
        }
        test = read_interactions([str(after)], shop.columns, cleaning=shop.cleaning)
    history = train["binary"]
    held_out = only_new(hold_out(history, test), history)
    return Shop(shop.name, train, held_out, hidden_carts(history, test))


def search(shops: list[Shop], *, quick: bool) -> list[dict]:
    tried: dict[tuple, list[dict]] = {}
    setting = dict(START)
    if quick:
        setting |= {"factors": 16, "epochs": 2}
    names = ["regularization"] if quick else list(SPACE)
    for name in names:
        for value in SPACE[name][:2] if quick else SPACE[name]:
            measure_once(tried, shops, {**setting, name: value})
        setting[name] = max(SPACE[name], key=lambda value: standing(tried, {**setting, name: value}))
        print(f"-> {name} = {setting[name]}", flush=True)
    print("best:", setting)
    return [row for rows in tried.values() for row in rows]


def measure_once(tried: dict[tuple, list[dict]], shops: list[Shop], setting: dict) -> None:
    key = tuple(setting.items())
    if key not in tried:
        tried[key] = [measure(shop, setting) for shop in shops]
        for row in tried[key]:
            print(" ".join(f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)


def standing(tried: dict[tuple, list[dict]], setting: dict) -> float:
    """The mean, over shops and measures, of a setting's result relative to the best result so far."""
    rows = tried.get(tuple(setting.items()))
    if rows is None:
        return -1.0
    shares = []
    for i, row in enumerate(rows):
        for name in MEASURES:
            shares.append(row[name] / max(others[i][name] for others in tried.values()))
    return float(np.mean(shares))


def measure(shop: Shop, setting: dict) -> dict:
    interactions = shop.train[setting["weighting"]]
    options = AlsOptions(**{key: value for key, value in setting.items() if key != "weighting"})
    started = time.perf_counter()
    embeddings = train(interactions, options)
    seconds = time.perf_counter() - started
    scorer = Scorer(embeddings.user_vectors, embeddings.item_vectors)
    metrics = rank_catalogue(scorer, interactions.by_user, shop.held_out, parse_metrics("recall@20,ndcg@20"))
    return {"shop": shop.name, **setting, **metrics, **carts(shop, interactions, embeddings), "seconds": seconds}


def carts(shop: Shop, interactions: Interactions, embeddings: Embeddings) -> dict[str, float]:
    """The share of hidden items in the top 10, by what the query is made of; carts of known users only."""
    encoder = embeddings.encoder()
    asked = [case for case in shop.carts if case[0] >= 0]
    alone = np.stack([encoder.encode(cart, np.ones(len(cart), dtype=np.float32)) for _, cart, _ in asked])
    together = np.stack([encoder.encode(*joined(*interactions.by_user.row(user), cart)) for user, cart, _ in asked])
    users = embeddings.user_vectors[[user for user, _, _ in asked]]
    hits = {}
    for name, queries in {"cart": alone, "cart_and_history": together, "cart_plus_user": alone + users}.items():
        scores = queries @ embeddings.item_vectors.T
        for i, (_, cart, _) in enumerate(asked):
            scores[i, cart] = -np.inf
        hidden = scores[np.arange(len(asked)), [item for _, _, item in asked]]
        hits[name] = float(np.mean((scores > hidden[:, np.newaxis]).sum(axis=1) < 10))
    return {**hits, "carts": len(asked)}


def joined(history: np.ndarray, values: np.ndarray, cart: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A history and a cart as one bag of items."""
    bag = dict(zip(history.tolist(), values.tolist(), strict=True))
    bag |= {item: max(1.0, bag.get(item, 0.0)) for item in cart.tolist()}
    rows = np.array(sorted(bag), dtype=np.int32)
    return rows, np.array([bag[row] for row in rows.tolist()], dtype=np.float32)


if __name__ == "__main__":
    main()
