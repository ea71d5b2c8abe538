"""The end of a turn of the loop: what was gathered in it leaves at once, and not a turn for each layer later.

    end = EndOfTurn(write)
    end.want()            # write() at the end of this turn
    end.do(flush)         # flush() before it

Each turn more is a system call of the loop, which one message alone would wait for. For the same reason what leaves at
once (`left`) has no end of its turn: where nothing else is to be done there, a turn is over when something is read
(`begin`).
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

    __slots__ = ("_call_soon", "_last", "_scheduled", "_wanted", "_works", "quiet")

    def __init__(self, last: Work) -> None:
        self._call_soon = asyncio.get_running_loop().call_soon
        self._last = last
        self._works: deque[Work] = deque()
        self._wanted = 0
        self._scheduled = False
        self.quiet = False
        """Whether nothing is wanted and nothing has left yet in this turn, nor more than once in the last one: whoever
        wants something now is hardly followed by others, and need not wait for them.
        """

    def begin(self) -> None:
        """A turn begins in which something was read."""
        if self._wanted and not self._scheduled:
            self.quiet, self._wanted = self._wanted <= 1, 0

    def left(self) -> None:
        """Something has left at once, and nothing is to be done at the end of this turn for it."""
        self._wanted += 1
        self.quiet = False

    def want(self) -> None:
        """Call `last` at the end of this turn."""
        self._wanted += 1
        self._schedule()

    def do(self, work: Work) -> None:
        """Call `work` there, too. What it raises is the loop's affair, and keeps nothing else from being done."""
        self._works.append(work)
        self._schedule()

    def _schedule(self) -> None:
        self.quiet = False
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._end)

    def _end(self) -> None:
        try:
            for _ in range(len(self._works)):  # what one of them adds is for the next turn
                self._works.popleft()()
        finally:
            self.quiet, self._wanted, self._scheduled = self._wanted <= 1, 0, False
            if self._works:
                self._schedule()
            self._last()
