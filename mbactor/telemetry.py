"""OpenTelemetry: spans and metrics made of the event stream.

Imports the OpenTelemetry SDK; `observers.telemetry_from_environment` imports this module where it is wanted. Spans
keep the trace and span ids of `observe`, so what the log calls a trace is the trace, and its parent may be in another
process. Whether one is kept is the provider's sampler's decision. Inside a span OpenTelemetry's own API finds it as
the current one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from opentelemetry import context, metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
)
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from mbactor import observe
from mbactor.errors import InvalidSpec, MbactorError

NAME = "mbactor"
KINDS: Mapping[str, SpanKind] = {
    "inbound": SpanKind.CONSUMER,
    "outbound": SpanKind.CLIENT,
    "http": SpanKind.SERVER,
    "store": SpanKind.CLIENT,
}
"""Anything else, steps among them, is internal."""
ATTRIBUTES: Mapping[str, Mapping[str, str]] = {
    "inbound": {"actor": "messaging.destination.name"},
    "outbound": {"actor": "messaging.destination.name"},
    "http": {"method": "http.request.method", "path": "url.path", "status": "http.response.status_code"},
    "store": {"operation": "db.operation.name", "system": "db.system.name"},
}
"""Fields that have a name in OpenTelemetry's conventions; any other is `mbactor.<field>`."""
_CONSTANT: Mapping[str, Mapping[str, str]] = {
    "inbound": {
        "messaging.system": NAME,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
    },
    "outbound": {"messaging.system": NAME, "messaging.operation.name": "request", "messaging.operation.type": "send"},
    "http": {"url.scheme": "http"},
}
_VERB: Mapping[str, str] = {"inbound": "process ", "outbound": "request ", "step": "step "}
_FROM_OUTSIDE = frozenset({"inbound", "http", "step"})
"""Kinds whose parent comes with the message; the context of the task they run in is somebody else's."""
CANCELLED = 499
"""Stands as the status of work that was cancelled before it had one."""
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


def status_of(span: observe.Span) -> int:
    """The HTTP-like status a span ended with."""
    error = span.error
    if error is None or not _counts(error):
        status = span.fields.get("status", 200)
        return status if isinstance(status, int) else 200
    if isinstance(error, asyncio.CancelledError):
        return CANCELLED
    return error.status if isinstance(error, MbactorError) else 500


def _counts(error: BaseException) -> bool:
    """A park of a workflow step travels as an exception and is no error."""
    return isinstance(error, Exception | asyncio.CancelledError)


def attributes_of(span: observe.Span) -> dict[str, Any]:
    """A span's fields under OpenTelemetry's names."""
    names = ATTRIBUTES.get(span.kind, {})
    found: dict[str, Any] = dict(_CONSTANT.get(span.kind, {}))
    for field, value in span.fields.items():
        if value is not None:
            found[names.get(field, f"{NAME}.{field}")] = _value(value)
    if span.kind == "http" and "host" in span.fields:
        found["http.route"] = f"/{span.fields['host']}"
    return found


def _value(value: Any) -> Any:
    if isinstance(value, bool | float | str):
        return value
    return value if isinstance(value, int) and -(2**63) <= value < 2**63 else str(value)


class _Ids(IdGenerator):
    """Hands the tracer the ids that a span has already."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._here = threading.local()

    @contextmanager
    def of(self, span: observe.Span) -> Iterator[None]:
        """A tracer that asks in the block, on this thread, gets the ids of the span."""
        self._here.ids = int(span.trace_id, 16), int(span.span_id, 16)
        try:
            yield
        finally:
            self._here.ids = None

    def generate_trace_id(self) -> int:
        ids = getattr(self._here, "ids", None)
        return ids[0] if ids is not None else self._random.generate_trace_id()

    def generate_span_id(self) -> int:
        ids = getattr(self._here, "ids", None)
        return ids[1] if ids is not None else self._random.generate_span_id()


class TraceObserver:
    """Makes OpenTelemetry spans with the tracer of a provider; `shutdown` shuts the provider down if it is `own`."""

    def __init__(self, provider: TracerProvider, *, own: bool = True) -> None:
        self._provider = provider
        self._own = own
        self._ids = _Ids()
        self._tracer = provider.get_tracer(NAME)
        if isinstance(self._tracer, Tracer):
            self._tracer.id_generator = self._ids

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Warnings and errors of user code also stand in the span they were written in."""
        if name == "log" and fields.get("level") in {"warning", "error"}:
            attributes = {f"{NAME}.{key}": _value(value) for key, value in fields.items() if value is not None}
            trace.get_current_span().add_event(str(fields.get("message", "")), attributes)

    def on_start(self, span: observe.Span) -> None:
        above = self._above(span)
        with self._ids.of(span):
            opened = self._tracer.start_span(
                _VERB.get(span.kind, "") + span.name,
                above,
                KINDS.get(span.kind, SpanKind.INTERNAL),
                attributes_of(span),
                start_time=span.unix_ns,
            )
        span.sampled = opened.get_span_context().trace_flags.sampled
        span.tokens[self] = (opened, context.attach(trace.set_span_in_context(opened, above)))

    def on_end(self, span: observe.Span) -> None:
        kept = span.tokens.pop(self, None)
        if kept is None:  # it began before this observer listened
            return
        opened, token = kept
        context.detach(token)
        if opened.is_recording():
            opened.set_attributes(attributes_of(span))
            _note_error(opened, span)
        opened.end(span.unix_ns + int(span.duration * 1e9))

    def shutdown(self) -> None:
        """Send what is held."""
        if self._own:
            self._provider.shutdown()
        else:
            self._provider.force_flush()

    @staticmethod
    def _above(span: observe.Span) -> context.Context:
        """The OpenTelemetry context a span begins in, with its parent as the current span."""
        here = context.get_current()
        current = trace.get_current_span(here)
        at_hand = current.get_span_context()
        if span.parent_id is None:
            if span.kind in _FROM_OUTSIDE or not at_hand.is_valid:
                return trace.set_span_in_context(trace.INVALID_SPAN, context.Context())
            span.trace_id, span.parent_id = f"{at_hand.trace_id:032x}", f"{at_hand.span_id:016x}"
            return here
        if at_hand.span_id == int(span.parent_id, 16):
            return here
        flags = TraceFlags(TraceFlags.SAMPLED if span.sampled else TraceFlags.DEFAULT)
        parent = SpanContext(int(span.trace_id, 16), int(span.parent_id, 16), is_remote=True, trace_flags=flags)
        base = context.Context() if span.kind in _FROM_OUTSIDE else here
        return trace.set_span_in_context(NonRecordingSpan(parent), base)


def _note_error(opened: trace.Span, span: observe.Span) -> None:
    """As the conventions have it: what the other side did wrong (4xx) is noted and is no error of this span."""
    status, error = status_of(span), span.error
    if span.kind == "http":
        opened.set_attribute("http.response.status_code", status)
    elif span.kind in {"inbound", "outbound"}:
        opened.set_attribute(f"{NAME}.status", status)
    if error is None or not _counts(error):
        return
    opened.set_attribute("error.type", type(error).__name__)
    if 400 <= status < 499:
        return
    remote = error.remote_trace if isinstance(error, MbactorError) else None
    opened.record_exception(error, {"exception.stacktrace": remote} if remote else None)
    opened.set_status(Status(StatusCode.ERROR, str(error)))


class MetricsObserver:
    """Counts and measures with the meters of a provider; `shutdown` shuts the provider down if it is `own`.

    Histograms, in seconds: `messaging.process.duration` (by actor, method and status),
    `http.server.request.duration`, `mbactor.step.duration` (by workflow, node and outcome). Counters:
    `mbactor.actor.crashes`, `mbactor.supervisor.restarts`, `mbactor.supervisor.given_up`, `mbactor.dead_letters`,
    `mbactor.messages.unknown`, `mbactor.flows.started`, `mbactor.flows.stopped` (by workflow, and by status),
    `mbactor.steps.recovered`.
    """

    def __init__(self, provider: MeterProvider, *, own: bool = True) -> None:
        self._provider = provider
        self._own = own
        meter = provider.get_meter(NAME)

        def seconds(name: str, text: str) -> metrics.Histogram:
            return meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=BUCKETS)

        def count(name: str, text: str) -> metrics.Counter:
            return meter.create_counter(name, "1", text)

        self._durations = {
            "inbound": seconds("messaging.process.duration", "Time an actor's method took"),
            "http": seconds("http.server.request.duration", "Time the gateway took to answer"),
            "step": seconds("mbactor.step.duration", "Time a workflow step took"),
        }
        self._counters = {
            "actor.crashed": count("mbactor.actor.crashes", "Exceptions that were no answer"),
            "supervisor.restarting": count("mbactor.supervisor.restarts", "Restarts of children"),
            "supervisor.gave_up": count("mbactor.supervisor.given_up", "Restart budgets that were spent"),
            "message.dead": count("mbactor.dead_letters", "Messages that could not be delivered"),
            "message.unknown": count("mbactor.messages.unknown", "Messages that were taken, or lost with a connection"),
            "flow.started": count("mbactor.flows.started", "Flows created"),
            "flow.stopped": count("mbactor.flows.stopped", "Flows that came to rest"),
            "step.recovered": count("mbactor.steps.recovered", "Steps whose lease had expired"),
        }

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        counter = self._counters.get(name)
        if counter is not None:
            counter.add(fields.get("count", 1) if name in _OF_MANY else 1, counted_by(name, fields))

    def on_start(self, span: observe.Span) -> None:
        """Only what has ended is measured."""

    def on_end(self, span: observe.Span) -> None:
        histogram = self._durations.get(span.kind)
        if histogram is not None:
            histogram.record(span.duration, measured_by(span))

    def shutdown(self) -> None:
        """Send what is held."""
        if self._own:
            self._provider.shutdown()
        else:
            self._provider.force_flush()


_OF_MANY = frozenset({"message.unknown", "step.recovered"})
_LABELS: Mapping[str, tuple[str, ...]] = {
    "actor.crashed": ("actor", "method"),
    "supervisor.restarting": ("supervisor",),
    "supervisor.gave_up": ("supervisor",),
    "message.dead": ("address", "method"),
    "flow.started": ("workflow",),
    "flow.stopped": ("workflow", "status"),
}


def counted_by(name: str, fields: Mapping[str, Any]) -> dict[str, str]:
    """The attributes of a counter. Instances are left out of addresses: there is no end of them."""
    return {
        f"{NAME}.{label}": str(fields[label]).partition("#")[0] for label in _LABELS.get(name, ()) if label in fields
    }


def measured_by(span: observe.Span) -> dict[str, Any]:
    """The attributes of a histogram: few values each."""
    status = status_of(span)
    match span.kind:
        case "inbound":
            found: dict[str, Any] = {
                "messaging.system": NAME,
                "messaging.operation.name": "process",
                "messaging.destination.name": str(span.fields.get("actor", "")),
                f"{NAME}.method": str(span.fields.get("method", "")),
                f"{NAME}.status": status,
            }
        case "http":
            found = {"http.request.method": _method(span), "http.response.status_code": status}
            if status != 404 and "host" in span.fields:
                found["http.route"] = f"/{span.fields['host']}"
        case _:
            outcome = span.fields.get("ended") or ("failed" if span.error is not None else "done")
            workflow = str(span.fields.get("workflow", ""))
            return {f"{NAME}.workflow": workflow, f"{NAME}.node": span.name, f"{NAME}.outcome": str(outcome)}
    if status >= 500 and span.error is not None:
        found["error.type"] = type(span.error).__name__
    return found


def _method(span: observe.Span) -> str:
    known = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}
    method = str(span.fields.get("method", ""))
    return method if method in known else "_OTHER"


# --- made from variables -----------------------------------------------------------------------------------------


def resource_of(variables: Mapping[str, str], service: str) -> Resource:
    """Who reports. The SDK reads the variables; `service` is the name where they give none."""
    named = "OTEL_SERVICE_NAME" in variables or f"{SERVICE_NAME}=" in variables.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if named else {SERVICE_NAME: service})


def trace_observer(
    resource: Resource, variables: Mapping[str, str], chosen: str, exporter: SpanExporter | None
) -> TraceObserver:
    """With the exporter passed in, else the chosen one. Where the process has a provider already, that is used."""
    present = trace.get_tracer_provider()
    if exporter is None and isinstance(present, TracerProvider):
        return TraceObserver(present, own=False)
    processors: list[SpanProcessor] = (
        [SimpleSpanProcessor(exporter)]
        if exporter is not None
        else [BatchSpanProcessor(_span_exporter(name, variables)) for name in _names(chosen)]
    )
    provider = TracerProvider(resource=resource)
    for processor in processors:
        provider.add_span_processor(processor)
    if exporter is None:
        trace.set_tracer_provider(provider)
    return TraceObserver(provider)


def metrics_observer(
    resource: Resource, variables: Mapping[str, str], chosen: str, reader: MetricReader | None
) -> MetricsObserver:
    """With the reader passed in, else the chosen exporter. Where the process has a provider already, that is used."""
    present = metrics.get_meter_provider()
    if reader is None and isinstance(present, MeterProvider):
        return MetricsObserver(present, own=False)
    readers = (
        [reader]
        if reader is not None
        else [PeriodicExportingMetricReader(_metric_exporter(name, variables)) for name in _names(chosen)]
    )
    provider = MeterProvider(readers, resource)
    if reader is None:
        metrics.set_meter_provider(provider)
    return MetricsObserver(provider)


def _names(chosen: str) -> list[str]:
    return [name.strip() for name in chosen.split(",") if name.strip() not in {"", "none"}]


def _span_exporter(name: str, variables: Mapping[str, str]) -> Any:
    return ConsoleSpanExporter() if name == "console" else _otlp("TRACES", name, variables, "trace_exporter", "Span")


def _metric_exporter(name: str, variables: Mapping[str, str]) -> Any:
    if name == "console":
        return ConsoleMetricExporter()
    return _otlp("METRICS", name, variables, "metric_exporter", "Metric")


def _otlp(signal: str, name: str, variables: Mapping[str, str], module: str, what: str) -> Any:
    if name != "otlp":
        raise InvalidSpec(f"OTEL_{signal}_EXPORTER={name}: expected otlp, console or none")
    general = variables.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    protocol = variables.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or general
    if protocol not in {"http/protobuf", "grpc"}:
        raise InvalidSpec(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: expected http/protobuf or grpc")
    package = protocol.partition("/")[0]
    wanted = f"opentelemetry.exporter.otlp.proto.{package}.{module}"
    try:
        found = import_module(wanted)
    except ModuleNotFoundError as error:
        if error.name is None or not wanted.startswith(error.name):
            raise  # it is there, and something it needs is not
        install = "mbactor[otlp]" if package == "http" else "opentelemetry-exporter-otlp-proto-grpc"
        raise InvalidSpec(
            f"OpenTelemetry's {signal.lower()} are to be exported by otlp over {protocol}, and the exporter is not"
            f" installed: pip install '{install}', or set OTEL_{signal}_EXPORTER to console or none"
        ) from None
    return getattr(found, f"OTLP{what}Exporter")()
