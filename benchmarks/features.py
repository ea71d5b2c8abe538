"""What a feature costs on the path of a message, and that it costs nothing where it is not used.

A tell and an ask to the same method: as it is, on an actor with features that these messages don't use, while somebody
listens to events, while somebody traces, and with a role that is required of the caller.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import Bench, Case, Figure, InvalidRun, Measured, Pass, Result, percentiles
from benchmarks.messages import BURST, LATENCY, Counter, asking, check_delivered, numbers, telling
from mbactor import ActorRef, ActorSystem, MbactorError, endpoint, observe
from mbactor.foreman import END, Graph, task, workflow

IDENTITY = {"roles": ["user"]}
UNAUTHENTICATED = 401
NO_AUTHORIZATION = "with authorization: skipped, @endpoint takes no `requires` in this version"

Around = Callable[[], AbstractContextManager[Any]]


class Laden(Counter):
    """A counter with features that its messages pass by."""

    @endpoint(method="POST", path="/count-again")
    def again(self, by: int = 1) -> int:
        return self.total + by

    @task
    async def noted(self, total: int) -> dict[str, int]:
        return {"total": total}

    @workflow
    def noting(self) -> Graph:
        graph = Graph("Noting")
        graph.add_transition(Laden.noted, END)
        return graph


@dataclass
class Listener:
    """Hears what there is to hear, and keeps the number of spans."""

    wants_spans: bool
    spans: int = field(default=0, init=False)

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        pass

    def on_start(self, span: observe.Span) -> None:
        pass

    def on_end(self, span: observe.Span) -> None:  # noqa: ARG002 - an observer's own shape
        self.spans += 1


def guarded() -> type[Counter] | None:
    """A counter whose callers need a role; None where this version knows no such thing."""
    declare: Any = endpoint
    if "requires" not in inspect.signature(endpoint).parameters or not hasattr(ActorSystem, "acting_for"):
        return None

    class Guarded(Counter):
        @declare(requires="roles.user")  # type: ignore[untyped-decorator]
        async def add(self, by: int) -> int:
            self.total += by
            return self.total

    return Guarded


async def measure(bench: Bench, kind: str) -> list[Result]:
    """Either kind of message in all its variants; each stands beside the bare one of the same turn."""
    events, tracing = Listener(wants_spans=False), Listener(wants_spans=True)
    async with ActorSystem() as system:
        variants = await _variants(bench, system, events, tracing)
        passes = {name: _pass(bench, kind, ref, around) for name, (ref, around) in variants.items()}
        taken = await bench.in_turn(f"{kind} with features", passes, passes=bench.size(25, 2))
        check_delivered(system)
    if not tracing.spans or events.spans:
        raise InvalidRun(f"{tracing.spans} spans were traced, and {events.spans} told to who wanted none")
    beside, without = LATENCY if kind == "ask" else (), f"the same {kind} without it"
    figures = {name: Figure(f"{kind}, with {name}", "1/s", beside=beside) for name in variants if name != "bare"}
    return [bench.result(figure, taken[name], taken["bare"], without, {}) for name, figure in figures.items()]


async def _variants(
    bench: Bench, system: ActorSystem, events: Listener, tracing: Listener
) -> dict[str, tuple[ActorRef[Any], Around]]:
    """Whom to send to, and what is around it meanwhile."""
    plain = await system.spawn(Counter)
    variants: dict[str, tuple[ActorRef[Any], Around]] = {
        "bare": (plain, nullcontext),
        "features it does not use": (await system.spawn(Laden), nullcontext),
        "a listener to events": (plain, lambda: observe.observing(events)),
        "tracing": (plain, lambda: observe.observing(tracing)),
    }
    if (cls := guarded()) is not None:
        act: Any = system
        variants["authorization"] = (await _refusing(system, cls), lambda: act.acting_for(IDENTITY))
    elif NO_AUTHORIZATION not in bench.skipped:
        bench.skipped.append(NO_AUTHORIZATION)
    return variants


async def _refusing(system: ActorSystem, cls: type[Counter]) -> ActorRef[Counter]:
    """An actor that does refuse those without the role: what is measured is no empty promise."""
    ref = await system.spawn(cls)
    try:
        await ref.ask(Counter.add, by=1)
    except MbactorError as error:
        if error.status == UNAUTHENTICATED:
            return ref
        raise
    raise InvalidRun("a caller without an identity was let in")


def _pass(bench: Bench, kind: str, ref: ActorRef[Any], around: Around) -> Pass:
    work = telling(ref, bench.size(5, 1), numbers(bench, BURST)) if kind == "tell" else _asks(bench, ref)

    async def measured() -> Measured:
        with around():
            return await work()

    return measured


def _asks(bench: Bench, ref: ActorRef[Any]) -> Pass:
    values = numbers(bench, bench.size(2_000, 100))

    def add(value: int) -> Awaitable[int]:
        return ref.ask(Counter.add, by=value)

    async def measured() -> Measured:
        total = await ref.ask(Counter.read)
        expected = [total := total + value for value in values]
        times = await asking(add, values, expected)
        return {"rate": len(times) / sum(times), **percentiles(times, "us")}

    return measured


def _case(kind: str) -> Callable[[Bench], Awaitable[list[Result]]]:
    async def measured(bench: Bench) -> list[Result]:
        return await measure(bench, kind)

    return measured


CASES = (
    Case("features", "tell, with tracing, authorization or what is not used", _case("tell")),
    Case("features", "ask, with tracing, authorization or what is not used", _case("ask")),
)
