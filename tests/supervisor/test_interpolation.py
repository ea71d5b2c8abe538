"""References in texts: filled in, or left where they are what a reader of the resolved file needs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.secret import Secret
from mbactor.supervisor.topology.interpolation import (
    Sources,
    escaped,
    has_reference,
    interpolate,
    mentions_replica,
    resolved,
)

ENVIRON = {"X": "1", "E": "", "D": "$", "B": "${X}"}
PIECES = st.sampled_from(
    ["$", "{", "}", "a", "$${", "${X}", "${E:-d}", "${E:+a}", "${D}", "${B}", "${replica}", "${$}", "x y", "${X:+$}"]
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a${X}b${Y:-2}", "a1b2"),
        ("$${X}", "${X}"),
        ("$${", "${"),
        ("$$${X}", "$${X}"),
        ("${$}${X}", "$1"),
        ("${E:-d}", "d"),
        ("${E}", ""),
        ("${Y:-}", ""),
        ("$X", "$X"),
        ("${X:?m}", "1"),
        ("${X:+there}", "there"),
        ("${E:+there}", ""),
        ("${Y:+there}", ""),
        ("${B}", "${X}"),
        ("n${replica}", "n7"),
    ],
)
def test_a_text_is_filled_in(text: str, value: str) -> None:
    assert interpolate(text, Sources(ENVIRON, replica=7)) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${X", "a closing brace expected"),
        ("${}", "expected"),
        ("${1}", "expected"),
        ("${Y}", r"Y is not set, and there is no default \(\$\{Y:-...\}\)"),
        ("${E:?say it}", "the environment variable E is not set: say it"),
        ("${replica:-1}", "expected"),
        ("${Y:-${X}}", "a reference within another"),
        ("${file:}", "expected"),
        ("${file:x}", "a secret given, and this is shown to people"),
        ("${replica}", "there is no such number here"),
    ],
)
def test_a_faulty_reference_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        interpolate(text, Sources(ENVIRON))


@given(st.text(alphabet="$${}ab:-\n"))
def test_an_escaped_text_stays_what_it_is(text: str) -> None:
    assert interpolate(escaped(text), Sources({})) == text


@given(st.lists(PIECES).map("".join))
def test_a_resolved_text_needs_no_environment(text: str) -> None:
    try:
        value = interpolate(text, Sources(ENVIRON, replica=3))
    except ValueError:
        return
    shown = resolved(text, ENVIRON, Path("/here"))
    assert interpolate(shown, Sources({}, replica=3)) == value
    assert mentions_replica(shown) == mentions_replica(text)
    if "${" not in text:
        assert not has_reference(text)


# --- secrets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "value"), [("k", "k"), ("k\n", "k"), ("k\n\n", "k\n"), ("k\r\n", "k"), ("", ""), ("k\r", "k\r")]
)
def test_a_secret_is_the_text_of_its_file_less_one_line_end(tmp_path: Path, content: str, value: str) -> None:
    (tmp_path / "key").write_bytes(content.encode())
    secret = interpolate("${file:key}", Sources({}, secrets=True), tmp_path)
    assert isinstance(secret, Secret)
    assert (str(secret), f"{secret}", secret + "") == (value, value, value)
    assert repr(secret) == "<secret>"
    assert type(str(secret)) is str


def test_a_text_with_a_secret_in_it_is_a_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    text = f"postgres://${{X}}:${{file:{tmp_path}/key}}@host"
    secret = interpolate(text, Sources(ENVIRON, secrets=True), Path("elsewhere"))
    assert isinstance(secret, Secret)
    assert secret == "postgres://1:s3cret@host"
    assert "s3cret" not in f"{secret!r} {[secret]} { ({'a': secret}) }"
    assert pickle.loads(pickle.dumps(secret)) == secret
    assert resolved(text, ENVIRON, Path("elsewhere")) == f"postgres://1:${{file:{tmp_path}/key}}@host"


def test_a_file_without_a_secret_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff")
    for name, problem in (("none", "No such file"), (".", "Is a directory"), ("bytes", "is not UTF-8")):
        with pytest.raises(ValueError, match=problem):
            interpolate(f"${{file:{name}}}", Sources({}, secrets=True), tmp_path)
