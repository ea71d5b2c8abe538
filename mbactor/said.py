"""What people and machines are told of an event: how serious it is, a sentence, its fields, its traceback.

    level_of("loop.blocked", fields)                # "warning"
    line, block = for_people("loop.blocked", fields)
    print(plain_text("loop.blocked", fields))       # 11:35:38.426 [warning  ] event loop is blocked  actor=till ...

It needs no more than the standard library: where nobody listens, the first event must not wait for what draws a log.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any, Literal

from mbactor import clock, observe
from mbactor.durations import text_of
from mbactor.errors import MbactorError, error_told
from mbactor.tracebacks import begin_of

Level = Literal["debug", "info", "warning", "error"]

LEVELS: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
SAID: Mapping[str, tuple[Level, str]] = {
    "actor.started": ("debug", "actor started"),
    "node.started": ("info", "child is up in a process of its own"),
    "actor.stopped": ("debug", "actor stopped"),
    "actor.crashed": ("error", "actor crashed"),
    "actor.start_failed": ("error", "actor failed while it started"),
    "actor.stop_failed": ("error", "actor failed while it stopped"),
    "actor.abandoned": ("error", "method would not stop and was left behind"),
    "actor.left": ("warning", "replica takes no messages and leaves them to others"),
    "actor.back": ("info", "replica takes its share of messages again"),
    "loop.blocked": ("warning", "event loop is blocked"),
    "message.dead": ("warning", "message could not be delivered"),
    "message.unknown": ("warning", "connection lost, nobody knows whether the last of what was told was taken"),
    "message.failed": ("warning", "told method answered with an error nobody waits for"),
    "supervisor.restarting": ("warning", "supervisor restarts a child"),
    "supervisor.failed": ("error", "supervisor could not decide what to do and ends"),
    "supervisor.gave_up": ("error", "supervisor gave up on a child"),
    "control.failed": ("error", "what was asked by the control socket failed"),
    "tree.changed": ("info", "the running tree was changed"),
    "foreman.doubtful": ("warning", "graph can run and hardly means what it says"),
    "topology.doubtful": ("warning", "topology file is right and hardly meant so"),
    "system.serving": ("info", "system is up"),
    "system.stopping": ("info", "system is stopping"),
    "system.stopped": ("info", "system is down"),
    "flow.started": ("debug", "flow started"),
    "flow.stopped": ("debug", "flow came to rest"),
    "flow.purged": ("info", "old flows were removed"),
    "flow.rewound": ("info", "steps of a flow run again"),
    "schedule.failed": ("warning", "the flow of a schedule could not be made, trying again"),
    "step.recovered": ("warning", "expired steps were taken back"),
    "step.lost": ("warning", "a step that was lost with its process, or blocked it, again and again runs once more"),
    "foreman.trouble": ("warning", "store could not be reached, trying again"),
    "foreman.back": ("info", "store is written again"),
    "foreman.unserved": ("warning", "nobody serves a task, it is offered again for as long as it may take"),
    "bus.cut": ("warning", "connection to the broker lost, trying again"),
    "bus.back": ("info", "connection to the broker is back"),
    "bus.deaf": ("warning", "nothing comes back through the connection to the broker, making it anew"),
    "bus.forgot": ("warning", "the broker has lost subscriptions, sending them once more"),
    "bus.refused": ("warning", "the broker refused something"),
    "broker.started": ("info", "broker is up"),
    "broker.ended": ("warning", "broker has ended, starting it again"),
    "broker.said": ("info", "broker says"),
    "gateway.unreachable": ("warning", "an actor that is needed is not there"),
    "gateway.serving": ("info", "gateway is listening"),
}
"""How serious an event is, and what a person is told."""
_ASIDE = frozenset({"told", "trace", "over", "goes_on"})
"""Fields that a person is not shown: the sentence says it, or the traceback below the line."""
_SECONDS = frozenset({"delay", "seconds", "took"})
_SAID_ALREADY = {"log": {"level", "message"}, "broker.said": {"level"}}
"""Fields that are the level or the text of the line."""
_RESERVED = frozenset({"timestamp", "level", "event", "trace_id", "exception"})
"""Names that a line has for itself."""


def name_of(key: str) -> str:
    """What a field is called in a line, which has names of its own."""
    return f"{key}_" if key in _RESERVED else key


def level_of(name: str, fields: Mapping[str, Any]) -> Level:
    """How serious an event is: as `SAID` says, but a restart is worth more than a start, a kill more than a stop."""
    match name:
        case "log" | "broker.said":
            given = fields.get("level")
            return given if given in LEVELS else "info"
        case "actor.started" if fields.get("incarnation", 1) != 1:
            return "info"
        case "actor.stopped" if str(fields.get("exit", "")).startswith("killed"):
            return "warning"
        case "flow.stopped" if fields.get("status") == "failed":
            return "warning"
        case _:
            return SAID.get(name, ("info", name))[0]


def said_of(name: str, fields: Mapping[str, Any]) -> str:
    """What a person is told of an event: as `SAID` says, but what is over is told as such."""
    match name:
        case "log":
            return str(fields.get("message", ""))
        case "loop.blocked" if fields.get("over"):
            return "event loop was blocked"
        case "actor.crashed" if fields.get("goes_on"):
            return "method crashed, its actor goes on"
        case _:
            return SAID.get(name, ("info", name))[1]


def traceback_of(fields: Mapping[str, Any]) -> str | None:
    """The traceback that belongs to an event: the one that was told, else that of its error."""
    told = fields.get("trace")
    if isinstance(told, str):
        return told
    error = fields.get("error")
    if not isinstance(error, BaseException):
        return None
    if isinstance(error, MbactorError) and error.remote_trace is not None:
        return error.remote_trace
    below = begin_of(error.__traceback__)
    return None if below is None else "".join(traceback.format_exception(type(error), error, below))


def own_fields(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not already the line's level, its text or its traceback."""
    gone = _SAID_ALREADY.get(name) or ({"trace"} if isinstance(fields.get("trace"), str) else set())
    return {key: value for key, value in fields.items() if key not in gone}


def trace_id() -> str | None:
    """The trace of the work at hand."""
    current = observe.traceparent()
    above = observe.parse_traceparent(current) if current is not None else None
    return above[0] if above is not None else None


def plain(key: str, value: Any) -> Any:
    """A value as machines get it."""
    if isinstance(value, BaseException):
        return error_told(value)
    return round(value, 6) if key in _SECONDS and isinstance(value, float) else value


def _readable(key: str, value: Any) -> str:
    if key in _SECONDS and isinstance(value, float) and value >= 0:
        return text_of(round(value, 3))
    text = str(plain(key, value))
    # Control characters would let a value write to the terminal what it likes.
    return text if text.isprintable() and text else repr(text)


def _indented(block: str) -> str:
    safe = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in block.rstrip())
    return "\n".join(f"    {line}" for line in safe.split("\n"))


def for_people(name: str, fields: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    """The parts of a line in their order, time, level and sentence first; and the traceback, as it stands below."""
    level, said = level_of(name, fields), said_of(name, fields)
    line = {
        "timestamp": clock.utcnow().astimezone().strftime("%H:%M:%S.%f")[:-3],
        "level": str(level),
        "event": said if said.isprintable() else repr(said),
    }
    for key, value in own_fields(name, fields).items():
        if key not in _ASIDE and value is not None:
            line[name_of(key)] = _readable(key, value)
    above = trace_id()
    if above is not None and LEVELS[level] >= LEVELS["warning"]:
        line["trace_id"] = above
    block = traceback_of(fields) if level == "error" else None
    return line, None if block is None else _indented(block)


def plain_text(name: str, fields: Mapping[str, Any]) -> str:
    """The event for people, without colours."""
    line, block = for_people(name, fields)
    (_, time), (_, level), (_, said), *fields_of_it = line.items()
    rest = " ".join(f"{key}={value}" for key, value in fields_of_it)
    text = f"{time} [{level:9}] {said:28} {rest}".rstrip()
    return text if block is None else f"{text}\n{block}"
