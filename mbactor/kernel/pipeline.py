"""The order of concerns around a method, on the way in.

`errors` is outermost, so that nothing leaves as a raw exception, and `budget` innermost, so that only the user's code
runs under it; both are the worker's own (`worker.py`): it answers with what a method raises, and one cancel scope
resides in it, because a scope for each message would cost more than everything else. Between them stand the
middlewares of `INBOUND`, outermost first.

A middleware is a function (route, handler) -> handler, called once for each endpoint, when the routes of its class
are made. One that has nothing to do returns the handler it was given, so what is not used costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from mbactor import observe
from mbactor.kernel.authorize import refusal
from mbactor.kernel.context import Call
from mbactor.kernel.feature import Invoke

if TYPE_CHECKING:
    from mbactor.kernel.routes import Route

Middleware = Callable[["Route", Invoke], Invoke]


def observed(route: Route, handler: Invoke) -> Invoke:
    """The handler inside an `inbound` span that continues the caller's trace."""

    async def observe_call(actor: Any, call: Call) -> Any:
        # A worker's task has the trace of whoever woke it first.
        observe.current_trace.set(call.trace)
        source = actor.host or type(actor).__name__
        with observe.span("inbound", route.name, parent=call.trace, actor=source, method=route.feature.name):
            call.trace = observe.traceparent()
            return await handler(actor, call)

    return observe_call


def authorized(route: Route, handler: Invoke) -> Invoke:
    """The handler, for those whose claims satisfy what the endpoint requires."""
    requires = route.feature.requires
    if requires is None:
        return handler

    def authorize_call(actor: Any, call: Call) -> Awaitable[Any]:
        refused = refusal(requires, call.identity, route.name)
        if refused is not None:
            call.refused = True
            raise refused
        return handler(actor, call)

    return authorize_call


INBOUND: tuple[Middleware, ...] = (observed, authorized)


def assemble(route: Route, handler: Invoke, middlewares: tuple[Middleware, ...] = INBOUND) -> Invoke:
    """The handler within the middlewares, the first outermost."""
    for middleware in reversed(middlewares):
        handler = middleware(route, handler)
    return handler
