"""The HTTP gateway: `POST /orders.example/place` asks `https://orders.example/place`.

JSON both ways: the response's body is what the endpoint returned. Only port 443 is reached from outside; an
address on any other port, however it is spelled, is answered like one that is not there.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import anyio
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from mbactor import observe
from mbactor.durations import text_of
from mbactor.errors import BodyTooLarge, BudgetSpent, InvalidSpec, MbactorError, MethodNotAllowed, NoSuchActor
from mbactor.kernel import Actor, Exit
from mbactor.kernel import Response as Answer
from mbactor.kernel.context import current
from mbactor.services.http_shape import Target, budget_of, error_response, passed_headers, target_of, trace_of
from mbactor.services.listener import listen, url_of

BODY_LIMIT = 4 * 1024 * 1024
BODY_TIME = 60.0
"""Seconds a client has to send its body, where it asks for no less."""
HEALTH = b"/_health"
"""No host has this name."""
MARGIN = 0.5
"""Seconds of the time to stop that are kept for telling clients that there will be no answer."""
_HOP_BY_HOP = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"})


Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""0 is any free port."""
Bytes = Annotated[int, msgspec.Meta(ge=0)]


class Gateway(Actor):
    """Lets HTTP clients ask actors.

        await system.spawn(Gateway, port=8080)

        $ curl localhost:8080/counter.example/add -d '{"by": 5}'
        15

    `port` 0 takes any free port; `url` says which. An address or port that cannot be had is a failed start. An error
    is JSON with `error` (the message), `statusCode`, `type` and the error's fields. Of a crash the exception's text
    is told, with file paths left out, and the traceback only where `show_traces` is set. A client shortens or extends
    the time budget (20 s) by `Request-Timeout: 5s`, up to 15 minutes. A `traceparent` is continued.

    `GET /_health` answers 200 where this process does its work, and 503 with the reason where it is being started or
    the broker cannot be reached: see `ActorSystem.unready`.

    Requests run at once, beside each other, outside the mailbox. When the gateway stops it accepts no more, lets
    running requests end within its time to stop, and answers 504 to the rest.
    """

    protocol: ClassVar[Literal["auto", "h11", "httptools"]] = "auto"
    """uvicorn's HTTP parser."""

    def __init__(
        self,
        port: Port = 8080,
        bind: str = "127.0.0.1",
        body_limit: Bytes = BODY_LIMIT,
        *,
        show_traces: bool = False,
    ) -> None:
        if not 0 <= port <= 65535:
            raise InvalidSpec(f"gateway port {port!r}: expected a number from 0 (any free port) to 65535")
        if body_limit < 0:
            raise InvalidSpec(f"gateway body_limit {body_limit!r}: expected a number of bytes, 0 or more")
        self.port = port
        self.bind = bind
        self.body_limit = body_limit
        self.show_traces = show_traces
        self.url = ""
        self._asked: set[asyncio.Future[Answer]] = set()
        self._server: _Server

    async def on_start(self) -> None:
        listener = await listen(self.bind, self.port)
        self.url = url_of(listener)
        self._server = _Server(
            uvicorn.Config(
                self._app(),
                log_config=None,
                log_level="critical",
                access_log=False,
                lifespan="off",
                ws="none",
                http=self.protocol,
                proxy_headers=False,
                server_header=False,
            )
        )
        await self._server.open(listener)
        ticking = self.spawn_task(self._server.tick(), name=f"gateway at {self.url}")
        ticking.add_done_callback(lambda _: self._server.cut())  # after a kill too, when on_stop does not run
        observe.emit("gateway.serving", url=self.url)

    async def on_stop(self, exit: Exit) -> None:
        try:
            await self._server.refuse()
            with anyio.move_on_after(self._patience(exit)):
                await self._server.wait_idle()
            for future in self._asked:
                if not future.done():
                    future.set_exception(
                        MbactorError(
                            "the gateway stopped before the answer came; the request may have been carried out",
                            status=504,
                        )
                    )
            with anyio.move_on_after(MARGIN / 2):
                await self._server.wait_idle()
        finally:
            self._server.cut()
        await self._server.wait_gone()

    def _patience(self, exit: Exit) -> float | None:
        """Seconds for requests to end: most of what this actor has to stop; little after a crash."""
        allowed = self._alive().cell.shutdown if exit.clean else MARGIN
        return None if allowed is None else max(allowed - MARGIN, allowed / 2)

    def _app(self) -> Starlette:
        return Starlette(
            routes=[Mount("/", app=self._serve)],
            exception_handlers={HTTPException: self._nothing_there, Exception: self._failed},
        )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)

    # --- one request -------------------------------------------------------------------------------------

    async def _respond(self, request: Request) -> Response:
        # The server's tasks inherit whatever was at hand when the connection was made.
        if request.scope["raw_path"] == HEALTH:
            return self._health(request.method)
        current.set(None)
        observe.current_trace.set(trace_of(request.headers.get("traceparent")))
        try:
            return await self._observed(request)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except MbactorError as error:
            if isinstance(error, NoSuchActor) and error.taken != "no":
                observe.emit("gateway.unreachable", path=_shown(request), error=error)
            return _response(error_response(error, request.scope["raw_path"], show_trace=self.show_traces))

    def _health(self, method: str) -> Response:
        """Whether this process does its work: for who decides whether to send requests here."""
        if method not in {"GET", "HEAD"}:
            return Response(status_code=405, headers={"allow": "GET, HEAD"})
        why = self._alive().cell.node.unready()
        told = {"status": "ready"} if why is None else {"status": "unready", "reason": why}
        return _response(Answer(200 if why is None else 503, msgspec.json.encode(told), {}))

    async def _observed(self, request: Request) -> Response:
        """Answer within a span. Errors are raised through it, so that it knows them."""
        target: Target | MbactorError
        try:
            target = target_of(request.method, request.scope["raw_path"], request.scope["query_string"])
            name = f"{request.method} /{target.address.host}"
        except MbactorError as error:
            target, name = error, "request"
        with observe.span("http", name, method=request.method, path=_shown(request)) as span:
            if isinstance(target, MbactorError):
                raise target
            span["host"] = target.address.host
            answer = await self._in_time(request, target)
            span["status"] = answer.status
        return _response(answer)

    async def _in_time(self, request: Request, target: Target) -> Answer:
        budget = budget_of(request.headers.get("request-timeout"))
        try:
            with anyio.fail_after(budget):
                body = await self._body(request)
                return await self._ask(target, body, passed_headers(request.headers.items()))
        except TimeoutError as error:
            if isinstance(error, MbactorError) or budget is None:
                raise
            raise BudgetSpent(f"there was no answer within {text_of(budget)}") from None

    async def _body(self, request: Request) -> bytes:
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.body_limit:
            raise BodyTooLarge(self.body_limit)
        body = bytearray()
        with anyio.move_on_after(BODY_TIME) as scope:
            async for chunk in request.stream():
                body += chunk
                if len(body) > self.body_limit:
                    raise BodyTooLarge(self.body_limit)
        if scope.cancelled_caught:
            raise BudgetSpent(f"the body did not arrive within {text_of(BODY_TIME)}")
        return bytes(body)

    async def _ask(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        url, method = str(target.address), target.address.method
        try:
            return await self._answer(method, url, body, headers, target.query)
        except (NoSuchActor, MethodNotAllowed) as error:
            # Where GET is served HEAD is too, unless the refusal came from further down.
            if method != "HEAD" or (isinstance(error, NoSuchActor) and error.address != url):
                raise
        return await self._answer("GET", url, body, headers, target.query)

    async def _answer(self, method: str, url: str, body: bytes, headers: Mapping[str, str], query: str) -> Answer:
        future = asyncio.ensure_future(self.request(method, url, body, headers, query))
        self._asked.add(future)
        future.add_done_callback(self._asked.discard)
        return await future

    # --- what goes wrong before or beside an actor ---------------------------------------------------------

    async def _nothing_there(self, request: Request, _: Exception) -> Response:
        """No route: a path that the framework does not even match."""
        path: bytes = request.scope["raw_path"]
        return _response(error_response(NoSuchActor(path.decode("latin-1")), path, show_trace=False))

    async def _failed(self, request: Request, error: Exception) -> Response:
        observe.emit("actor.crashed", actor=f"gateway {self.url}", method="request", error=error, told=True)
        answer = MbactorError("the gateway failed; its log says why")
        return _response(error_response(answer, request.scope["raw_path"], show_trace=False))


def _response(answer: Answer) -> Response:
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff", "content-type": "application/json"}
    headers |= {k.lower(): v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
    return Response(answer.body, answer.status, headers)


def _shown(request: Request) -> str:
    path: bytes = request.scope["raw_path"]
    return path[:1024].decode("latin-1")


class _Connections(set[Any]):
    """The open connections. One that was accepted in the moment before the server closed arrives here after it."""

    closed = False

    def add(self, connection: Any) -> None:
        super().add(connection)
        if self.closed:
            asyncio.get_running_loop().call_soon(connection.shutdown)


class _Server(uvicorn.Server):
    """uvicorn inside a loop that is not its own: it installs no signal handlers and ends when it is told to.

    `open`, then `tick` for as long as it lasts, then `refuse`, `wait_idle` and `cut`.
    """

    async def open(self, listener: socket.socket) -> None:
        """Accept connections."""
        try:
            self._connections = self.server_state.connections = _Connections()
            self.config.load()
            self.lifespan = self.config.lifespan_class(self.config)
            await self.on_tick(0)
            await self.startup(sockets=[listener])
        except BaseException:
            listener.close()
            raise

    async def tick(self) -> None:
        """Keep the Date header of responses right."""
        while True:
            await asyncio.sleep(1)
            await self.on_tick(0)

    async def refuse(self) -> None:
        """Accept no more connections, and on those there are no more requests."""
        self._connections.closed = True
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
        await _turns()  # a connection that is accepted but not yet the server's would be lost when that closes
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()

    async def wait_idle(self) -> None:
        """Returns when no request runs and no connection is open."""
        state = self.server_state
        while state.tasks or state.connections:
            if state.tasks:
                await asyncio.wait(list(state.tasks))
            else:
                await asyncio.sleep(0.01)

    def cut(self) -> None:
        """End all that is left, at once. Idempotent."""
        self._connections.closed = True
        for server in self.servers:
            server.close()
        for task in list(self.server_state.tasks):
            task.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def wait_gone(self) -> None:
        """Give what was cut the few turns of the loop that it needs to end."""
        for _ in range(3):
            await _turns()
            if not self.server_state.tasks and not self.server_state.connections:
                return


async def _turns() -> None:
    """A few turns of the loop."""
    for _ in range(4):
        await asyncio.sleep(0)
