"""`Presence`: a replica that is full, or in a long backoff, leaves its queue groups while another has room.

`groups.py` decides; this asks the others, and has the subscriptions moved.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Literal

from mbactor import observe
from mbactor.errors import MbactorError
from mbactor.kernel.groups import Groups

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell
    from mbactor.kernel.node import Node
    from mbactor.kernel.serving import Serving
    from mbactor.transport.peers import Group

ASKS = 1.0
"""Seconds from one question to the next."""
LOOKS = 0.1
"""Seconds from one look to the next whether one that runs has room again."""


class Presence:
    """Whether one actor is in the queue groups of what it serves.

    It asks others when it refuses a message, once a second at most, and as long as it is away. Costs nothing while it
    takes messages, and a timer while it is away.
    """

    __slots__ = ("_asked_at", "_cell", "_groups", "_node", "_serving", "_timer")

    def __init__(self, node: Node, cell: Cell, serving: Serving) -> None:
        self._node = node
        self._cell = cell
        self._serving = serving
        self._groups = Groups()
        self._asked_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    @property
    def away(self) -> Collection[str]:
        """The features that are left to others."""
        return self._groups.away

    def tells(self, name: str) -> bool:
        """Whether another may be told that there is room for a feature here."""
        return self._groups.tells(name)

    def unwilling(self, *, at_once: bool = False) -> None:
        """A message is not taken, or none will be for long: find out whether others have room."""
        groups, now = self._groups, self._node.time()
        if at_once or (not groups.asking and now - self._asked_at >= ASKS):
            self._ask(now)

    def look(self) -> None:
        """Come back where there is room; ask once more whether others have any, where that is due."""
        groups = self._groups
        if not groups.away:
            return
        self._back([name for name in groups.away if self._cell.has_room(name)], "room")
        if groups.away and not groups.asking and self._node.time() - self._asked_at >= ASKS:
            self._ask(self._node.time())

    def missed(self) -> None:
        """Somebody has found nobody in a group that was left: whoever had room is gone."""
        self._back(self._groups.away, "alone")

    def forget(self, name: str) -> None:
        """A feature is not served any more."""
        self._groups.back({name})
        self._arm()

    def close(self) -> None:
        """Nothing is, and what is still answered concerns nobody."""
        self._groups = Groups()
        self._arm()

    def _ask(self, now: float) -> None:
        if self._node.leaving:
            return
        groups = self._serving.groups()
        question, names = self._groups.ask([name for name in groups.values() if not self._cell.takes(name)])
        if not names:
            return
        self._asked_at = now
        about = [group for group, name in groups.items() if name in names]
        told, over = partial(self._told, question), partial(self._over, question)
        try:
            self._node.remote.ask_peers(self._cell, about, told, over)
        except MbactorError:  # cut off: nobody is known
            over()

    def _told(self, question: int, with_room: list[Group]) -> None:
        groups = self._serving.groups()
        names = {groups[group] for group in with_room if group in groups}
        # One that was full a moment ago may have taken a message from its mailbox meanwhile, and is full in the next.
        left = self._groups.heard(question, names, {name for name in names if not self._cell.has_room(name)})
        if left:
            for name in left:
                self._serving.move(name, away=True)
            reason = "full" if self._cell.state == "running" else "restarting"
            observe.emit("actor.left", actor=self._cell.address, methods=sorted(left), reason=reason)
            self._arm()

    def _over(self, question: int) -> None:
        self._back(self._groups.over(question), "alone")

    def _back(self, names: Collection[str], reason: Literal["room", "alone"]) -> None:
        back = self._groups.back(names)
        if not back:
            return
        if reason == "alone":
            self._serving.announce(back)
        for name in back:
            self._serving.move(name, away=False)
        observe.emit("actor.back", actor=self._cell.address, methods=sorted(back), reason=reason)
        self._arm()

    def _arm(self) -> None:
        """Look again, as long as it is away."""
        if self._groups.away and self._timer is None:
            delay = LOOKS if self._cell.state == "running" else ASKS
            self._timer = asyncio.get_running_loop().call_later(delay, self._look_again)
        elif not self._groups.away and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_again(self) -> None:
        self._timer = None
        self.look()
        self._arm()
