"""The merge beside its byte floor, measured in one run on the same files: `make bench`."""
