"""WIDEN in extended precision, written from the paper alone (Yu et al., arXiv 2408.03092); no engine code is used.

Norms, then 1 - cos, as the paper has them; 80-bit floats leave those differences the digits that float64 would lose.
"""

import numpy as np

Wide = np.longdouble


def merge_matrix(base, models, t, s):
    """base (out_dim, in_dim), models likewise; returns the merged matrix in extended precision."""
    base = np.asarray(base, Wide)
    models = [np.asarray(model, Wide) for model in models]
    magnitudes, directions = [], []
    for model in models:
        m0, mk = np.sqrt((base**2).sum(0)), np.sqrt((model**2).sum(0))
        magnitudes.append(np.abs(mk - m0))
        dot = (base * model).sum(0)
        both = (m0 > 0) & (mk > 0)
        cosine = np.divide(dot, m0 * mk, out=np.zeros_like(dot), where=both)
        one_dead = (m0 > 0) ^ (mk > 0)
        changed = (base != model).any(0)
        directions.append(np.where(one_dead, 1, np.where(both & changed, np.maximum(1 - cosine, 0), 0)))
    weights = (_scores(magnitudes, t, s) + _scores(directions, t, s)) / 2
    return base + sum(weight * (model - base) for weight, model in zip(weights, models, strict=True))


def merge_embedding(base, models, t, s):
    """(tokens, width): every token is a column."""
    return merge_matrix(np.asarray(base).T, [np.asarray(model).T for model in models], t, s).T


def merge_vector(base, models, t, s):
    """Element by element, scores from the absolute deltas."""
    base = np.asarray(base, Wide)
    deltas = [np.asarray(model, Wide) - base for model in models]
    scores = _softmax([np.abs(delta) for delta in deltas])
    for k, delta in enumerate(deltas):
        important = np.abs(delta) > Wide(t) * np.abs(delta).mean()
        scores[k] = np.where(important, Wide(s), scores[k])
    return base + sum(score * delta for score, delta in zip(scores, deltas, strict=True))


def _scores(changes, t, s):
    count = len(changes[0])
    places = []
    for change in changes:
        place = np.empty(count, Wide)
        place[np.argsort(change, kind="stable")] = np.arange(count, dtype=Wide)
        places.append(place)
    scores = _softmax([place / count for place in places])
    for k, place in enumerate(places):
        scores[k] = np.where(place > Wide(t) * place.mean(), Wide(s), scores[k])
    return scores


def _softmax(rows):
    powers = np.exp(np.stack(rows))
    return powers / powers.sum(0)
