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
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from structlog.dev import BRIGHT, CYAN, DIM, GREEN, RED, RESET_ALL, YELLOW, Column, ConsoleRenderer
from structlog.dev import KeyValueColumnFormatter as Pair
from structlog.dev import LogLevelColumnFormatter as LevelColumn
from structlog.processors import JSONRenderer

from mbactor import clock, observe
from mbactor.said import LEVELS, Level, for_people, level_of, name_of, own_fields, plain, trace_id, traceback_of

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace.export import SpanExporter


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
        for key, value in own_fields(name, fields).items():
            line[name_of(key)] = plain(key, value)
        above = trace_id()
        if above is not None:
            line["trace_id"] = above
        block = traceback_of(fields) if level == "error" else None
        if block is not None:
            line["exception"] = block
        return str(self._for_machines(None, level, line))

    def _terminal_lines(self, name: str, level: Level, fields: Mapping[str, Any]) -> str:
        line, block = for_people(name, fields)
        text = str(self._for_people(None, level, dict(line))).rstrip()
        return text if block is None else f"{text}\n{block}"

    def _write(self, text: str) -> None:
        with self._lock, suppress(OSError, ValueError, AttributeError):
            try:
                self._stream.write(text + "\n")
            except UnicodeEncodeError:
                self._stream.write(text.encode("ascii", "backslashreplace").decode() + "\n")
            self._stream.flush()


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
