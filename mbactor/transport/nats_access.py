"""The files by which a connection to a NATS server shows who it is, and by which it knows the server.

    access = Access({"creds": "orders.creds", "ca": "ca.pem"})
    keys = access.keys()        # what signs the server's question; None where there is neither creds nor nkey
    context = access.tls()      # for an encrypted connection

Each is read anew for each connection: one that is replaced is taken at the next. What cannot be used is InvalidSpec,
with the name of the file and why; nothing of its text is shown.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mbactor import clock
from mbactor.errors import InvalidSpec

T = TypeVar("T")

NAMES = {
    "creds": "a user's token and seed, as `nsc` writes them",
    "nkey": "a user's seed",
    "cert": "the certificate of who connects",
    "key": "its private key, where it is not in the same file",
    "ca": "the authorities to trust",
}
"""What may be given, by the names that NATS's own tools have for them."""
_TOKEN = re.compile(r"-+BEGIN NATS USER JWT-+\s+([\w.-]+)\s+-+END")
_SEED = re.compile(r"(?:-+BEGIN USER NKEY SEED-+\s+|\A\s*)(SU[A-Z2-7]+)\s*(?:-+END|\Z)")


class Claims(msgspec.Struct):
    """Of a user's token, what tells why a server may refuse it."""

    sub: str = ""
    """The public key of the user."""
    exp: float = 0
    """When it ends, in seconds since 1970; 0 where it does not."""


class Keys:
    """Those of one user: `public`, the token beside it, and what signs with the seed."""

    def __init__(self, name: str, file: str, seed: str, token: str) -> None:
        self._from = f"{name} {file!r}"
        self.token = token
        try:
            nkeys: Any = import_module("nkeys")
        except ImportError:
            raise wrong(name, file, "needs the package nkeys; pip install 'mbactor[creds]' brings it") from None
        try:
            self._pair: Any = nkeys.from_seed(bytearray(seed.encode()))
        except (nkeys.NkeysError, ValueError):
            raise wrong(name, file, "its seed is damaged") from None
        self.public: str = self._pair.public_key.decode()

    def sign(self, nonce: str) -> bytes:
        """As the server wants its question answered."""
        return base64.b64encode(self._pair.sign(nonce.encode()))

    def doubt(self) -> str:
        """Why a server that has read them may have refused them: it says so to nobody."""
        if not self.token:
            return f"{self._from}: the server has to have a user {self.public}"
        claims = claims_of(self.token)
        if 0 < claims.exp <= clock.unix():
            return (
                f"{self._from}: the token has ended at {datetime.fromtimestamp(claims.exp, UTC):%Y-%m-%d %H:%M:%S} UTC"
            )
        if claims.sub != self.public:
            return f"{self._from}: the seed in it is another user's than the token"
        return f"{self._from}: the server has to know the account that signed it, and must not have revoked the user"


class Access:
    """By the names of `NAMES`, the paths of the files that there are."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def keys(self) -> Keys | None:
        """Those that the server's question is answered with."""
        for name in ("creds", "nkey"):
            if file := self._files.get(name):
                return _keys(name, file)
        return None

    def tls(self) -> ssl.SSLContext:
        """It trusts the authorities of the file, or those of the system where there is none."""
        ca, cert, key = (self._files.get(name) for name in ("ca", "cert", "key"))
        context = _made(lambda: ssl.create_default_context(cafile=ca), "ca", ca)
        if cert:
            at = f"{cert}, {key}" if key else cert
            name, file = ("key", key) if key else ("cert", cert)

            def locked() -> bytes:  # without it a terminal would be asked for the password, and the loop stand still
                raise wrong(name, file, "a password protects it; a key without one expected")

            _made(lambda: context.load_cert_chain(cert, key, password=locked), "cert", at)
        return context

    @property
    def insists(self) -> str:
        """What was given that only an encrypted connection heeds: one without would be what nobody asked for."""
        return next((f"?{name}=" for name in ("ca", "cert") if name in self._files), "")

    @property
    def certificate(self) -> str | None:
        """The file of it."""
        return self._files.get("cert")


def claims_of(token: str) -> Claims:
    """What the token says, unread where it is none."""
    with suppress(ValueError, IndexError):
        return msgspec.json.decode(base64.urlsafe_b64decode(token.split(".")[1] + "=="), type=Claims)
    return Claims()


def wrong(name: str, file: str, why: str) -> InvalidSpec:
    return InvalidSpec(f"transport: {name}={file!r} given: {why}")


def _keys(name: str, file: str) -> Keys:
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise wrong(name, file, f"{error.strerror or error}; {NAMES[name]} expected") from None
    except UnicodeDecodeError:
        text = ""
    seed, token = _SEED.search(text), _TOKEN.search(text)
    if name == "creds" and (token is None or seed is None):
        lacking = "a token" if token is None else "a seed"
        raise wrong(name, file, f"it has not {lacking}; {NAMES[name]} expected")
    if seed is None:
        raise wrong(name, file, f"there is no seed in it; {NAMES[name]} expected, as in SU...")
    return Keys(name, file, seed[1], token[1] if token is not None else "")


def _made(make: Callable[[], T], name: str, file: str | None) -> T:
    try:
        return make()
    except ssl.SSLError as error:
        raise wrong(name, file or "", f"{error.reason or error}; {NAMES[name]} expected, in PEM") from None
    except OSError as error:
        raise wrong(name, file or "", f"{error.strerror or error}; {NAMES[name]} expected") from None
