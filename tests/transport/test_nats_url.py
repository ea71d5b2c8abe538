"""The URL of a broker is checked without connecting, and never shows its password."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.errors import InvalidSpec
from mbactor.transport.nats_url import broker_of, is_broker, without_secrets


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nats://h", ["nats://h:4222"]),
        ("tls://h.example:4223", ["tls://h.example:4223"]),
        ("nats://a:1, nats://b", ["nats://a:1", "nats://b:4222"]),
        ("nats://ann:p%40ss@h:1", ["nats://ann:p%40ss@h:1"]),
        ("nats://token@h", ["nats://token@h:4222"]),
        ("nats://[::1]:1", ["nats://[::1]:1"]),
        ("nats://h:1/", ["nats://h:1"]),
    ],
)
def test_right_ones(text: str, servers: list[str]) -> None:
    assert broker_of(text) == (servers, {})
    assert is_broker(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nats://", "'nats://' has no host"),
        ("nats://:4222", "has no host"),
        ("nats://h:x", "Port could not be cast"),
        ("nats://h:70000", "Port out of range"),
        ("nats://h:0", "port 0"),
        ("nats://h:1/path", "'path' after the host and port means nothing"),
        ("nats://h:1?a=b", "'a' after the ? means nothing; creds, nkey, cert, key, ca may be given"),
        ("nats://h:1?cred=b", "may be given, did you mean 'creds'?"),
        ("nats://h:1?creds", "'creds' after the ? is not name=file"),
        ("nats://h:1?creds=", "creds names no file"),
        ("nats://h:1?ca=a&ca=b", "'ca=a&ca=b' gives one of them twice"),
        ("nats://h:1?creds=a&nkey=b", "creds and nkey are given: one of them says who connects"),
        ("nats://h:1?key=a", "a key is given without its cert"),
        ("nats://h:1#x", "'x' after the host"),
        ("nats://a b", "'a b' is no host"),
        ("http://h", "is none of nats, tls"),
        ("nats://a,http://b", "'http://b' is none of nats, tls"),
        ("nats://a,", "'' is none of nats, tls"),
        ("nats:h", "is none of nats, tls"),
    ],
)
def test_wrong_ones(text: str, why: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        broker_of(text)
    assert why in str(caught.value)
    assert f"transport: {text!r} given, nats://host:port expected" in str(caught.value)


def test_files_of_keys_and_certificates_hold_for_all_servers_and_are_named_as_nats_names_them() -> None:
    text = "tls://a,tls://b:1?creds=/run/s%26p.creds&ca=ca.pem"
    assert broker_of(text) == (["tls://a:4222", "tls://b:1"], {"creds": "/run/s&p.creds", "ca": "ca.pem"})
    assert broker_of("tls://token@a?nkey=u.nk&cert=c.pem&key=k.pem") == (
        ["tls://token@a:4222"], {"nkey": "u.nk", "cert": "c.pem", "key": "k.pem"},
    )  # fmt: skip


def test_an_at_sign_in_the_name_of_a_file_is_to_be_encoded() -> None:
    """It cannot be told from one behind a password."""
    with pytest.raises(InvalidSpec, match="before the @ a '\\?' is to be written %3F, or the @ of a file's name %40"):
        broker_of("nats://h?ca=a@b")
    assert broker_of("nats://h?ca=a%40b").files == {"ca": "a@b"}


@pytest.mark.parametrize("name", ["creds", "nkey"])
def test_a_password_beside_a_file_of_keys_is_refused_and_not_shown(name: str) -> None:
    with pytest.raises(InvalidSpec, match="a password is given, and a file of keys, too") as caught:
        broker_of(f"nats://ann:s3cret@h?{name}=a")
    assert "s3cret" not in str(caught.value)


def test_the_password_is_not_shown() -> None:
    with pytest.raises(InvalidSpec) as caught:
        broker_of("nats://ann:s3cret@h:x")
    assert "s3cret" not in str(caught.value)
    assert without_secrets("nats://ann:s3cret@a:1,tls://t0ken@b:1") == "nats://a:1,tls://b:1"
    assert without_secrets("nats://a:1, nats://ann:s3cret@b:1") == "nats://a:1, nats://b:1"


@pytest.mark.parametrize("sign", "/?#[],")
@pytest.mark.parametrize("other", ["", "nats://b:1,", "nats://bob:s3cret@b:1, "])
def test_a_password_that_is_not_encoded_is_not_shown_and_what_is_to_be_written(sign: str, other: str) -> None:
    text = f"{other}nats://ann:12{sign}s3cret@h:1"
    with pytest.raises(InvalidSpec) as caught:
        broker_of(text)
    assert f"before the @ a {sign!r} is to be written %{ord(sign):02X}" in str(caught.value)
    assert not {"12", "s3cret", "ann", "bob"} & set(re.split(r"\W+", str(caught.value)))
    right = f"nats://ann:12%{ord(sign):02X}s3cret@h:1"
    assert broker_of(f"{other}{right}").servers[-1] == right


@given(st.text())
def test_any_text_is_right_or_refused(text: str) -> None:
    for one in (text, f"nats://{text}"):
        try:
            again = broker_of(one)
        except InvalidSpec:
            continue
        query = f"?{urlencode(again.files)}" if again.files else ""
        assert broker_of(",".join(again.servers) + query) == again


@pytest.mark.parametrize("text", ["local", "embedded", "http://h", "nats", "nats:h"])
def test_no_broker(text: str) -> None:
    assert not is_broker(text)
