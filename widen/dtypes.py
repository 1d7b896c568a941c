"""The storage types that can be merged, and their names in safetensors and in configurations."""

from dataclasses import dataclass

import numpy as np

from widen.errors import RecipeError


@dataclass(frozen=True)
class StorageType:
    """A floating-point storage type: `code` selects it in a kernel, `bits` is the NumPy type that carries its bits."""

    name: str
    torch_name: str
    code: int
    itemsize: int

    @property
    def bits(self) -> np.dtype[np.unsignedinteger]:
        """uint16 or uint32: NumPy has no bfloat16, and a kernel only needs the bits."""
        return np.dtype(f"<u{self.itemsize}")


BF16 = StorageType("BF16", "bfloat16", 0, 2)
F16 = StorageType("F16", "float16", 1, 2)
F32 = StorageType("F32", "float32", 2, 4)

BY_SAFETENSORS_NAME = {kind.name: kind for kind in (BF16, F16, F32)}
_BY_TORCH_NAME = {kind.torch_name: kind for kind in (BF16, F16, F32)}


def storage_type(torch_name: str) -> StorageType:
    """The type that a configuration calls `torch_name`. Raises RecipeError for any other."""
    try:
        return _BY_TORCH_NAME[torch_name]
    except KeyError:
        known = ", ".join(_BY_TORCH_NAME)
        raise RecipeError(f"output type {torch_name!r} is not supported; expected one of {known}") from None
