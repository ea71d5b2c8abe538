"""A child in an OS process of its own, as its supervisor has it: the `Child` contract over a control socket.

    child(Pipelines, process=True)
    child(Thumbnails, process=True, replicas=4)      # four processes: four processors at work

What is promised:

- It is started with its whole specification and counts as started once all of it runs.
- Its end is judged like any other: the exit of what runs in it, or, where the process is gone, a `ProcessDied` with
  signal or exit code. (Exit code 0 is a clean end.)
- It is stopped within its time, and one second later killed. Where it has as long as it takes, it is killed only when
  it does not even answer a ping for `SILENT` seconds, as one that is stopped by a signal does not.
- An actor that crashes gets its next incarnation in the same process, with its mailbox. The end of a subtree is the end
  of its process, and so is an end that had to leave something behind.
- It ends with its parent, also when that is killed (`main.py`).
- Over a broker it connects by itself, and gets what that takes over the control socket. What it serves is refused, not
  unknown, while it is away (`place.py`).
- What happens in it is told to this process's observers, with the field `node`; what it prints is printed here, each
  line with its id before it, and the last of it before its end is told.

Costs about 0.3 s to start, beside what it imports, and two threads here.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from mbactor import observe, offload
from mbactor.errors import Ignore, ProcessDied, Unavailable, from_wire
from mbactor.kernel.exit import KILLED, NORMAL, SHUTDOWN, Exit
from mbactor.kernel.ref import ActorRef, ref_of_url
from mbactor.kernel.settings import Settings
from mbactor.processes import preparation, start_python
from mbactor.supervisor.node.frames import (
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
    from_node,
    pickled,
    restored,
    split,
)
from mbactor.supervisor.node.output import printer_of
from mbactor.supervisor.node.place import Place, check_reachable, links, place_of, url_of
from mbactor.supervisor.operate.by_name import Operated, Verb
from mbactor.supervisor.spec import ChildSpec
from mbactor.supervisor.tree import TreeNode
from mbactor.transport.reserved import Reserved

if TYPE_CHECKING:
    from mbactor.kernel.node import Node

GRACE = 1.0
"""Seconds beyond its own time that a node has to stop."""
SILENT = 10.0
"""Seconds without an answer after which a node that has as long as it takes to stop is given up."""
PING = 1.0
LINGER = 5.0
"""Seconds a process has to go once it has said that it is through."""


class NodeProcess:
    """A child that runs in a process of its own, incarnation after incarnation."""

    def __init__(self, spec: ChildSpec, node: Node, path: str) -> None:
        self.spec = spec
        self.path = path
        self.incarnation = 0
        self.on_exit: Callable[[Exit], None] | None = None
        self.terminate: Callable[[], Awaitable[None]] | None = None
        self._node = node
        self._process: _Process | None = None
        self._places: list[Place] = []
        """Those of its processes: of one that is gone, what it served is still reserved."""
        self._ref: ActorRef[Any] | None = None
        self.view: TreeNode | None = None
        """What runs in it, as it told last."""
        self._asked_at: float | None = None
        self._looked: asyncio.Future[None] | None = None

    @property
    def ref(self) -> ActorRef[Any] | NodeProcess:
        """The actor's ref, where it is one and has run."""
        return self if self._ref is None else self._ref

    @property
    def pid(self) -> int | None:
        """The process's number; None where none runs."""
        return None if self._process is None else self._process.pid

    @property
    def silent(self) -> float | None:
        """Seconds since it was asked what runs in it, where it has not answered yet."""
        return None if self._asked_at is None else asyncio.get_running_loop().time() - self._asked_at

    async def look(self, within: float) -> None:
        """Ask it what runs in it, and wait for the answer (`view`) for so many seconds."""
        loop = asyncio.get_running_loop()
        if self._process is None:
            return
        if self._looked is None or self._looked.done():
            self._looked, self._asked_at = loop.create_future(), loop.time()
            self._process.send(Look())
        await asyncio.wait([self._looked], timeout=within)

    async def operate(self, verb: Verb, path: str) -> Operated:
        """Do what an operator asks, to a child in there. ProcessDied where the process dies meanwhile."""
        if self._process is None:
            raise Unavailable(f"{self.path} does not run; start it first")
        return await self._process.operate(verb, path)

    def seen(self, tree: TreeNode | None) -> None:
        """What it answered; None where it is gone."""
        self.view, self._asked_at = tree, None
        if self._looked is not None and not self._looked.done():
            self._looked.set_result(None)

    async def start(self) -> None:
        self.incarnation += 1
        with offload.busy():
            process = self._process or await self._launched()
            try:
                url = await process.start(self.incarnation)
            except asyncio.CancelledError:
                await process.stop(self.spec.shutdown, SHUTDOWN, grace=GRACE / 2)
                raise
            except BaseException:
                await process.stop(0, SHUTDOWN)
                raise
        self._release(but=process.place)
        self._ref = None if url is None else ref_of_url(url)
        observe.emit("node.started", node=self.path, pid=process.pid, incarnation=self.incarnation)

    async def _launched(self) -> _Process:
        launching = asyncio.get_running_loop().create_task(_Process.launch(self, self._node))
        try:
            # It takes no time worth breaking off, and half of it is not to be left behind.
            await asyncio.shield(launching)
        except asyncio.CancelledError:
            await (await launching).stop(0, SHUTDOWN)
            raise
        self._process = process = launching.result()
        self._places.append(process.place)
        return process

    async def stop(self, timeout: float | None, exit: Exit = SHUTDOWN) -> Exit:
        process = self._process
        if process is None:
            return exit
        process.place.reserve()
        with offload.busy():
            return await process.stop(timeout, exit)

    def pause(self, seconds: float) -> None:
        if self._process is not None:
            self._process.send(Pause(seconds))

    def close(self, exit: Exit) -> None:
        if self._process is not None:
            self._process.send(Close(WireExit.of(exit)))
            self._node.background(self._process.stop(GRACE, exit), f"node {self.path} ends")
        self._release()

    def _release(self, but: Place | None = None) -> None:
        for place in self._places:
            if place is not but:
                place.release()
        self._places = [] if but is None else [but]

    # --- what its process tells -----------------------------------------------------------------------------

    def exited(self, exit: Exit) -> None:
        """The incarnation ended by itself."""
        if self.on_exit is not None:
            self.on_exit(exit)

    def gone(self, process: _Process) -> None:
        """A process is there no more, and all that it said was heard."""
        if self._process is process:
            self._process = None
            self.seen(None)
        self._node.background(process.place.close(), "node link ends")

    def asked_to_end(self) -> None:
        if self.terminate is not None:
            self._node.background(cast("Any", self.terminate()), f"node {self.path} ends for good")

    def __repr__(self) -> str:
        where = "no process" if self.pid is None else f"process {self.pid}"
        return f"NodeProcess({self.path}, {where})"


class _Process(asyncio.Protocol):
    """One OS process, from its start to its end."""

    _popen: subprocess.Popen[bytes]

    def __init__(self, owner: NodeProcess, place: Place, *, exported: bool) -> None:
        self.place = place
        self.pid = 0
        self.over = asyncio.get_running_loop().create_future()
        """How the process, or what ran in it, ended."""
        self._owner = owner
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._starting: asyncio.Future[str | None] | None = None
        self._told: Exit | None = None
        """What the process said of its end, before it came."""
        self._running = self._stopping = self._killed = self._heard_all = False
        self._code: int | None = None
        self._unanswered = 0
        self._numbers = count()
        self._operations: dict[int, asyncio.Future[Operated]] = {}
        self._exported = exported

    @classmethod
    async def launch(cls, owner: NodeProcess, node: Node) -> _Process:
        loop = asyncio.get_running_loop()
        check_reachable(node)
        begin = _begin(owner, node, loop)
        control, theirs = socket.socketpair()
        links.add(control)
        with ExitStack() as passed:
            passed.enter_context(theirs)
            try:
                place, more = await place_of(node)
            except OSError:
                control.close()
                raise
            for one in more:
                passed.enter_context(one)
            try:
                _, process = await loop.create_unix_connection(
                    lambda: cls(owner, place, exported=begin.traced), sock=control
                )
                # From here on nothing waits: a process that was started is always somebody's.
                process.run(theirs, *more)
            except BaseException:
                control.close()
                await place.close()
                raise
        process.send(begin)
        return process

    def run(self, *passed: socket.socket) -> None:
        try:
            self._popen = start_python(
                "mbactor.supervisor.node.main", *passed, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except BaseException:
            self._transport.abort()
            raise
        self.pid = self._popen.pid
        printing = printer_of(self._popen, self._owner.spec.id)
        waiting = threading.Thread(
            target=self._wait, args=(asyncio.get_running_loop(), printing), name=f"mbactor-node-{self.pid}", daemon=True
        )
        try:
            waiting.start()
            printing.start()
        except BaseException:  # there is no thread to be had, and nobody would wait for the process
            self._transport.abort()
            self._popen.kill()
            with self._popen:
                raise

    async def start(self, number: int) -> str | None:
        """Start an incarnation; the url of its ref. Raises what it failed with."""
        if self.over.done():
            raise self.over.result().error or self._died()
        self._starting = asyncio.get_running_loop().create_future()
        self.send(Start(number))
        try:
            url = await self._starting
        finally:
            self._starting = None
        self._running = True
        return url

    async def stop(self, timeout: float | None, exit: Exit, *, grace: float = GRACE) -> Exit:
        """Until it has ended; how."""
        self._stopping = True
        if timeout == 0:
            self.kill()
        elif not self.over.done():
            self.send(Stop(timeout, WireExit.of(exit)))
            await (self._while_it_answers() if timeout is None else asyncio.wait([self.over], timeout=timeout + grace))
            if not self.over.done():
                self.kill()
        found: Exit = await asyncio.shield(self.over)
        return found

    async def operate(self, verb: Verb, path: str) -> Operated:
        number = next(self._numbers)
        asked: asyncio.Future[Operated] = asyncio.get_running_loop().create_future()
        self._operations[number] = asked
        self.send(Operate(number, verb, path))
        try:
            return await asked
        finally:
            del self._operations[number]

    def kill(self) -> None:
        if self._code is None:
            self._killed = True
            self._popen.kill()

    def send(self, frame: FromParent) -> None:
        if not self._heard_all:
            self._transport.write(encoded(frame))

    async def _while_it_answers(self) -> None:
        # In pings and not by the clock: it may be this process that was stopped for a while, and the node with it.
        self._unanswered = 0
        while not self.over.done() and self._unanswered * PING < SILENT:
            self.send(Ping())
            self._unanswered += 1
            await asyncio.wait([self.over], timeout=PING)

    # --- its end ------------------------------------------------------------------------------------------------

    def _wait(self, loop: asyncio.AbstractEventLoop, printing: threading.Thread) -> None:
        code = self._popen.wait()
        with suppress(RuntimeError):  # it could not be started
            printing.join(GRACE)  # its last words come first; something that it started may hold its end of the pipe
        with suppress(RuntimeError):  # the loop is gone, and nobody wants to know
            loop.call_soon_threadsafe(self._exited_with, code)

    def _exited_with(self, code: int) -> None:
        self._code = code
        if self._heard_all:
            self._end()
        else:  # something that it started may hold its end of the socket
            asyncio.get_running_loop().call_later(GRACE, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the name is asyncio's
        self._heard_all = True
        if self._code is not None:
            self._end()

    def _end(self) -> None:
        """The process is gone, and all that it said was heard."""
        assert self._code is not None
        exit = self._how(self._code)
        self._owner.gone(self)
        self.over.set_result(exit)
        died = self._died()
        for asked in self._operations.values():
            if not asked.done():
                asked.set_exception(died)
        if self._starting is not None and not self._starting.done():
            self._starting.set_exception(exit.error or died)
        elif self._running and not self._stopping:
            self._owner.exited(exit)

    def _how(self, code: int) -> Exit:
        if self._told is not None:
            return self._told
        if self._killed:
            return KILLED
        return NORMAL if code == 0 else Exit("failed", self._died())

    def _died(self) -> ProcessDied:
        assert self._code is not None
        return ProcessDied(self._owner.path, self.pid, self._code, kind="process")

    # --- what it says --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for frame in split(self._buffer):
            self._take(from_node.decode(frame))

    def _take(self, frame: FromNode) -> None:  # noqa: C901 - a case a frame
        starting = self._starting
        match frame:
            case Ready(ref) if starting is not None and not starting.done():
                starting.set_result(ref)
            case Failed(error, ignored) if starting is not None and not starting.done():
                starting.set_exception(Ignore() if ignored else from_wire(error))
            case Exited(exit, True):
                self._running = False
                self._owner.exited(exit.exit())
            case Exited(exit, _) | Stopped(exit):
                self._told = exit.exit()
                asyncio.get_running_loop().call_later(LINGER, self.kill)
            case Seen(tree):
                self._owner.seen(tree)
            case Done(number, operated, error) if (asked := self._operations.get(number)) and not asked.done():
                if operated is not None:
                    asked.set_result(operated)
                else:
                    asked.set_exception(from_wire(error or {}))
            case Serves(host, on) if isinstance(self.place, Reserved):
                self.place.serves(host, on=on)
            case Terminate():
                self._owner.asked_to_end()
            case Pong():
                self._unanswered = 0
            case Happened(name, fields, lost):
                told = {"node": self._owner.path, **restored(fields), **({"lost": lost} if lost else {})}
                observe.relay(name, told, exported=self._exported)
            case _:
                pass


def _begin(owner: NodeProcess, node: Node, loop: asyncio.AbstractEventLoop) -> Begin:
    return Begin(
        preparation=preparation(),
        spec=pickled(owner.spec),
        parent=owner.path.rpartition("/")[0],
        plane=node.plane,
        url=url_of(node.remote.bus),
        serialize_local=node.serialize_local,
        watchdog=node.watchdog_limit,
        ack_window=node.ack_window,
        max_body=node.max_body,
        coalesce=node.coalesce,
        locality=node.locality,
        uvloop=type(loop).__module__.startswith("uvloop"),
        traced=observe.tracing() and Settings.from_environment().telemetry,
    )
