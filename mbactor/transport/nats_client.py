"""A connection to a NATS server: nats-py's client with what a bus needs of it and it does not do.

It dispatches without a queue, writes once a turn of the loop, keeps nothing through an outage, fails early, and goes on
after errors that would end nats-py's own. The only module that knows nats-py, which is pinned: it is subclassed at
places that are not public.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from nats import errors
from nats.aio.client import Client, Server, Srv

from mbactor import observe
from mbactor.errors import InvalidSpec, MessageTooLarge, Unavailable
from mbactor.transport.bus import Receive
from mbactor.transport.nats_access import Access, Keys
from mbactor.transport.nats_dispatch import Dispatch, Subscribed
from mbactor.transport.nats_parser import MalformedStream, Parser
from mbactor.transport.nats_refused import refused
from mbactor.transport.nats_url import without_secrets
from mbactor.transport.nats_why import Who, why_not
from mbactor.transport.nats_wire import Wire
from mbactor.transport.turn import EndOfTurn

CONNECT = 2
"""Seconds a server has to answer when it is connected to."""
PING = 5
"""Seconds between the questions whether the server is still there."""
SILENT = 2
"""Questions in a row that may stay without answer: then the connection counts as lost."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds up to which is waited before the first try to connect again, and before each later one."""
FULL = 64 * 1024 * 1024
"""Bytes that may wait for a server that does not read."""
BURST = 8 * 1024
"""Bytes that are kept until the end of a turn of the loop; more are written at once, and count as waiting."""
LEAST = 1024
"""Bytes a message has to be allowed: the envelope of most, and something in it."""


class Connection(Client):
    """nats-py's connection: it connects, authenticates, encrypts and connects again."""

    _pending: list[bytes]
    _subs: dict[int, Any]
    _pongs: list[asyncio.Future[Any]]
    _transport: Any

    def __init__(
        self, access: Access, told: Callable[[], None], back: Callable[[], None], fewer: Callable[[], None]
    ) -> None:
        super().__init__()
        self._access = access
        self._keys: Keys | None = None
        self.up = False
        self.tried = ""
        """The server that was connected to last."""
        self._told = told
        self._back = back
        self._fewer = fewer
        """Told that a server of the cluster is gone, with the connections that others had to it."""
        self._cluster: set[str] = set()
        """Its servers, as the one that is connected to says."""
        self._down_since = 0.0
        self.why = ""
        """Why the last try to connect again came to nothing; empty where there was none since it was lost."""
        self._refusal = ""
        """Of those, what the server said the last time it refused one."""
        self.changes = 0
        """How often something was subscribed to, or not any more."""
        self.end_of_turn = EndOfTurn(self._write)
        self.dispatch = Dispatch()
        self._subs = self.dispatch.subscriptions
        self._mark: asyncio.Future[bool] | None = None
        """The answer to it says that the server has read all that was marked."""
        self._said = ""
        """What the server said was wrong, before it ended the connection."""
        self._later: set[asyncio.Task[None]] = set()
        self._ended = False

    async def open(self, servers: list[str]) -> None:
        """Connect to one of them, tried in an order drawn at random. Unavailable where none takes the connection, with
        the reason of the last.
        """
        order = random.sample(servers, len(servers))
        for first in range(len(order)):
            try:
                await self._open(order[first:] + order[:first])
            except BaseException as error:
                self.drop()
                if isinstance(error.__cause__, InvalidSpec):  # a file of ours: no other server takes it either
                    raise error.__cause__ from None
                if not isinstance(error, OSError | errors.Error | TimeoutError):
                    raise
                if first == len(order) - 1:
                    raise Unavailable(self._why_not(error)) from error
            else:
                return

    async def _open(self, servers: list[str]) -> None:
        self._server_pool = []
        await self.connect(
            servers,
            error_cb=self._not_back,
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
        self._ended = True
        self._empty()
        self._subs.clear()
        self._status = Client.CLOSED
        some = (self._reading_task, self._ping_interval_task, self._flusher_task, self._reconnection_task)
        tasks = [task for task in some if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self.drop()
        await asyncio.sleep(0)

    # --- out ----------------------------------------------------------------------------------------------------

    def send(self, command: bytes) -> None:
        """Leaves at the end of this turn of the loop, together with what is sent until then; at once where that is
        hardly more than this.
        """
        end = self.end_of_turn
        if end.quiet and self.up and not self._pending:
            self._transport.write(command)
            end.left()
            return
        self.end_of_turn.want()
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._pending_data_size >= BURST:
            self._write()

    @property
    def guarded(self) -> bool:
        """Whether the server wants to know who connects."""
        return bool(self._server_info.get("auth_required"))

    def waiting(self) -> int:
        """Bytes that have not left yet."""
        size: int = self._transport.waiting()
        return size

    def carry(self, subject: str, data: bytes, reply: str | None) -> None:
        """`send` of a message: when one with a reply subject is refused, that is told there."""
        size = len(data)
        if size > self._max_payload:
            raise MessageTooLarge(size, self._max_payload)
        line = f"PUB {subject} {reply or ''} {size}"
        if not subject or not line.isprintable() or line.count(" ") != 3:
            raise ValueError(f"subject {subject!r}, reply {reply!r}: no blanks and no control characters expected")
        command = b"\r\n".join((line.encode(), data, b""))
        if reply is not None and self._transport.waiting() >= FULL:
            raise Unavailable(f"the broker does not read: {FULL} bytes wait for it")
        end = self.end_of_turn
        if end.quiet and self.up and not self._pending:  # as `send`, which is a call more
            self._transport.write(command)
            end.left()
        else:
            self.send(command)
        if reply is not None and self.dispatch.asked.add(subject, reply):
            self.dispatch.asked.mark()
            self._mark = self._ping()

    async def barrier(self) -> None:
        """Unavailable where the connection is lost, or is before the server has answered."""
        pong = self._ping() if self.up else None  # nobody would answer it: what is waited for is forgotten at a loss
        self._write()
        if pong is None or not await pong:
            raise Unavailable("the connection to the broker was lost")

    async def renew(self, why: str) -> None:
        """Make a connection anew that does not do its work."""
        await self._process_op_err(errors.Error(why))

    @property
    def known_as(self) -> tuple[str, int]:
        """The server's name for itself, and its number for this connection."""
        return str(self._server_info.get("server_id")), int(self._server_info.get("client_id", 0))

    def _ping(self) -> asyncio.Future[bool]:
        """Whether the server has answered, to all that was sent before."""
        self.send(b"PING\r\n")
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        return pong

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # nats-py's own passes what waits to be written, and would take the answer to an earlier question.
        self.send(b"PING\r\n")
        self._write()
        self._pongs.append(future or asyncio.get_running_loop().create_future())

    def add(self, subject: str, receive: Receive, queue: str | None) -> Subscribed:
        self._sid += 1
        self.changes += 1
        made = Subscribed(self._sid, subject, receive, queue or "", self.remove)
        self._subs[self._sid] = made
        if self.up:
            self.send(made.command())
        return made

    def remove(self, sid: int) -> None:
        self.changes += 1
        subscription = self._subs.pop(sid, None)
        if subscription is not None and self.up:
            leaving = self.dispatch.leaving
            leaving[sid] = subscription
            self.send(b"UNSUB %d\r\n" % sid)
            self._ping().add_done_callback(lambda _: leaving.pop(sid, None))

    def subscribed(self) -> list[int]:
        return list(self._subs)

    def _write(self) -> None:
        if self._pending and self.up:
            out, self._pending, self._pending_data_size = self._pending, [], 0
            self._transport.writelines(out)

    def _empty(self) -> None:
        self._pending, self._pending_data_size = [], 0
        self.dispatch.forget()
        pongs, self._pongs = self._pongs, []
        for pong in pongs:
            if not pong.done():
                pong.set_result(False)

    # --- in -----------------------------------------------------------------------------------------------------

    def _parser(self) -> Parser:
        lines = {
            b"PING": self._pinged,
            b"PONG": self._ponged,
            b"INFO": self._informed,
            b"-ERR": self._refused,
            b"+OK": _ignore_line,
        }
        return Parser(self.dispatch.take, lines)

    def _pinged(self, _: bytes) -> None:
        self._transport.write(b"PONG\r\n")

    def _ponged(self, _: bytes) -> None:
        self._pings_outstanding = 0
        if self._pongs:
            pong = self._pongs.pop(0)
            if pong is self._mark:
                self.dispatch.asked.confirm()
            if not pong.done():  # who waited for it may have been cancelled
                pong.set_result(True)

    def _informed(self, text: bytes) -> None:
        """The servers of the cluster have changed, or a limit."""
        try:
            info = json.loads(text)
            self._max_payload = int(info.get("max_payload", self._max_payload))
            cluster = _cluster_of(info)
        except (ValueError, AttributeError, TypeError):
            raise MalformedStream(f"no INFO of NATS: {text[:80]!r}") from None
        before, self._cluster = self._cluster, cluster
        self._soon(self._process_info(info))
        if before - cluster:
            self._fewer()

    def _refused(self, quoted: bytes) -> None:
        # Where it is the end, the server closes the connection: then this is the reason.
        self._said = text = quoted.decode(errors="replace").strip("'")
        found = refused(text)
        if found is not None:
            self._said = ""
        if found is None or self.dispatch.refuse(found, text):
            observe.emit("bus.refused", server=self.tried, reason=text)

    # --- lost, and found again ------------------------------------------------------------------------------------

    def _lost(self, wire: Wire, error: Exception) -> None:
        if wire is self._transport and self.up:
            error = errors.Error(self._said) if self._said else error
            self._down(error)
            self._soon(super()._process_op_err(error))

    def _down(self, error: Exception) -> None:
        """Tell that it is lost, once, whoever noticed it."""
        if self.up:
            self.up = False
            self.why = self._refusal = ""
            self._down_since = time.monotonic()
            self._empty()
            self._told()
            observe.emit("bus.cut", server=self.tried, error=str(error) or type(error).__name__)

    async def _process_op_err(self, e: Exception) -> None:
        self._down(e)
        await super()._process_op_err(e)

    async def _attempt_reconnect(self) -> None:
        self.drop()
        await super()._attempt_reconnect()

    async def _not_back(self, error: Exception) -> None:
        """A try to connect again failed. That a server refuses it is told once; that none is there, `bus.cut` has."""
        why = self._why_not(error)
        if not self.options["allow_reconnect"]:
            return
        self.why = why
        if isinstance(error, errors.Error | ssl.SSLError) and why != self._refusal:
            self._refusal = why
            observe.emit("bus.refused", server=self.tried, reason=why)

    def _why_not(self, error: Exception) -> str:
        who = Who(self._keys.doubt() if self._keys else "", self._access.certificate or "")
        return why_not(error, self.tried, CONNECT, who)

    async def _process_connect_init(self) -> None:
        self._server_info = {}
        try:
            with _tried_again():
                await super()._process_connect_init()
                if self._status != Client.CONNECTED:
                    raise self._transport.reason or errors.Error("nats: closed the connection")
        except (ssl.SSLCertVerificationError, TimeoutError):
            raise
        except (OSError, errors.Error) as error:
            if said := self._transport.refusal():
                raise errors.Error(f"nats: '{said}'") from error
            told = isinstance(error.__cause__, InvalidSpec) or "violation" in str(error).lower()
            info: Any = self._server_info  # whatever JSON was sent
            if not told and isinstance(info, dict) and info.get("tls_verify"):
                raise errors.Error("nats: certificate required") from error
            raise
        if not self._server_info.get("headers"):
            raise errors.Error(f"nats: no headers, version {self._server_info.get('version')}")
        largest = self._server_info.get("max_payload")
        if type(largest) is not int or largest < LEAST:
            raise errors.Error(f"nats: max_payload {largest}")
        self._check_wanted()
        await self._transport.drain()  # it may be lost already
        # Before nats-py subscribes anew: what comes at once can be answered.
        self._said = ""
        self._cluster = _cluster_of(self._server_info)
        self.up = True
        self._transport.take(self._parser().feed, self.end_of_turn.begin)

    async def _read_loop(self) -> None:
        # The wire hands over what it reads; nats-py wants to see a task.
        await self._transport.wait_closed()

    async def _is_back(self) -> None:
        self._check_wanted()
        observe.emit("bus.back", server=self.tried, seconds=time.monotonic() - self._down_since)
        self._back()

    def drop(self) -> None:
        """End the connection at once: to wait until a silent peer agrees can take a quarter of an hour."""
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        if self._transport:
            self._transport.abort()

    def _check_wanted(self) -> None:
        """Before Python 3.12 what waits by `wait_for`, as nats-py does, may keep a cancellation to itself: it would
        connect, or try to, after the end.
        """
        if self._ended:
            raise asyncio.CancelledError

    async def _connect_to_server(self, s: Srv) -> None:
        self._check_wanted()
        self.drop()
        self._down(errors.Error("it could not be subscribed anew"))  # where nats-py gave it up in the midst of that
        self.tried = without_secrets(s.uri.geturl())
        self._transport = Wire(self._lost)
        with _tried_again():
            await super()._connect_to_server(s)

    async def _select_next_server(self) -> None:
        """For the first connection, which `open` tries with one server after the other."""
        await self._connect_to_server(self._server_pool[0])
        self._current_server = self._server_pool[0]

    def _connect_command(self) -> bytes:
        # Before the credentials leave.
        assert self._current_server is not None
        insists = "tls://" if self._current_server.uri.scheme == "tls" else self._access.insists
        if insists and not self._server_info.get("tls_required"):
            raise errors.Error(f"no tls, {insists}")
        # nats-py would give none to a server of the cluster that another has told of, and takes %40 for itself.
        named = [one.uri for one in (self._current_server, *self._server_pool) if one.uri.username]
        if named:
            user, password = unquote(named[0].username or ""), named[0].password
            mine = {"token": user} if password is None else {"user": user, "password": unquote(password)}
            self.options.update({"user": None, "password": None, "token": None} | mine)
        self._keys = keys = self._access.keys()
        if keys is not None:
            self._signature_cb, self._public_nkey = keys.sign, keys.public
            self._user_jwt_cb = keys.token.encode if keys.token else None
        return super()._connect_command()

    @property
    def ssl_context(self) -> ssl.SSLContext:
        return self._access.tls()

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)


@contextmanager
def _tried_again() -> Iterator[None]:
    """After its own errors and those of the system nats-py tries again; after any other it never would."""
    try:
        yield
    except (OSError, errors.Error):
        raise
    except Exception as error:
        raise errors.Error(f"nats: {type(error).__name__}: {error}") from error


def _next_server(servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:  # noqa: ARG001 - nats-py's
    """Whom to try next when the connection was lost, and after how many seconds."""
    server = min(servers, key=lambda one: (one.reconnects, random.random()))
    return server, random.random() * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(server.reconnects, 10))


def _cluster_of(info: Mapping[str, Any]) -> set[str]:
    """The servers of a cluster that an INFO names."""
    named = info.get("connect_urls")
    return {str(one) for one in named} if isinstance(named, list) else set()


def _ignore_line(_: bytes) -> None:
    """A server says +OK where it is asked to, and is not."""
