"""Rules of properties: read from a text, and what they let in."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mbactor.validation import Range, Rule, parse

FITS: list[tuple[str, Any, Any]] = [
    ("", "any", "any"),
    ("str", "", ""),
    ("text b+", "abba", "abba"),
    ("string ^[A-Z]", "Hello", "Hello"),
    ("str ^[$]$", "$", "$"),
    (r"str ^\$$", "$", "$"),
    ("str ^[]$]$", "]", "]"),
    ("bool", "t", True),
    ("boolean", "FALSE", False),
    ("bool", False, False),
    ("int [1,100]", "100", 100),
    ("integer", "-007", -7),
    ("long (0,]", 10**30, 10**30),
    ("int [,0)", -1, -1),
    ("float", "1e3", 1000.0),
    ("double (0,1]", 1, 1.0),
    ("number [-0.5,)", "-.5", -0.5),
    ("dur", "1m30s", dt.timedelta(seconds=90)),
    ("duration [1s,15m]", 1, dt.timedelta(seconds=1)),
    ("dur (,7h3m45s500ms300us]", dt.timedelta(hours=7), dt.timedelta(hours=7)),
    ("set A|B C|d", "B C", "B C"),
    ("url", "https://example.com:80/x?y", "https://example.com:80/x?y"),
    ("email", "ada@example.com", "ada@example.com"),
    ("email", "Ada Lovelace <ada@mail.example.com>", "Ada Lovelace <ada@mail.example.com>"),
    ("json", '{"a": [1, null]}', '{"a": [1, null]}'),
]

REFUSES: list[tuple[str, Any, str]] = [
    ("str", 5, "a text expected"),
    ("str ^[A-Z]", "hello", "a text that matches ^[A-Z] expected"),
    ("str ^[a-z]+$", "abc\n", "a text that matches ^[a-z]+$ expected"),
    ("bool", "yes", "true or false expected"),
    ("bool", 1, "true or false expected"),
    ("int", True, "a whole number expected"),
    ("int", 1.0, "a whole number expected"),
    ("int", "1_000", "a whole number expected"),
    ("int [1,100]", 0, "a whole number >= 1 and <= 100 expected"),
    ("int (1,)", "1", "a whole number > 1 expected"),
    ("int", "9" * 5000, "a whole number expected"),
    ("float", "nan", "a number expected"),
    ("float", float("inf"), "a number expected"),
    ("float", 10**400, "a number expected"),
    ("float [,1)", 1, "a number < 1 expected"),
    ("dur", "5", "a duration with its unit, such as 500ms or 5s, expected, did you mean '5s'?"),
    ("dur", -1, "a duration with its unit, such as 500ms or 5s, expected"),
    ("dur", 1e300, "a duration with its unit, such as 500ms or 5s, expected"),
    ("dur", dt.timedelta(-1), "a duration with its unit, such as 500ms or 5s, expected"),
    ("dur [1s,15m]", "16m", "a duration >= 1s and <= 15m expected"),
    ("set fast|safe", "fats", "one of fast, safe expected, did you mean 'fast'?"),
    ("set fast|safe", "Safe", "one of fast, safe expected, did you mean 'safe'?"),
    ("set fast|safe", ["fast"], "one of fast, safe expected"),
    ("url", "/path", "a URL with a host, such as https://example.com/ expected"),
    ("url", "http://[::1", "a URL with a host, such as https://example.com/ expected"),
    ("email", "ada@localhost", "an address of electronic mail, such as ada@example.com expected"),
    ("email", "ada@example.c", "an address of electronic mail, such as ada@example.com expected"),
    ("json", "{", "JSON expected"),
    ("json", 5, "JSON expected"),
    ("json", "NaN", "JSON expected"),
]

WRONG: list[tuple[str, str]] = [
    ("itn [1,2]", "'itn' is no kind of rule, did you mean 'int'?"),
    ("7", "'7' is no kind of rule, one of str, bool, int, float, dur, set, url, email, json expected"),
    ("int 1..5", "the range '1..5' given, one such as [1,100], (0,1] or [1,) expected"),
    ("int [1, 100]", "the bound ' 100' given, a whole number (without blanks) expected"),
    ("int [1.5,2]", "the bound '1.5' given, a whole number expected"),
    ("dur [1,2]", "the bound '1' given, a duration with its unit, such as 500ms or 5s, expected"),
    ("int [5,1]", "nothing is within the range '[5,1]'"),
    ("int (1,2)", "nothing is within the range '(1,2)'"),
    ("float [1,1)", "nothing is within the range '[1,1)'"),
    ("set", "the words '' given, some such as A|B|C expected"),
    ("set A||B", "the words 'A||B' given, some such as A|B|C expected"),
    ("str [", "the expression '['"),
    ("bool true", "'true' given behind 'bool', nothing expected there"),
    ("url http", "'http' given behind 'url', nothing expected there"),
]


@pytest.mark.parametrize(("rule", "value", "expected"), FITS)
def test_what_fits_is_read(rule: str, value: Any, expected: Any) -> None:
    found = parse(rule).read(value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(("rule", "value", "text"), REFUSES)
def test_what_does_not_fit_is_refused_with_what_is_expected(rule: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        parse(rule).read(value)


@pytest.mark.parametrize(("rule", "text"), WRONG)
def test_a_rule_that_is_wrong_says_so(rule: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        parse(rule)


# --- properties ---------------------------------------------------------------------------------------------------

VALUES: st.SearchStrategy[Any] = (
    st.text(max_size=8)
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.timedeltas()
    | st.none()
    | st.sampled_from([value for _, value, _ in FITS])
    | st.lists(st.integers(), max_size=2)
)
RULES = st.sampled_from(sorted({rule for rule, _, _ in [*FITS, *REFUSES]}))


@given(RULES, VALUES)
def test_anything_is_either_read_or_refused_and_what_was_read_reads_as_itself(text: str, value: Any) -> None:
    rule = parse(text)
    try:
        found = rule.read(value)
    except ValueError:
        return
    again = rule.read(found)
    assert (again, type(again)) == (found, type(found))
    if rule.kind != "dur":  # which is written for people
        assert rule.read(rule.written_as(found)) == found


@given(st.text(max_size=20))
@example("str ^(?m:$)[")
@example("str \\")
def test_any_text_is_either_a_rule_or_refused(text: str) -> None:
    try:
        rule = parse(text)
    except ValueError:
        return
    assert isinstance(rule, Rule)


@given(st.integers(-9, 9), st.integers(-9, 9), st.booleans(), st.booleans(), st.integers(-10, 10))
def test_a_range_has_what_its_brackets_say(low: int, high: int, opens: bool, closes: bool, value: int) -> None:
    within = (low <= value if opens else low < value) and (value <= high if closes else value < high)
    assert (value in Range(low, high, opens, closes)) == within
    text = f"int {'[' if opens else '('}{low},{high}{']' if closes else ')'}"
    fits = [one for one in range(-10, 11) if one in Range(low, high, opens, closes)]
    if not fits:
        with pytest.raises(ValueError, match="nothing is within"):
            parse(text)
        return
    if within:
        assert parse(text).read(str(value)) == value
    else:
        with pytest.raises(ValueError, match="expected"):
            parse(text).read(value)


@given(st.text(alphabet="ab\n$]["))
def test_a_dollar_is_the_end_of_the_text_and_no_line(value: str) -> None:
    rule = parse("str ^[a$]*$")
    assert _reads(rule, value) == (set(value) <= set("a$"))


def _reads(rule: Rule, value: Any) -> bool:
    try:
        rule.read(value)
    except ValueError:
        return False
    return True
