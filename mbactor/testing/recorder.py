"""`Recorder`: keeps what happens in the runtime, and waits for it.

restarted = await recorder.wait_for("actor.started", actor="orders", incarnation=2)
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mbactor import clock, observe
from mbactor.durations import Duration, seconds, text_of


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Something that happened: its name (one of `observe.EVENTS`), its fields, and when by the wall clock."""

    name: str
    fields: Mapping[str, Any]
    at: float

    def matches(self, name: str, fields: Mapping[str, Any]) -> bool:
        missing = object()
        return self.name == name and all(self.fields.get(key, missing) == value for key, value in fields.items())


class Recorder:
    """An observer that keeps all events and all spans that have ended. It may be called from any thread.

    gave_up = await mbactor_recorder.wait_for("supervisor.gave_up", within="1m")
    assert gave_up.fields["child"] == "orders"
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.events: list[Event] = []
        self.spans: list[observe.Span] = []
        """Those that have ended, in the order of their ends."""
        self._loop = loop
        self._more = asyncio.Event()
        self._returned: set[int] = set()

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        self.events.append(Event(name, dict(fields), clock.unix()))
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._more.set)

    def on_start(self, span: observe.Span) -> None:
        pass

    def on_end(self, span: observe.Span) -> None:
        self.spans.append(span)

    def find(self, name: str, /, **fields: Any) -> list[Event]:
        """Every event of this name with at least these fields, in order."""
        _check(name)
        return [event for event in self.events if event.matches(name, fields)]

    async def wait_for(self, name: str, /, *, within: Duration = "10s", **fields: Any) -> Event:
        """The first event of this name with at least these fields that no earlier `wait_for` has returned.

        It may have happened already. AssertionError when the time is over, with the events there were.
        """
        _check(name)
        try:
            async with asyncio.timeout(seconds(within)):
                while (found := self._next(name, fields)) is None:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise AssertionError(self._missed(name, fields, seconds(within))) from None
        self._returned.add(id(found))
        return found

    def _next(self, name: str, fields: Mapping[str, Any]) -> Event | None:
        return next((one for one in self.events if id(one) not in self._returned and one.matches(name, fields)), None)

    def _missed(self, name: str, fields: Mapping[str, Any], within: float) -> str:
        with_fields = f" with {dict(fields)!r}" if fields else ""
        seen = "\n".join(f"  {event.name} {dict(event.fields)!r}" for event in self.events) or "  nothing"
        return f"no event {name!r}{with_fields} within {text_of(within)}; there was:\n{seen}"


def _check(name: str) -> None:
    if name not in observe.EVENTS:
        raise KeyError(f"no event is called {name!r}; known: {', '.join(sorted(observe.EVENTS))}")
