"""The URL of a broker, taken apart and checked without connecting. Pure.

    broker_of("nats://a.example:4222,nats://b.example?creds=shop.creds")
    # servers ["nats://a.example:4222", "nats://b.example:4222"], files {"creds": "shop.creds"}

`tls://` insists on an encrypted connection, and so do `ca` and `cert`; else `nats://` is encrypted where the server
asks for it. A user and a password (or a token alone) may stand before the host, with what means something in a URL
percent-encoded. Files of keys and certificates stand at the end, for all servers, by the names of `nats_access.NAMES`.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

from mbactor.errors import InvalidSpec, did_you_mean
from mbactor.transport.nats_access import NAMES

PORT = 4222
SCHEMES = ("nats", "tls")
_EXPECTED = "nats://host:port expected, or several of them with commas between"
_SECRET = re.compile(r"//((?!,\s*\w+://).)*@", re.DOTALL)
"""What stands before a host: up to the last @ before the next URL, as a password may have any character by mistake."""
_HINTS = {",": ", and each server begins with nats://", "?": ", or the @ of a file's name %40"}
_RESERVED = re.compile(r"[/?#\[\],]")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")


def is_broker(transport: str) -> bool:
    """Whether a transport means to be the URL of a broker, be it right or not."""
    return transport.partition("://")[0] in SCHEMES and "://" in transport


class Broker(NamedTuple):
    """The URL of each server, with its port, and the paths of the files by their names."""

    servers: list[str]
    files: dict[str, str]


def broker_of(text: str) -> Broker:
    """InvalidSpec for what is no URL of a broker, without the password in it."""
    for secret in _SECRET.finditer(text):
        if found := _RESERVED.search(secret[0], 2):
            hint = _HINTS.get(found[0], "")
            raise _wrong(text, f"before the @ a {found[0]!r} is to be written %{ord(found[0]):02X}{hint}")
    hosts, asked, query = text.partition("?")
    servers = [_server(one.strip(), text) for one in hosts.split(",")]
    files = _files(query, text) if asked else {}
    if any(urlsplit(one).password is not None for one in servers) and ("creds" in files or "nkey" in files):
        raise _wrong(text, "a password is given, and a file of keys, too")
    return Broker(servers, files)


def without_secrets(text: str) -> str:
    """As it may be shown: what stands before the host is left out."""
    return _SECRET.sub("//", text)


def _files(query: str, text: str) -> dict[str, str]:
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise _wrong(text, f"{query!r} after the ? is not name=file") from None
    files = dict(given)
    for name, file in given:
        if name not in NAMES:
            raise _wrong(
                text, f"{name!r} after the ? means nothing; {', '.join(NAMES)} may be given{did_you_mean(name, NAMES)}"
            )
        if not file:
            raise _wrong(text, f"{name} names no file")
    if len(files) < len(given):
        raise _wrong(text, f"{query!r} gives one of them twice")
    if "creds" in files and "nkey" in files:
        raise _wrong(text, "creds and nkey are given: one of them says who connects")
    if "key" in files and "cert" not in files:
        raise _wrong(text, "a key is given without its cert")
    return files


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
