"""The recorder keeps events and spans, and waits for one."""

from __future__ import annotations

import asyncio

import pytest

from mbactor import Actor, ActorCrashed, ActorSystem, endpoint, observe
from mbactor.testing import Recorder


class Fragile(Actor):
    host = "fragile.example"

    @endpoint
    async def break_down(self) -> None:
        raise ValueError("broken")


async def test_an_event_is_waited_for_and_returned_once(mbactor: ActorSystem, mbactor_recorder: Recorder) -> None:
    await mbactor.spawn(Fragile)
    first = await mbactor_recorder.wait_for("actor.started", actor="fragile.example#fragile")
    with pytest.raises(ActorCrashed):
        await mbactor.ask(Fragile.break_down)
    second = await mbactor_recorder.wait_for("actor.started", actor="fragile.example#fragile")
    assert [one.fields["incarnation"] for one in (first, second)] == [1, 2]
    assert second.at > first.at
    crashed = await mbactor_recorder.wait_for("actor.crashed", method="break_down")
    assert str(crashed.fields["error"]) == "broken"
    assert len(mbactor_recorder.find("actor.started")) == 2


async def test_spans_are_kept_when_they_end(mbactor: ActorSystem, mbactor_recorder: Recorder) -> None:
    await mbactor.spawn(Fragile)
    with pytest.raises(ActorCrashed):
        await mbactor.ask(Fragile.break_down)
    [span] = mbactor_recorder.spans
    assert (span.kind, span.name, str(span.error)) == ("inbound", "Fragile.break_down", "broken")


async def test_an_event_that_does_not_come_is_an_error_that_shows_what_came(mbactor_recorder: Recorder) -> None:
    with pytest.raises(
        AssertionError, match=r"no event 'log' with \{'level': 'info'\} within 2h; there was:\n  nothing"
    ):
        await mbactor_recorder.wait_for("log", within="2h", level="info")
    observe.emit("log", level="error")
    with pytest.raises(AssertionError, match=r"there was:\n  log \{'level': 'error'\}"):
        await mbactor_recorder.wait_for("log", level="info")


async def test_an_event_from_a_thread_wakes_who_waits(mbactor_recorder: Recorder) -> None:
    waiting = asyncio.ensure_future(mbactor_recorder.wait_for("log", message="from a thread"))
    await asyncio.to_thread(observe.emit, "log", message="from a thread")
    assert (await waiting).fields == {"message": "from a thread"}


async def test_an_unknown_event_is_refused_with_the_known_ones(mbactor_recorder: Recorder) -> None:
    with pytest.raises(KeyError, match=r"no event is called 'actor.exploded'; known: actor.abandoned"):
        await mbactor_recorder.wait_for("actor.exploded")
