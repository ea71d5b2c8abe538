"""Worker processes: functions that use the processor for long, or that may crash, run beside the event loop.

    body, content_type = await processes.run("shop.images:Thumbnails.make", body, MSGPACK, by="shop.calls:answer")

A pool of processes, one a processor (`resize`), each with one call at a time; further calls wait in order. A process is
started when it is needed and used again; one that has nothing to do for `KEEP` seconds ends.

What is promised:

- A process that dies in the middle of a call fails that call, with a `ProcessDied` that names signal or exit code, and
  nothing else. One that died between two calls is replaced unseen.
- Cancelling the await kills the process: nothing runs on. (What the function itself had started is its own affair.)
- An error crosses as from any actor: type, status, fields and remote traceback.
- Ctrl-C and a SIGTERM to the whole group reach the parent only. When the parent ends, in whatever way, so do they.
- What a function prints goes where the parent's output goes.
- No loop is tied to the pool: no task, no descriptor and no watcher of it is on any loop, so it works on each kind of
  loop, also on several one after the other, and a loop with virtual time sees nothing but work that is out.

Costs about 0.1 ms a call (0.1 s with 50 MB there and back), and 0.1 s to start a process beside what it imports.

Why not a pool there is: `anyio.to_process` cannot say how a process ended, answers each further call of a process that
got a Ctrl-C with the result of the call before, lets a busy one live on when its parent is killed, leaves a task on the
loop and fails on a loop that runs a second time. `concurrent.futures` gives the whole pool up when one process dies,
and can't cancel.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import msgspec

from mbactor import offload, process_worker
from mbactor.errors import DeclarationError, ProcessDied, from_wire
from mbactor.process_worker import Answer, Preparation, Request, receive, send
from mbactor.threads import Threads

KEEP = 300.0
"""Seconds after which a process that has nothing to do ends."""
GRACE = 1.0
"""Seconds a process has to end by itself, once it is let go and has no call."""
_ROOT = str(Path(__file__).parent.parent)
NEEDED: list[Callable[[], Iterable[str]]] = []
"""Who says which modules of this process another one may need, beside those that it is told to run."""


def target_of(owner: type, method: str) -> str:
    """The name by which a worker process finds a static method. DeclarationError where it cannot."""
    name = f"{owner.__module__}:{owner.__qualname__}.{method}"
    if "<locals>" in name:
        raise DeclarationError(
            f"{owner.__qualname__}.{method}: process=True needs a class that a worker process can import;"
            " this one is defined inside a function"
        )
    return name


async def run(target: str, body: bytes, content_type: str, *, by: str | None = None) -> tuple[bytes, str]:
    """Call a function in a worker process with bytes; the bytes it returned and their content type.

    `target` is `package.module:Outer.name`, in `__main__` too. The process imports it and calls
    `target(body, content_type)`, or, where `by` names another function, `by(target, body, content_type)`.
    """
    if process_worker.loading_main:
        raise RuntimeError(
            f"a worker process that loads the main module got to a call of its own: {process_worker.GUARD}"
        )
    call = _Call(target, body, content_type, by)
    return await offload.carry(_threads, call.run, given_up=call.give_up)


def resize(processes: int) -> None:
    """Let so many processes be at work at once; by default as many as there are processors."""
    if processes < 1:
        raise ValueError(f"{processes} processes: expected at least 1")
    _threads.resize(processes)


class _Call:
    """A call on its way: which process has it, and whether anybody still waits."""

    def __init__(self, target: str, body: bytes, content_type: str, by: str | None) -> None:
        self._request = Request(target, by, content_type, _file_of(target), None)
        self._body = body
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._given_up = False

    def run(self) -> tuple[bytes, str]:
        """In the thread whose process it is."""
        try:
            return self._run_in(_own_process())
        except _NotTaken:  # it died before it had the call; whatever ends the second one may be the call itself
            try:
                return self._run_in(_own_process())
            except _NotTaken as error:
                raise error.died from None

    def _run_in(self, process: _Process) -> tuple[bytes, str]:
        with self._lock:
            if self._given_up:
                return b"", ""
            self._process = process
        try:
            return process.call(self._request, self._body)
        finally:
            with self._lock:
                self._process = None
            if self._given_up:
                process.end()

    def give_up(self) -> None:
        """On the loop: nobody waits for the result."""
        with self._lock:
            self._given_up = True
            if self._process is not None:
                self._process.kill()


def _file_of(target: str) -> bytes | None:
    file = getattr(sys.modules.get(target.partition(":")[0]), "__file__", None)
    return None if file is None else os.fsencode(file)


# --- one process, and the thread it belongs to ----------------------------------------------------------------------


class _NotTaken(Exception):
    """The process was dead before it had all of the call."""

    def __init__(self, died: ProcessDied) -> None:
        super().__init__(died)
        self.died = died


class _Process:
    """A worker process, as seen by the thread that owns it. Only `kill` may be called by others."""

    def __init__(self) -> None:
        self._path = list(sys.path)
        self._link, theirs = socket.socketpair()
        try:
            self._process = start_python("mbactor.process_worker", theirs)
        except BaseException:
            self._link.close()
            raise
        finally:
            theirs.close()
        self.ready = self.ended = False
        _processes.add(self)
        try:
            send(self._link, preparation(), b"")
            receive(self._link)
        except (EOFError, OSError):
            raise self._died("the start of a worker process") from None
        self.ready = True

    def call(self, request: Request, body: bytes) -> tuple[bytes, str]:
        if self._path != sys.path:
            self._path = list(sys.path)
            request.path = _encoded(self._path)
        try:
            send(self._link, request, body)
            head, result = receive(self._link)
        except EOFError:
            raise self._died(request.target) from None
        except OSError:  # a reset is told of a process that had not read all it was sent
            raise _NotTaken(self._died(request.target)) from None
        answer = msgspec.msgpack.decode(head, type=Answer)
        if answer.failed:
            raise from_wire(msgspec.json.decode(result))
        return result, answer.content_type

    def alive(self) -> bool:
        return not self.ended and self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int:
        """Let go of it, and wait until it has ended; its exit code, negative for a signal."""
        self.ended = True
        self._link.close()
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        _processes.discard(self)
        return code

    def forget(self) -> None:
        """In a fork of the parent: it belongs to the parent."""
        self._link.close()
        self._process.returncode = 0

    def _died(self, what: str) -> ProcessDied:
        return ProcessDied(what, self._process.pid, self.end())


def start_python(module: str, *passed: socket.socket, **options: Any) -> subprocess.Popen[bytes]:
    """A Python process like this one that calls `main` of a module of ours with the descriptors of some sockets.

    Signals of the group wait in it until it has made itself deaf to them (`process_worker.withstand`): masks are
    inherited. `options` are those of `subprocess.Popen`.
    """
    numbers = [one.fileno() for one in passed]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, process_worker.WITHSTOOD)
    try:
        started = subprocess.Popen(  # noqa: S603 - ourselves
            _command(module, numbers), stdin=subprocess.DEVNULL, pass_fds=numbers, **options
        )
        return cast("subprocess.Popen[bytes]", started)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _command(module: str, descriptors: Iterable[int]) -> list[str]:
    given = ", ".join(map(str, descriptors))
    code = f"import sys; sys.path[0] = {_ROOT!r}; from {module} import main; main({given})"
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing
    return [sys.executable, *flags, "-c", code]


def preparation() -> Preparation:
    """What another process has to know to import what this one can."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    file = None if (found := getattr(main, "__file__", None)) is None else os.fsencode(found)
    modules = {*process_worker.modules_needed(), *(one for needed in NEEDED for one in needed())}
    return Preparation(_encoded(sys.path), _encoded(sys.argv), name, file, sorted(modules))


def _encoded(texts: Iterable[object]) -> list[bytes]:
    return [os.fsencode(text) for text in texts if isinstance(text, str)]


_here = threading.local()
"""`process`: the process of this thread."""
_processes: set[_Process] = set()


def _own_process() -> _Process:
    process = cast("_Process | None", getattr(_here, "process", None))
    if process is not None and process.alive():
        return process
    if process is not None and not process.ended:
        process.end()
    _here.process = None
    _here.process = started = _Process()
    return started


def _leaving() -> None:
    process = cast("_Process | None", getattr(_here, "process", None))
    if process is not None and not process.ended:
        process.end()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_threads = Threads(_processors(), "mbactor-process", keep=KEEP, leaving=_leaving)
"""The pool. Each of its threads owns a process: the kernel kills that with the thread which started it."""


def _after_fork() -> None:
    global _threads
    for process in _processes:
        process.forget()
    _processes.clear()
    _threads = Threads(_threads.limit, _threads.name, keep=KEEP, leaving=_leaving)


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _at_exit() -> None:
    left = list(_processes)
    for process in left:
        with suppress(OSError):
            process.kill()
    for process in left:  # nothing is left to the garbage collector, which would complain
        with suppress(OSError):
            process.end()
