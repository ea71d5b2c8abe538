"""What a running system answers to other programs of the same user: a Unix socket, one JSON object a line.

    async with Control(system, Path("shop.yaml"), folders(environment())):
        ...

    $ echo '{"get": "tree"}' | nc -U $XDG_RUNTIME_DIR/mbactor/shop-1f0c3d5e7a-4711.sock
    {"tree": {"id": "shop", ...}, "system": "shop", "pid": 4711, "uptime": 12.5, "dead_letters": 0, "unready": null}

A request is an object with one key, the verb: get, ask (`{"ask": {"url": ...}}`, see `Asked`), plan, apply, stop,
start or restart (`operator.py`). What cannot be answered is answered with `{"error": "..."}`, with the HTTP-like
`status` of the error, and the `problems` of a faulty file. An apply is answered with several lines, up to `applied`
or `failed`. Requests are bounded, so are connections; a client that does not read is cut off, and nobody ever waits
for one. However many ask, taking snapshots costs the system a twentieth of its time at most: those who come too early
get the last one.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import anyio
import msgspec

from mbactor import observe
from mbactor.durations import text_of
from mbactor.errors import BadRequest, BudgetSpent, MbactorError, Unavailable, error_told
from mbactor.supervisor.operate.by_name import LOOK
from mbactor.supervisor.operate.operator import Operator
from mbactor.supervisor.operate.sockets import listen
from mbactor.supervisor.tree import TreeNode, refresh

if TYPE_CHECKING:
    from mbactor.supervisor.system import ActorSystem

REQUEST_LIMIT = 64 * 1024
"""Bytes a request may have."""
CONNECTIONS = 64
"""Clients that may be connected at once."""
PATIENCE = 10.0
"""Seconds a client has to read an answer."""
SHARE = 20
"""A snapshot is good for that many times as long as it took to take."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The answer to `{"get": "tree"}`: all of one moment. `uptime` is in seconds since the system was started;
    `unready` is that of `ActorSystem`.
    """

    tree: TreeNode
    system: str
    pid: int
    uptime: float
    dead_letters: int
    unready: str | None = None


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """What `ask` asks an address: a JSON `body` with the arguments, none where it is empty, answered within so many
    `seconds` (20 where none are given). The answer is `{"body": ...}`, a text.
    """

    url: str
    body: str = ""
    method: str = "POST"
    seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None


class Control:
    """Answers while the block lasts. Entering raises Unavailable where no socket can be had; see `sockets.listen`."""

    def __init__(self, system: ActorSystem, file: Path, places: Sequence[Path], overlays: Sequence[Path] = ()) -> None:
        self.path: Path | None = None
        self._system = system
        self._file = file
        self._places = places
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._began = 0.0
        self._last = b""
        self._good_until = 0.0
        self._operator = Operator(system, file, overlays)

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        listening, path = listen(self._system.name, self._file, self._places)
        try:
            self._server = await asyncio.start_unix_server(self._connected, sock=listening, limit=REQUEST_LIMIT)
        except BaseException:
            listening.close()
            path.unlink(missing_ok=True)
            raise
        self.path = path
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cut off whoever is connected and remove the socket."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        for client in self._clients:
            client.cancel()
        if self._clients:
            await asyncio.wait(self._clients)

    # --- connections ------------------------------------------------------------------------------------

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="mbactor control")
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, request after request; the next is not read before the answer is gone."""
        writer.transport.set_write_buffer_limits(high=0)
        try:
            with suppress(OSError, TimeoutError):
                if len(self._clients) > CONNECTIONS:
                    await _write(writer, _refusal(Unavailable(f"{CONNECTIONS} clients are connected already")))
                    return
                while (line := await _line(reader)) is not None:
                    async with aclosing(self.answers(line)) as answers:
                        async for answer in answers:
                            await _write(writer, answer)
        except asyncio.LimitOverrunError:
            with suppress(OSError, TimeoutError):
                await _write(writer, _refusal(BadRequest(f"a request of more than {REQUEST_LIMIT} bytes")))
        finally:
            writer.transport.abort()

    # --- requests -----------------------------------------------------------------------------------------

    async def answers(self, line: bytes) -> AsyncGenerator[bytes]:
        """The answers to one request, each as a line: one, but for an apply."""
        try:
            verb, what = _parsed(line)
            async with aclosing(_VERBS[verb](self, what)) as answers:
                async for answer in answers:
                    yield answer if isinstance(answer, bytes) else _encoded(answer)
        except MbactorError as error:
            yield _refusal(error)
        except Exception as error:  # noqa: BLE001 - whatever it is: who hears nothing takes the process for gone
            observe.emit("control.failed", error=error)
            yield _refusal(MbactorError(f"it failed, as the log of the process has it: {error_told(error)}"))

    async def _get(self, what: Any) -> AsyncGenerator[Any]:
        if not isinstance(what, str) or what not in _GET:
            raise BadRequest(f"get: {_short(what)} given, one of {', '.join(_GET)} expected")
        yield await _GET[what](self)

    async def _ask(self, what: Any) -> AsyncGenerator[Any]:
        try:
            asked = msgspec.convert(what, Asked)
        except msgspec.ValidationError as error:
            raise BadRequest(
                f'ask: {_short(what)} given, an object such as {{"url": "https://orders.example/place"}} expected:'
                f" {error}"
            ) from None
        try:
            with anyio.fail_after(asked.seconds):
                response = await self._system.request(asked.method, asked.url, asked.body.encode())
        except TimeoutError as error:
            if isinstance(error, MbactorError) or asked.seconds is None:
                raise
            raise BudgetSpent(f"{asked.url} has not answered within {text_of(asked.seconds)}") from None
        try:
            yield {"body": response.body.decode()}
        except UnicodeDecodeError:
            raise BadRequest(f"ask: {asked.url} answered with {len(response.body)} bytes that are no text") from None

    def _plan(self, what: Any) -> AsyncGenerator[Any]:
        return self._operator.plan(what, os.getpid())

    def _apply(self, what: Any) -> AsyncGenerator[Any]:
        return self._operator.apply(what, os.getpid())

    def _stop(self, what: Any) -> AsyncGenerator[Any]:
        return self._operator.operate("stop", what)

    def _start(self, what: Any) -> AsyncGenerator[Any]:
        return self._operator.operate("start", what)

    def _restart(self, what: Any) -> AsyncGenerator[Any]:
        return self._operator.operate("restart", what)

    async def _tree(self) -> bytes:
        if time.monotonic() >= self._good_until:
            for root in self._system.roots():
                await refresh(root, LOOK)
            begun = time.monotonic()
            self._last = _encoded(
                Snapshot(
                    tree=self._system.tree(),
                    system=self._system.name,
                    pid=os.getpid(),
                    uptime=begun - self._began,
                    dead_letters=self._system.dead_letters.total,
                    unready=self._system.unready,
                )
            )
            now = time.monotonic()
            self._good_until = now + SHARE * (now - begun)
        return self._last


_VERBS: Mapping[str, Callable[[Control, Any], AsyncGenerator[Any]]] = {
    "get": Control._get,  # noqa: SLF001 - its own, and so on
    "ask": Control._ask,  # noqa: SLF001
    "plan": Control._plan,  # noqa: SLF001
    "apply": Control._apply,  # noqa: SLF001
    "stop": Control._stop,  # noqa: SLF001
    "start": Control._start,  # noqa: SLF001
    "restart": Control._restart,  # noqa: SLF001
}
_GET: Mapping[str, Callable[[Control], Awaitable[bytes]]] = {"tree": Control._tree}  # noqa: SLF001


def _parsed(line: bytes) -> tuple[str, Any]:
    """The verb of a request and what it is about."""
    try:
        request = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"a request is a JSON object on a line of its own: {error}") from None
    if not isinstance(request, dict) or len(request) != 1:
        raise BadRequest(f'{_short(request)} given, an object with one key expected, such as {{"get": "tree"}}')
    ((verb, what),) = request.items()
    if verb not in _VERBS:
        raise BadRequest(f"{_short(verb)} given, one of {', '.join(_VERBS)} expected")
    return verb, what


async def _line(reader: asyncio.StreamReader) -> bytes | None:
    """The next line, the last one also without its end; None when there are no more."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial or None


async def _write(writer: asyncio.StreamWriter, answer: bytes) -> None:
    """Until all of it is with the kernel; TimeoutError where the client does not take it."""
    writer.write(answer)
    async with asyncio.timeout(PATIENCE):
        await writer.drain()


def _refusal(error: MbactorError) -> bytes:
    told: dict[str, Any] = {"error": error.message, "status": error.status}
    problems = getattr(error, "problems", None)
    return _encoded(told if problems is None else {**told, "problems": problems})


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value) + b"\n"
    except UnicodeEncodeError:  # an id may be any text that Python can hold
        return json.dumps(msgspec.to_builtins(value), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
