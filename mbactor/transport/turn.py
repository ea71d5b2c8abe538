"""The end of a turn of the loop: what was gathered in it leaves at once, and not a turn for each layer later.

    end = EndOfTurn(write)
    end.want()            # write() at the end of this turn
    end.do(flush)         # flush() before it

Each turn more is a system call of the loop, which one message alone would wait for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

Work = Callable[[], None]


class EndOfTurn:
    """Calls `last` once at the end of a turn in which that is wanted, after what else is to be done there.

    Made on the loop whose turns are meant.
    """

    __slots__ = ("_call_soon", "_last", "_wanted", "_works")

    def __init__(self, last: Work) -> None:
        self._call_soon = asyncio.get_running_loop().call_soon
        self._last = last
        self._works: deque[Work] = deque()
        self._wanted = False

    def want(self) -> None:
        """Call `last` at the end of this turn."""
        if not self._wanted:
            self._wanted = True
            self._call_soon(self._end)

    def do(self, work: Work) -> None:
        """Call `work` there, too. What it raises is the loop's affair, and keeps nothing else from being done."""
        self._works.append(work)
        self.want()

    def _end(self) -> None:
        try:
            for _ in range(len(self._works)):  # what one of them adds is for the next turn
                self._works.popleft()()
        finally:
            self._wanted = False
            if self._works:
                self.want()
            self._last()
