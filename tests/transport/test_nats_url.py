"""The URL of a broker is checked without connecting, and never shows its password."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.errors import InvalidSpec
from mbactor.transport.nats_url import is_broker, servers_of, without_secrets


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
    assert servers_of(text) == servers
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
        ("nats://h:1?a=b", "'a=b' after"),
        ("nats://a b", "'a b' is no host"),
        ("http://h", "is none of nats, tls"),
        ("nats://a,http://b", "'http://b' is none of nats, tls"),
        ("nats://a,", "'' is none of nats, tls"),
        ("nats:h", "is none of nats, tls"),
    ],
)
def test_wrong_ones(text: str, why: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        servers_of(text)
    assert why in str(caught.value)
    assert f"transport: {text!r} given, nats://host:port expected" in str(caught.value)


def test_the_password_is_not_shown() -> None:
    with pytest.raises(InvalidSpec) as caught:
        servers_of("nats://ann:s3cret@h:x")
    assert "s3cret" not in str(caught.value)
    assert without_secrets("nats://ann:s3cret@a:1,tls://t0ken@b:1") == "nats://a:1,tls://b:1"
    assert without_secrets("nats://a:1, nats://ann:s3cret@b:1") == "nats://a:1, nats://b:1"


@pytest.mark.parametrize("sign", "/?#[],")
@pytest.mark.parametrize("other", ["", "nats://b:1,", "nats://bob:s3cret@b:1, "])
def test_a_password_that_is_not_encoded_is_not_shown_and_what_is_to_be_written(sign: str, other: str) -> None:
    text = f"{other}nats://ann:12{sign}s3cret@h:1"
    with pytest.raises(InvalidSpec) as caught:
        servers_of(text)
    assert f"before the @ a {sign!r} is to be written %{ord(sign):02X}" in str(caught.value)
    assert not {"12", "s3cret", "ann", "bob"} & set(re.split(r"\W+", str(caught.value)))
    right = f"nats://ann:12%{ord(sign):02X}s3cret@h:1"
    assert servers_of(f"{other}{right}")[-1] == right


@given(st.text())
def test_any_text_is_right_or_refused(text: str) -> None:
    for one in (text, f"nats://{text}"):
        try:
            again = servers_of(one)
        except InvalidSpec:
            continue
        assert servers_of(",".join(again)) == again


@pytest.mark.parametrize("text", ["local", "embedded", "http://h", "nats", "nats:h"])
def test_no_broker(text: str) -> None:
    assert not is_broker(text)
