"""The words of the restart policy: what it remembers, what it is told and what it asks for.

All are frozen values. Events carry the time (`now`, monotonic seconds) and the chance (`sample`, in
[0, 1)), so the policy itself has neither clock nor randomness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mbactor.errors import MbactorError, error_text, error_told
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec

Status = Literal["starting", "running", "stopping", "stopped", "restarting"]
Purpose = Literal["boot", "restart", "call", "shutdown"]
Phase = Literal["idle", "boot", "running", "stopping", "ended"]


class StartFailed(MbactorError):
    """A child could not be started; `child` names it, `__cause__` says why, nested for nested supervisors."""

    def __init__(self, child: str, cause: BaseException) -> None:
        reason = error_text(cause) if isinstance(cause, StartFailed) else error_told(cause)
        super().__init__(f"child {child!r} failed to start: {reason}", child=child)
        self.child = child
        self.__cause__ = cause


class GaveUp(MbactorError):
    """A supervisor's restart budget is spent; `child` is the one whose end was one too many."""

    def __init__(self, child: str, exit: Exit, max_restarts: int, within: float) -> None:
        super().__init__(
            f"gave up: child {child!r} ended ({exit}); more than {max_restarts} restarts within {within:g} s",
            child=child,
            max_restarts=max_restarts,
            within=within,
        )
        self.child = child
        self.__cause__ = exit.error


# --- what it remembers -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChildState:
    """One child. Where a specification is dropped (an ended temporary child), there is no such entry."""

    spec: ChildSpec
    status: Status = "stopped"
    held: bool = False
    """An operator stopped it: group restarts leave it alone until an operator restarts it."""
    broken: bool = False
    """It is held because a reconfiguration could not start it, and the next one is to try again."""
    awaiting: bool = False
    """A group restart stopped it and has not started it again yet."""
    attempts: int = 0
    restarts: int = 0
    started_at: float = 0.0
    due: float | None = None
    """When the delayed restart it leads is due."""
    unjudged: Exit | None = None
    """It ended while the supervisor was busy; what follows is decided after that."""
    last_exit: Exit | None = None

    @property
    def id(self) -> str:
        return self.spec.id


@dataclass(frozen=True, slots=True)
class Job:
    verb: Literal["start", "stop"]
    id: str


@dataclass(frozen=True, slots=True)
class Operation:
    """What the supervisor is at: jobs one after another; the first is under way where `busy`."""

    purpose: Purpose
    jobs: tuple[Job, ...]
    busy: bool = False
    call: Call | None = None
    exit: Exit = SHUTDOWN
    """How the supervisor itself ends, where the purpose is shutdown."""


@dataclass(frozen=True, slots=True)
class State:
    children: tuple[ChildState, ...] = ()
    phase: Phase = "idle"
    spent: tuple[float, ...] = ()
    operation: Operation | None = None
    queue: tuple[Event, ...] = ()
    kill: bool = False
    places: Places = field(default_factory=dict, compare=False, repr=False)
    """Where each child is, filled when one is first looked for: states of the same children share it."""

    def find(self, id: str) -> ChildState | None:
        place = placed(self.children, self.places).get(id)
        return None if place is None else self.children[place]


Places = dict[str, int]


def placed(children: Sequence[ChildState], places: Places) -> Places:
    """Where each child is, by its id. `places` is either empty or right."""
    if len(places) != len(children):
        places.update((child.spec.id, place) for place, child in enumerate(children))
    return places


# --- what it is told ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartRequested:
    now: float


@dataclass(frozen=True, slots=True)
class Started:
    id: str
    now: float


@dataclass(frozen=True, slots=True)
class NotStarted:
    """Its start failed."""

    id: str
    error: BaseException
    now: float
    sample: float = 0.0


@dataclass(frozen=True, slots=True)
class Ignored:
    """It asked not to be started."""

    id: str
    now: float


@dataclass(frozen=True, slots=True)
class Exited:
    """It ended by itself."""

    id: str
    exit: Exit
    now: float
    sample: float = 0.0


@dataclass(frozen=True, slots=True)
class Stopped:
    """It was stopped as asked."""

    id: str
    exit: Exit
    now: float


@dataclass(frozen=True, slots=True)
class RetryDue:
    id: str
    now: float


@dataclass(frozen=True, slots=True)
class StopRequested:
    now: float
    exit: Exit = SHUTDOWN
    kill: bool = False


@dataclass(frozen=True, slots=True)
class StartChild:
    call: int
    spec: ChildSpec
    now: float


@dataclass(frozen=True, slots=True)
class TerminateChild:
    call: int
    id: str
    now: float


@dataclass(frozen=True, slots=True)
class RestartChild:
    call: int
    id: str
    now: float


@dataclass(frozen=True, slots=True)
class DeleteChild:
    call: int
    id: str
    now: float


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """From now on `spec` is what is supervised, where one is given. Of all that runs only the child `id` is touched:
    it is stopped, started, or both. Children that `spec` does not name stay as they are, but for one that is stopped
    and not started again: that is forgotten.
    """

    call: int
    id: str
    now: float
    spec: SupervisorSpec | None = None
    stop: bool = False
    start: bool = False


Call = StartChild | TerminateChild | RestartChild | DeleteChild | Reconfigure
Answer = Started | NotStarted | Ignored | Stopped
Event = StartRequested | Answer | Exited | RetryDue | StopRequested | Call


# --- what it asks for --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Start it; answer with Started, NotStarted or Ignored. `again` says that it is an automatic restart."""

    id: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Abort:
    """Break off the start that is under way; answer as for the start."""

    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop it (again with less time, where a stop is under way); answer with Stopped."""

    id: str
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Delay:
    """Say RetryDue after so many seconds."""

    id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Undelay:
    """Forget the Delay."""

    id: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Tell the child how long it will be before it is started again."""

    id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """It is not started again unless somebody asks for it: what waits for it is answered now."""

    id: str
    exit: Exit


@dataclass(frozen=True, slots=True)
class Drop:
    """As Close, and its specification is forgotten."""

    id: str
    exit: Exit


@dataclass(frozen=True, slots=True)
class Adopt:
    """This is the specification from now on; what runs goes on under it."""

    spec: SupervisorSpec


@dataclass(frozen=True, slots=True)
class Reply:
    call: int
    id: str
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Restarting:
    """For observers: a restart was decided."""

    id: str
    delay: float
    restarts: int
    exit: Exit


@dataclass(frozen=True, slots=True)
class GiveUp:
    """For observers: the budget is spent; all children are stopped next."""

    id: str
    exit: Exit


@dataclass(frozen=True, slots=True)
class Up:
    """Every child was started in turn: the supervisor's own start is done."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The supervisor is down."""

    exit: Exit


Report = Reply | Restarting | GiveUp | Up
Action = Start | Abort | Stop | Delay | Undelay | Pause | Close | Drop | Adopt | Ended | Report
