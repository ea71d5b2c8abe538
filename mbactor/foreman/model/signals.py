"""What a task asks of the Foreman besides its changes: goto, retry, sleep, and the two parks.

Plain values, fit to be stored and sent. `Flow` sets them, `finish` judges them, the plan acts on them.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Never

import msgspec
from msgspec import UNSET, UnsetType

from mbactor.errors import MbactorError
from mbactor.foreman.model.outcome import WireError, failure_of
from mbactor.foreman.model.state import encode_value

ParkKind = Literal["interrupt", "subgraph"]


class Parked(BaseException):
    """Unwinds the task at an `interrupt` or `subgraph` that has no answer yet.

    It is a `BaseException` so that `except Exception` lets it pass. The task runs again from its start
    once there is an answer.
    """


class Park(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """A wait for something outside: an answer to `payload`, or the end of a child flow started with it.

    `number` counts the parks of the step from 0: it is the place of the answer among the records.
    """

    kind: ParkKind
    payload: msgspec.Raw
    workflow: str | None = None
    number: int = 0


class ParkRecord(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """A park of an earlier run of the same step, with its answer once there is one.

    For the unit test of a task: `Flow.of(state, parks=[ParkRecord.answering({"approved": True})])`.
    """

    kind: ParkKind
    workflow: str | None = None
    answer: msgspec.Raw | UnsetType = UNSET
    """The answer, or the child's final state; unset while there is none (JSON null is an answer)."""
    error: WireError = None
    """Why the child failed, as `errors.to_wire` writes it or as text."""

    @classmethod
    def answering(cls, answer: Any) -> ParkRecord:
        """The record of an `interrupt` that was answered."""
        return cls("interrupt", answer=encode_value(answer, "answer"))

    @classmethod
    def returning(cls, workflow: str, state: Any) -> ParkRecord:
        """The record of a `subgraph` whose child completed with this state."""
        return cls("subgraph", workflow, answer=encode_value(state, "state"))

    @property
    def answered(self) -> bool:
        """Whether a run may pass this park."""
        return self.answer is not UNSET or self.error is not None

    def failure(self) -> MbactorError | None:
        """The error that the call raises, where the child failed."""
        return failure_of(self.error)

    def __str__(self) -> str:
        return call_text(self.kind, self.workflow)


class Signals(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """What the run asked for. `goto`, `retry_delay` and `park` exclude each other; `sleep` goes with all."""

    goto: str | None = None
    retry_delay: float | None = None
    sleep: float = 0.0
    park: Park | None = None

    @property
    def plain(self) -> bool:
        """Whether none of those is set that exclude each other."""
        return self.goto is None and self.retry_delay is None and self.park is None

    def competing(self) -> list[str]:
        """The signals set, of those that exclude each other."""
        parked_by = self.park.kind if self.park is not None else "park"
        named = {"goto": self.goto, "retry": self.retry_delay, parked_by: self.park}
        return [name for name, value in named.items() if value is not None]


def call_text(kind: str, workflow: str | None) -> str:
    """The call as its author wrote it: `interrupt()`, `subgraph('https://...')`."""
    return f"{kind}({workflow!r})" if workflow is not None else f"{kind}()"


_LONGEST = 10 * 365 * 86400.0


def backoff(initial: float, multiplier: float, maximum: float, attempt: int) -> float:
    """Seconds before the next attempt, with at most `maximum` (0: no bound) and never more than ten years."""
    if not math.isfinite(multiplier):
        raise ValueError(f"multiplier={multiplier!r}: a number expected; 1, 0 or less: every delay is the same")
    try:
        delay = initial * (multiplier**attempt if multiplier > 0 else 1.0)
    except OverflowError:
        delay = _LONGEST if initial > 0 else 0.0
    return min(delay, maximum or _LONGEST, _LONGEST)


class _NotAwaitable:
    """Returned by `sleep`, so that awaiting it says what is wrong."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "None"

    def __await__(self) -> Never:
        raise TypeError(
            "flow.sleep() delays the next step and does not wait, so it is not awaited; "
            "drop the await, or wait inside the task with anyio.sleep()"
        )


NOT_AWAITABLE = _NotAwaitable()
