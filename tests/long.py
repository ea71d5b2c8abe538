"""How much of a test of force is done: a sample in every run, all of it with `MBACTOR_LONG=1 pytest ...`."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("MBACTOR_LONG", "") not in {"", "0"}


def usual_or_long(usual: T, long: T) -> T:
    """The first in a usual run, the second in a long one."""
    return long if LONG else usual
