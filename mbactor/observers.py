"""Listeners to the event stream: the log, and the door to OpenTelemetry.

    with observe.observing(LogObserver()):
        ...

On a terminal the log is made for reading; anywhere else it is one JSON object a line, with the keys `timestamp`,
`level`, `event`, the event's fields, `trace_id` where there is one, and `exception` with a traceback where there is
one. Nothing global is configured: neither structlog nor `logging`.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from structlog.dev import BRIGHT, CYAN, DIM, GREEN, RED, RESET_ALL, YELLOW, Column, ConsoleRenderer
from structlog.dev import KeyValueColumnFormatter as Pair
from structlog.dev import LogLevelColumnFormatter as LevelColumn
from structlog.processors import JSONRenderer

from mbactor import clock, observe
from mbactor.durations import text_of
from mbactor.errors import MbactorError, error_told
from mbactor.tracebacks import begin_of

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace.export import SpanExporter

Level = Literal["debug", "info", "warning", "error"]

LEVELS: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
SAID: Mapping[str, tuple[Level, str]] = {
    "actor.started": ("debug", "actor started"),
    "node.started": ("info", "process of a child is up"),
    "actor.stopped": ("debug", "actor stopped"),
    "actor.crashed": ("error", "actor crashed"),
    "actor.start_failed": ("error", "actor failed while it started"),
    "actor.stop_failed": ("error", "actor failed while it stopped"),
    "actor.abandoned": ("error", "method would not stop and was left behind"),
    "loop.blocked": ("warning", "event loop is blocked"),
    "message.dead": ("warning", "message could not be delivered"),
    "message.failed": ("warning", "told method answered with an error nobody waits for"),
    "supervisor.restarting": ("warning", "supervisor restarts a child"),
    "supervisor.failed": ("error", "supervisor could not decide what to do and ends"),
    "supervisor.gave_up": ("error", "supervisor gave up on a child"),
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
    "foreman.trouble": ("warning", "store could not be reached, trying again"),
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
_ASIDE = frozenset({"told", "trace", "over"})
"""Fields that a person is not shown: the sentence says it, or the traceback below the line."""
_SECONDS = frozenset({"delay", "seconds", "took"})
_SAID_ALREADY = {"log": {"level", "message"}, "broker.said": {"level"}}
"""Fields that are the level or the text of the line."""


class LogObserver:
    """Writes events to a stream. `json` None decides by whether the stream is a terminal, and so does `colors`.

    Events below `level` (debug, info, warning, error) are left out. A stream that is closed or broken loses the
    lines and stops nothing.
    """

    wants_spans = False

    def __init__(
        self,
        stream: TextIO | None = None,
        json: bool | None = None,
        level: str = "info",
        *,
        colors: bool | None = None,
    ) -> None:
        if level not in LEVELS:
            raise ValueError(f"level {level!r}: expected one of {', '.join(LEVELS)}")
        self._stream = sys.stderr if stream is None else stream
        terminal = _is_terminal(self._stream)
        self._least = LEVELS[level]
        self._json = not terminal if json is None else json
        self._for_machines = JSONRenderer(default=str)
        self._for_people = _console(colors=terminal if colors is None else colors)
        self._lock = threading.Lock()

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        level = level_of(name, fields)
        if LEVELS[level] < self._least:
            return
        render = self._machine_line if self._json else self._terminal_lines
        self._write(render(name, level, fields))

    def on_start(self, span: observe.Span) -> None:
        """Spans are not logged."""

    def on_end(self, span: observe.Span) -> None:
        """Spans are not logged."""

    def _machine_line(self, name: str, level: Level, fields: Mapping[str, Any]) -> str:
        line: dict[str, Any] = {
            "timestamp": clock.utcnow().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "event": fields.get("message", "") if name == "log" else name,
        }
        for key, value in _own_fields(name, fields).items():
            line[f"{key}_" if key in _RESERVED else key] = _plain(key, value)
        trace_id = _trace_id()
        if trace_id is not None:
            line["trace_id"] = trace_id
        block = traceback_of(fields) if level == "error" else None
        if block is not None:
            line["exception"] = block
        return str(self._for_machines(None, level, line))

    def _terminal_lines(self, name: str, level: Level, fields: Mapping[str, Any]) -> str:
        said = said_of(name, fields)
        line: dict[str, Any] = {
            "timestamp": clock.utcnow().astimezone().strftime("%H:%M:%S.%f")[:-3],
            "level": level,
            "event": said if said.isprintable() else repr(said),
        }
        for key, value in _own_fields(name, fields).items():
            if key not in _ASIDE and value is not None:
                line[f"{key}_" if key in _RESERVED else key] = _readable(key, value)
        trace_id = _trace_id()
        if trace_id is not None and LEVELS[level] >= LEVELS["warning"]:
            line["trace_id"] = trace_id
        block = traceback_of(fields) if level == "error" else None
        text = str(self._for_people(None, level, line)).rstrip()
        return text if block is None else f"{text}\n{_indented(block)}"

    def _write(self, text: str) -> None:
        with self._lock, suppress(OSError, ValueError, AttributeError):
            try:
                self._stream.write(text + "\n")
            except UnicodeEncodeError:
                self._stream.write(text.encode("ascii", "backslashreplace").decode() + "\n")
            self._stream.flush()


_RESERVED = frozenset({"timestamp", "level", "event", "trace_id", "exception"})


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


def _own_fields(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not already the line's level, its text or its traceback."""
    gone = _SAID_ALREADY.get(name) or ({"trace"} if isinstance(fields.get("trace"), str) else set())
    return {key: value for key, value in fields.items() if key not in gone}


def _trace_id() -> str | None:
    current = observe.traceparent()
    above = observe.parse_traceparent(current) if current is not None else None
    return above[0] if above is not None else None


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, BaseException):
        return error_told(value)
    return round(value, 6) if key in _SECONDS and isinstance(value, float) else value


def _readable(key: str, value: Any) -> str:
    if key in _SECONDS and isinstance(value, float) and value >= 0:
        return text_of(round(value, 3))
    text = str(_plain(key, value))
    # Control characters would let a value write to the terminal what it likes.
    return text if text.isprintable() and text else repr(text)


def _indented(block: str) -> str:
    safe = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in block.rstrip())
    return "\n".join(f"    {line}" for line in safe.split("\n"))


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _console(*, colors: bool) -> ConsoleRenderer:
    def style(code: str) -> str:
        return code if colors else ""

    reset = style(RESET_ALL)
    levels = {"debug": style(DIM), "info": style(GREEN), "warning": style(YELLOW), "error": style(RED + BRIGHT)}
    return ConsoleRenderer(
        sort_keys=False,
        columns=[
            Column("timestamp", Pair(None, style(DIM), reset, str)),
            Column("level", LevelColumn(levels, reset)),
            Column("event", Pair(None, style(BRIGHT), reset, str, width=28)),
            Column("", Pair(style(CYAN), "", reset, str)),
        ],
    )


# --- OpenTelemetry -------------------------------------------------------------------------------------------


class TelemetryObserver(observe.Observer, Protocol):
    """An observer that exports; `shutdown` sends what it still holds and blocks until that is done."""

    def shutdown(self) -> None: ...


def telemetry_from_environment(
    variables: Mapping[str, str],
    *,
    service: str = "mbactor",
    span_exporter: SpanExporter | None = None,
    metric_reader: MetricReader | None = None,
) -> list[TelemetryObserver]:
    """The observers that OpenTelemetry's own variables ask for; an empty list, and no import, where they ask for none.

        for observer in telemetry_from_environment(environment(), service="shop"):
            observe.add_observer(observer)

    `OTEL_TRACES_EXPORTER` and `OTEL_METRICS_EXPORTER` are `otlp`, `console` or `none`; an `OTEL_EXPORTER_OTLP_ENDPOINT`
    alone means otlp. Sampler, batches, resource and endpoints are read by the SDK from the process's environment.
    `service` is the name where the variables give none. An exporter or reader that is passed in is used instead.
    InvalidSpec where an exporter is unknown or not installed.
    """
    wanted = exporters_of(variables)
    traces: object = span_exporter or wanted["traces"]
    metrics: object = metric_reader or wanted["metrics"]
    if not traces and not metrics:
        return []
    from mbactor import telemetry

    resource = telemetry.resource_of(variables, service)
    observers: list[TelemetryObserver] = []
    if traces:
        observers.append(telemetry.trace_observer(resource, variables, wanted["traces"], span_exporter))
    if metrics:
        observers.append(telemetry.metrics_observer(resource, variables, wanted["metrics"], metric_reader))
    return observers


def exporters_of(variables: Mapping[str, str]) -> dict[str, str]:
    """The exporter of each signal, by OpenTelemetry's variables; an empty text for none."""
    if variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return {"traces": "", "metrics": ""}
    found: dict[str, str] = {}
    for signal in ("traces", "metrics"):
        endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
        default = "otlp" if any(variables.get(name) for name in endpoints) else "none"
        chosen = variables.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip() or default
        found[signal] = "" if chosen == "none" else chosen
    return found
