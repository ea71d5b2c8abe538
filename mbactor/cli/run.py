"""`mbactor run`: a topology in the foreground, from its start to its exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from mbactor import observe, offload
from mbactor.durations import text_of
from mbactor.errors import MbactorError, Unavailable
from mbactor.heap import settle
from mbactor.kernel.settings import Settings, environment
from mbactor.observers import LogObserver, telemetry_from_environment
from mbactor.supervisor.operate.control import Control
from mbactor.supervisor.operate.sockets import folders
from mbactor.supervisor.system import ActorSystem
from mbactor.supervisor.tree import render, walked
from mbactor.transport.nats_url import is_broker, without_secrets

if TYPE_CHECKING:
    from mbactor.kernel.exit import Exit
    from mbactor.supervisor.topology import Topology

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 3.0
"""Seconds after which it is said what a start waits for."""
GRACE = 1.0
"""Seconds that what is left at the end has to react to its cancellation."""
SAME_SIGNAL = 0.5
"""Seconds in which a repeated signal counts as the same one: a terminal and a wrapper may both deliver it."""


def serve(topology: Topology, *, log_level: str, log_format: str) -> int:
    """Run the tree until a signal or its own end; the exit code."""
    json_lines = {"auto": None, "text": False, "json": True}[log_format]
    observe.add_observer(LogObserver(sys.stderr, json=json_lines, level=log_level))
    try:
        stop_telemetry = _start_telemetry(topology.name)
    except MbactorError as error:
        return _failed(error)
    for where, text in topology.warnings:
        observe.emit("topology.doubtful", where=where, text=text)
    try:
        code, left = _run(_serve(topology))
    except KeyboardInterrupt:
        return 130
    finally:
        stop_telemetry()
    if left:
        # What was abandoned, or blocks a thread, would keep the process alive for as long as it likes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _start_telemetry(service: str) -> Callable[[], None]:
    """Listen for OpenTelemetry where its variables ask for it; what flushes it at the end."""
    variables = environment()
    if not Settings.from_environment(variables).telemetry:
        return lambda: None
    observers = telemetry_from_environment(variables, service=service)
    for observer in observers:
        observe.add_observer(observer)

    def shutdown() -> None:
        for observer in observers:
            observer.shutdown()

    return shutdown


def _run(work: Coroutine[Any, Any, int]) -> tuple[int, bool]:
    """The exit code, and whether something is left that does not end. On uvloop where it is installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):
        import uvloop  # pyright: ignore[reportMissingImports]  # an extra

        factory = uvloop.new_event_loop
    runner = asyncio.Runner(loop_factory=factory)
    try:
        code = runner.run(work)
        left = runner.run(offload.left_behind(GRACE))
    except BaseException:
        runner.close()
        raise
    if not left:
        runner.close()
    return code, left


async def _serve(topology: Topology) -> int:
    addresses = _Addresses()
    system = ActorSystem(
        topology.name,
        topology.transport,
        tree=topology.supervisor,
        locality=topology.locality,
        ack_window=topology.ack_window,
        max_body=topology.max_body,
        coalesce=topology.coalesce,
    )
    stopped = asyncio.Event()
    with observe.observing(addresses), _Signals(stopped):
        async with _shown(system, topology):
            return await _until_stopped(system, topology, stopped, addresses)


@asynccontextmanager
async def _shown(system: ActorSystem, topology: Topology) -> AsyncIterator[None]:
    """Let other programs of the user look at it and change it, also while it starts and stops. Where that cannot be
    had, it runs all the same.
    """
    async with AsyncExitStack() as stack:
        try:
            control = Control(system, topology.file, folders(environment()), topology.overlays)
            await stack.enter_async_context(control)
        except Unavailable as error:
            _tell(f"{click.style('warning:', fg='yellow')} no control socket: {error.message}", err=True)
        yield


async def _until_stopped(system: ActorSystem, topology: Topology, stopped: asyncio.Event, addresses: _Addresses) -> int:
    starting = asyncio.ensure_future(system.start())
    telling = asyncio.ensure_future(_tell_what_starts(system))
    by_signal = await _first(starting, stopped)
    telling.cancel()
    if by_signal:
        starting.cancel()
        await asyncio.wait([starting])
        return 0
    try:
        starting.result()
    except MbactorError as error:
        return _failed(error)
    settle()
    serving = [f"serving {click.style(url, bold=True)}" for url in addresses.urls]
    tree = render(await system.whole_tree(), "text")
    _tell("\n".join([tree, *serving, *_over(topology), f"Ctrl-C stops it (pid {os.getpid()})"]))
    ended = asyncio.ensure_future(system.wait())
    by_signal = await _first(ended, stopped)
    gave_up = None if by_signal else ended.result()
    await system.stop()
    ended.cancel()
    return 0 if gave_up is None or gave_up.clean else _gave_up(gave_up)


def _over(topology: Topology) -> list[str]:
    """Where others have to be to find it: who is on another server, or another plane, is told that nobody is there."""
    if not is_broker(topology.transport):
        return []
    plane = Settings.from_environment(environment()).plane
    return [f"over {click.style(without_secrets(topology.transport), bold=True)}, plane {plane}"]


async def _tell_what_starts(system: ActorSystem) -> None:
    """Say who is waited for, where the start takes long: after `PATIENCE`, then each time after twice as long."""
    pause, began = PATIENCE, time.monotonic()
    while True:
        await asyncio.sleep(pause)
        pause *= 2
        names = [path for path, node in walked(system.tree()) if node.state == "starting" and not node.children]
        since = text_of(round(time.monotonic() - began))
        _tell(f"starting since {since}: {', '.join(names) or system.name}", err=True)


async def _first(work: asyncio.Future[Any], stopped: asyncio.Event) -> bool:
    """Wait for either; True when the signal came first."""
    signalled = asyncio.ensure_future(stopped.wait())
    await asyncio.wait([work, signalled], return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    return stopped.is_set() and not work.done()


def _failed(error: MbactorError) -> int:
    _tell(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
    return 1


def _gave_up(exit: Exit) -> int:
    told = exit if exit.error is None else exit.error
    _tell(f"{click.style('error:', fg='red', bold=True)} the tree is down: {told}", err=True)
    return 1


def _tell(text: str, *, err: bool = False) -> None:
    """Print it; where nobody reads it, or the disk is full that it goes to, what runs goes on without."""
    stream = sys.stderr if err else sys.stdout
    try:
        click.echo(text, err=err)
        stream.flush()
    except OSError:
        # Nor is the rest of the buffer to be complained of at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Signals:
    """The first signal asks for a clean stop, a second one ends the process.

    Python's own handlers, and not those of the loop: they run while something blocks the loop, too.
    """

    def __init__(self, stopped: asyncio.Event) -> None:
        self._stopped = stopped
        self._caught_at: float | None = None
        self._over_at = 0.0

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            signal.signal(number, self._caught)

    def __exit__(self, *_: object) -> None:
        self._over_at = time.monotonic()
        for number in STOP_SIGNALS:
            signal.signal(number, self._late)

    def _late(self, number: int, _: object) -> None:
        """Everything is down: the same signal, delivered twice, changes nothing; an impatient one ends it."""
        if time.monotonic() - self._over_at > SAME_SIGNAL:
            os._exit(128 + number)

    def _caught(self, number: int, _: object) -> None:
        now = time.monotonic()
        if self._caught_at is None:
            self._caught_at = now
            self._loop.call_soon_threadsafe(self._stopped.set)
            _say("\nstopping; the same again ends it at once\n")
        elif now - self._caught_at >= SAME_SIGNAL:
            _say("stopped by a second signal; what was running is cut off\n")
            os._exit(128 + number)


def _say(text: str) -> None:
    """Tell it on stderr in the midst of anything, a write to stderr among it; nobody may be there any more to read."""
    with suppress(OSError):
        os.write(2, text.encode())


class _Addresses:
    """Hears where the gateways of the tree serve."""

    wants_spans = False

    def __init__(self) -> None:
        self.urls: list[str] = []

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        if name == "gateway.serving":
            self.urls.append(str(fields["url"]))

    def on_start(self, span: observe.Span) -> None: ...
    def on_end(self, span: observe.Span) -> None: ...
