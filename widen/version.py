"""The engine's name and version: the third thing, beside inputs and settings, that merged bytes are a function of."""

from collections.abc import Mapping

__version__ = "0.1.0"

ENGINE: Mapping[str, str] = {"name": "widen", "version": __version__, "arithmetic": "widen-float64/1"}
"""`arithmetic` changes whenever merged bytes could; the version alone may change without."""
