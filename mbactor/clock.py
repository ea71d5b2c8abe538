"""The only module that reads wall time. Deadlines use the running event loop's `time()` instead."""

from __future__ import annotations

import datetime as dt
import time


def utcnow() -> dt.datetime:
    """Now, as an aware datetime in UTC."""
    return dt.datetime.now(dt.UTC)


def unix() -> float:
    """Now, as seconds since 1970: for timestamps that leave the process, never for measuring."""
    return time.time()
