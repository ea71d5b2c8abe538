"""Who connects is shown to a real nats-server by files: of its keys, as `nsc` writes them, and of its certificate."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nkeys
import pytest

from mbactor import Actor, ActorSystem, endpoint, observe
from mbactor.errors import InvalidSpec, Unavailable
from mbactor.testing import Recorder
from mbactor.testing.buses import check_bus
from mbactor.transport.nats import NatsBus
from mbactor.transport.nats_access import Access, claims_of
from tests.loops import LOOPS, Factory, run
from tests.nats import NatsServer, nats_server

ALL = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1) | {"wildcards": True}


class Key:
    """A key pair of an operator, an account or a user, which signs tokens."""

    def __init__(self, kind: int) -> None:
        self.seed: bytes = nkeys.encode_seed(os.urandom(32), kind)
        self.pair: Any = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self.pair.public_key.decode()

    def token(self, of: Key, kind: str, **claims: Any) -> str:
        """What the owner of this key says of another, or of itself."""
        body = {"jti": os.urandom(8).hex(), "iat": int(time.time()), "iss": self.public, "sub": of.public, "name": "a"}
        more = {"limits": ALL} if kind == "account" else ALL if kind == "user" else {}
        parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, body | claims | {"nats": {"type": kind, "version": 2, **more}})
        text = ".".join(_coded(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_coded(self.pair.sign(text.encode()))}"


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Realm:
    """An operator with an account, and a server that trusts them."""

    def __init__(self) -> None:
        operator = Key(nkeys.PREFIX_BYTE_OPERATOR)
        self.account = Key(nkeys.PREFIX_BYTE_ACCOUNT)
        known = f'{self.account.public}: "{operator.token(self.account, "account")}"'
        self.settings = (
            f'operator: "{operator.token(operator, "operator")}"\nresolver: MEMORY\nresolver_preload {{ {known} }}'
        )

    def creds(self, *, by: Key | None = None, seed: Key | None = None, **claims: Any) -> str:
        """A file of a new user."""
        user = Key(nkeys.PREFIX_BYTE_USER)
        token = (by or self.account).token(user, "user", **claims)
        return (
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\nNKEY Seed printed below\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{(seed or user).seed.decode()}\n------END USER NKEY SEED------\n"
        )


class Greeter(Actor):
    host = "greeter.example"

    @endpoint
    async def greet(self, name: str) -> str:
        return f"Hello, {name}"


async def greeted(url: str) -> str:
    async with ActorSystem("here", url) as here, ActorSystem("there", url) as there:
        await here.spawn(Greeter)
        return await there.ask(Greeter.greet, "Ada")


def refused(url: str, kind: type[Exception] = Unavailable) -> str:
    async def work() -> str:
        with pytest.raises(kind) as caught:
            await asyncio.wait_for(NatsBus(url).connect(), 60)
        return str(caught.value)

    return run(work())


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Factory:
    return LOOPS[request.param]


# --- keys -----------------------------------------------------------------------------------------------------------


def test_systems_meet_by_the_creds_of_their_user(tmp_path: Path, loop: Factory) -> None:
    realm, file = Realm(), tmp_path / "shop's own.creds"
    file.write_text(realm.creds())
    with nats_server(tmp_path, realm.settings) as server:
        assert run(greeted(f"{server.url}?creds={file}"), loop) == "Hello, Ada"
        expected = (
            "a right user and password expected, as in nats://user:password@host, or nats://token@host, or ?creds=FILE"
        )
        assert expected in refused(server.url)


def test_systems_meet_by_a_token_that_no_refusal_shows(tmp_path: Path, loop: Factory) -> None:
    with nats_server(tmp_path, "authorization { token: s3cret }") as server:
        assert run(greeted(f"nats://s3cret@localhost:{server.port}"), loop) == "Hello, Ada"
        told = refused(f"nats://wr0ng@localhost:{server.port}")
        assert told.startswith(f"nats://localhost:{server.port} refuses the credentials: ")
        assert "wr0ng" not in told


def test_systems_meet_by_the_nkey_of_their_user(tmp_path: Path, loop: Factory) -> None:
    user, other = Key(nkeys.PREFIX_BYTE_USER), Key(nkeys.PREFIX_BYTE_USER)
    file = tmp_path / "user.nk"
    with nats_server(tmp_path, f"authorization {{ users [ {{ nkey: {user.public} }} ] }}") as server:
        file.write_bytes(user.seed + b"\n")
        assert run(greeted(f"{server.url}?nkey={file}"), loop) == "Hello, Ada"
        file.write_bytes(other.seed)
        assert f"refuses nkey {str(file)!r}: the server has to have a user {other.public}" in refused(
            f"{server.url}?nkey={file}"
        )


def test_a_server_says_to_nobody_why_it_refuses_a_user_and_its_token_is_looked_at(tmp_path: Path) -> None:
    realm, file = Realm(), tmp_path / "a.creds"
    with nats_server(tmp_path, realm.settings) as server:
        for text, why in (
            (realm.creds(exp=1_000_000_000), "the token has ended at 2001-09-09 01:46:40 UTC"),
            (realm.creds(seed=Key(nkeys.PREFIX_BYTE_USER)), "the seed in it is another user's than the token"),
            (realm.creds(by=Key(nkeys.PREFIX_BYTE_ACCOUNT)), "the server has to know the account that signed it"),
        ):
            file.write_text(text)
            assert f"{server.url} refuses creds {str(file)!r}: {why}" in refused(f"{server.url}?creds={file}")


def test_a_file_that_is_replaced_is_taken_at_the_next_connection(tmp_path: Path) -> None:
    realm, file = Realm(), tmp_path / "a.creds"
    right = realm.creds()
    file.write_text(right)

    async def work(server: NatsServer) -> None:
        recorder = Recorder(asyncio.get_running_loop())
        with observe.observing(recorder):
            bus = NatsBus(f"{server.url}?creds={file}")
            await bus.connect()
            assert bus.unready() is None
            file.write_text(realm.creds(exp=1_000_000_000))
            server.kill()
            server.start()
            await until(lambda: bool(recorder.find("bus.refused")))
            assert "the token has ended" in str(recorder.find("bus.refused")[0].fields["reason"])
            file.unlink()
            await until(lambda: len(recorder.find("bus.refused")) > 1)
            why = f"transport: creds={str(file)!r} given: No such file or directory"
            assert str(recorder.find("bus.refused")[1].fields["reason"]).startswith(why)
            assert str(bus.unready()).startswith(f"the connection to {server.url} is lost; it is tried again: {why}")
            file.write_text(right)
            await until(lambda: bus.unready() is None)
            await bus.close()

    with nats_server(tmp_path, realm.settings) as server:
        run(work(server))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("creds", None, "No such file or directory; a user's token and seed, as `nsc` writes them expected"),
        ("creds", "", "it has not a token; a user's token and seed"),
        ("creds", "\udcff", "it has not a token"),
        ("creds", "-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n", "it has not a seed"),
        ("nkey", None, "No such file or directory; a user's seed expected"),
        ("nkey", "UABC", "there is no seed in it; a user's seed expected, as in SU..."),
        ("nkey", "SUAB", "its seed is damaged"),
        ("nkey", "SU" + 78 * "A", "its seed is damaged"),
    ],
)
def test_a_file_of_keys_that_cannot_be_used_is_told_before_anything_is_sent(
    tmp_path: Path, name: str, text: str | None, why: str
) -> None:
    realm, file = Realm(), tmp_path / "a.file"
    if text is not None:
        file.write_text(text, errors="surrogateescape")
    with nats_server(tmp_path, realm.settings) as server:
        told = refused(f"{server.url}?{name}={file}", InvalidSpec)
    assert told.startswith(f"transport: {name}={str(file)!r} given: ")
    assert why in told


def test_without_the_package_for_keys_it_says_which_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "user.nk"
    file.write_bytes(Key(nkeys.PREFIX_BYTE_USER).seed)
    monkeypatch.setitem(sys.modules, "nkeys", None)
    with pytest.raises(InvalidSpec, match=r"needs the package nkeys; pip install 'mbactor\[creds\]' brings it"):
        Access({"nkey": str(file)}).keys()


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "a.!.c", f"a.{_coded(b'[]')}.c", f"a.{_coded(bytes([255]))}.c"])
def test_a_token_that_is_none_says_nothing(token: str) -> None:
    assert (claims_of(token).sub, claims_of(token).exp) == ("", 0)


# --- certificates ---------------------------------------------------------------------------------------------------


@dataclass
class Certified:
    """A certificate for localhost that signs itself, and its key."""

    cert: Path
    key: Path

    @classmethod
    def made(cls, folder: Path, name: str, *more: str) -> Certified:
        one = cls(folder / f"{name}.pem", folder / f"{name}.key")
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=localhost", "-days", "1"]
        names = ("-addext", "subjectAltName=DNS:localhost", "-keyout", str(one.key), "-out", str(one.cert))
        subprocess.run([*command, *names, *(more or ("-nodes",))], check=True, capture_output=True)
        return one


def test_who_connects_and_the_server_show_certificates(tmp_path: Path, loop: Factory) -> None:
    own, mine, other = (Certified.made(tmp_path, name) for name in ("own", "mine", "other"))
    both = tmp_path / "both.pem"
    both.write_text(mine.cert.read_text() + mine.key.read_text())
    tls = f'cert_file: "{own.cert}", key_file: "{own.key}", ca_file: "{mine.cert}", verify: true'
    with nats_server(tmp_path, f"tls {{ {tls} }}") as server:
        url = f"tls://localhost:{server.port}?ca={own.cert}"
        for shown in (f"cert={mine.cert}&key={mine.key}", f"cert={both}"):
            assert run(greeted(f"{url}&{shown}"), loop) == "Hello, Ada"
        assert "?cert=FILE&key=FILE expected behind the URL" in refused(url)
        told = refused(f"{url}&cert={other.cert}&key={other.key}")
        assert f"refuses the certificate of {str(other.cert)!r}: it has to know who has signed it, and it must" in told
        assert "?ca=FILE behind it, or the variable SSL_CERT_FILE" in refused(f"tls://localhost:{server.port}")
    with nats_server(tmp_path, f"tls {{ {tls} }}\nauthorization {{ user: a, password: b }}") as server:
        shown = f"ca={own.cert}&cert={both}"
        assert run(greeted(f"tls://a:b@localhost:{server.port}?{shown}"), loop) == "Hello, Ada"
        assert "refuses the credentials" in refused(f"tls://a:c@localhost:{server.port}?{shown}")


def test_who_names_certificates_sends_nothing_unencrypted(tmp_path: Path, loop: Factory) -> None:
    own = Certified.made(tmp_path, "own")
    with nats_server(tmp_path, "authorization { user: a, password: b }") as server:
        url = f"nats://a:b@localhost:{server.port}"
        assert run(greeted(url), loop) == "Hello, Ada"
        for given, named in ((f"ca={own.cert}", "?ca="), (f"cert={own.cert}&key={own.key}", "?cert=")):
            told = refused(f"{url}?{given}")
            assert f"nats://localhost:{server.port} does not encrypt, and {named} is given" in told
            assert f"leave {named} out" in told
    with nats_server(tmp_path, f'tls {{ cert_file: "{own.cert}", key_file: "{own.key}" }}') as server:
        assert run(greeted(f"nats://localhost:{server.port}?ca={own.cert}"), loop) == "Hello, Ada"


def test_who_to_trust_is_asked_only_where_that_is_the_question(tmp_path: Path) -> None:
    own = Certified.made(tmp_path, "own")
    with nats_server(tmp_path, f'tls {{ cert_file: "{own.cert}", key_file: "{own.key}" }}') as server:
        told = refused(f"tls://127.0.0.1:{server.port}?ca={own.cert}")
        assert "certificate is not valid for '127.0.0.1'" in told
        assert "?ca=FILE" not in told
        assert "?ca=FILE" in refused(f"tls://localhost:{server.port}")


def test_an_encrypted_connection_keeps_the_contract_of_every_bus(tmp_path: Path, loop: Factory) -> None:
    own = Certified.made(tmp_path, "own")
    with nats_server(tmp_path, f'tls {{ cert_file: "{own.cert}", key_file: "{own.key}" }}') as server:
        url = f"tls://localhost:{server.port}?ca={own.cert}"
        run(check_bus(partial(NatsBus, url), beside=partial(NatsBus, url), apart=True), loop)


def test_a_certificate_that_cannot_be_used_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    own, other = Certified.made(tmp_path, "own"), Certified.made(tmp_path, "other")
    locked = Certified.made(tmp_path, "locked", "-passout", "pass:s3cret")
    text, sealed = tmp_path / "text", tmp_path / "sealed.pem"
    sealed.write_text(locked.cert.read_text() + locked.key.read_text())
    text.write_text("hello")
    tls = f'cert_file: "{own.cert}", key_file: "{own.key}", ca_file: "{own.cert}", verify: true'
    with nats_server(tmp_path, f"tls {{ {tls} }}") as server:
        for given, why in (
            (f"ca={tmp_path}/no.pem", "No such file or directory; the authorities to trust expected"),
            (f"ca={text}", "the authorities to trust expected, in PEM"),
            (f"cert={tmp_path}/no.pem", "No such file or directory; the certificate of who connects expected"),
            (f"cert={text}", "the certificate of who connects expected, in PEM"),
            (f"cert={own.cert}&key={other.key}", f"cert='{own.cert}, {other.key}' given: KEY_VALUES_MISMATCH"),
            (
                f"cert={locked.cert}&key={locked.key}",
                f"key='{locked.key}' given: a password protects it; a key without",
            ),
            (f"cert={sealed}", f"cert='{sealed}' given: a password protects it; a key without one expected"),
        ):
            told = refused(f"tls://localhost:{server.port}?{given}", InvalidSpec)
            assert why in told, told
            assert "s3cret" not in told
