"""OpenTelemetry: what is exported of the event stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from mbactor import observe
from mbactor.errors import BadRequest, MbactorError
from mbactor.kernel import Actor, endpoint
from mbactor.kernel.cell import Cell
from mbactor.kernel.exit import SHUTDOWN
from mbactor.kernel.node import Node
from mbactor.observers import telemetry_from_environment
from mbactor.services.gateway import Gateway
from mbactor.telemetry import TraceObserver
from mbactor.transport.local import LocalBus

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Exported:
    """What reached the exporters."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        return next(span for span in self.spans() if span.name == name)

    def points(self, metric: str) -> list[tuple[dict[str, Any], Any]]:
        """(attributes, point) of a metric."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return [
            (dict(point.attributes or {}), point)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for found in scope.metrics
            if found.name == metric
            for point in found.data.data_points
        ]


@pytest.fixture
def exported() -> Iterator[Exported]:
    """Telemetry with exporters of this test's own."""
    found = Exported()
    observers = telemetry_from_environment({}, span_exporter=found.exporter, metric_reader=found.reader)
    for observer in observers:
        observe.add_observer(observer)
    yield found
    for observer in observers:
        observe.remove_observer(observer)
        observer.shutdown()


class Stock(Actor):
    host = "stock.example"

    @endpoint
    async def reserve(self, sku: str) -> int:
        with trace.get_tracer("shop", tracer_provider=Shared.provider).start_as_current_span("look up"):
            trace.get_current_span().set_attribute("sku", sku)
        return 1


class Shared:
    """The provider that the user's code has its tracer from."""

    provider: TracerProvider | None = None


class Orders(Actor):
    host = "orders.example"

    @endpoint
    async def place(self, sku: str) -> int:
        return await self.ask(Stock.reserve, sku)

    @endpoint
    async def refuse(self) -> None:
        raise BadRequest("no such thing")

    @endpoint
    async def crash(self) -> None:
        raise RuntimeError("boom")


class Front(Actor):
    host = "front.example"

    @endpoint
    async def order(self, sku: str) -> int:
        return await self.ask(Orders.place, sku)


async def _over_http(*requests: tuple[str, dict[str, str]]) -> list[int]:
    node = Node("test", LocalBus())
    await node.open()
    cells = [Cell(node, cls, id=cls.__name__.lower()) for cls in (Stock, Orders, Front)]
    cells.append(Cell(node, Gateway, (), {"port": 0}, id="gateway"))
    try:
        for cell in cells:
            await cell.start()
        assert cells[-1].current is not None
        gateway = cells[-1].current.actor
        assert isinstance(gateway, Gateway)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as http:
            return [
                (await http.post(path, json={"sku": "pear"}, headers=headers)).status_code for path, headers in requests
            ]
    finally:
        for cell in reversed(cells):
            await cell.stop(5.0)
            cell.close(SHUTDOWN)
        await node.close()


def _parent(span: ReadableSpan) -> int:
    assert span.parent is not None
    return int(span.parent.span_id)


def _id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def test_a_trace_runs_from_the_http_request_through_two_asks(exported: Exported) -> None:
    header = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    assert asyncio.run(_over_http(("/front.example/order", header))) == [200]
    http, front = exported.span("POST /front.example"), exported.span("process Front.order")
    orders, stock = exported.span("process Orders.place"), exported.span("process Stock.reserve")
    chain = [http, front, orders, stock]
    assert {span.context.trace_id for span in chain if span.context} == {int(TRACE, 16)}
    assert _parent(http) == int(CALLER, 16)
    assert [_parent(span) for span in chain[1:]] == [_id(span) for span in chain[:-1]]
    assert [span.kind for span in chain] == [SpanKind.SERVER, *[SpanKind.CONSUMER] * 3]
    assert all(span.status.status_code is StatusCode.UNSET for span in chain)


def test_requests_without_a_trace_get_one_each(exported: Exported) -> None:
    asyncio.run(_over_http(("/front.example/order", {}), ("/front.example/order", {})))
    traces = [span.context.trace_id for span in exported.spans() if span.context]
    assert len(traces) == 8
    assert len(set(traces)) == 2


def test_spans_of_user_code_lie_within_ours() -> None:
    exporter = InMemorySpanExporter()
    Shared.provider = TracerProvider()
    Shared.provider.add_span_processor(SimpleSpanProcessor(exporter))
    try:
        with observe.observing(TraceObserver(Shared.provider)):
            asyncio.run(_over_http(("/front.example/order", {})))
    finally:
        Shared.provider = None
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert _parent(spans["look up"]) == _id(spans["process Stock.reserve"])
    assert spans["look up"].context is not None
    assert f"{spans['look up'].context.trace_id:032x}" == f"{_trace(spans['POST /front.example']):032x}"


def _trace(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


def test_our_ids_are_the_exported_ids(exported: Exported) -> None:
    with observe.span("step", "verify", flow="1-7", attempt=2) as span:
        assert isinstance(span, observe.Span)
    found = exported.span("step verify")
    assert f"{_trace(found):032x}" == span.trace_id
    assert f"{_id(found):016x}" == span.span_id
    assert found.kind is SpanKind.INTERNAL
    assert dict(found.attributes or {}) == {"mbactor.flow": "1-7", "mbactor.attempt": 2}
    assert found.start_time == span.unix_ns
    assert found.end_time == span.unix_ns + int(span.duration * 1e9)


def test_names_and_attributes_are_those_of_the_conventions(exported: Exported) -> None:
    assert asyncio.run(_over_http(("/front.example/order", {}))) == [200]
    http = dict(exported.span("POST /front.example").attributes or {})
    assert http["http.request.method"] == "POST"
    assert http["http.route"] == "/front.example"
    assert http["http.response.status_code"] == 200
    inbound = dict(exported.span("process Orders.place").attributes or {})
    assert inbound["messaging.system"] == "mbactor"
    assert inbound["messaging.operation.type"] == "process"
    assert inbound["messaging.destination.name"] == "orders.example"
    assert inbound["mbactor.method"] == "place"
    assert inbound["mbactor.status"] == 200


def test_a_crash_is_an_error_with_its_exception_and_a_refusal_is_neither(exported: Exported) -> None:
    assert asyncio.run(_over_http(("/orders.example/refuse", {}), ("/orders.example/crash", {}))) == [400, 500]
    refused, crashed = exported.span("process Orders.refuse"), exported.span("process Orders.crash")
    assert refused.status.status_code is StatusCode.UNSET
    assert (refused.attributes or {})["error.type"] == "BadRequest"
    assert (refused.attributes or {})["mbactor.status"] == 400
    assert crashed.status.status_code is StatusCode.ERROR
    assert [event.name for event in crashed.events] == ["exception"]
    https = [span for span in exported.spans() if span.kind is SpanKind.SERVER]
    assert [(span.attributes or {})["http.response.status_code"] for span in https] == [400, 500]
    assert [span.status.status_code for span in https] == [StatusCode.UNSET, StatusCode.ERROR]
    told = dict(https[1].events[0].attributes or {})
    assert "in crash" in str(told["exception.stacktrace"])


def test_a_parked_step_is_no_error(exported: Exported) -> None:
    class Parked(BaseException):
        pass

    with pytest.raises(Parked), observe.span("step", "wait"):
        raise Parked
    assert exported.span("step wait").status.status_code is StatusCode.UNSET


def test_the_sampler_of_the_provider_decides_and_the_decision_travels() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    observer = TraceObserver(provider)
    with observe.observing(observer):
        with observe.span("http", "dropped"), observe.span("store", "with it"):
            assert (observe.traceparent() or "").endswith("-00")
        with observe.span("inbound", "kept", parent=f"00-{TRACE}-{CALLER}-01"):
            assert (observe.traceparent() or "").endswith("-01")
    observer.shutdown()
    assert [span.name for span in exporter.get_finished_spans()] == ["process kept"]


def test_an_ask_from_within_a_span_of_user_code_is_its_child(exported: Exported) -> None:
    provider = TracerProvider()
    with provider.get_tracer("user").start_as_current_span("outer") as outer, observe.span("outbound", "Orders.place"):
        pass
    found = exported.span("request Orders.place")
    assert _parent(found) == outer.get_span_context().span_id
    assert _trace(found) == outer.get_span_context().trace_id


def test_a_span_that_began_before_anybody_listened_ends_in_peace(exported: Exported) -> None:
    late = Exported()
    with observe.span("step", "early"):
        observers = telemetry_from_environment({}, span_exporter=late.exporter)
        observe.add_observer(observers[0])
    observe.remove_observer(observers[0])
    observers[0].shutdown()
    assert late.spans() == []
    assert len(exported.spans()) == 1


def test_metrics_measure_methods_requests_and_steps(exported: Exported) -> None:
    answers = asyncio.run(
        _over_http(("/front.example/order", {}), ("/orders.example/crash", {}), ("/nobody.example/x", {}))
    )
    assert answers == [200, 500, 404]
    methods = {
        (a["messaging.destination.name"], a["mbactor.method"], a["mbactor.status"]): p
        for a, p in exported.points("messaging.process.duration")
    }
    assert set(methods) == {
        ("front.example", "order", 200),
        ("orders.example", "place", 200),
        ("stock.example", "reserve", 200),
        ("orders.example", "crash", 500),
    }
    assert methods["orders.example", "place", 200].count == 1
    requests = [
        (a.get("http.route"), a["http.response.status_code"])
        for a, _ in exported.points("http.server.request.duration")
    ]
    assert sorted(requests, key=str) == [("/front.example", 200), ("/orders.example", 500), (None, 404)]
    assert [(a, p.value) for a, p in exported.points("mbactor.actor.crashes")] == [
        ({"mbactor.actor": "orders.example", "mbactor.method": "crash"}, 1)
    ]


def test_metrics_count_what_happens_to_flows_children_and_messages(exported: Exported) -> None:
    with observe.span("step", "verify", workflow="Credit.approval") as span:
        span["ended"] = "completed"
    observe.emit("flow.started", flow="1-1", workflow="Credit.approval")
    observe.emit("flow.stopped", flow="1-1", workflow="Credit.approval", status="completed")
    observe.emit("supervisor.restarting", supervisor="root", child="orders", delay=0.0, restarts=1, reason="failed")
    observe.emit("message.dead", address="orders.example#orders-1", method="place", sender=None, reason="full")
    observe.emit("message.unknown", count=40)
    observe.emit("step.recovered", count=3)
    [(step, _)] = exported.points("mbactor.step.duration")
    assert step == {
        "mbactor.workflow": "Credit.approval", "mbactor.node": "verify", "mbactor.outcome": "completed"
    }  # fmt: skip
    [(stopped, point)] = exported.points("mbactor.flows.stopped")
    assert stopped == {"mbactor.workflow": "Credit.approval", "mbactor.status": "completed"}
    assert point.value == 1
    assert len(exported.points("mbactor.flows.started")) == 1
    assert exported.points("mbactor.supervisor.restarts")[0][0] == {"mbactor.supervisor": "root"}
    assert exported.points("mbactor.dead_letters")[0][0]["mbactor.address"] == "orders.example"
    assert exported.points("mbactor.messages.unknown")[0][1].value == 40
    assert exported.points("mbactor.steps.recovered")[0][1].value == 3


def test_an_error_with_a_remote_trace_is_recorded_with_that() -> None:
    found = Exported()
    [observer] = telemetry_from_environment({}, span_exporter=found.exporter)
    with observe.observing(observer), pytest.raises(MbactorError), observe.span("inbound", "x"):
        raise MbactorError.restore("boom", 500, {}, remote_trace="there and then")
    observer.shutdown()
    [event] = found.span("process x").events
    assert dict(event.attributes or {})["exception.stacktrace"] == "there and then"


def test_the_service_has_the_name_it_is_given_unless_the_variables_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for variables, name in (({}, "shop"), ({"OTEL_SERVICE_NAME": "named"}, "named")):
        for key, value in variables.items():
            monkeypatch.setenv(key, value)
        found = Exported()
        [observer] = telemetry_from_environment(variables, service="shop", span_exporter=found.exporter)
        with observe.observing(observer), observe.span("step", "x"):
            pass
        observer.shutdown()
        assert found.spans()[0].resource.attributes["service.name"] == name
