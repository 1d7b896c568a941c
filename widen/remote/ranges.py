"""Byte ranges fetched in parts, side by side."""

import os
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import pairwise

PART = 8 << 20
"""Bytes of one request: long enough that its latency is small beside it, short enough that several share a line."""
FETCHERS = 16
"""Requests on their way at once, in a process."""


def parts_of(start: int, stop: int, part: int = PART) -> list[tuple[int, int]]:
    """The range as consecutive parts of at most `part` bytes, as even as can be; none for an empty range."""
    size = stop - start
    count = -(-size // part)
    bounds = [start + size * number // count for number in range(count + 1)] if count else []
    return list(pairwise(bounds))


def fetch_parts(start: int, stop: int, fetch: Callable[[int, int], None]) -> None:
    """Call `fetch` on every part of the range, several at a time. Raises what the first to fail raised."""
    parts = parts_of(start, stop)
    if len(parts) == 1:
        fetch(start, stop)
        return
    futures = [_pool(os.getpid()).submit(fetch, *part) for part in parts]
    wait(futures, return_when=FIRST_EXCEPTION)
    for future in futures:
        future.cancel()
    wait(futures)  # none may still be writing
    for future in futures:
        if not future.cancelled():
            future.result()


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """One for each process: threads do not survive a fork."""
    return ThreadPoolExecutor(FETCHERS, thread_name_prefix=f"widen-fetch-{process}")
