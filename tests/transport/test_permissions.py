"""What the broker says may be published is applied as the broker does it."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.errors import BadRequest
from mbactor.transport.permissions import Permissions, read

TOKENS = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4)
PATTERNS = st.builds(
    lambda tokens, rest: ".".join([*tokens, ">"] if rest else tokens),
    st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4),
    st.booleans(),
) | st.just(">")


def as_regex(pattern: str) -> str:
    parts = [".+" if token == ">" else "[^.]+" if token == "*" else re.escape(token) for token in pattern.split(".")]
    return r"\.".join(parts)


@given(PATTERNS, TOKENS)
def test_a_pattern_admits_what_the_same_regular_expression_does(pattern: str, tokens: list[str]) -> None:
    assert Permissions((pattern,)).admit(".".join(tokens)) == bool(re.fullmatch(as_regex(pattern), ".".join(tokens)))


@given(st.none() | st.lists(PATTERNS, max_size=3), st.lists(PATTERNS, max_size=3), TOKENS)
def test_what_is_denied_wins_over_what_is_allowed(allow: list[str] | None, deny: list[str], tokens: list[str]) -> None:
    permissions = Permissions(None if allow is None else tuple(allow), tuple(deny))
    subject = ".".join(tokens)
    allowed = allow is None or any(re.fullmatch(as_regex(one), subject) for one in allow)
    denied = any(re.fullmatch(as_regex(one), subject) for one in deny)
    assert permissions.admit(subject) == (allowed and not denied)
    assert permissions.restricts or permissions.admit("any.thing")


def test_a_servers_answer_is_read() -> None:
    def answer(permissions: object) -> bytes:
        return json.dumps({"server": {"ver": "2"}, "data": {"user": "a", "permissions": permissions}}).encode()

    both = {"publish": {"allow": ["x.>"], "deny": ["x.y"]}, "subscribe": {"allow": ["in.>"]}}
    assert read(answer(both)) == Permissions(("x.>",), ("x.y",))
    assert read(answer({"publish": {"deny": ["x.y"]}})) == Permissions(None, ("x.y",))
    assert not read(answer({"subscribe": {"allow": ["in.>"]}})).restricts
    assert not read(b'{"data": {"user": "", "account": "$G"}}').restricts


@pytest.mark.parametrize("wrong", [b"", b"[]", b'{"error": {"code": 503, "description": "not here"}}'])
def test_what_is_no_such_answer_is_not_taken_for_a_permission(wrong: bytes) -> None:
    with pytest.raises(BadRequest, match="the broker"):
        read(wrong)
