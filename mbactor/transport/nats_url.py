"""The URL of a broker, taken apart and checked without connecting. Pure.

    servers_of("nats://a.example:4222,nats://b.example")     # ["nats://a.example:4222", "nats://b.example:4222"]

`tls://` insists on an encrypted connection; `nats://` is encrypted where the server asks for it. A user and a password
(or a token alone) may stand before the host, with what means something in a URL percent-encoded.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from mbactor.errors import InvalidSpec

PORT = 4222
SCHEMES = ("nats", "tls")
_EXPECTED = "nats://host:port expected, or several of them with commas between"
_SECRET = re.compile(r"//((?!,\s*\w+://).)*@", re.DOTALL)
"""What stands before a host: up to the last @ before the next URL, as a password may have any character by mistake."""
_RESERVED = re.compile(r"[/?#\[\],]")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")


def is_broker(transport: str) -> bool:
    """Whether a transport means to be the URL of a broker, be it right or not."""
    return transport.partition("://")[0] in SCHEMES and "://" in transport


def servers_of(text: str) -> list[str]:
    """The URL of each server, with its port. InvalidSpec for what is none, without the password in it."""
    for secret in _SECRET.finditer(text):
        if found := _RESERVED.search(secret[0], 2):
            each = ", and each server begins with nats://" if found[0] == "," else ""
            raise _wrong(text, f"before the @ a {found[0]!r} is to be written %{ord(found[0]):02X}{each}")
    return [_server(one.strip(), text) for one in text.split(",")]


def without_secrets(text: str) -> str:
    """As it may be shown: what stands before the host is left out."""
    return _SECRET.sub("//", text)


def _server(one: str, text: str) -> str:
    try:
        url = urlsplit(one)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise _wrong(text, str(error)) from None
    if url.scheme not in SCHEMES or not one.startswith(f"{url.scheme}://"):
        raise _wrong(text, f"the scheme of {without_secrets(one)!r} is none of nats, tls")
    if not host or _HOST.fullmatch(host) is None:
        raise _wrong(text, f"{without_secrets(one)!r} has no host" if not host else f"{host!r} is no host")
    if port == 0:
        raise _wrong(text, "port 0 is none that can be connected to")
    more = url.path.strip("/") or url.query or url.fragment
    if more:
        raise _wrong(text, f"{more!r} after the host and port means nothing")
    return f"{url.scheme}://{_authority(url, host)}:{port or PORT}"


def _authority(url: SplitResult, host: str) -> str:
    user, at, _ = url.netloc.rpartition("@")
    return f"{user}{at}" + (f"[{host}]" if ":" in host else host)


def _wrong(text: str, why: str) -> InvalidSpec:
    return InvalidSpec(f"transport: {without_secrets(text)!r} given, {_EXPECTED}: {why}")
