"""The log: what people and machines read of the event stream, and the door to OpenTelemetry."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from mbactor import observe
from mbactor.errors import InvalidSpec, MbactorError
from mbactor.observers import LogObserver, exporters_of, telemetry_from_environment
from mbactor.said import LEVELS, SAID, level_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(stream: io.StringIO, name: str, /, level: str = "debug", **fields: Any) -> str:
    """What the log wrote of one event."""
    with observe.observing(LogObserver(stream, level=level)):
        observe.emit(name, **fields)
    return stream.getvalue()


def crash() -> ValueError:
    try:
        raise ValueError("boom")
    except ValueError as error:
        return error


# --- for machines ----------------------------------------------------------------------------------------------


def test_elsewhere_than_on_a_terminal_an_event_is_one_json_line() -> None:
    text = logged(io.StringIO(), "actor.crashed", actor="orders", method="place", error=crash(), told=True)
    assert text.count("\n") == 1
    line = json.loads(text)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["event"], line["error"]) == ("error", "actor.crashed", "ValueError: boom")
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: boom\n")


def test_a_line_of_user_code_has_its_own_level_and_text() -> None:
    stream = io.StringIO()
    with observe.observing(LogObserver(stream)):
        observe.emit("log", level="warning", message="placed", sku="pear", event="mine")
    line = json.loads(stream.getvalue())
    assert (line["level"], line["event"], line["sku"], line["event_"]) == ("warning", "placed", "pear", "mine")


def test_the_trace_at_hand_is_bound() -> None:
    stream, trace = io.StringIO(), "a" * 32
    token = observe.current_trace.set(f"00-{trace}-{'b' * 16}-01")
    with observe.observing(LogObserver(stream)):
        observe.emit("log", level="info", message="inside")
    observe.current_trace.reset(token)
    assert json.loads(stream.getvalue())["trace_id"] == trace


def test_the_trace_that_came_from_another_actor_is_the_one_that_is_shown() -> None:
    error = MbactorError.restore("boom", 500, {}, remote_trace="there and then")
    assert json.loads(logged(io.StringIO(), "actor.crashed", error=error))["exception"] == "there and then"


def test_a_value_that_no_json_holds_is_written_as_text() -> None:
    line = json.loads(logged(io.StringIO(), "log", message="x", what=object(), many={"a": {1, 2}}, none=None))
    assert line["what"].startswith("<object")
    assert line["none"] is None


# --- for people ------------------------------------------------------------------------------------------------


def test_on_a_terminal_an_event_is_a_sentence_with_its_fields_and_the_traceback_below() -> None:
    text = logged(Terminal(), "actor.crashed", actor="orders.example#orders", method="place", error=crash(), told=True)
    first, *below = text.splitlines()
    plain = _without_colors(first)
    assert "[error  ] actor crashed" in plain
    assert plain.endswith("actor=orders.example#orders method=place error=ValueError: boom")
    assert below[0] == "    Traceback (most recent call last):"
    assert below[-1] == "    ValueError: boom"


def test_colors_are_for_terminals_and_can_be_switched_off() -> None:
    assert "\x1b[" in logged(Terminal(), "gateway.serving", url="http://x")
    stream = Terminal()
    with observe.observing(LogObserver(stream, colors=False)):
        observe.emit("gateway.serving", url="http://x")
    assert "\x1b" not in stream.getvalue()


def test_no_value_writes_to_the_terminal_what_it_likes() -> None:
    stream = Terminal()
    with observe.observing(LogObserver(stream, colors=False)):
        observe.emit(
            "log", level="error", message="a\nb\x1b[2J", value="c\x1b]0;d\x07", error=None, trace="e\x1b[2J\nf"
        )
    assert "\x1b" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 3


def test_a_duration_reads_like_one() -> None:
    text = _without_colors(logged(Terminal(), "supervisor.restarting", supervisor="s", child="c", delay=0.25))
    assert "delay=250ms" in text


@pytest.mark.parametrize(("over", "said"), [(False, "event loop is blocked "), (True, "event loop was blocked ")])
def test_a_blockage_reads_as_one_that_goes_on_or_is_over(over: bool, said: str) -> None:
    fields: dict[str, Any] = {
        "actor": "img#1",
        "method": "make",
        "seconds": 1.5,
        "where": "/app/img.py:12",
        "over": over,
    }
    text = _without_colors(logged(Terminal(), "loop.blocked", **fields))
    assert f"[warning] {said}" in text
    assert text.rstrip().endswith("actor=img#1 method=make seconds=1.5s where=/app/img.py:12")
    assert json.loads(logged(io.StringIO(), "loop.blocked", **fields))["over"] is over


def test_frames_of_the_runtime_are_left_out_of_a_traceback_and_the_last_frame_never() -> None:
    scope: dict[str, Any] = {"__name__": "mbactor.kernel.gate"}
    exec(compile("def run(f):\n    return f()", "gate.py", "exec"), scope)

    def method() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError) as caught:
        scope["run"](method)
    error = caught.value
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # this test's own frame
    text = json.loads(logged(io.StringIO(), "actor.crashed", error=error))["exception"]
    assert "in method" in text
    assert "in run" not in text


def _without_colors(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# --- levels ------------------------------------------------------------------------------------------------------


def test_every_event_of_the_stream_has_a_level_and_a_sentence() -> None:
    assert set(SAID) == set(observe.EVENTS) - {"log"}
    assert all(level in LEVELS and text for level, text in SAID.values())


def test_what_is_below_the_level_is_left_out() -> None:
    assert logged(io.StringIO(), "actor.started", level="info", actor="a", incarnation=1) == ""
    assert logged(io.StringIO(), "actor.started", level="info", actor="a", incarnation=2) != ""
    assert logged(io.StringIO(), "system.serving", level="error", system="a", where="here") == ""


@pytest.mark.parametrize(
    ("name", "fields", "level"),
    [
        ("actor.started", {"incarnation": 1}, "debug"),
        ("actor.started", {"incarnation": 2}, "info"),
        ("actor.stopped", {"exit": "shutdown"}, "debug"),
        ("actor.stopped", {"exit": "killed"}, "warning"),
        ("flow.stopped", {"status": "completed"}, "debug"),
        ("flow.stopped", {"status": "failed"}, "warning"),
        ("log", {"level": "warning"}, "warning"),
        ("log", {"level": "shout"}, "info"),
        ("something.new", {}, "info"),
    ],
)
def test_the_level_of_an_event(name: str, fields: dict[str, Any], level: str) -> None:
    assert level_of(name, fields) == level


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="'loud': expected one of debug"):
        LogObserver(level="loud")


# --- a stream that fails -------------------------------------------------------------------------------------------


def test_a_closed_stream_loses_lines_and_stops_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    with observe.observing(LogObserver(stream)):
        observe.emit("system.serving", system="a")
        assert observe.active()


def test_a_stream_of_narrow_letters_gets_them_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with observe.observing(LogObserver(stream, json=False)):
        observe.emit("log", message="größer")
    assert b"gr\\xf6\\xdfer" in raw.getvalue()


def test_a_reader_that_goes_away_does_not_end_the_process() -> None:
    code = (
        "import sys; from mbactor import observe; from mbactor.observers import LogObserver\n"
        "observe.add_observer(LogObserver())\n"
        "sys.stdin.readline()\n"
        "for _ in range(1000): observe.emit('log', level='info', message='x' * 1000)\n"
        "print('went on')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    process.stderr.close()
    process.stderr = None
    out, _ = process.communicate("now\n", timeout=60)
    assert out == "went on\n"


# --- the door to OpenTelemetry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "traces", "metrics"),
    [
        ({}, "", ""),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console", ""),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "otlp"}, "", "otlp"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, "otlp", "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, "otlp", ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_METRICS_EXPORTER": "none"}, "otlp", ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "TRUE"}, "", ""),
    ],
)
def test_the_exporters_are_chosen_by_opentelemetrys_own_variables(
    variables: dict[str, str], traces: str, metrics: str
) -> None:
    assert exporters_of(variables) == {"traces": traces, "metrics": metrics}


def test_where_no_telemetry_is_wanted_there_are_no_observers() -> None:
    assert telemetry_from_environment({}) == []


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "pip install 'opentelemetry-exp"),
        ({"OTEL_METRICS_EXPORTER": "jaeger"}, "OTEL_METRICS_EXPORTER=jaeger: expected otlp, console or none"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "expected http/protobuf or grpc",
        ),
    ],
)
def test_an_exporter_that_cannot_be_had_is_an_error_that_says_what_to_do(variables: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidSpec, match=told.replace("(", r"\(")):
        telemetry_from_environment(variables)


def test_a_system_without_telemetry_imports_nothing_of_opentelemetry() -> None:
    code = """
import asyncio, sys
import mbactor
assert not any(name.startswith(("opentelemetry", "structlog")) for name in sys.modules)
from mbactor import observe
from mbactor.kernel import Actor, endpoint
from mbactor.kernel.cell import Cell
from mbactor.kernel.node import Node
from mbactor.observers import LogObserver, telemetry_from_environment
from mbactor.transport.local import LocalBus

class Echo(Actor):
    @endpoint
    async def say(self, text: str) -> str:
        return text

async def main():
    assert telemetry_from_environment({}) == []
    observe.add_observer(LogObserver())
    node = Node("n", LocalBus())
    await node.open()
    cell = Cell(node, Echo, id="echo")
    await cell.start()
    assert await cell.ref.ask(Echo.say, "hello") == "hello"
    await cell.stop(1.0)
    await node.close()

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
