"""Which of its queue groups a replica leaves to others, and when it is in them again. Pure: no bus, no clock.

    groups = Groups()
    question, asked = groups.ask({"place"})               # it is full: who else has room for this?
    groups.heard(question, {"place"}, {"place"})          # {"place"}: another has, and it leaves
    groups.back({"place"})                                # it has room again

A replica leaves when another has said that it has room, in answer to a question of its own. It comes back when it has
room, when nobody says so any more, or when somebody has found nobody there.

Of the replicas that live not all are away, however long questions and answers are on the way: whoever tells another
that it has room gives up the question that it has asked itself. So along a chain of replicas that each have left
because the next had room, the next has asked later, and no chain comes back to where it began.
"""

from __future__ import annotations

from collections.abc import Collection


class Groups:
    """Those of one replica, by the names of its features. At most one question is open: the latest."""

    __slots__ = ("_question", "_unheard", "away")

    def __init__(self) -> None:
        self.away: frozenset[str] = frozenset()
        """The features that are left to others."""
        self._question = 0
        self._unheard: frozenset[str] = frozenset()
        """What the open question is about, and nobody has answered."""

    @property
    def asking(self) -> bool:
        """Whether an answer may still come."""
        return bool(self._unheard)

    def ask(self, unwilling: Collection[str]) -> tuple[int, frozenset[str]]:
        """The number of a question, and the features that it is about: those it cannot take messages for, and those
        that it is away from, for whoever had room may be gone.
        """
        self._question += 1
        self._unheard = self.away.union(unwilling)
        return self._question, self._unheard

    def tells(self, name: str) -> bool:
        """Whether it may tell another that it has room: who is away may not."""
        if name in self.away:
            return False
        self._unheard -= {name}
        return True

    def heard(self, question: int, names: Collection[str], unwilling: Collection[str]) -> frozenset[str]:
        """Another has room; `unwilling` is what is still so here. What is left to others now."""
        if question != self._question:
            return frozenset()
        told = self._unheard.intersection(names)
        self._unheard -= told
        leaves = told.intersection(unwilling) - self.away
        self.away |= leaves
        return leaves

    def over(self, question: int) -> frozenset[str]:
        """No more answers come. What it is to come back to, because nobody else has room."""
        if question != self._question:
            return frozenset()
        unheard, self._unheard = self._unheard, frozenset()
        return unheard & self.away

    def back(self, names: Collection[str]) -> frozenset[str]:
        """It has room, or nobody else has. What it comes back to."""
        found = self.away.intersection(names)
        self.away -= found
        self._unheard -= found
        return found
