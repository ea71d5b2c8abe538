"""A connection to a NATS server: nats-py's client with what a bus needs of it and it does not do.

It dispatches without a queue, writes once a turn of the loop, keeps nothing through an outage, fails early, and goes on
after errors that would end nats-py's own. The only module that knows nats-py, which is pinned: it is subclassed at
places that are not public.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from nats import errors
from nats.aio.client import Client, Server, Srv

from mbactor import observe
from mbactor.errors import Unavailable
from mbactor.transport.bus import Delivery, Receive
from mbactor.transport.nats_url import without_secrets

CONNECT = 2
"""Seconds a server has to answer when it is connected to."""
PING = 5
"""Seconds between the questions whether the server is still there."""
SILENT = 2
"""Questions in a row that may stay without answer: then the connection counts as lost."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds up to which is waited before the first try to connect again, and before each later one."""
BURST = 1024 * 1024
"""Bytes that are kept until the end of a turn of the loop; more are written at once, and count as waiting."""
_NOBODY = b"NATS/1.0 503"


class Subscribed:
    """What nats-py looks at when it subscribes anew and when it ends, and who receives."""

    _max_msgs = 0
    _wait_for_msgs_task = None
    _message_iterator = None
    _pending_next_msgs_calls = None

    def __init__(self, client: Connection, sid: int, subject: str, receive: Receive, queue: str) -> None:
        self._client = client
        self._id = sid
        self._subject = subject
        self._queue = queue
        self.receive = receive

    def command(self) -> bytes:
        return f"SUB {self._subject} {self._queue} {self._id}\r\n".encode()

    def unsubscribe(self) -> None:
        self._client.remove(self._id)


class Connection(Client):
    """nats-py's connection: it connects, authenticates, encrypts, parses and connects again."""

    _pending: list[bytes]
    _subs: dict[int, Any]
    _pongs: list[asyncio.Future[Any]]
    _transport: Any

    def __init__(self, told: Callable[[], None]) -> None:
        super().__init__()
        self.up = False
        self.tried = ""
        """The server that was connected to last."""
        self._told = told
        self._down_since = 0.0
        self._scheduled = False

    async def open(self, servers: list[str]) -> None:
        """Unavailable where none takes the connection, with the reason."""
        try:
            await self._open(servers)
        except BaseException as error:
            self.drop()
            if not isinstance(error, OSError | errors.Error | TimeoutError):
                raise
            raise Unavailable(_why(error, self.tried or without_secrets(servers[0]))) from error

    async def _open(self, servers: list[str]) -> None:
        await self.connect(
            servers,
            error_cb=_ignore,
            reconnected_cb=self._is_back,
            allow_reconnect=False,  # the first time it connects at once or not at all
            max_reconnect_attempts=-1,
            connect_timeout=CONNECT,
            ping_interval=PING,
            max_outstanding_pings=SILENT,
            pending_size=-1,
            reconnect_to_server_handler=_next_server,
            dont_randomize=True,
        )
        self.options["allow_reconnect"] = True

    async def end(self) -> None:
        # Not by nats-py's own `close`: what it cancels may take the end of the connection, which it waits for, with it.
        self.up = False
        self._empty()
        self._subs.clear()
        self._status = Client.CLOSED
        some = (self._reading_task, self._ping_interval_task, self._flusher_task, self._reconnection_task)
        tasks = [task for task in some if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._abort()
        await asyncio.sleep(0)

    # --- out ----------------------------------------------------------------------------------------------------

    def send(self, command: bytes) -> None:
        """Leaves at the end of this turn of the loop, together with what is sent until then."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._write)
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._pending_data_size >= BURST:
            self._write()

    def waiting(self) -> int:
        """Bytes that have not left yet."""
        size: int = self._transport._io_writer.transport.get_write_buffer_size()  # noqa: SLF001 - see `_abort`
        return size

    async def barrier(self) -> None:
        """Unavailable where the connection is lost before the server has answered."""
        self.send(b"PING\r\n")
        self._write()
        pong = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        if not await pong:
            raise Unavailable("the connection to the broker was lost")

    def add(self, subject: str, receive: Receive, queue: str | None) -> Subscribed:
        self._sid += 1
        made = Subscribed(self, self._sid, subject, receive, queue or "")
        self._subs[self._sid] = made
        if self.up:
            self.send(made.command())
        return made

    def remove(self, sid: int) -> None:
        if self._subs.pop(sid, None) is not None and self.up:
            self.send(b"UNSUB %d\r\n" % sid)

    def subscribed(self) -> list[int]:
        return list(self._subs)

    def _write(self) -> None:
        self._scheduled = False
        if self._pending and self.up:
            out, self._pending, self._pending_data_size = self._pending, [], 0
            self._transport.writelines(out)

    def _empty(self) -> None:
        self._pending, self._pending_data_size = [], 0
        pongs, self._pongs = self._pongs, []
        for pong in pongs:
            if not pong.done():
                pong.set_result(False)

    # --- in -----------------------------------------------------------------------------------------------------

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        subscription = self._subs.get(sid)
        if subscription is None:
            return
        nobody = bool(headers) and not data and headers.startswith(_NOBODY)
        delivery = Delivery(subject.decode(), data, reply.decode() or None, "no_responders" if nobody else None)
        try:
            subscription.receive(delivery)
        except Exception as error:  # noqa: BLE001 - nats-py would stop reading without a word
            told = {"message": f"the receiver of {delivery.subject} raised", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)

    async def _process_ping(self) -> None:
        # At once: nats-py's own would leave it in the buffer while it connects again.
        self._transport.write(b"PONG\r\n")

    async def _process_pong(self) -> None:
        # nats-py's own stops reading for good when somebody who waited for the answer was cancelled.
        self._pings_outstanding = 0
        if self._pongs:
            pong = self._pongs.pop(0)
            if not pong.done():
                pong.set_result(True)

    async def _process_err(self, err_msg: str) -> None:
        text = err_msg.strip("'")
        observe.emit("bus.refused", server=self.tried, reason=text)
        if not text.startswith("permissions violation"):
            # nats-py would end here for good; the server closes the connection, and may take another.
            await self._process_op_err(errors.Error(text))

    # --- lost, and found again ------------------------------------------------------------------------------------

    async def _process_op_err(self, e: Exception) -> None:
        if self.up:
            self.up = False
            self._down_since = time.monotonic()
            self._empty()
            self._told()
            observe.emit("bus.cut", server=self.tried, error=str(e) or type(e).__name__)
        await super()._process_op_err(e)

    async def _attempt_reconnect(self) -> None:
        self.drop()
        await super()._attempt_reconnect()

    async def _process_connect_init(self) -> None:
        await super()._process_connect_init()
        if self._status != Client.CONNECTED:
            raise errors.Error("nats: closed the connection")
        if not self._server_info.get("headers"):
            raise errors.Error(f"nats: version {self._server_info.get('version')}")
        # Before nats-py subscribes anew: what comes at once can be answered.
        self.up = True
        assert self._reading_task is not None
        self._reading_task.add_done_callback(self._reads_no_more)

    async def _is_back(self) -> None:
        observe.emit("bus.back", server=self.tried, seconds=time.monotonic() - self._down_since)

    def _reads_no_more(self, task: asyncio.Task[None]) -> None:
        # Whatever ended it: a connection that nobody reads must not look like a good one.
        if self.up and task is self._reading_task:
            self._lost = asyncio.get_running_loop().create_task(self._process_op_err(errors.Error("nobody reads")))

    def drop(self) -> None:
        """End the connection at once: to wait until a silent peer agrees can take a quarter of an hour."""
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._abort()

    def _abort(self) -> None:
        if self._transport:
            self._transport._io_writer.transport.abort()  # noqa: SLF001 - there is no public way

    async def _connect_to_server(self, s: Srv) -> None:
        self.drop()
        self.tried = without_secrets(s.uri.geturl())
        await super()._connect_to_server(s)

    async def _select_next_server(self) -> None:
        """For the first connection: each once, in order."""
        failed: Exception = errors.NoServersError()
        for server in self._server_pool:
            try:
                await self._connect_to_server(server)
            except (OSError, TimeoutError) as error:
                failed = error
            else:
                self._current_server = server
                return
        raise failed

    def _connect_command(self) -> bytes:
        # Before the credentials leave.
        assert self._current_server is not None
        if self._current_server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise errors.Error("no tls")
        return super()._connect_command()


def _next_server(servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:  # noqa: ARG001 - nats-py's
    """Whom to try next when the connection was lost, and after how many seconds."""
    server = min(servers, key=lambda one: one.reconnects)
    return server, random.random() * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(server.reconnects, 10))


async def _ignore(_: Exception) -> None:
    """Errors are raised, or told by `_process_op_err` and `_process_err`."""


def _why(error: Exception, url: str) -> str:
    """What is wrong with a server that was not connected to, and what to do."""
    text = str(error).lower()
    match error:
        case ssl.SSLError():
            return f"no encrypted connection to {url}: {error}; SSL_CERT_FILE names the authorities to trust"
        case socket.gaierror():
            return f"the host of {url} is not known: {error}"
        case TimeoutError():
            return f"{url} has not answered as a NATS server does within {CONNECT} s"
        case OSError():
            return f"nobody listens at {url} ({error.strerror or error}): start a nats-server there or correct the URL"
    if "authorization violation" in text:
        return f"{url} refuses the credentials: a right user and password expected, as in nats://user:password@host"
    if "no tls" in text:
        return f"{url} does not encrypt, and tls:// is given: have the server ask for TLS, or give nats://"
    if "version" in text:
        return (
            f"{url} is of {text.removeprefix('nats: ')}, which does not tell when nobody serves; 2.2 or later expected"
        )
    if "info" in text:
        return f"what listens at {url} is no NATS server"
    return f"{url} does not take the connection: {error}"
