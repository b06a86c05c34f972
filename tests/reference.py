"""The slow, obvious float64 twins: written from the definitions, with full matrices, never from a kernel's algebra."""

from __future__ import annotations

import itertools
import math

import numpy as np


def dense(indptr, indices, values, n_columns):
    """Rows as full matrices: weights (rows, columns) and targets (rows, columns), both 0 where nothing was observed.

    A value v > 0 is weight v with target 1; v < 0 is weight -v with target 0.
    """
    weights = np.zeros((len(indptr) - 1, n_columns))
    targets = np.zeros_like(weights)
    for row in range(len(indptr) - 1):
        for entry in range(indptr[row], indptr[row + 1]):
            weights[row, indices[entry]] = abs(float(values[entry]))
            targets[row, indices[entry]] = 1.0 if values[entry] > 0 else 0.0
    return weights, targets


def row_penalty(n_entries, unobserved_weight, regularization, exponent, n_others):
    """lambda_row = lambda (n + a0 |others|)^nu."""
    return regularization * (n_entries + unobserved_weight * n_others) ** exponent


def solve_row(weights, targets, others, unobserved_weight, penalty):
    """The minimizer of sum_j w_j (t_j - x'y_j)^2 + a0 sum_j (x'y_j)^2 + penalty |x|^2, by its normal equations."""
    others = others.astype(np.float64)
    d = others.shape[1]
    system = penalty * np.eye(d)
    right = np.zeros(d)
    for j, vector in enumerate(others):
        system += (weights[j] + unobserved_weight) * np.outer(vector, vector)
        right += weights[j] * targets[j] * vector
    return np.linalg.solve(system, right) if weights.any() else np.zeros(d)


def objective(weights, targets, users, items, n_entries_by_user, n_entries_by_item, options):
    """The whole loss of the map, every pair of user and item visited."""
    users, items = users.astype(np.float64), items.astype(np.float64)
    loss = 0.0
    for u in range(len(users)):
        for i in range(len(items)):
            prediction = float(users[u] @ items[i])
            loss += weights[u, i] * (targets[u, i] - prediction) ** 2 + options.unobserved_weight * prediction**2
    for vectors, counts, n_others in ((users, n_entries_by_user, len(items)), (items, n_entries_by_item, len(users))):
        for vector, count in zip(vectors, counts, strict=True):
            penalty = row_penalty(
                count, options.unobserved_weight, options.regularization, options.regularization_exponent, n_others
            )
            loss += penalty * float(vector @ vector)
    return loss


def als(weights, targets, n_by_user, n_by_item, items, options):
    """Alternating exact solves from the given first item vectors, users first, the users once more at the end."""
    users = np.zeros((len(weights), items.shape[1]))

    def solve_all(weights, targets, counts, others):
        return np.stack(
            [
                solve_row(
                    w,
                    t,
                    others,
                    options.unobserved_weight,
                    row_penalty(
                        n,
                        options.unobserved_weight,
                        options.regularization,
                        options.regularization_exponent,
                        len(others),
                    ),
                )
                for w, t, n in zip(weights, targets, counts, strict=True)
            ]
        )

    for _ in range(options.epochs):
        users = solve_all(weights, targets, n_by_user, items)
        items = solve_all(weights.T, targets.T, n_by_item, users)
    users = solve_all(weights, targets, n_by_user, items)
    return users, items


def fold_items_in(weights, targets, old_items, passes, options):
    """Users and items where the last columns are new items, the others staying what they are.

    Users are solved from the old columns; then, pass by pass, new items from all users, and between passes the users
    who have a new item from all columns; in the end all users from all columns.
    """
    n_old = len(old_items)
    of_row = (options.unobserved_weight, options.regularization, options.regularization_exponent)

    def solve_all(weights, targets, others):
        counts = (weights > 0).sum(axis=1)
        penalties = [row_penalty(count, *of_row, len(others)) for count in counts]
        rows = zip(weights, targets, penalties, strict=True)
        return np.stack([solve_row(w, t, others, options.unobserved_weight, penalty) for w, t, penalty in rows])

    items, users = old_items, solve_all(weights[:, :n_old], targets[:, :n_old], old_items)
    has_new = (weights[:, n_old:] > 0).any(axis=1)
    for number in range(passes):
        if number > 0:
            users[has_new] = solve_all(weights[has_new], targets[has_new], items)
        items = np.vstack([old_items, solve_all(weights[:, n_old:].T, targets[:, n_old:].T, users)])
    return solve_all(weights, targets, items), items


def best_rows(scores, k):
    """Positions of the k largest scores, falling, ties to the smaller position; -inf and NaN never."""
    allowed = [i for i, score in enumerate(scores) if score > -math.inf]
    return sorted(allowed, key=lambda i: (-float(scores[i]), i))[:k]


def metrics(ranking, relevant, k):
    """Every metric of one user at k, from the ranked ids and the set of relevant ids, by the textbook."""
    relevant = set(relevant)
    top = ranking[:k]
    hits = [item in relevant for item in top]
    gain = sum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))
    first = next((place for place, hit in enumerate(hits, start=1) if hit), None)
    precisions = [len(relevant.intersection(top[:place])) / place for place, hit in enumerate(hits, start=1) if hit]
    return {
        "recall": sum(hits) / len(relevant),
        "recall/min": sum(hits) / min(k, len(relevant)),
        "precision": sum(hits) / k,
        "ndcg": gain / ideal,
        "map": sum(precisions) / min(k, len(relevant)),
        "mrr": 0.0 if first is None else 1 / first,
        "hr": float(any(hits)),
    }


def item_metrics(ranking, relevant, k, users_by_item, prices, vectors):
    """Every metric of one user's list that looks at its items; None where it says nothing about the user.

    users_by_item: the set of users of each item, of all `range(n_users)` that occur in any; prices None where unknown.
    """
    top = ranking[:k]
    n_users = len(set().union(*users_by_item))
    information = [-math.log2(len(users_by_item[item]) / n_users) for item in top]
    distances = [1 - cosine(vectors[a], vectors[b]) for place, a in enumerate(top) for b in top[:place]]
    total = sum(prices[item] for item in relevant if prices[item] is not None)
    found = sum(prices[item] for item in top if item in relevant and prices[item] is not None)
    return {
        "novelty": sum(information) / len(top) if top else None,
        "diversity": sum(distances) / len(distances) if distances else None,
        "revenue": found / total if total else None,
    }


def cosine(a, b):
    """0 where a vector is zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = math.sqrt(a @ a) * math.sqrt(b @ b)
    return float(a @ b) / lengths if lengths else 0.0


def coverage(rankings, k, n_items):
    """The share of the items that stand in the top k of anybody."""
    return len({item for ranking in rankings for item in ranking[:k]}) / n_items


def all_resamples(values):
    """The mean of every possible resample, by enumeration: the distribution that a bootstrap draws from."""
    values = [float(value) for value in values]
    return [sum(chosen) / len(values) for chosen in itertools.product(values, repeat=len(values))]


def all_sign_flips_p(differences):
    """The exact two-sided p-value of the paired randomization test: every assignment of signs visited."""
    differences = [float(difference) for difference in differences]
    observed = abs(sum(differences))
    sums = [
        abs(sum(sign * difference for sign, difference in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(each >= observed - 1e-9 for each in sums) / len(sums)


def cooccurrence(contexts, n_items, *, window=None, distance_damping=0.0, backward_weight=1.0):
    """C by its sum over contexts and pairs: contexts are (items, places, weight)."""
    counts = np.zeros((n_items, n_items))
    for items, places, weight in contexts:
        for (s, here), (j, there) in itertools.permutations(zip(items, places, strict=True), 2):
            distance = abs(there - here)
            if window is not None and distance > window:
                continue
            factor = 1.0 if distance == 0 else float(distance) ** -distance_damping
            counts[s, j] += weight * factor * (backward_weight if there < here else 1.0)
    return counts


def design(contexts, n_items):
    """X: a row for each context, with the root of its weight where it holds an item."""
    rows = np.zeros((len(contexts), n_items))
    for row, (items, _, weight) in zip(rows, contexts, strict=True):
        row[list(items)] = math.sqrt(weight)
    return rows


def similarities(counts, item_weights, source_exponent, target_exponent, shrinkage, sharpness=1.0):
    """sim(s, j)^sharpness, 0 where the two were never together."""
    out = np.zeros_like(counts)
    for s, j in zip(*np.nonzero(counts), strict=True):
        norm = item_weights[s] ** source_exponent * item_weights[j] ** target_exponent
        out[s, j] = (counts[s, j] / norm * counts[s, j] / (counts[s, j] + shrinkage)) ** sharpness
    return out


def walked(rows, two_steps):
    """M + two_steps M R without its diagonal, R being the rows M, each divided by the 0.9th power of its sum."""
    steps = np.zeros_like(rows)
    for step, row in zip(steps, rows, strict=True):
        if row.any():
            step[:] = row / row.sum() ** 0.9
    return (rows + two_steps * rows @ steps) * (1 - np.eye(len(rows)))


def only_strongest(rows, k):
    """Full rows where all but the k entries of the largest size are 0, ties to the smaller column."""
    out = np.zeros_like(rows)
    for row, values in zip(out, rows, strict=True):
        kept = [column for column in best_rows(np.abs(values), k) if values[column] != 0]
        row[kept] = values[kept]
    return out


def ridge_weights(rows, candidates, target, penalties):
    """The minimizer of |x_j - X_S b|^2 + sum_s D_s b_s^2: least squares of X_S with a row for each penalty below it."""
    stacked = np.vstack([rows[:, candidates], np.diag(np.sqrt(penalties[candidates]))])
    right = np.concatenate([rows[:, target], np.zeros(len(candidates))])
    return np.linalg.lstsq(stacked, right, rcond=None)[0]


def ease(rows, penalty):
    """The closed form of EASE, sources by targets: B = I - P diag(1 / P_jj) with P = (X'X + penalty I)^-1."""
    inverse = np.linalg.inv(rows.T @ rows + penalty * np.eye(rows.shape[1]))
    return np.eye(len(inverse)) - inverse / np.diag(inverse)
