"""Why a NATS server does not take a connection, in a sentence that says what to do. Pure."""

from __future__ import annotations

import os
import re
import socket
import ssl
from typing import NamedTuple

from mbactor.errors import InvalidSpec

_ERRNO = re.compile(r"\[Errno (\d+)\]")
_UNKNOWN = frozenset({2, 18, 19, 20, 21})
"""OpenSSL's numbers for a certificate whose signer is none of those that are trusted: others are no matter of trust."""


class Who(NamedTuple):
    """Who wanted to connect: `keys` says what may be wrong with those that were given, `certificate` is its file."""

    keys: str = ""
    certificate: str = ""


def why_not(error: Exception, url: str, patience: float, who: Who) -> str:
    """What is wrong with a server that was not connected to, and what to do."""
    if isinstance(error.__cause__, InvalidSpec):
        return str(error.__cause__)
    if isinstance(error, OSError):
        return _of_the_socket(error, url, patience)
    text = str(error).lower()
    if "authorization violation" in text:
        right = (
            "a right user and password expected, as in nats://user:password@host, or nats://token@host, or ?creds=FILE"
        )
        return f"{url} refuses {who.keys}" if who.keys else f"{url} refuses the credentials: {right} behind it"
    if "certificate required" in text:
        if who.certificate:
            return (
                f"{url} refuses the certificate of {who.certificate!r}: it has to know who has signed it, and it"
                " must not have ended"
            )
        return f"{url} wants a certificate of who connects: ?cert=FILE&key=FILE expected behind the URL"
    if "no tls" in text:
        given = text.removeprefix("no tls, ")
        instead = "give nats://" if given == "tls://" else f"leave {given} out"
        return f"{url} does not encrypt, and {given} is given: have the server ask for TLS, or {instead}"
    if "no headers" in text:
        return (
            f"{url} ({text.removeprefix('nats: no headers, ')}) takes no headers and does not tell when nobody serves: "
            "a nats-server of 2.2 or later expected, without no_header_support in its configuration"
        )
    if "max_payload" in text:
        largest = text.removeprefix("nats: max_payload ")
        return f"{url} carries messages of {largest} bytes at most: 1024 or more expected as its setting max_payload"
    if "info" in text or "malformedstream" in text:
        return f"what listens at {url} is no NATS server"
    return f"{url} does not take the connection: {error}"


def _of_the_socket(error: OSError, url: str, patience: float) -> str:
    match error:
        case ssl.SSLError():
            unknown = isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _UNKNOWN
            trusted = "; ?ca=FILE behind it, or the variable SSL_CERT_FILE, names the authorities to trust"
            return f"no encrypted connection to {url}: {error}{trusted if unknown else ''}"
        case socket.gaierror():
            return f"the host of {url} is not known: {error}"
        case TimeoutError():
            return f"{url} has not answered as a NATS server does within {patience} s"
        case ConnectionResetError() | ConnectionAbortedError() | BrokenPipeError():
            return f"{url} has closed the connection before it was made ({_in_words(error)})"
    return f"nobody listens at {url} ({_in_words(error)}): start a nats-server there or correct the URL"


def _in_words(error: OSError) -> str:
    """As the system names it: asyncio says what it called instead, once for each address that a name has."""
    numbers = {error.errno} if error.errno else {int(number) for number in _ERRNO.findall(str(error))}
    return ", ".join(os.strerror(number) for number in sorted(numbers)) or str(error)
