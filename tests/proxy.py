"""A real TCP proxy for a test, on a free port of the loopback: it stands between two programs, and cuts one direction,
or both, or puts words into the mouth of a server.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

BYTES = 64 * 1024


class Proxy:
    """Passes on what comes, from a thread of its own, so that it does so while a loop stands still.

    A direction that is cut is not read: nobody is told, what is sent waits in the sender's buffer as it does while its
    packets are lost, and arrives when the direction is healed. Connections that are made meanwhile are made, and are
    cut as well.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._cut = {"out": False, "back": False}
        self._shut = False
        self._words = (b"", b"")
        self._said = b""
        self.sent = 0
        """Bytes that got out."""
        self.heard: bytearray | None = None
        """What those have sent that have connected, once it is set to an empty one."""
        self._changed = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def cut(self, *, out: bool = False, back: bool = False) -> None:
        """From now on nothing gets out (from who has connected), or back, or neither. Returns when that is so."""
        self._cut = {"out": out, "back": back}
        self._change()

    def shut(self) -> None:
        """End all connections; those that are made meanwhile end at once."""
        self._shut = True
        self._change()

    def heal(self) -> None:
        self._shut = False
        self.cut()

    def replace(self, old: bytes, new: bytes) -> None:
        """From now on what comes back says `new` where the server has said `old`."""
        self._words = (old, new)

    def say(self, line: bytes) -> None:
        """Say something in the server's place, to all that have connected. Nothing else may be on its way back."""
        self._said = line
        self._change()

    def _change(self) -> None:
        self._changed.clear()
        self._wake.send(b"!")
        assert self._changed.wait(60)

    def close(self) -> None:
        self._over = True
        self._wake.send(b"!")
        self._thread.join(60)
        for one in (self._wake, self._woken, self._listening, *(end for pair in self._pairs for end in pair)):
            one.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._over:
            for key, _ in self._selector.select():
                if key.fileobj is self._listening:
                    self._accept()
                elif isinstance(key.data, tuple):
                    self._pass_on(*key.data)
                else:
                    self._woken.recv(BYTES)
                    self._arrange()

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        if self._shut:
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._to), 1)
        except OSError:
            client.close()
            return
        self._pairs.append((client, server))
        self._arrange()

    def _arrange(self) -> None:
        """Read what is not cut, and nothing else."""
        for client, _ in list(self._pairs) if self._shut else ():
            self._end(client)
        said, self._said = self._said, b""
        for client, server in self._pairs:
            client.sendall(said)
            for one, other, way in ((client, server, "out"), (server, client, "back")):
                registered = one in self._selector.get_map()
                if self._cut[way] and registered:
                    self._selector.unregister(one)
                elif not self._cut[way] and not registered:
                    self._selector.register(one, selectors.EVENT_READ, (one, other))
        self._changed.set()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = one.recv(BYTES)
            from_server = any(one is server for _, server in self._pairs)
            if self.heard is not None and not from_server:
                self.heard += data
            other.sendall(data.replace(*self._words) if from_server and self._words[0] else data)
            self.sent += 0 if from_server else len(data)
        if not data:
            self._end(one)

    def _end(self, one: socket.socket) -> None:
        """The connection of which it is an end."""
        for end in [end for pair in self._pairs if one in pair for end in pair]:
            if end.fileno() >= 0 and end in self._selector.get_map():
                self._selector.unregister(end)
            end.close()
        self._pairs = [pair for pair in self._pairs if one not in pair]


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    made = Proxy(port)
    try:
        yield made
    finally:
        made.close()
