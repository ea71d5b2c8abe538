"""The socket of the gateway, or the reason why it cannot be had."""

from __future__ import annotations

import errno
import socket

from mbactor import offload
from mbactor.errors import MbactorError

_HINTS = {
    errno.EADDRINUSE: "another program listens there; stop it, or choose another port (0 takes any free one)",
    errno.EACCES: "the process may not have this port; those below 1024 need privileges",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 stands for all it has",
}


async def listen(bind: str, port: int) -> socket.socket:
    """A bound socket. MbactorError says why there can be none."""
    try:
        found = await offload.run(
            socket.getaddrinfo, bind or "?", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        hint = "expected an IP address of this machine or a name for one"
        raise MbactorError(_cannot(bind, port, error, hint)) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)  # two sockets may bind with the option above; only one may listen
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise MbactorError(_cannot(bind, port, error, _HINTS.get(error.errno or 0, ""))) from None
    return listener


def _cannot(bind: str, port: int, error: OSError | UnicodeError, hint: str) -> str:
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"cannot listen on {_host(bind)}:{port}: {why}" + (f"; {hint}" if hint else "")


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{_host(host)}:{port}"


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
