"""What a node (a child in an OS process of its own) and its parent say to each other over their control socket.

The parent says `Begin` once, then `Start` for each incarnation; the node answers `Ready` or `Failed`. It tells `Exited`
when the incarnation ends by itself, `Stopped` when it has been stopped as asked. On the wire: the length in four
bytes, then msgpack. The specification travels as a pickle: the socket is private to the two.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import msgspec

from mbactor import process_worker
from mbactor.errors import InvalidSpec, error_text, from_wire, to_wire
from mbactor.kernel.exit import Exit, ExitKind
from mbactor.process_worker import Preparation
from mbactor.supervisor.operate.by_name import Operated, Verb
from mbactor.supervisor.spec import ChildSpec
from mbactor.supervisor.tree import TreeNode

LENGTH = struct.Struct(">I")


class WireExit(msgspec.Struct, array_like=True):
    """An `Exit` as it travels."""

    kind: ExitKind
    error: dict[str, Any] | None = None
    told: bool = False

    @classmethod
    def of(cls, exit: Exit) -> WireExit:
        return cls(exit.kind, None if exit.error is None else to_wire(exit.error), exit.told)

    def exit(self) -> Exit:
        return Exit(self.kind, None if self.error is None else from_wire(self.error), self.told)


# --- from the parent ----------------------------------------------------------------------------------------------


class Begin(msgspec.Struct, tag=True):
    """Who the node is, and what it runs."""

    preparation: Preparation
    spec: bytes
    parent: str
    """The path of the supervisor it is under."""
    plane: str
    url: str | None
    """The broker that it connects to, with all that it needs to be let in; None: it has a link to the parent's bus."""
    serialize_local: bool
    watchdog: float | None
    ack_window: float
    max_body: int
    coalesce: bool
    locality: str
    uvloop: bool
    traced: bool
    """Whether it exports its own telemetry."""


class Start(msgspec.Struct, tag=True):
    """Start an incarnation."""

    number: int


class Stop(msgspec.Struct, tag=True):
    """Stop within so many seconds (None: as long as it takes), and end."""

    timeout: float | None
    exit: WireExit


class Pause(msgspec.Struct, tag=True):
    """The next `Start` is that far away."""

    seconds: float


class Close(msgspec.Struct, tag=True):
    """There will be no further `Start`: end."""

    exit: WireExit


class Ping(msgspec.Struct, tag=True):
    """Is there anybody? Answered by a thread, also while the loop is blocked."""


class Look(msgspec.Struct, tag=True):
    """What runs there now?"""


class Operate(msgspec.Struct, tag=True):
    """Do what an operator asks, to a child in there."""

    number: int
    verb: Verb
    path: str


# --- from the node ------------------------------------------------------------------------------------------------


class Ready(msgspec.Struct, tag=True):
    """The incarnation runs. `ref` is the actor's, where it is one."""

    ref: str | None


class Failed(msgspec.Struct, tag=True):
    """It did not start; the process ends."""

    error: dict[str, Any]
    ignored: bool


class Exited(msgspec.Struct, tag=True):
    """The incarnation ended by itself. Where `kept`, the process waits for the next one, with its mailbox."""

    exit: WireExit
    kept: bool


class Stopped(msgspec.Struct, tag=True):
    """It was stopped as asked, and ended so; the process ends."""

    exit: WireExit


class Serves(msgspec.Struct, tag=True):
    """A host is served there; or is not any more, and not because it ends."""

    host: str
    on: bool


class Terminate(msgspec.Struct, tag=True):
    """Somebody asked the actor to end for good."""


class Pong(msgspec.Struct, tag=True):
    """The answer to `Ping`."""


class Happened(msgspec.Struct, tag=True):
    """An event of the node, for the parent's observers. `lost` went untold before it, for want of room."""

    name: str
    fields: dict[str, Any]
    lost: int = 0


class Seen(msgspec.Struct, tag=True):
    """The answer to `Look`."""

    tree: TreeNode


class Done(msgspec.Struct, tag=True):
    """What came of an `Operate`."""

    number: int
    operated: Operated | None = None
    error: dict[str, Any] | None = None


FromParent = Begin | Start | Stop | Pause | Close | Ping | Look | Operate
FromNode = Ready | Failed | Exited | Stopped | Serves | Terminate | Pong | Happened | Seen | Done

_encode = msgspec.msgpack.Encoder(enc_hook=repr).encode
from_parent: msgspec.msgpack.Decoder[FromParent] = msgspec.msgpack.Decoder(FromParent)
from_node: msgspec.msgpack.Decoder[FromNode] = msgspec.msgpack.Decoder(FromNode)


def encoded(frame: FromParent | FromNode) -> bytes:
    try:
        data = _encode(frame)
    except (OverflowError, UnicodeEncodeError):
        data = _encode(_told(msgspec.to_builtins(frame, builtin_types=(bytes,), enc_hook=repr)))
    return LENGTH.pack(len(data)) + data


def _told(value: Any) -> Any:
    """A value of which msgpack cannot have all, with that as text: whole numbers of more than 64 bits, and texts that
    are not Unicode.
    """
    match value:
        case dict():
            return {_told(name): _told(one) for name, one in value.items()}
        case list() | tuple():
            return [_told(one) for one in value]
        case int() if not -(2**63) <= value < 2**64:
            return hex(value)
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case _:
            return value


def split(buffer: bytearray) -> Iterator[bytes]:
    """Take the whole frames out of the buffer."""
    while len(buffer) >= LENGTH.size:
        end = LENGTH.size + LENGTH.unpack_from(buffer)[0]
        if len(buffer) < end:
            return
        frame = bytes(buffer[LENGTH.size : end])
        del buffer[:end]
        yield frame


# --- events ---------------------------------------------------------------------------------------------------------

_ERROR = "__error__"


def plain(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an event as they travel."""
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, BaseException):
        return {_ERROR: to_wire(value)}
    try:
        return msgspec.to_builtins(value, enc_hook=str)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def restored(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as they were, as far as that is possible."""
    return {
        name: from_wire(value[_ERROR]) if isinstance(value, dict) and _ERROR in value else value
        for name, value in fields.items()
    }


# --- the specification ----------------------------------------------------------------------------------------------


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        return (dict, (dict(obj),)) if isinstance(obj, MappingProxyType) else NotImplemented


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return process_worker.resolve(f"{module}:{name}")


def pickled(spec: ChildSpec) -> bytes:
    """The specification for another process. InvalidSpec where it cannot go there, and why."""
    out = io.BytesIO()
    try:
        _Pickler(out, protocol=pickle.HIGHEST_PROTOCOL).dump(spec)
    except Exception as error:
        raise InvalidSpec(
            f"child {spec.id!r}: process: True needs a class that another process can import, and arguments that can be"
            f" pickled: {type(error).__name__}: {error_text(error)}"
        ) from error
    return out.getvalue()


def unpickled(data: bytes) -> ChildSpec:
    spec = _Unpickler(io.BytesIO(data)).load()
    assert isinstance(spec, ChildSpec)
    return spec
