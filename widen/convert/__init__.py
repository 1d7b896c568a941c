"""Pickle weights into safetensors: `convert`."""

from widen.convert.convert import RECORD_FILE, Conversion, convert

__all__ = ["RECORD_FILE", "Conversion", "convert"]
