"""The event stream: who listens hears, and no listener can hurt."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor import observe

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"


class Seen:
    """Keeps all it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.started: list[observe.Span] = []
        self.ended: list[observe.Span] = []

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        self.events.append((name, dict(fields)))

    def on_start(self, span: observe.Span) -> None:
        self.started.append(span)

    def on_end(self, span: observe.Span) -> None:
        self.ended.append(span)


class Broken(Seen):
    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        raise RuntimeError("broken")


def test_nobody_listens_and_nothing_is_made() -> None:
    assert not observe.active()
    observe.emit("log", message="unheard")
    with observe.span("step", "x") as span:
        span["a"] = 1
        assert observe.traceparent() is None


def test_a_listener_hears_events_and_spans_until_it_leaves() -> None:
    seen = Seen()
    with observe.observing(seen):
        observe.emit("log", message="heard", name="a field may be called name")
        with observe.span("step", "x", flow="1") as span:
            span["ended"] = "done"
    observe.emit("log", message="unheard")
    assert seen.events == [("log", {"message": "heard", "name": "a field may be called name"})]
    assert seen.started == seen.ended
    assert seen.ended[0].fields == {"flow": "1", "ended": "done"}
    assert seen.ended[0].duration >= 0


def test_a_span_is_the_child_of_the_one_at_hand() -> None:
    seen = Seen()
    with observe.observing(seen), observe.span("http", "outer"), observe.span("step", "inner"):
        pass
    inner, outer = seen.ended
    assert inner.trace_id == outer.trace_id
    assert inner.parent_id == outer.span_id
    assert outer.parent_id is None


def test_a_parent_of_none_begins_a_new_trace_and_a_header_continues_one() -> None:
    seen = Seen()
    with observe.observing(seen), observe.span("http", "outer"):
        with observe.span("inbound", "other", parent=None):
            pass
        with observe.span("inbound", "continued", parent=HEADER):
            assert observe.traceparent() == seen.started[-1].traceparent()
    other, continued, outer = seen.ended
    assert other.parent_id is None
    assert other.trace_id != outer.trace_id
    assert (continued.trace_id, continued.parent_id) == (TRACE, SPAN)


def test_an_error_is_noted_and_goes_on() -> None:
    seen = Seen()
    with observe.observing(seen), pytest.raises(KeyError), observe.span("step", "x"):
        raise KeyError("x")
    assert isinstance(seen.ended[0].error, KeyError)
    assert observe.traceparent() is None


def test_what_an_observer_decides_about_a_span_travels_in_its_header() -> None:
    class NotSampled(Seen):
        def on_start(self, span: observe.Span) -> None:
            span.sampled = False

    with observe.observing(NotSampled()), observe.span("http", "x"):
        assert (observe.traceparent() or "").endswith("-00")


def test_an_observer_that_raises_is_removed_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    seen, broken = Seen(), Broken()
    with observe.observing(broken), observe.observing(seen):
        observe.emit("log", message="one")
        observe.emit("log", message="two")
    assert len(seen.events) == 2
    assert capsys.readouterr().err.count("was removed") == 1


@pytest.mark.parametrize("gone", [None, "closed"])
def test_an_observer_that_raises_hurts_nobody_when_stderr_is_gone(
    gone: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = None if gone is None else io.StringIO()
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    with observe.observing(Broken()):
        observe.emit("log", message="one")
    assert not observe.active()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEADER, (TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-00", (TRACE, SPAN, False)),
        (f"00-{TRACE}-{SPAN}-03", (TRACE, SPAN, True)),
        (f"01-{TRACE}-{SPAN}-01-more", (TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{'z' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        ("", None),
    ],
)
def test_a_traceparent_is_read_as_the_w3c_has_it(text: str, expected: tuple[str, str, bool] | None) -> None:
    assert observe.parse_traceparent(text) == expected


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader_of_a_traceparent(text: str) -> None:
    found = observe.parse_traceparent(text)
    if found is not None:
        assert int(found[0], 16) > 0
        assert int(found[1], 16) > 0
