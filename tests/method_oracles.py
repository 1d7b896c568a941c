"""Every merge method beside WIDEN on one tensor, in extended precision, from its paper alone; no engine code is used.

base and models: arrays of one shape. Selections sort whole tensors; random numbers are drawn one by one, in integers.
"""

import hashlib

import numpy as np

Wide = np.longdouble


def _wide(base, models):
    return np.asarray(base, Wide), [np.asarray(model, Wide) for model in models]


def linear(base, models, weight, normalize=True, **_):
    base, models = _wide(base, models)
    everyone = [base, *models]
    total = sum(w * one for w, one in zip(weight, everyone, strict=True))
    return total / sum(map(Wide, weight)) if normalize else total


def task_arithmetic(base, models, weight, normalize=False, lambda_=1.0, **_):
    base, models = _wide(base, models)
    mixed = sum(Wide(w) * (model - base) for w, model in zip(weight, models, strict=True))
    return base + Wide(lambda_) * mixed / (sum(map(Wide, weight)) if normalize else 1)


def slerp(base, models, t, **_):
    base, (other,) = _wide(base, models)
    return _arc(t, base, other, lambda cosine: abs(cosine) > 0.9995)


def nuslerp(base, models, weight, origin, nuslerp_flatten=True, nuslerp_row_wise=False, **_):
    base, models = _wide(base, models)
    a, b = [model - base for model in models] if origin else [base, *models]
    t = weight[1] / (weight[0] + weight[1]) if abs(weight[0] + weight[1]) >= 1e-6 else 0.5
    turned = nuslerp_row_wise and not nuslerp_flatten
    lines = [(a, b)] if nuslerp_flatten or a.ndim == 1 else zip(*((a.T, b.T) if turned else (a, b)), strict=True)
    each = [_arc(t, x, y, lambda cosine: 1 - cosine**2 <= 1e-16) for x, y in lines]
    found = each[0] if len(each) == 1 else np.stack(each, axis=1 if turned else 0)
    return base + found if origin else found


def _arc(t, a, b, straight):
    t = Wide(t)
    norms = np.sqrt((a**2).sum()), np.sqrt((b**2).sum())
    cosine = (a * b).sum() / (norms[0] * norms[1]) if norms[0] * norms[1] > 0 else Wide(0)
    if straight(cosine):
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def multislerp(base, models, weight, origin, eps=1e-8, normalize_weights=True, **_):
    """All the steps: mean, tangent space, exponential map."""
    base, models = _wide(base, models)
    everyone = [model - base for model in models] if origin else [base, *models]
    weights = np.array(weight, Wide) / (sum(map(Wide, weight)) if normalize_weights else 1)
    norms = [np.sqrt((one**2).sum()) for one in everyone]
    units = [one / (norm + eps) for one, norm in zip(everyone, norms, strict=True)]
    mean = sum(w * unit for w, unit in zip(weights, units, strict=True))
    mean = mean / np.sqrt((mean**2).sum())
    tangent = sum(w * (unit - (unit * mean).sum() * mean) for w, unit in zip(weights, units, strict=True))
    length = np.sqrt((tangent**2).sum()) + Wide(eps)
    found = mean * np.cos(length) + tangent * np.sin(length) / length
    found = found * sum(w * norm for w, norm in zip(weights, norms, strict=True))
    return base + found if origin else found


def karcher(base, models, max_iter=10, tol=1e-5, **_):
    """On whole vectors, where the engine works in the span of the models."""
    base, models = _wide(base, models)
    everyone = [base, *models]
    norms = [np.sqrt((one**2).sum()) for one in everyone]
    units = [one / norm for one, norm in zip(everyone, norms, strict=True) if norm > tol]
    mean = sum(units) / len(units)
    mean = mean / np.sqrt((mean**2).sum())
    for _ in range(max_iter):
        tangent = np.zeros_like(mean)
        for unit in units:
            cosine = np.clip((mean * unit).sum(), -1, 1)
            angle = np.arccos(cosine)
            if angle >= tol:
                tangent += angle / np.sin(angle) * (unit - cosine * mean) / len(units)
        step = np.sqrt((tangent**2).sum())
        if step < tol:
            break
        mean = np.cos(step) * mean + np.sin(step) * tangent / step
        mean = mean / np.sqrt((mean**2).sum())
    return mean * sum(norms) / len(everyone)


def model_stock(base, models, filter_wise=False, **_):
    base, models = _wide(base, models)
    if filter_wise and base.ndim > 1:
        rows = zip(base, *models, strict=True)
        return np.stack([model_stock(row, of_models) for row, *of_models in rows])
    deltas, n = [model - base for model in models], len(models)
    cosines = [
        (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()) for i, a in enumerate(deltas) for b in deltas[i + 1 :]
    ]
    mean = sum(cosines) / len(cosines)
    return base + n * mean / (1 + (n - 1) * mean) * sum(deltas) / n


def ties(base, models, weight, density, normalize=True, lambda_=1.0, rescale=False, **_):
    kept = [_between(delta, delta.size - max(1, int(d * delta.size)) if d else delta.size, delta.size)
            for delta, d in zip(_deltas(base, models), density, strict=True)]  # fmt: skip
    return _mixed(base, _scaled(base, models, kept, rescale), weight, True, normalize, lambda_)


def breadcrumbs(base, models, weight, density, gamma, normalize=False, lambda_=1.0, rescale=False, consensus=False,
                **_):  # fmt: skip
    kept = []
    for delta, d, g in zip(_deltas(base, models), density, gamma, strict=True):
        count = int(d * delta.size)
        lowest = max(0, delta.size - count - int(g * delta.size))
        kept.append(delta if d >= 1 else _between(delta, lowest, lowest + count))
    return _mixed(base, _scaled(base, models, kept, rescale), weight, consensus, normalize, lambda_)


def breadcrumbs_ties(base, models, **arguments):
    return breadcrumbs(base, models, consensus=True, **arguments)


def dare_linear(base, models, weight, density, name, normalize=False, rescale=True, lambda_=1.0, seed=0,
                consensus=False, **_):  # fmt: skip
    kept = []
    for place, (delta, d) in enumerate(zip(_deltas(base, models), density, strict=True)):
        part = np.where(_draws(name, place, seed, delta.shape) < round(d * 2**32), delta, 0)
        kept.append(part / Wide(d) if rescale and d else part)
    return _mixed(base, kept, weight, consensus, normalize, lambda_)


def dare_ties(base, models, **arguments):
    return dare_linear(base, models, consensus=True, **arguments)


def della(base, models, weight, density, epsilon, name, normalize=True, rescale=True, lambda_=1.0, seed=0,
          consensus=True, **_):  # fmt: skip
    kept = []
    for place, (delta, d, e) in enumerate(zip(_deltas(base, models), density, epsilon, strict=True)):
        rows = delta.reshape(-1, delta.shape[-1])
        sizes = np.abs(rows).astype(np.float32)  # ranked as mergekit does, by float32
        ranks = np.argsort(np.argsort(sizes, axis=1, kind="stable"), axis=1, kind="stable")
        shares = (
            (d - e + ranks / max(1, rows.shape[1] - 1) * 2 * e).reshape(delta.shape) if d < 1 else np.ones(delta.shape)
        )
        part = np.where(_draws(name, place, seed, delta.shape) < shares * 2**32, delta, 0)
        kept.append(part / shares if rescale else part)
    return _mixed(base, kept, weight, consensus, normalize, lambda_)


def della_linear(base, models, normalize=False, **arguments):
    return della(base, models, normalize=normalize, consensus=False, **arguments)


def sce(base, models, select_topk=1.0, **_):
    deltas = np.stack(_deltas(base, models))
    if select_topk < 1:
        variance = deltas.var(axis=0)
        count = int(np.count_nonzero(variance) * select_topk)
        deltas = deltas * (_between(variance, variance.size - count, variance.size) > 0)
    squares = np.array([(one**2).mean() for one in deltas])
    weights = squares / squares.sum() if squares.sum() >= 1e-6 else np.full(len(deltas), Wide(1) / len(deltas))
    weights = weights.reshape(-1, *[1] * (deltas.ndim - 1))
    agrees = np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1, -1)
    mixed, divisor = (deltas * weights * agrees).sum(0), (weights * agrees).sum(0)
    return np.asarray(base, Wide) + mixed / np.where(divisor > 0, divisor, 1)


def _draws(name, place, seed, shape):
    told = "\0".join(("widen-random/1", str(seed), str(place), name)).encode()
    key = int.from_bytes(hashlib.sha256(told).digest()[:8], "little")
    return np.array([_philox(i // 4, key)[i % 4] for i in range(int(np.prod(shape)))]).reshape(shape)


def _scaled(base, models, kept, rescale):
    """What is left of each delta, scaled up to the L1 norm of the whole."""
    if not rescale:
        return kept
    return [
        one * (np.abs(delta).sum() / np.abs(one).sum()) if np.abs(one).sum() >= 1e-7 else one
        for delta, one in zip(_deltas(base, models), kept, strict=True)
    ]


def _deltas(base, models):
    base, models = _wide(base, models)
    return [model - base for model in models]


def _between(delta, first, last):
    """The elements whose rank by size, ascending and stable, is from `first` to before `last`."""
    flat = delta.reshape(-1)
    kept = np.zeros_like(flat)
    chosen = np.argsort(np.abs(flat), kind="stable")[first:last]
    kept[chosen] = flat[chosen]
    return kept.reshape(delta.shape)


def _mixed(base, kept, weight, consensus, normalize, scale):
    parts = np.stack([Wide(w) * one for w, one in zip(weight, kept, strict=True)])
    weights = np.array(weight, Wide).reshape(-1, *[1] * (parts.ndim - 1))
    counts = np.ones(parts.shape, bool)
    if consensus:
        counts = np.sign(parts) == np.where(parts.sum(0) >= 0, 1, -1)
    mixed, divisor = (parts * counts).sum(0), (weights * counts).sum(0)
    if normalize:
        mixed = mixed / np.where(np.abs(divisor) < 1e-8, 1, divisor)
    return np.asarray(base, Wide) + Wide(scale) * mixed


def _philox(counter, key):
    """Philox4x32-10 (Salmon et al., SC 2011) in Python's integers."""
    low = 0xFFFFFFFF
    x, k = [counter & low, counter >> 32, 0, 0], [key & low, key >> 32]
    for _ in range(10):
        first, second = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [(second >> 32) ^ x[1] ^ k[0], second & low, (first >> 32) ^ x[3] ^ k[1], first & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return x


def passthrough(base, models, scale, **_):
    base, _ = _wide(base, models)
    return Wide(scale[0]) * base
