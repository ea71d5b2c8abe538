"""Regular expressions of conditions: what RE2 accepts is accepted, and means the same."""

from __future__ import annotations

import re
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor.expressions import parse
from mbactor.patterns import compiled


@pytest.mark.parametrize(
    ("pattern", "matches", "differs"),
    [
        (r"^\pL+\z", "Éa", "É1"),
        (r"^\p{Lu}\P{Lu}$", "Éa", "éa"),
        (r"^\p{^Lu}[\pN_]$", "a५", "A1"),
        (r"^[^\PL]$", "é", "1"),
        (r"^\p{Any}$", "\U0001f600", ""),
        (r"^[[:alpha:]-]+$", "a-Z", "é"),
        (r"^[[:^digit:]]$", "x", "5"),
        (r"^\Qa.b(\E$", "a.b(", "axb("),
        (r"\Q*", "*", "x"),
        (r"^\x{1F600}$", "\U0001f600", "x"),
        (r"^(?<year>\d+)-(?P<month>\d+)$", "2026-05", "2026"),
        (r"^a(?i)b|c$", "C", "Ab"),
        (r"^(x(?i)y)z$", "xYz", "xYZ"),
        (r"^a(?i-s)b(?-i)c$", "aBc", "aBC"),
        (r"(?U)^a+$", "aaa", "b"),
        (r"(?U:a)b", "ab", "b"),
        (r"^a$", "a", "a\n"),
        (r"(?m)^a$", "a\nb", "b"),
        (r"(?m:^a$)|^b$", "x\na\nx", "b\n"),
        (r"^\C\C$", "\n\n", "\n"),
        (r"^\p{Greek}$", "\u03b1", "a"),
        (r"^\d\w\s$", "1a ", "\u0663a "),
        (r"^[]a]$", "]", "b"),
        (r"^[a&&b]$", "&", "c"),
        (r"^[a[]$", "[", "b"),
        (r"a|b|", "", None),
    ],
)
def test_a_pattern_means_what_it_means_to_re2_or_python(pattern: str, matches: str, differs: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compiled(pattern)
    assert found.search(matches)
    assert differs is None or not found.search(differs)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "missing"),
        (")", "unexpected"),
        ("a(?i", "operator"),
        ("[a", "missing"),
        ("*", "no argument for repetition"),
        (r"\p{Klingon}", "character class range"),
        ("[[:letters:]]", "character class range"),
        (r"\x{110000}", "escape"),
        ("a{1001}", "repetition size"),
        ("((a{100}){100}){100}", "repetition size|too large"),
        ("\\", "trailing"),
        (r"(a)\1", "escape"),
        ("(?=b)b", "look-around"),
        ("(?<!b)b", "look-around"),
        ("\ud800", "surrogate"),
    ],
)
def test_what_is_no_pattern_is_refused_with_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compiled(pattern)


@given(st.text(alphabet=r"ab[^]()|*+?.", max_size=10), st.lists(st.text("ab^\n", max_size=6), max_size=4))
@settings(deadline=None, max_examples=300)
def test_what_python_knows_too_means_the_same(pattern: str, texts: list[str]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            own = re.compile(pattern)
        found = compiled(pattern)
    except (re.error, FutureWarning, ValueError):
        return
    if "(?" not in pattern:
        assert [found.search(text) for text in texts] == [bool(own.search(text)) for text in texts]


CATASTROPHIC = (
    "(a+)+$", "(a|aa)+$", "(a|a)*$", "^(([a-z])+.)+[A-Z]([a-z])+$", r"(.*a){20}$", "(a?){50}a{50}$", r"(x+x+)+y",
    r"^(\w+\s?)*$", r"([a-zA-Z]+)*\d", "a*a*a*a*a*a*b",
)  # fmt: skip


@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_time_grows_with_the_text_and_no_faster(pattern: str) -> None:
    found = compiled(pattern)

    def cost(length: int) -> float:
        text = "a" * length + "!"
        began = time.process_time()
        found.search(text)
        return time.process_time() - began

    assert min(cost(40_000) for _ in range(3)) < 1.0
    small, large = min(cost(10_000) for _ in range(5)), min(cost(80_000) for _ in range(5))
    assert large < 40 * small + 0.05


@given(st.text(max_size=12))
@settings(deadline=None, max_examples=200)
def test_any_text_is_a_pattern_or_a_value_error(pattern: str) -> None:
    try:
        compiled(pattern)
    except ValueError:
        return


def test_conditions_use_them() -> None:
    assert parse(r"name =~ '^\p{Lu}(?i)da\z'").evaluate({"name": "ADA"})
    assert parse(r"name !~ '[[:digit:]]'").evaluate({"name": "Ada"})
