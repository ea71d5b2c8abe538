"""What happens in the runtime, as one stream of events; logs, metrics and traces listen to it.

Code says `observe.emit("actor.restarted", actor="orders", restarts=2)` for a change of state and
`with observe.span("step", "verify_credit", flow="1-7") as span:` for work that takes time. Neither costs
more than a check while nobody listens. Observers must be quick and must not raise; one that does is
removed and reported on stderr once.

A span knows its trace: `traceparent()` is the W3C header of the span at hand, and a span is opened under
a remote one by `parent=`. Trace ids exist only while somebody listens; a `traceparent` that merely passes
through is carried on unchanged.
"""

from __future__ import annotations

import re
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from typing import Any, Protocol

EVENTS: Mapping[str, str] = {
    "log": "a line from user code: level, message, and its fields",
    "actor.started": "an incarnation runs: actor, incarnation",
    "node.started": "a child runs in a process of its own: node, pid, incarnation",
    "actor.stopped": "an incarnation ended: actor, incarnation, exit",
    "actor.crashed": "a method raised: actor, method, error, told, trace; goes_on where it was a task's, or is resumed",
    "actor.start_failed": "the constructor or on_start raised what is no answer: actor, error, trace",
    "actor.stop_failed": "on_stop raised: actor, error, trace",
    "actor.abandoned": "a method that would not stop was left behind: actor, method",
    "message.failed": "a method that was told, not asked, answered with an error: actor, method, error",
    "actor.left": (
        "a replica leaves its queue groups to others while it cannot take messages: actor, methods, reason (full or"
        " restarting)"
    ),
    "actor.back": "it is in them again: actor, methods, reason (room, or alone: no other has any)",
    "loop.blocked": (
        "something keeps the event loop from going round: actor, method, seconds, where (file:line), calls, and over:"
        " False while it goes on, True when the loop is back after so many seconds in all"
    ),
    "message.dead": "a message could not be delivered: address, method, sender, reason",
    "message.unknown": (
        "the connection to the broker was lost, and of what was told in the 2 s before nobody knows whether it was"
        " taken; nearly all was: count"
    ),
    "supervisor.restarting": "a child is about to be restarted: supervisor, child, delay, restarts, reason",
    "supervisor.failed": "a supervisor could not decide what to do and ends: supervisor, error",
    "supervisor.gave_up": "the restart budget is spent: supervisor, child, reason",
    "control.failed": "what was asked by the control socket ended in an error that is no answer: error",
    "tree.changed": "an operator, or an apply, changed the running tree: act (start, stop, restart, ...), path",
    "topology.doubtful": "a topology file allows what is hardly meant: where (file:line:column), text",
    "system.serving": "the tree is up: system",
    "system.stopping": "the tree is being stopped: system",
    "system.stopped": "the tree is down: system",
    "flow.started": "a flow was created: flow, workflow",
    "flow.stopped": "a flow came to rest: flow, workflow, status; where it failed, node and error",
    "flow.purged": "flows had ended longer ago than they are kept: count",
    "flow.rewound": "steps of a flow run again in place: flow, how (restart, restart_from, recover or retry)",
    "schedule.failed": "the flow of a tick could not be made, which is tried again: name, error",
    "step.recovered": "a step's lease had expired: count",
    "step.lost": (
        "a step runs once more of which several runs came to nothing, each with its worker: the process ended, or its"
        " loop was blocked for longer than a lease: flow, node, lost"
    ),
    "foreman.doubtful": "a graph can run and hardly means what it says: graph, text",
    "foreman.trouble": "the store could not be reached and is tried again: error",
    "foreman.back": "what is handed in is written again, after trouble with the store: shard",
    "foreman.unserved": "nobody serves a task that is due, and it is offered again while it may take: task",
    "bus.cut": "the connection to the broker was lost and is tried again: server, error",
    "bus.back": "the connection to the broker is there again, with every subscription: server, seconds (it was gone)",
    "bus.deaf": "nothing comes back through a connection that looks good, which is made anew: server",
    "bus.forgot": (
        "the broker has another number of subscriptions than were made, and is sent them once more: server, has, made"
    ),
    "bus.refused": "the broker refused something: server, reason",
    "broker.started": "a nats-server of this process's own takes connections: port, pid, restarts",
    "broker.ended": "that server ended by itself and is started again: port, pid, delay, reason",
    "broker.said": "a line of its log: level, message",
    "gateway.unreachable": "an address answered that an actor it needs is not there: path, error",
    "gateway.serving": "the gateway accepts connections: url",
}
"""Every event name and the fields that come with it. Spans: inbound, http, step."""


class Span:
    """Work that takes time: `fields` may be added to until it ends."""

    __slots__ = (
        "ended", "error", "fields", "kind", "name", "parent_id", "sampled", "span_id", "started", "tokens", "trace_id",
        "unix_ns",
    )  # fmt: skip

    def __init__(self, kind: str, name: str, parent: str | None, fields: dict[str, Any]) -> None:
        above = parse_traceparent(parent) if parent else None
        self.trace_id: str
        self.parent_id: str | None
        self.sampled: bool
        self.kind = kind
        self.name = name
        self.fields = fields
        self.trace_id, self.parent_id, self.sampled = above or (secrets.token_hex(16), None, True)
        self.span_id = secrets.token_hex(8)
        self.unix_ns = time.time_ns()
        self.started = time.perf_counter()
        self.ended = 0.0
        self.error: BaseException | None = None
        self.tokens: dict[Any, Any] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        self.fields[name] = value

    @property
    def duration(self) -> float:
        """Seconds it took, by the monotonic clock."""
        return self.ended - self.started

    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


class _NoSpan:
    """Stands for a span while nobody listens."""

    def __setitem__(self, name: str, value: Any) -> None:
        pass


class Observer(Protocol):
    """Listens to the stream. Called on the thread where the thing happens; must be quick and not raise.

    One that only wants events has an attribute `wants_spans = False`: then no spans, and no trace ids, are made for it.
    """

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None: ...
    def on_start(self, span: Span) -> None: ...
    def on_end(self, span: Span) -> None: ...


_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
LAST_RESORT_LIMIT = 20
"""Events of a process that are shown where nobody listens."""
_LOUD = frozenset(
    {
        "actor.abandoned",
        "actor.crashed",
        "actor.start_failed",
        "actor.stop_failed",
        "broker.ended",
        "bus.cut",
        "bus.deaf",
        "bus.forgot",
        "bus.refused",
        "control.failed",
        "foreman.doubtful",
        "foreman.trouble",
        "foreman.unserved",
        "loop.blocked",
        "message.dead",
        "message.failed",
        "message.unknown",
        "step.lost",
        "supervisor.failed",
        "supervisor.gave_up",
    }
)
_shown = 0
_HERE = "the work at hand"
_observers: tuple[Observer, ...] = ()
tracers: list[Observer] = []
"""Those who listen to spans; always the same list. Looked at on the path of every message, so it is no call."""
_NO_SPAN = _NoSpan()
current_trace: ContextVar[str | None] = ContextVar("mbactor_trace", default=None)
"""The traceparent of the work at hand; None outside any trace."""


def active() -> bool:
    """Whether anybody listens to events."""
    return bool(_observers)


def heard() -> bool:
    """Whether anybody hears of a warning or an error: who listens, or who reads stderr, where the first few go."""
    return bool(_observers) or _shown < LAST_RESORT_LIMIT


def tracing() -> bool:
    """Whether anybody listens to spans: they cost nothing otherwise."""
    return bool(tracers)


def add_observer(observer: Observer) -> None:
    global _observers
    _observers = (*_observers, observer)
    tracers[:] = [o for o in _observers if getattr(o, "wants_spans", True)]


def remove_observer(observer: Observer) -> None:
    global _observers
    _observers = tuple(o for o in _observers if o is not observer)
    tracers[:] = [o for o in _observers if getattr(o, "wants_spans", True)]


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Listen for the duration of the block."""
    add_observer(observer)
    try:
        yield
    finally:
        remove_observer(observer)


def emit(name: str, /, **fields: Any) -> None:
    """Tell whoever listens that something changed. `name` is one of `EVENTS`.

    Where nobody listens, the first few warnings and errors go to stderr as text, as Python's own `logging` does it.
    """
    if not _observers and (name in _LOUD or fields.get("level") in {"warning", "error"}):
        _last_resort(name, fields)
    for observer in _observers:
        try:
            observer.on_event(name, fields)
        except Exception as error:
            _drop(observer, error)


def relay(name: str, fields: dict[str, Any], *, exported: bool) -> None:
    """Tell of what happened in another process. Where it was `exported` there, those who listen to spans are not told:
    they export as well.
    """
    if not exported or not tracers:
        emit(name, **fields)
        return
    for observer in _observers:
        if observer not in tracers:
            try:
                observer.on_event(name, fields)
            except Exception as error:
                _drop(observer, error)


def traceparent() -> str | None:
    """The W3C header of the work at hand."""
    return current_trace.get()


def parse_traceparent(text: str) -> tuple[str, str, bool] | None:
    """(trace id, span id, sampled), or None where the text is no W3C traceparent."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None or found["version"] == "ff" or not found["trace"].strip("0") or not found["span"].strip("0"):
        return None
    if found["version"] == "00" and found["more"]:
        return None
    return found["trace"], found["span"], bool(int(found["flags"], 16) & 1)


def _last_resort(name: str, fields: dict[str, Any]) -> None:
    global _shown
    _shown += 1
    if _shown > LAST_RESORT_LIMIT:
        return
    # It imports this module. What draws a log takes a tenth of a second to import, in which the loop would stand still.
    from mbactor.said import plain_text

    with suppress(OSError, ValueError, AttributeError):  # stderr is closed, or there is none
        sys.stderr.write(f"{plain_text(name, fields)}\n")
        if _shown == LAST_RESORT_LIMIT:
            sys.stderr.write(
                "mbactor: nobody listens to events, and more of them are not shown; to see all:"
                " mbactor.observe.add_observer(mbactor.observers.LogObserver())\n"
            )


class span:  # noqa: N801 - reads as a word: `with observe.span(...)`
    """Measure the work in the block. `parent` is a traceparent; by default the work at hand is the parent, and
    None begins a new trace.

    An exception that leaves the block is noted in `span.error` and goes on.
    """

    __slots__ = ("_span", "_token")
    _token: Token[str | None]

    def __init__(self, kind: str, name: str, /, *, parent: str | None = _HERE, **fields: Any) -> None:
        self._span: Span | None = None
        if tracers:
            self._span = Span(kind, name, current_trace.get() if parent is _HERE else parent, fields)

    def __enter__(self) -> Span | _NoSpan:
        opened = self._span
        if opened is None:
            return _NO_SPAN
        for observer in tuple(tracers):
            try:
                observer.on_start(opened)
            except Exception as error:
                _drop(observer, error)
        # An observer may have decided that the trace is not sampled, or joined it to another.
        self._token = current_trace.set(opened.traceparent())
        return opened

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        opened = self._span
        if opened is None:
            return
        opened.ended = time.perf_counter()
        opened.error = opened.error or error
        for observer in tuple(tracers):
            try:
                observer.on_end(opened)
            except Exception as failure:
                _drop(observer, failure)
        current_trace.reset(self._token)


def _drop(observer: Observer, error: Exception) -> None:
    remove_observer(observer)
    with suppress(OSError, ValueError, AttributeError):  # stderr is closed, or there is none
        sys.stderr.write(f"mbactor: observer {observer!r} raised {error!r} and was removed\n")
