"""Checkpoints that lie in a storage: read by ranges, written file by file, published by one small object."""
