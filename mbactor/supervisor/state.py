"""The words of the restart policy: what it remembers, what it is told and what it asks for.

All are frozen values, and Structs where a restart makes a dozen of them: a frozen dataclass takes ten times as long.
Events carry the time (`now`, monotonic seconds) and the chance (`sample`, in [0, 1)), so the policy itself has
neither clock nor randomness.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mbactor.errors import MbactorError, error_text, error_told
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.supervisor.siblings import NOBODY, Siblings
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


class ChildState(Struct, frozen=True):
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


class Job(Struct, frozen=True):
    verb: Literal["start", "stop"]
    id: str


class Operation(Struct, frozen=True):
    """What the supervisor is at: jobs one after another; the first that is not `done` is under way where `busy`."""

    purpose: Purpose
    jobs: tuple[Job, ...]
    busy: bool = False
    call: Call | None = None
    exit: Exit = SHUTDOWN
    """How the supervisor itself ends, where the purpose is shutdown."""
    due: float | None = None
    """When those that it takes down are started again, where that is delayed."""
    done: int = 0

    @property
    def job(self) -> Job:
        """The one under way, or next."""
        return self.jobs[self.done]

    @property
    def left(self) -> tuple[Job, ...]:
        return self.jobs[self.done :]


class State(Struct, frozen=True):
    children: Siblings = NOBODY
    phase: Phase = "idle"
    spent: tuple[float, ...] = ()
    operation: Operation | None = None
    queue: tuple[Event, ...] = ()
    kill: bool = False

    def find(self, id: str) -> ChildState | None:
        return self.children.find(id)


# --- what it is told ---------------------------------------------------------------------------------


class StartRequested(Struct, frozen=True):
    now: float


class Started(Struct, frozen=True):
    id: str
    now: float


class NotStarted(Struct, frozen=True):
    """Its start failed."""

    id: str
    error: BaseException
    now: float
    sample: float = 0.0


class Ignored(Struct, frozen=True):
    """It asked not to be started."""

    id: str
    now: float


class Exited(Struct, frozen=True):
    """It ended by itself."""

    id: str
    exit: Exit
    now: float
    sample: float = 0.0


class Stopped(Struct, frozen=True):
    """It was stopped as asked."""

    id: str
    exit: Exit
    now: float


class RetryDue(Struct, frozen=True):
    id: str
    now: float


class StopRequested(Struct, frozen=True):
    now: float
    exit: Exit = SHUTDOWN
    kill: bool = False


class StartChild(Struct, frozen=True):
    call: int
    spec: ChildSpec
    now: float


class TerminateChild(Struct, frozen=True):
    call: int
    id: str
    now: float


class RestartChild(Struct, frozen=True):
    call: int
    id: str
    now: float


class DeleteChild(Struct, frozen=True):
    call: int
    id: str
    now: float


class Reconfigure(Struct, frozen=True):
    """From now on `spec` is what is supervised, where one is given. Of all that runs only the child `id` is touched:
    it is stopped, started, or both; with `unless_held` only where no operator holds it once this has its turn. Children
    that `spec` does not name stay as they are, but for one that is stopped and not started again: that is forgotten.
    """

    call: int
    id: str
    now: float
    spec: SupervisorSpec | None = None
    stop: bool = False
    start: bool = False
    unless_held: bool = False


Call = StartChild | TerminateChild | RestartChild | DeleteChild | Reconfigure
Answer = Started | NotStarted | Ignored | Stopped
Event = StartRequested | Answer | Exited | RetryDue | StopRequested | Call


# --- what it asks for --------------------------------------------------------------------------------


class Start(Struct, frozen=True):
    """Start it; answer with Started, NotStarted or Ignored. `again` says that it is an automatic restart."""

    id: str
    again: bool = False


class Abort(Struct, frozen=True):
    """Break off the start that is under way (again with less time, where that is done); answer as for the start."""

    id: str
    timeout: float | None


class Stop(Struct, frozen=True):
    """Stop it (again with less time, where a stop is under way); answer with Stopped."""

    id: str
    timeout: float | None


class Delay(Struct, frozen=True):
    """Say RetryDue after so many seconds."""

    id: str
    seconds: float


class Undelay(Struct, frozen=True):
    """Forget the Delay."""

    id: str


class Pause(Struct, frozen=True):
    """Tell the child how long it will be before it is started again."""

    id: str
    seconds: float


class Close(Struct, frozen=True):
    """It is not started again unless somebody asks for it: what waits for it is answered now."""

    id: str
    exit: Exit


class Drop(Struct, frozen=True):
    """As Close, and its specification is forgotten."""

    id: str
    exit: Exit


class Adopt(Struct, frozen=True):
    """This is the specification from now on; what runs goes on under it."""

    spec: SupervisorSpec


class Reply(Struct, frozen=True):
    call: int
    id: str
    error: Exception | None = None


class Restarting(Struct, frozen=True):
    """For observers: a restart was decided."""

    id: str
    delay: float
    restarts: int
    exit: Exit


class GiveUp(Struct, frozen=True):
    """For observers: the budget is spent; all children are stopped next."""

    id: str
    exit: Exit


class Up(Struct, frozen=True):
    """Every child was started in turn: the supervisor's own start is done."""


class Ended(Struct, frozen=True):
    """The supervisor is down."""

    exit: Exit


Report = Reply | Restarting | GiveUp | Up
Action = Start | Abort | Stop | Delay | Undelay | Pause | Close | Drop | Adopt | Ended | Report
