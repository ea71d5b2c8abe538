"""What runs in a worker process: it takes one call at a time from its parent and answers it.

The parent is `mbactor.processes`. The two speak over a socket pair of their own, in frames (`send`, `receive`), so that
whatever is printed here, also by C code, is just printed. The process ends when that socket closes, in the middle of a
call too: it never outlives its parent.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, ModuleType, TracebackType
from typing import Any

import msgspec

from mbactor.errors import to_wire

Function = Callable[..., tuple[bytes, str]]


class Preparation(msgspec.Struct):
    """What a worker process has to know of its parent. Paths are bytes: not every path is a text."""

    path: list[bytes]
    argv: list[bytes]
    main_name: str | None
    """The name of the parent's main module, where it was started with `-m`."""
    main_file: bytes | None
    modules: list[str]
    """Those that `import_needed` imports."""


class Request(msgspec.Struct, array_like=True):
    """The head of a call; its body comes beside it."""

    target: str
    by: str | None
    content_type: str
    file: bytes | None
    """Where the target's module was loaded from, for one that no path leads to."""
    path: list[bytes] | None
    """The parent's `sys.path`, where it has changed."""


class Answer(msgspec.Struct, array_like=True):
    """The head of an answer. Where the call failed, the body is the error as `to_wire` has it, in JSON."""

    content_type: str
    failed: bool = False


# --- frames ---------------------------------------------------------------------------------------------------------

_SIZES = struct.Struct("!IQ")
_SMALL = 65_536
"""A body up to this size is worth copying to save a system call."""


def send(link: socket.socket, head: msgspec.Struct, body: bytes) -> None:
    """Write a frame: the sizes, the head, the body. OSError where the other side has gone."""
    encoded = msgspec.msgpack.encode(head)
    start = _SIZES.pack(len(encoded), len(body)) + encoded
    if len(body) <= _SMALL:
        link.sendall(start + body)
    else:
        link.sendall(start)
        link.sendall(body)


def receive(link: socket.socket) -> tuple[bytes, bytes]:
    """The next frame: head and body. EOFError or OSError where the other side has gone."""
    head, body = _SIZES.unpack(exactly(link, _SIZES.size))
    return exactly(link, head), exactly(link, body)


def exactly(link: socket.socket, size: int) -> bytes:
    """So many bytes. EOFError or OSError where the other side has gone."""
    data = b""
    while len(data) < size:
        more = link.recv(size - len(data), socket.MSG_WAITALL)
        if not more:
            raise EOFError
        data = data + more if data else more
    return data


# --- the process ----------------------------------------------------------------------------------------------------

GRACE = 1.0
"""Seconds an idle worker has to end by itself when its parent has let it go."""
_MAIN = "__main__"
_STAND_IN = "__mp_main__"
"""The name under which Python's multiprocessing loads a parent's main module."""
GUARD = (
    'put `if __name__ == "__main__":` before what the program does, or what another process needs of it into a'
    " module of its own"
)
_at_work = False
_preparation: Preparation | None = None
loading_main = False
"""Whether this process is just loading its parent's main module."""


def main(descriptor: int) -> None:
    """Serve the parent at the other end of the socket until it is closed."""
    withstand_signals()
    _die_with_parent()
    if sys.stderr is not None:
        faulthandler.enable(all_threads=False)
    link = socket.socket(fileno=descriptor)
    link.set_inheritable(False)  # else a child would keep the parent from seeing that this one died
    os.register_at_fork(after_in_child=link.close)
    with suppress(EOFError, OSError):
        prepare(msgspec.msgpack.decode(receive(link)[0], type=Preparation))
        threading.Thread(target=_watch, args=(link,), name="mbactor-parent", daemon=True).start()
        send(link, Answer(""), b"")
        while True:
            _serve(link)


def _serve(link: socket.socket) -> None:
    global _at_work
    head, body = receive(link)
    _at_work = True
    answer, result = _answer(msgspec.msgpack.decode(head, type=Request), body)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # it may be closed, or anything
            stream.flush()
    send(link, answer, result)
    _at_work = False


def _answer(request: Request, body: bytes) -> tuple[Answer, bytes]:
    try:
        if request.path is not None:
            sys.path[:] = [os.fsdecode(one) for one in request.path]
        target = resolve(request.target, request.file)
        if request.by is None:
            result, content_type = target(body, request.content_type)
        else:
            result, content_type = resolve(request.by)(target, body, request.content_type)
        return Answer(content_type), bytes(result)
    except BaseException as error:  # noqa: BLE001 - also a SystemExit: it ends the call, not the process
        error.__traceback__ = _of_others(error.__traceback__)
        wire = to_wire(error)
        # Errors of the parent's main module have another module's name here.
        wire["type"] = wire["type"].replace(f"{_STAND_IN}:", f"{_MAIN}:")
        return Answer("", failed=True), msgspec.json.encode(wire)


def _of_others(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without this module's own frames."""
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    return trace


def prepare(preparation: Preparation) -> None:
    """Look for modules where the parent does."""
    global _preparation
    _preparation = preparation
    sys.path[:] = [os.fsdecode(one) for one in preparation.path]
    sys.argv[:] = [os.fsdecode(one) for one in preparation.argv]


def modules_needed() -> list[str]:
    """What the parent has said that may be needed here; nothing where this process has none."""
    return [] if _preparation is None else _preparation.modules


def import_needed() -> None:
    """Import the modules whose contents are found here by other names than theirs, as reducers are. One that cannot be
    found, as the main module of a prompt, is left out: who needs it says what is missing.
    """
    for name in modules_needed():
        with suppress(ModuleNotFoundError, FileNotFoundError):
            resolve(f"{name}:__name__")


def withstand_signals() -> None:
    """Ctrl-C, and a service that is stopped, signal the whole group: the parent decides when this process ends.

    A function and not SIG_IGN, which programs that are started from here would inherit.
    """

    def nothing(_: int, __: FrameType | None) -> None: ...

    for number in WITHSTOOD:
        signal.signal(number, nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WITHSTOOD)  # the parent blocked them until here


WITHSTOOD = (signal.SIGINT, signal.SIGTERM)


def _die_with_parent() -> None:
    """Have the kernel kill this process with its parent, also while C code holds the GIL. Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _watch(link: socket.socket) -> None:
    """End the process when the parent has gone or lets go of it."""
    hang_up = select.poll()
    hang_up.register(link, 0)
    hang_up.poll()
    if not _at_work:
        time.sleep(GRACE)
    os._exit(1)


# --- names ----------------------------------------------------------------------------------------------------------


def resolve(name: str, file: bytes | None = None) -> Any:
    """What `package.module:Outer.name` stands for. `file` is where the module was loaded from in the parent."""
    module_name, _, path = name.partition(":")
    found: Any = _main_module() if module_name == _MAIN else _module(module_name, file)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _module(name: str, file: bytes | None) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        wanted = error.name is not None and (name == error.name or name.startswith(f"{error.name}."))
        if file is None or not wanted:
            raise
    spec = importlib.util.spec_from_file_location(name, os.fsdecode(file))
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"no module {name!r} on the path, and {os.fsdecode(file)} is no module", name=name)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _main_module() -> ModuleType:
    """The parent's main module, loaded when it is first needed."""
    global _own_main, loading_main
    if _own_main is None:
        own = sys.modules[_MAIN]
        loading_main = True
        try:
            _load_main()
        except RuntimeError as error:  # that of an `asyncio.run` above all, which in here is in a running loop
            if GUARD in str(error):
                raise
            raise RuntimeError(f"{error}, as another process imported the main module: {GUARD}") from error
        finally:
            loading_main = False
        _own_main = own
    found = sys.modules[_MAIN]
    if found is _own_main:  # a prompt, `python -c`, the `__main__.py` of a package
        raise ModuleNotFoundError(
            "a worker process cannot load this main module; put the class into another", name=_MAIN
        )
    return found


_own_main: ModuleType | None = None
"""What was the main module here, once the parent's has been loaded."""


def _load_main() -> None:
    from multiprocessing import spawn

    if _preparation is not None and _preparation.main_name is not None:
        spawn.prepare({"init_main_from_name": _preparation.main_name})
    elif _preparation is not None and _preparation.main_file is not None:
        spawn.prepare({"init_main_from_path": os.fsdecode(_preparation.main_file)})
