"""WIDEN in extended precision, written from the paper alone (Yu et al., arXiv 2408.03092); no engine code is used.

Norms, then 1 - cos, as the paper has them; 80-bit floats leave those differences the digits that float64 would lose.
"""

import numpy as np

Wide = np.longdouble


def merge_matrix(base, models, t, s, ranks="order"):
    """base (out_dim, in_dim), models likewise; returns the merged matrix in extended precision.

    ranks: "order", the paper's; "average"; "changed", which counts a model only where it changed the column.
    """
    base = np.asarray(base, Wide)
    models = [np.asarray(model, Wide) for model in models]
    magnitudes, directions = [], []
    taking = [(base != model).any(0) if ranks == "changed" else np.ones(base.shape[1], bool) for model in models]
    for model in models:
        m0, mk = np.sqrt((base**2).sum(0)), np.sqrt((model**2).sum(0))
        magnitudes.append(np.abs(mk - m0))
        dot = (base * model).sum(0)
        both = (m0 > 0) & (mk > 0)
        cosine = np.divide(dot, m0 * mk, out=np.zeros_like(dot), where=both)
        one_dead = (m0 > 0) ^ (mk > 0)
        changed = (base != model).any(0)
        directions.append(np.where(one_dead, 1, np.where(both & changed, np.maximum(1 - cosine, 0), 0)))
    place = _place_in_order if ranks == "order" else _average_place
    weights = (_scores(magnitudes, t, s, place, taking) + _scores(directions, t, s, place, taking)) / 2
    return base + sum(weight * (model - base) for weight, model in zip(weights, models, strict=True))


def merge_embedding(base, models, t, s, ranks="order"):
    """(tokens, width): every token is a column."""
    return merge_matrix(np.asarray(base).T, [np.asarray(model).T for model in models], t, s, ranks).T


def merge_vector(base, models, t, s, ranks="order"):
    """Element by element, scores from the absolute deltas."""
    base = np.asarray(base, Wide)
    deltas = [np.asarray(model, Wide) - base for model in models]
    taking = [delta != 0 if ranks == "changed" else np.ones(base.shape, bool) for delta in deltas]
    scores = _softmax([np.abs(delta) for delta in deltas], taking)
    for k, delta in enumerate(deltas):
        important = taking[k] & (np.abs(delta) > Wide(t) * np.abs(delta).mean())
        scores[k] = np.where(important, Wide(s), scores[k])
    return base + sum(score * delta for score, delta in zip(scores, deltas, strict=True))


def _place_in_order(change):
    place = np.empty(len(change), Wide)
    place[np.argsort(change, kind="stable")] = np.arange(len(change), dtype=Wide)
    return place


def _average_place(change):
    """By counting: so many are smaller, and of those that are equal half are."""
    return np.array([(change < one).sum() + Wide((change == one).sum() - 1) / 2 for one in change], Wide)


def _scores(changes, t, s, place=_place_in_order, taking=None):
    placed = [place(change) for change in changes]
    taking = taking or [np.ones(len(one), bool) for one in placed]
    scores = _softmax([one / len(one) for one in placed], taking)
    for k, one in enumerate(placed):
        scores[k] = np.where(taking[k] & (one > Wide(t) * one.mean()), Wide(s), scores[k])
    return scores


def _softmax(rows, taking=None):
    """Column by column over the rows that take part there; the others get 0."""
    rows = np.stack(rows)
    scores = np.zeros(rows.shape, Wide)
    for c in range(rows.shape[1]):
        there = [k for k in range(len(rows)) if taking is None or taking[k][c]]
        powers = [np.exp(rows[k, c]) for k in there]
        for k, power in zip(there, powers, strict=True):
            scores[k, c] = power / sum(powers)
    return scores
