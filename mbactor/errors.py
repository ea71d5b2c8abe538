"""Every error a user of mbactor can meet, and how an error crosses from one actor to another.

An error is a value first: the fields are attributes, `status` is the HTTP-like number that the
gateway answers with, `taken` says whether the message reached the actor's own code. There is one
class for each thing the caller can do differently.

`to_wire` and `from_wire` carry an error between actors: type, status, fields and the remote
traceback survive. The type is found again by its qualified name among the classes the receiving
process has imported; where it is unknown the error arrives as a plain `MbactorError` with the same
status and fields.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self, TypedDict

import msgspec

from mbactor.tracebacks import NotedTrace, note

Taken = Literal["no", "unknown", "yes"]
"""Whether the actor's code may have seen the message: only a `no` may be repeated without thought."""


class MbactorError(Exception):
    """Base of all errors of mbactor, and of the errors with which a user's actor answers.

        raise MbactorError("no such order", status=404, order_id="17")

    Raised in an endpoint it is an *answer*: the asker gets it, the actor goes on; of several that a task group raises,
    the first. Keyword arguments become attributes and cross to the asker with the message and the status.
    """

    status: int = 500
    taken: Taken = "yes"
    _trace: NotedTrace | str | None = None

    def __init__(self, message: str, *, status: int | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields
        if status is not None:
            self.status = status
        self._tell(fields)

    def _tell(self, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            if name not in _OWN and not hasattr(type(self), name):
                setattr(self, name, value)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _types[_name_of(cls)] = cls

    def __getattr__(self, name: str) -> Any:
        # Only reached for what is not there: tells type checkers that fields are attributes.
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def __str__(self) -> str:
        # Also of a subclass that forgot the constructor of its base.
        return str(self.__dict__.get("message") or Exception.__str__(self) or type(self).__name__)

    @property
    def remote_trace(self) -> str | None:
        """The traceback at the place where it was raised, when that was in another actor."""
        return None if self._trace is None else str(self._trace)

    @classmethod
    def restore(
        cls,
        message: str,
        status: int,
        fields: Mapping[str, Any],
        *,
        taken: Taken = "yes",
        remote_trace: NotedTrace | str | None = None,
    ) -> Self:
        """The error as it was raised elsewhere, without calling the subclass's own constructor."""
        error = cls.__new__(cls)
        MbactorError.__init__(error, message, status=status)
        error.fields = dict(fields)
        error._tell(fields)  # noqa: SLF001 - its own class
        error.taken = taken
        error._trace = remote_trace  # noqa: SLF001 - its own class
        return error


_OWN = frozenset({"message", "fields", "status", "taken", "remote_trace", "args"})
"""What a field may be called, and is then found in `fields` only."""
_types: dict[str, type[MbactorError]] = {}


def _name_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


class WireError(TypedDict, total=False):
    """What `to_wire` makes of an error."""

    error: str
    statusCode: int
    type: str
    taken: Taken
    trace: str | None
    fields: dict[str, Any] | None


def to_wire(error: BaseException) -> dict[str, Any]:
    """The error as plain JSON values.

    Keys: `error`, `statusCode`, `type`, `taken`, `trace` (the traceback as text, absent where there is
    none) and `fields`. An exception that is no `MbactorError` becomes an `ActorCrashed`.
    """
    cls, message, status, fields, taken, trace = _parts(error)
    wire = {"error": message, "statusCode": status, "type": _name_of(cls), "taken": taken, "fields": fields}
    if trace is not None:
        wire["trace"] = _printable(trace)
    return wire


def handed_over(error: BaseException) -> MbactorError:
    """The error as its asker in the same process gets it: as if it had crossed, its traceback not written out yet."""
    return _restored(*_parts(error))


Parts = tuple["type[MbactorError]", str, int, dict[str, Any], Taken, "NotedTrace | str | None"]


def _parts(error: BaseException) -> Parts:
    """What crosses of an error."""
    trace = getattr(error, "_trace", None)
    if trace is None and error.__traceback__ is not None:
        trace = note(error, error_text)
    if not isinstance(error, MbactorError):
        error = ActorCrashed.because(error)
    # A subclass may have forgotten the constructor of its base.
    fields, status = getattr(error, "fields", None), getattr(error, "status", 500)
    return (
        type(error),
        _printable(getattr(error, "message", None) or error_text(error)),
        status if type(status) is int else 500,
        {str(name): _plain(value) for name, value in fields.items()} if isinstance(fields, dict) else {},
        error.taken,
        trace,
    )


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?`, or nothing: behind what was given and is not known."""
    near = difflib.get_close_matches(given, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


_OF_GROUP = 5
"""So many errors of a group are told in its text."""


def error_text(error: BaseException) -> str:
    """The error's text, also of one that has trouble telling it. Of a group with what it holds."""
    if isinstance(error, BaseExceptionGroup):
        told = [error_told(one) for one in error.exceptions[:_OF_GROUP]]
        more = ["..."] if len(error.exceptions) > _OF_GROUP else []
        return f"{_printable(error.message)}: {'; '.join(told + more)}"
    try:
        return _printable(str(error))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as trouble:  # noqa: BLE001 - somebody else's __str__
        return f"<{type(error).__name__} whose text raised {type(trouble).__name__}>"


def error_told(error: BaseException) -> str:
    """Type and text. A crash that comes from another process has its type in its text."""
    text = error_text(error)
    if text and type(error) is ActorCrashed:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _printable(text: Any) -> str:
    return str(text).encode("utf-8", "backslashreplace").decode()


def _plain(value: Any) -> Any:
    """The value as JSON has it; what has no such form as its repr."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=repr))
    except (TypeError, ValueError, RecursionError, OverflowError):
        return repr(value)


def from_wire(wire: Mapping[str, Any]) -> MbactorError:
    """The error that `to_wire` wrote, as the nearest type this process knows."""
    cls = _types.get(wire.get("type", ""), MbactorError)
    message, status, fields = wire.get("error", "unknown error"), wire.get("statusCode", 500), wire.get("fields") or {}
    return _restored(cls, message, status, fields, wire.get("taken", "yes"), wire.get("trace"))


def _restored(
    cls: type[MbactorError],
    message: str,
    status: int,
    fields: dict[str, Any],
    taken: Taken,
    trace: NotedTrace | str | None,
) -> MbactorError:
    try:
        error = cls.restore(message, status, fields, taken=taken, remote_trace=trace)
    except (TypeError, AttributeError):  # a class that cannot be made again without its own constructor
        error = MbactorError.restore(message, status, fields, taken=taken, remote_trace=trace)
    if trace is not None:
        error.__cause__ = RemoteTraceback(trace)
    return error


class RemoteTraceback(Exception):
    """Stands as the cause of an error that was raised in another actor, and shows the traceback that it had there."""

    def __init__(self, trace: NotedTrace | str) -> None:
        super().__init__()
        self._trace = trace

    def __str__(self) -> str:
        return f'\n"""\n{self._trace}"""'


# --- the message could not be delivered ------------------------------------------------------------


class NoSuchActor(MbactorError):
    """Nobody serves this address. The message was not taken."""

    status = 404
    taken: Taken = "no"

    def __init__(self, address: str, detail: str = "") -> None:
        super().__init__(f"nobody serves {address}" + (f": {detail}" if detail else ""), address=address)
        self.address = address


class MethodNotAllowed(MbactorError):
    """The path is there and answers to another HTTP method: so says an actor of the same process. A bus finds nobody
    there (NoSuchActor).
    """

    status = 405
    taken: Taken = "no"

    def __init__(self, address: str, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{address} does not take {method}; it takes {', '.join(allowed)}", allowed=list(allowed))
        self.allowed = list(allowed)


class Unavailable(MbactorError):
    """The actor takes no message now. It was not taken and may be sent again."""

    status = 503
    taken: Taken = "no"


class MailboxFull(Unavailable):
    """The actor's mailbox holds all it may. The message was not accepted; send again after a pause."""

    def __init__(self, address: str, capacity: int) -> None:
        super().__init__(
            f"mailbox of {address} is full ({capacity} messages); send again after a pause",
            address=address,
            capacity=capacity,
        )
        self.address = address
        self.capacity = capacity


class ActorRestarting(Unavailable):
    """The actor waits out a long backoff before it is restarted."""

    def __init__(self, address: str, seconds: float) -> None:
        super().__init__(f"{address} restarts in {seconds:.1f} s; send again then", address=address, seconds=seconds)
        self.address = address
        self.seconds = seconds


class NodeLeaving(Unavailable):
    """The actor's process ends, and another may take its place. Over a bus the ask is repeated there."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"{address}: its process ends, and another may take its place; send again then", address=address
        )
        self.address = address


class ActorStopped(MbactorError):
    """The actor ended for good before it took the message. `ended` says how, where it did not end cleanly."""

    status = 503
    taken: Taken = "no"

    def __init__(self, address: str, ended: str = "") -> None:
        super().__init__(f"{address} has stopped" + (f" ({ended})" if ended else ""), address=address, ended=ended)
        self.address = address
        self.ended = ended


class AddressTooLong(MbactorError):
    """The address does not fit in a bus subject."""

    status = 414
    taken: Taken = "no"


class MessageTooLarge(MbactorError):
    """The message is above what is carried. It was not sent, or not taken; where it is the answer that is too large,
    the method has run, and `taken` says so.
    """

    status = 413
    taken: Taken = "no"

    def __init__(
        self, size: int, limit: int, bound: str = "the broker carries at most {} (its setting max_payload)"
    ) -> None:
        super().__init__(f"the message has {size} bytes; {bound.format(limit)}", size=size, limit=limit)
        self.size = size
        self.limit = limit


class BodyTooLarge(MbactorError):
    """The body of an HTTP request is above the gateway's limit. It was not passed on."""

    status = 413
    taken: Taken = "no"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is too large; at most {limit} bytes are taken", limit=limit)
        self.limit = limit


class NotAcknowledged(MbactorError):
    """Whether the message was taken is not known: the way to the actor was cut before its answer came."""

    status = 504
    taken: Taken = "unknown"


# --- the message was delivered, and this came of it --------------------------------------------------


class BadRequest(MbactorError):
    """The arguments do not fit the method's signature, which was not run then; the message names the field. Or the
    method raised it, and has taken the message.
    """

    status = 400


class BudgetSpent(MbactorError, TimeoutError):
    """The time budget of the call ended before its answer came."""

    status = 408


class ActorCrashed(MbactorError):
    """The method raised something that is no `MbactorError`, or its actor was restarted under it."""

    status = 500

    @classmethod
    def because(cls, error: BaseException) -> ActorCrashed:
        text = error_text(error)
        return cls(f"{type(error).__name__}: {text}" if text else type(error).__name__)


class ProcessDied(ActorCrashed):
    """The process that ran the call, or the child, died: `exit_code`, and `signal` by name where one killed it."""

    def __init__(self, target: str, pid: int, code: int, *, kind: str = "worker process") -> None:
        name = _signal_name(-code) if code < 0 else None
        how = f"ended with exit code {code}" if name is None else f"was killed by {name}"
        super().__init__(f"{target}: the {kind} {pid} {how}", target=target, pid=pid, exit_code=code, signal=name)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Deadlock(MbactorError):
    """The ask could never be answered: its receiver waits for the asker. The cycle is spelled out."""

    status = 508
    taken: Taken = "no"

    def __init__(
        self,
        cycle: str,
        *,
        own: bool = False,
        instead: str = "use tell, make the actor reentrant, or raise its concurrency",
    ) -> None:
        # An actor that asks itself has a shorter way.
        call = "call the method itself, which needs no ask, " if own else ""
        super().__init__(f"deadlock: {cycle}; {call}{instead}", cycle=cycle)
        self.cycle = cycle


class Unauthenticated(MbactorError):
    """The endpoint requires something of the end user, and the message acts for nobody. It was not run."""

    status = 401
    taken: Taken = "no"

    def __init__(self, name: str, requires: str) -> None:
        super().__init__(f"{name} requires {requires}, and the message acts for nobody", name=name, requires=requires)


class Forbidden(MbactorError):
    """The claims of the end user do not satisfy what the endpoint requires. The message was not run."""

    status = 403
    taken: Taken = "no"

    def __init__(self, name: str, requires: str) -> None:
        super().__init__(
            f"{name} requires {requires}, which the claims of the end user do not satisfy", name=name, requires=requires
        )


class CallTooDeep(MbactorError):
    """A chain of asks went deeper than 64 calls, or a workflow would be called by the last of 1,000 nested flows."""

    status = 508
    taken: Taken = "no"


# --- the program is wrong ----------------------------------------------------------------------------


class DeclarationError(MbactorError, TypeError):
    """A class declares something that cannot work; the message names class, method and parameter."""


class InvalidSpec(MbactorError, ValueError):
    """A child or supervisor specification is wrong; the message names the field and the value."""


class Ignore(Exception):
    """Raised in `on_start`: leave this child unstarted, without an error (OTP's `ignore`)."""


# --- names -------------------------------------------------------------------------------------------------


class NameTaken(MbactorError):
    """Another actor is registered under this name on this node; `holder` is its address."""

    status = 409

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(f"the name {name!r} belongs to {holder}; release it first", name=name, holder=holder)
        self.name = name
        self.holder = holder


class NoSuchName(MbactorError, KeyError):
    """No actor is registered under this name on this node."""

    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"no actor is registered as {name!r} on this node", name=name)
        self.name = name


# --- supervisors' run-time calls -----------------------------------------------------------------------


class NoSuchChild(MbactorError):
    """The supervisor has no child with this id."""

    status = 404


class AlreadyStarted(MbactorError):
    """A child with this id runs already."""

    status = 409


class AlreadyPresent(MbactorError):
    """A child with this id is known and stopped; restart or delete it."""

    status = 409


class ChildRunning(MbactorError):
    """The call needs a stopped child, and it runs."""

    status = 409


class ChildRestarting(MbactorError):
    """The call needs a stopped child, and it is about to be restarted."""

    status = 409


# --- workflows -------------------------------------------------------------------------------------------


class InvalidGraph(MbactorError):
    """The graph of a workflow cannot run; `problems` lists every reason, each naming its node or edge."""

    status = 400

    def __init__(self, name: str, problems: list[str]) -> None:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"graph {name!r} is invalid:{listed}", name=name, problems=problems)
        self.problems = problems


class InvalidExpression(MbactorError):
    """A `when` or `requires` expression does not parse; `position` is the offset of the first wrong character."""

    status = 400


class InvalidState(MbactorError):
    """A value cannot be stored in a flow's state (NaN, infinity, NUL, not JSON)."""

    status = 400


class ReducerError(MbactorError):
    """Two values of a field cannot be reduced; the message names field, reducer and both types."""


class ParkRefused(MbactorError):
    """An `interrupt` or `subgraph` call cannot stand: it differs from the recorded one, is the second that
    waits in one run, or comes after the run is over.
    """


class FlowNotFound(MbactorError):
    """No flow (or step) has this key."""

    status = 404


class InvalidKey(MbactorError):
    """The text is no flow key or step key."""

    status = 400


class ShardInUse(MbactorError):
    """The shard cannot be removed: it is not drained, or it keeps the roll of the others."""

    status = 409


class FlowConflict(MbactorError):
    """The flow's status does not allow the operation."""

    status = 409
