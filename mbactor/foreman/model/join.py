"""`Join`: how many branches of a fan-out its fan-in waits for, and what becomes of the others (pure).

graph.set_fan_in("decide", join=Join.ANY)
graph.set_fan_in("decide", join=Join.at_least(2))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True)
class Join:
    """When a fan-in goes on.

        graph.set_fan_in(Credit.decide, join=Join.at_least(2))

    `Join.ALL`: when every branch has completed; a branch that fails fails the fan-out once all others have arrived.
    `Join.FIRST_ERROR`: the same, but the first branch that fails ends it at once. `Join.ANY`: with the first branch
    that completes. `Join.at_least(n)`: with the nth; it fails as soon as so many cannot complete any more.

    Branches that it does not wait for are cancelled in the transaction that decides, with all they have begun, and
    nothing that they wrote is merged. Their tasks may have run in part: what they did outside stays done. Branches that
    complete at the same moment, in one transaction, are all merged: with `Join.ANY` a field that is appended to may
    have more than one element, and one without a reducer has the last branch's value.
    """

    needed: int | Literal["all", "every"] = "all"
    """So many branches must complete; "every": all of them, and none may fail."""

    ALL: ClassVar[Join]
    ANY: ClassVar[Join]
    FIRST_ERROR: ClassVar[Join]

    @classmethod
    def at_least(cls, count: int) -> Join:
        """With the branch that completes as the `count`th; a fan-out of fewer branches fails where it begins."""
        return cls(count)

    def of(self, size: int) -> int:
        """How many branches of so many must complete. 0: all, and whatever fails is waited for."""
        match self.needed:
            case "all":
                return 0
            case "every":
                return size
            case count:
                return count

    def __str__(self) -> str:
        match self.needed:
            case "all":
                return "all"
            case "every":
                return "first error"
            case 1:
                return "any"
            case count:
                return f"{count} of them"

    def __repr__(self) -> str:
        named = {"all": "ALL", "every": "FIRST_ERROR", 1: "ANY"}
        return f"Join.{named[self.needed]}" if self.needed in named else f"Join.at_least({self.needed!r})"


ENOUGH, FAILED = "its fan-in went on without this branch", "another branch failed, and its fan-in cannot go on"
"""Why a branch was given up."""
NEVER_BEGAN = {
    ENOUGH: "its fan-in went on before this branch began",
    FAILED: "another branch failed before this one began, and its fan-in cannot go on",
}
"""The same of a branch that waited for others to make room."""


def has_joined(size: int, needed: int, arrivals: int, failures: int) -> bool | None:
    """Whether a cohort goes on (True) or fails (False); None while that is open. `needed` is what `Join.of` said."""
    if arrivals - failures >= (needed or size):
        return True
    if failures > size - needed if needed else arrivals >= size:
        return False
    return None


Join.ALL = Join("all")
Join.ANY = Join(1)
Join.FIRST_ERROR = Join("every")
