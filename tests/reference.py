"""The two passes written out in NumPy, operation after operation in the promised order: what a backend must equal."""

from collections.abc import Sequence

import numpy as np

from widen.dtypes import BF16, F16, F32, StorageType
from widen.geometry import Geometry, StoredTensor
from widen.kernels import CHUNK_ROWS


def decode(tensor: StoredTensor) -> np.ndarray:
    """The exact float64 values of storage bits."""
    with np.errstate(invalid="ignore"):
        if tensor.kind is BF16:
            return (tensor.data.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return tensor.data.view(np.float16 if tensor.kind is F16 else np.float32).astype(np.float64)


def encode(values: np.ndarray, kind: StorageType) -> StoredTensor:
    """float32 values in a storage type; bfloat16 by truncation, which is as good as any for inputs."""
    values = np.asarray(values, np.float32).reshape(-1)
    with np.errstate(over="ignore"):
        if kind is F16:
            return StoredTensor(values.astype(np.float16).view(np.uint16), kind)
    if kind is BF16:
        return StoredTensor((values.view(np.uint32) >> 16).astype(np.uint16), kind)
    return StoredTensor(values.view(np.uint32), kind)


def matrices(tensor: StoredTensor, geometry: Geometry) -> np.ndarray:
    """The float64 values as a batch of stored matrices."""
    return decode(tensor).reshape(geometry.batch, geometry.stored_rows, geometry.stored_columns)


def sums_in_order(base: np.ndarray, model: np.ndarray) -> list[np.ndarray]:
    """The three sums of one (rows, columns) matrix: row by row inside a chunk, then chunk by chunk."""
    with np.errstate(all="ignore"):
        delta = model - base
        results = []
        for terms in (base * base, delta * base, delta * delta):
            total = np.zeros(base.shape[1])
            for start in range(0, base.shape[0], CHUNK_ROWS):
                chunk = np.zeros(base.shape[1])
                for row in terms[start : start + CHUNK_ROWS]:
                    chunk = chunk + row
                total = total + chunk
            results.append(total)
    return results


def merged(
    base: StoredTensor, models: Sequence[StoredTensor], weights: np.ndarray, geometry: Geometry, kind: StorageType
) -> np.ndarray:
    """Pass 2, flat: base + (((0 + w1 * d1) + w2 * d2) + ...), then rounded. weights: (models, batch, columns)."""
    start = matrices(base, geometry)
    total = np.zeros(start.shape)
    for weight, model in zip(weights, models, strict=True):
        spread = weight[:, :, None] if geometry.transposed else weight[:, None, :]
        total = total + spread * (matrices(model, geometry) - start)
    return round_to(start + total, kind)


def round_to(values: np.ndarray, kind: StorageType) -> np.ndarray:
    """To float32, then to the storage type, both to nearest even; bfloat16 by PyTorch, float16 by NumPy."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32).reshape(-1)
        if kind is F32:
            return single.view(np.uint32)
        if kind is F16:
            return single.astype(np.float16).view(np.uint16)
    import torch

    return torch.from_numpy(single).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
