"""What runs in a node: a child of a supervisor (an actor, or a whole subtree) in an OS process of its own.

The other side is `process.py`; the two speak in the frames of `frames.py`. A thread reads them, so the end of
the parent is seen, and a ping answered, also while the event loop is blocked. The node never outlives its parent: when
the control socket ends, it stops what it runs, and after `ORPHANED` seconds ends whatever that does.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from mbactor import observe, offload
from mbactor.errors import Ignore, MbactorError, Unavailable, to_wire
from mbactor.heap import settle
from mbactor.kernel.exit import SHUTDOWN, Exit
from mbactor.kernel.node import Node
from mbactor.kernel.settings import environment
from mbactor.process_worker import exactly, prepare, withstand_signals
from mbactor.supervisor.children import Child, build_child, made
from mbactor.supervisor.node.frames import (
    LENGTH,
    Begin,
    Close,
    Done,
    Exited,
    Failed,
    FromNode,
    FromParent,
    Happened,
    Look,
    Operate,
    Pause,
    Ping,
    Pong,
    Ready,
    Seen,
    Serves,
    Start,
    Stop,
    Stopped,
    Terminate,
    WireExit,
    encoded,
    from_parent,
    plain,
    unpickled,
)
from mbactor.supervisor.operate.by_name import operate, supervisor
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.tree import refresh, tree_of_child
from mbactor.transport.bus import Bus
from mbactor.transport.link import LinkBus

if TYPE_CHECKING:
    from mbactor.observers import TelemetryObserver

ORPHANED = 5.0
"""Seconds a node has to stop what it runs once its parent is gone."""
RECONNECT = 10.0
"""Seconds a node has to reach the broker."""
PAUSE = 0.05
"""Seconds between its tries."""
LEFT = 1.0
"""Seconds what is left at the end has to react to its cancellation."""
TERMINATED = 0.5
"""Seconds a SIGTERM waits for the parent's word: a service that is stopped signals the parent as well."""
NESTED = 0.2
"""Seconds that a node waits for what its own nodes tell of themselves."""
BATCH = 100
"""Frames that leave in one write."""
EVENTS = 10_000
"""Events that may wait for a parent that does not read."""


def main(control: int, bus: int | None = None) -> None:
    """Run what the parent at the other end of the control socket says, until it says stop."""
    withstand_signals()
    _be_woken_when_the_parent_ends()
    if sys.stderr is not None:
        faulthandler.enable(all_threads=False)
    link, *lent = [socket.socket(fileno=one) for one in (control, bus) if one is not None]
    for one in (link, *lent):  # else a child of this process would keep the parent from seeing its end
        one.set_inheritable(False)
        os.register_at_fork(after_in_child=one.close)
    line = _Line(link)
    try:
        begin = line.receive()
    except (EOFError, OSError):
        return  # the parent has gone, or does not want it any more
    assert isinstance(begin, Begin)
    prepare(begin.preparation)
    observe.add_observer(_Teller(line))
    observers = _telemetry(begin.parent.partition("/")[0]) if begin.traced else []
    hosted = _Hosted(begin, line, _broker(begin.url) if begin.url is not None else LinkBus(lent[0]))
    runner = asyncio.Runner(loop_factory=_loop_factory(uvloop=begin.uvloop))
    try:
        runner.run(hosted.run())
        left = runner.run(offload.left_behind(LEFT))
    finally:
        for observer in observers:
            observer.shutdown()
        line.drain()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # it may be closed, or anything
            stream.flush()  # pyright: ignore[reportOptionalMemberAccess]
    if left:
        os._exit(0)
    runner.close()


class _Hosted:
    """The child, and the frames about it, on the event loop."""

    def __init__(self, begin: Begin, line: _Line, bus: Bus) -> None:
        self._begin = begin
        self._line = line
        self._bus = bus
        self._frames: asyncio.Queue[FromParent | None] = asyncio.Queue()
        self._starting: asyncio.Task[None] | None = None
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._child: Child
        self._node: Node
        self._is_actor = False
        self._shutdown: float | None = None
        self._id = ""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._line.read(loop, self._frames.put_nowait)
        loop.add_signal_handler(signal.SIGTERM, self._terminated)
        begin = self._begin
        try:
            spec = replace(unpickled(begin.spec), process=False)
        except BaseException as error:
            self._line.send(Failed(to_wire(error), ignored=False))
            raise SystemExit(1) from error
        self._is_actor, self._shutdown, self._id = spec.kind == "actor", spec.shutdown, spec.id
        path = f"{begin.parent}/{spec.id}"
        self._node = Node(
            path.replace("/", "."),
            self._bus,
            plane=begin.plane,
            serialize_local=begin.serialize_local,
            watchdog=begin.watchdog,
            ack_window=begin.ack_window,
            max_body=begin.max_body,
            coalesce=begin.coalesce,
            locality=begin.locality,
        )
        self._node.supervisor = lambda name: supervisor(name, self._roots())
        self._node.serves = self._serves
        try:
            await self._connected()
        except MbactorError as error:
            self._line.send(Failed(to_wire(error), ignored=False))
            raise SystemExit(1) from error
        self._child = made(spec, self._node, begin.parent, build_child)
        self._child.on_exit = self._exited
        self._child.terminate = self._terminate
        taking = loop.create_task(self._take_frames())
        await self._over.wait()
        taking.cancel()
        await self._node.close()

    async def _connected(self) -> None:
        """Open the node. The parent runs on the same bus, so one that cannot be reached may just be restarted."""
        deadline = asyncio.get_running_loop().time() + RECONNECT
        while True:
            try:
                return await self._node.open()
            except Unavailable:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
                await asyncio.sleep(PAUSE)

    def _serves(self, host: str, on: bool) -> None:
        if not self._node.leaving:
            self._line.send(Serves(host, on))

    async def _take_frames(self) -> None:
        while True:
            frame = await self._frames.get()
            match frame:
                case Start(number):
                    self._child.incarnation = number - 1
                    self._starting = asyncio.get_running_loop().create_task(self._start())
                case Stop(timeout, exit):
                    self._stop(timeout, exit.exit())
                case Pause(seconds):
                    self._child.pause(seconds)
                case Close(exit):
                    self._child.close(exit.exit())
                    self._over.set()
                case Look():
                    self._do(self._tell_what_runs())
                case Operate():
                    self._do(self._operate(frame))
                case None:
                    self._stop(None, SHUTDOWN)
                case _:
                    pass

    async def _start(self) -> None:
        try:
            await self._child.start()
            with suppress(Unavailable):  # a broker that is away gets what is served as soon as it is back
                await self._bus.flush()  # who hears that it is ready may ask it at once, by another socket
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told
            self._line.send(Failed(to_wire(error), ignored=isinstance(error, Ignore)))
            self._leave()
            self._child.close(Exit("failed", error))
            self._over.set()
        else:
            self._node.serving = True
            settle()
            self._line.send(Ready(self._child.ref.url if self._is_actor else None))

    def _stop(self, timeout: float | None, exit: Exit) -> None:
        self._node.stopping = True
        self._stopping = True
        self._do(self._stopped(timeout, exit))

    async def _stopped(self, timeout: float | None, exit: Exit) -> None:
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
        self._leave()
        if not isinstance(self._bus, LinkBus):
            await self._node.leave()
        exit = await self._child.stop(timeout, exit)
        if not self._over.is_set():
            self._child.close(exit)
            self._line.send(Stopped(WireExit.of(exit)))
            self._over.set()

    async def _tell_what_runs(self) -> None:
        for root in self._roots():
            await refresh(root, NESTED)
        self._line.send(Seen(tree_of_child(self._child, self._id)))

    async def _operate(self, asked: Operate) -> None:
        try:
            done = Done(asked.number, await operate(asked.verb, asked.path, self._roots()))
        except MbactorError as error:
            done = Done(asked.number, error=to_wire(error))
        self._line.send(done)

    def _roots(self) -> list[Supervisor]:
        found = self._child.ref
        return [found] if isinstance(found, Supervisor) else []

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _exited(self, exit: Exit) -> None:
        # A crashed actor keeps its mailbox for its next incarnation; but not a process in which something goes on.
        kept = self._is_actor and not self._node.abandoned
        self._line.send(Exited(WireExit.of(exit), kept))
        if not kept:
            self._leave()
            self._child.close(exit)
            self._over.set()

    async def _terminate(self) -> None:
        self._line.send(Terminate())
        await self._over.wait()

    def _leave(self) -> None:
        """Whoever still waits is told that it is another process to ask next."""
        self._node.leaving = True
        if isinstance(self._bus, LinkBus):
            self._bus.hold()

    def _terminated(self) -> None:
        """Somebody signalled this process. Its parent is told of a clean end, unless it has it stopped anyway."""
        asyncio.get_running_loop().call_later(TERMINATED, self._end_by_signal)

    def _end_by_signal(self) -> None:
        if not self._stopping:
            self._stop(self._shutdown, SHUTDOWN)


def _broker(url: str) -> Bus:
    from mbactor.transport.nats import NatsBus  # which imports its driver

    return NatsBus(url)


def _telemetry(service: str) -> list[TelemetryObserver]:
    """Reports in the name of the system, as the process does that it is a part of."""
    from mbactor.observers import telemetry_from_environment  # a quarter of the time that a start takes

    observers = telemetry_from_environment(environment(), service=service)
    for observer in observers:
        observe.add_observer(observer)
    return observers


def _loop_factory(*, uvloop: bool) -> Any:
    if not uvloop:
        return None
    import uvloop as module  # pyright: ignore[reportMissingImports]  # an extra; the parent has it

    return module.new_event_loop


def _be_woken_when_the_parent_ends() -> None:
    """Have the kernel let this process go on when its parent ends, also where it was stopped (SIGSTOP): only then it
    can see the end of the control socket. Linux only.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGCONT)  # PR_SET_PDEATHSIG


class _Line:
    """The control socket. Frames leave through a thread, so nothing here waits for a parent that does not read."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._out: SimpleQueue[bytes | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="mbactor-control-out", daemon=True)
        self._writer.start()

    def receive(self) -> FromParent:
        """The next frame. EOFError or OSError where the parent has gone."""
        (size,) = LENGTH.unpack(exactly(self._link, LENGTH.size))
        return from_parent.decode(exactly(self._link, size))

    def send(self, frame: FromNode) -> None:
        self._out.put(encoded(frame))

    def waiting(self) -> int:
        return self._out.qsize()

    def read(self, loop: asyncio.AbstractEventLoop, take: Any) -> None:
        """Hand each frame to `take` on the loop; None when the parent has gone."""
        threading.Thread(target=self._read, args=(loop, take), name="mbactor-control-in", daemon=True).start()

    def drain(self) -> None:
        """Until all that was sent has left, or the parent has gone: it is to hear how this ended, however late."""
        self._out.put(None)
        self._writer.join()

    def _read(self, loop: asyncio.AbstractEventLoop, take: Any) -> None:
        with suppress(EOFError, OSError, RuntimeError):  # the parent, or the loop, has gone
            while True:
                frame = self.receive()
                if isinstance(frame, Ping):
                    self.send(Pong())
                else:
                    loop.call_soon_threadsafe(take, frame)
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(take, None)
        time.sleep(ORPHANED)
        os._exit(1)

    def _write(self) -> None:
        last = False
        while not last:
            out = [self._out.get()]
            while len(out) < BATCH and not self._out.empty():
                out.append(self._out.get())
            last = None in out
            try:
                self._link.sendall(b"".join(data for data in out if data is not None))
            except OSError:
                return


class _Teller:
    """Tells the parent's observers what happens here."""

    wants_spans = False

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._lost = 0

    def on_event(self, name: str, fields: Mapping[str, Any]) -> None:
        if self._line.waiting() >= EVENTS:
            self._lost += 1
            return
        lost, self._lost = self._lost, 0
        self._line.send(Happened(name, plain(dict(fields)), lost))

    def on_start(self, span: observe.Span) -> None: ...
    def on_end(self, span: observe.Span) -> None: ...
