"""The only module that reads wall time. Deadlines use the running event loop's `time()` instead."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_source: Callable[[], float] = time.time


def utcnow() -> dt.datetime:
    """Now, as an aware datetime in UTC."""
    return dt.datetime.fromtimestamp(_source(), dt.UTC)


def unix() -> float:
    """Now, as seconds since 1970: for timestamps that leave the process, never for measuring."""
    return _source()


@contextmanager
def told_by(source: Callable[[], float]) -> Iterator[None]:
    """Let another clock tell the time, in all threads, for the duration of the block: a loop whose time is virtual.

    RuntimeError where a third one tells it already.
    """
    global _source
    if _source is not time.time:
        raise RuntimeError(f"the time is already told by {_source!r}; two virtual clocks at once cannot both be right")
    _source = source
    try:
        yield
    finally:
        _source = time.time
