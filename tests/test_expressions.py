"""The language of `when` and `requires`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor.errors import InvalidExpression
from mbactor.expressions import (
    MAX_DEPTH,
    MAX_LENGTH,
    And,
    Comparison,
    Expression,
    Literal,
    Name,
    Not,
    Or,
    Term,
    parse,
)

ORDER = ["==", "!=", "<", "<=", ">", ">="]

names = st.sampled_from(["a", "b", "a.x", "b.y.z", "_c", "roles.admin", "roles.5", "é"]).map(
    lambda text: Name(tuple(text.split(".")))
)
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="`"), max_size=8).filter(
    lambda text: any(quote not in text for quote in "'\"`")
)
literals = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), words, st.booleans()).map(Literal)
operands = st.one_of(names, literals)


def _composed(inner: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    several = st.lists(inner, min_size=2, max_size=4).map(tuple)
    patterns = st.from_regex(r"\A[a-z0-9]{1,4}\Z").map(Literal)
    return st.one_of(
        inner.map(Not),
        several.map(And),
        several.map(Or),
        st.builds(Comparison, st.sampled_from(ORDER), inner, inner),
        st.builds(Comparison, st.sampled_from(["=~", "!~"]), operands, patterns),
    )


terms: st.SearchStrategy[Term] = st.recursive(operands, _composed, max_leaves=12)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["x", "y", "z", "admin", "5"]), inner, max_size=3),
    ),
    max_leaves=6,
)
states = st.dictionaries(st.sampled_from(["a", "b", "_c", "roles", "é"]), values, max_size=5)


# --- a second, plain evaluation to compare with ----------------------------------------------------------


def naive(term: Term, symbols: Mapping[str, Any]) -> Any:
    match term:
        case Literal(value):
            return value
        case Name(path):
            return naive_name(symbols, list(path))
        case Not(inner):
            return not naive_truth(inner, symbols)
        case And(inner):
            return naive_truth(inner[0], symbols) and (len(inner) == 1 or naive(And(inner[1:]), symbols))
        case Or(inner):
            return naive_truth(inner[0], symbols) or (len(inner) > 1 and naive(Or(inner[1:]), symbols))
        case Comparison(operator, left, right):
            return naive_comparison(operator, naive(left, symbols), naive(right, symbols))


def naive_truth(term: Term, symbols: Mapping[str, Any]) -> bool:
    value = naive(term, symbols)
    return True if isinstance(value, (list, dict)) else bool(value)


def naive_name(value: Any, path: list[str]) -> Any:
    if not path:
        return value
    if isinstance(value, dict):
        return naive_name(value.get(path[0]), path[1:])
    if isinstance(value, list):
        written = ".".join(path)
        same = [
            (e == written) if isinstance(e, str) else (written == "5" and e == 5 and not isinstance(e, bool))
            for e in value
            if e is not None
        ]
        return True if any(same) else None
    return None


def naive_kind(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def naive_comparison(operator: str, left: Any, right: Any) -> bool:
    both = naive_kind(left) == naive_kind(right)
    scalar = naive_kind(left) not in {"list", "dict"}
    ordered = both and naive_kind(left) in {"number", "str"}
    equal = both and scalar and left == right
    texts = both and naive_kind(left) == "str"
    answers: dict[str, Callable[[], bool]] = {
        "==": lambda: equal,
        "!=": lambda: not equal,
        "<": lambda: ordered and left < right,
        ">": lambda: ordered and left > right,
        "<=": lambda: equal or (ordered and left < right),
        ">=": lambda: equal or (ordered and left > right),
        "=~": lambda: texts and re.search(right, left) is not None,
        "!~": lambda: texts and re.search(right, left) is None,
    }
    return answers[operator]()


# --- properties ------------------------------------------------------------------------------------------


@given(terms)
@settings(deadline=None, max_examples=300)
def test_what_is_printed_parses_to_the_same_expression(term: Term) -> None:
    expression = Expression(term)
    assert parse(str(expression)) == expression


@given(terms, states)
@settings(deadline=None, max_examples=400)
def test_evaluation_agrees_with_a_naive_reading(term: Term, symbols: dict[str, Any]) -> None:
    assert Expression(term).evaluate(symbols) is naive_truth(term, symbols)


@given(st.text(alphabet="ab.()!&|=<>~'\"` 1-+eTRUtrue", max_size=40))
@settings(deadline=None, max_examples=400)
def test_any_text_either_parses_or_is_refused_with_a_position_inside_it(text: str) -> None:
    read = attempt(text)
    if isinstance(read, InvalidExpression):
        assert 0 <= read.position <= len(text)
        assert "^" in str(read)
    else:
        assert parse(str(read)) == read
        assert isinstance(read.evaluate({}), bool)


def attempt(text: str) -> Expression | InvalidExpression:
    try:
        return parse(text)
    except InvalidExpression as error:
        return error


@given(st.integers(), st.integers())
def test_integers_of_any_size_compare_exactly(left: int, right: int) -> None:
    assert parse(f"x < {right}").evaluate({"x": left}) is (left < right)
    assert parse(f"x == {right}").evaluate({"x": left}) is (left == right)


# --- examples --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "symbols", "expected"),
    [
        ("true", {}, True),
        ("FALSE", {}, False),
        ("missing", {}, False),
        ("!missing", {}, True),
        ("!!a", {"a": 1}, True),
        ("a", {"a": []}, True),
        ("a", {"a": {}}, True),
        ("a", {"a": ""}, False),
        ("a", {"a": 0}, False),
        ("a == 1 || b == 1 && c == 1", {"a": 1}, True),
        ("(a == 1 || b == 1) && c == 1", {"a": 1}, False),
        ("a == '1'", {"a": 1}, False),
        ("a != '1'", {"a": 1}, True),
        ("a < 'x'", {"a": 1}, False),
        ("a == 1.0", {"a": 1}, True),
        ("a == true", {"a": 1}, False),
        ("missing == other", {}, True),
        ("missing <= other", {}, True),
        ("missing < other", {}, False),
        ("a == a", {"a": [1]}, False),
        ("a != a", {"a": {"x": 1}}, True),
        ("roles.admin", {"roles": ["user", "admin"]}, True),
        ("roles.root", {"roles": ["user", "admin"]}, False),
        ("fib.5", {"fib": [1, 2, 3, 5]}, True),
        ("prices.2.5", {"prices": [2.5]}, True),
        ("flags.true", {"flags": [True]}, True),
        ("order.total > 10", {"order": {"total": 11}}, True),
        ("order.total.cents", {"order": {"total": 11}}, False),
        ("name =~ '^Jo.n$'", {"name": "John"}, True),
        ("name =~ 'oh'", {"name": "John"}, True),
        ("name !~ 'x'", {"name": "John"}, True),
        ("name !~ 'x'", {"name": 5}, False),
        ("name =~ 'x'", {}, False),
        ("name == 'a || b'", {"name": "a || b"}, True),
        ('name == "it\'s"', {"name": "it's"}, True),
        ('name == `"q"`', {"name": '"q"'}, True),
        ("(a) == 5", {"a": 5}, True),
        ("(a < 2) == (b < 2)", {"a": 1, "b": 1}, True),
        ("id == 9007199254740993", {"id": 9007199254740992}, False),
        ("a>=-1.5e3", {"a": -1500}, True),
        ("0", {}, False),
        ("'x'", {}, True),
    ],
)
def test_the_language_by_example(text: str, symbols: dict[str, Any], expected: bool) -> None:
    assert parse(text).evaluate(symbols) is expected


@pytest.mark.parametrize(
    ("text", "position", "hint"),
    [
        ("", 0, "empty"),
        ("   ", 0, "empty"),
        ("!", 1, "expected"),
        ("a ==", 4, "the end"),
        ("== a", 0, "expected"),
        ("(a", 0, "never closed"),
        ("a)", 1, "nothing was opened"),
        (")(", 0, "expected"),
        ("()", 1, "expected"),
        ("a = b", 2, "use =="),
        ("a & b", 2, "use &&"),
        ("a | b", 2, "use ||"),
        ("a b", 2, "expected an operator"),
        ("(a b)", 3, "expected an operator or )"),
        ("a == 'x", 5, "not terminated"),
        ("a == b == c", 7, "do not chain"),
        ("!a == b", 0, "binds only"),
        ("a =~ '('", 5, "not a regular expression"),
        ("a # b", 2, "means nothing"),
        ("a == 1e999", 5, "out of range"),
    ],
)
def test_an_error_points_at_the_first_character_that_does_not_fit(text: str, position: int, hint: str) -> None:
    with pytest.raises(InvalidExpression, match=re.escape(hint)) as caught:
        parse(text)
    assert caught.value.position == position
    assert caught.value.status == 400
    *_, line, caret = str(caught.value).split("\n")
    assert caret.index("^") - 2 == position
    assert line.strip() == text.strip()


def test_a_regular_expression_from_the_state_that_is_invalid_is_an_error_when_it_is_used() -> None:
    with pytest.raises(InvalidExpression, match="not a regular expression"):
        parse("a =~ pattern").evaluate({"a": "x", "pattern": "("})


def test_what_comes_after_the_decision_is_not_evaluated() -> None:
    assert parse("true || a =~ pattern").evaluate({"a": "x", "pattern": "("}) is True
    assert parse("false && a =~ pattern").evaluate({"a": "x", "pattern": "("}) is False


def test_length_and_nesting_are_bounded() -> None:
    with pytest.raises(InvalidExpression, match="characters"):
        parse("a" * (MAX_LENGTH + 1))
    assert parse("(" * MAX_DEPTH + "a" + ")" * MAX_DEPTH).evaluate({"a": 1})
    with pytest.raises(InvalidExpression, match="nested deeper"):
        parse("(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1))
    with pytest.raises(InvalidExpression, match="nested deeper"):
        parse("!" * (MAX_DEPTH + 1) + "a")


def test_an_expression_knows_the_fields_it_reads() -> None:
    assert parse("a.b == 1 && (!c || 'd' == e)").fields == {"a", "c", "e"}
    assert parse("true").fields == frozenset()


def test_booleans_and_numbers_are_different_expressions() -> None:
    assert parse("true") != parse("1")
    assert parse("1") != parse("1.0")
