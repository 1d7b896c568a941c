"""The two heavy passes, one module a backend, the same two signatures and the same bits.

Both follow the arithmetic rule: float64 throughout, each difference, product and sum rounded once, no fused
multiply-add, sums in one fixed order.
"""

CHUNK_ROWS = 128
"""Rows that are summed one after the other before their sum joins the column's total: part of the promise on bytes."""
