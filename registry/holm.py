"""Several p-values, one error rate: Holm's step-down adjustment."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """The adjusted p-values, in the order given: one at or below alpha is significant at the family's level alpha.

    The j-th smallest of k is multiplied by k - j + 1, made no smaller than those before it, and cut at 1. It holds
    whatever the dependence between the tests, so tasks may share documents.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
    (1979), 65-70.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = least
    return tuple(adjusted)
