"""The language of `when` conditions and of `requires`: true or false over named values.

    parse("amount > 1000 && (roles.admin || !suspended)").evaluate({"amount": 5000, "roles": ["admin"]})

Names are looked up with dots: `order.total` in nested objects, `roles.admin` is true where the array
`roles` has the element "admin" (or 5 for `primes.5`). An unknown name is null. Literals are numbers, texts in
' " or ` (no escapes), TRUE and FALSE in any case. Operators, loosest first: `||`, `&&`, then one of
`== != < <= > >= =~ !~` between two operands, `!` before a name or a group in parentheses.

Types are not converted: `"1" == 1` is false, `"1" != 1` is true, and the order of two types is always
false. Numbers of either spelling are one type, and integers compare exactly. Objects and arrays
equal nothing. A name alone is true unless null, "", 0 or false. `=~` searches for a regular expression (`patterns` says
which) anywhere in the text; `!~` is true where it finds none; both are false unless both sides are texts.

A text is parsed once and kept. It may have 4,096 characters and nest 64 deep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, Never

from mbactor import patterns
from mbactor.errors import InvalidExpression

MAX_LENGTH: Final = 4096
MAX_DEPTH: Final = 64


# --- what an expression is -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """A number, a text or a boolean."""

    value: int | float | str | bool

    def __eq__(self, other: object) -> bool:
        # To Python, True equals 1 equals 1.0; as expressions they are three.
        return isinstance(other, Literal) and (type(self.value), self.value) == (type(other.value), other.value)

    def __hash__(self) -> int:
        return hash(self.value)

    def __str__(self) -> str:
        if isinstance(self.value, bool):
            return "true" if self.value else "false"
        return _quoted(self.value) if isinstance(self.value, str) else repr(self.value)


@dataclass(frozen=True, slots=True)
class Name:
    """A value by its path: `order.total`."""

    path: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(self.path)


@dataclass(frozen=True, slots=True)
class Not:
    """True where the term is not."""

    term: Term

    def __str__(self) -> str:
        return "!" + _in_parentheses(self.term, Comparison, And, Or)


@dataclass(frozen=True, slots=True)
class Comparison:
    """An operator between two operands."""

    operator: str
    left: Term
    right: Term

    def __str__(self) -> str:
        sides = (_in_parentheses(side, Not, Comparison, And, Or) for side in (self.left, self.right))
        return f" {self.operator} ".join(sides)


@dataclass(frozen=True, slots=True)
class And:
    """True where all terms are; those after the first false one are not looked at."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return " && ".join(_in_parentheses(term, And, Or) for term in self.terms)


@dataclass(frozen=True, slots=True)
class Or:
    """True where one term is; those after it are not looked at."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return " || ".join(_in_parentheses(term, Or) for term in self.terms)


Term = Literal | Name | Not | Comparison | And | Or


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression. Two are equal if they have the same structure; `str` gives a text that parses to it."""

    root: Term

    def evaluate(self, symbols: Mapping[str, Any]) -> bool:
        """Whether it is true with these values: plain JSON values under their names.

        `InvalidExpression` only when a regular expression that comes from a value is invalid.
        """
        return _truth(self.root, symbols)

    @property
    def fields(self) -> frozenset[str]:
        """The first parts of all names: what `evaluate` may look up."""
        return frozenset(_fields_of(self.root))

    def __str__(self) -> str:
        return str(self.root)


@lru_cache(maxsize=1024)
def parse(text: str) -> Expression:
    """The expression, or `InvalidExpression`, which points at the first character that does not fit."""
    if len(text) > MAX_LENGTH:
        raise InvalidExpression(
            f"the expression has {len(text)} characters, at most {MAX_LENGTH} are allowed: {text[:40]!r}...",
            position=MAX_LENGTH,
        )
    return Expression(_Parser(text).whole())


# --- reading ---------------------------------------------------------------------------------------------


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_TOKENS = re.compile(
    rf"""(?P<space>\s+)
      | (?P<text>'[^']*'|"[^"]*"|`[^`]*`)
      | (?P<number>{_NUMBER.pattern}(?![\w.]))
      | (?P<name>\w+(?:\.\w+)*)
      | (?P<compare>==|!=|<=|>=|=~|!~|<|>)
      | (?P<or>\|\|) | (?P<and>&&) | (?P<not>!) | (?P<open>\() | (?P<close>\))
    """,
    re.VERBOSE,
)
_STRAY = {
    "=": "use == to compare",
    "&": "use && for and",
    "|": "use || for or",
    "'": "the text is not terminated",
    '"': "the text is not terminated",
    "`": "the text is not terminated",
}


class _Parser:
    """Recursive descent: or, and, not, comparison, operand."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self.scan()
        self.at = 0
        self.depth = 0

    def scan(self) -> list[_Token]:
        tokens, position = [], 0
        while position < len(self.text):
            match = _TOKENS.match(self.text, position)
            if match is None:
                stray = self.text[position]
                self.fail(_STRAY.get(stray, f"{stray!r} means nothing here"), position)
            if match.lastgroup != "space":
                tokens.append(_Token(str(match.lastgroup), match[0], position))
            position = match.end()
        tokens.append(_Token("end", "", len(self.text)))
        return tokens

    def whole(self) -> Term:
        if self.tokens[0].kind == "end":
            self.fail("the expression is empty", 0)
        term = self.any_of()
        rest = self.tokens[self.at]
        if rest.kind == "close":
            self.fail("nothing was opened that this closes", rest.position)
        if rest.kind == "compare":
            self.fail("comparisons do not chain; join them with &&, or use parentheses", rest.position)
        if rest.kind != "end":
            self.fail(f"expected an operator, found {rest.text}", rest.position)
        return term

    def any_of(self) -> Term:
        terms = [self.all_of()]
        while self.take("or"):
            terms.append(self.all_of())
        return terms[0] if len(terms) == 1 else Or(tuple(terms))

    def all_of(self) -> Term:
        terms = [self.single()]
        while self.take("and"):
            terms.append(self.single())
        return terms[0] if len(terms) == 1 else And(tuple(terms))

    def single(self) -> Term:
        sign = self.take("not")
        if sign is None:
            return self.comparison()
        self.descend(sign)
        term = self.single() if self.tokens[self.at].kind == "not" else self.operand("after !")
        self.depth -= 1
        following = self.tokens[self.at]
        if following.kind == "compare":
            self.fail("! binds only to what stands beside it; put the comparison in parentheses", sign.position)
        return Not(term)

    def comparison(self) -> Term:
        left = self.operand("here")
        operator = self.take("compare")
        if operator is None:
            return left
        start = self.tokens[self.at].position
        right = self.operand(f"after {operator.text}")
        if operator.text in {"=~", "!~"} and isinstance(right, Literal) and isinstance(right.value, str):
            self.check_pattern(right.value, start)
        return Comparison(operator.text, left, right)

    def operand(self, where: str) -> Term:
        token = self.tokens[self.at]
        if token.kind not in {"open", "text", "number", "name"}:
            found = token.text or "the end"
            self.fail(f"expected a name, a value or ( {where}, found {found}", token.position)
        self.at += 1
        match token.kind:
            case "open":
                return self.group(token)
            case "text":
                return Literal(token.text[1:-1])
            case "number":
                return self.number(token)
            case _:
                return _named(token.text)

    def group(self, opening: _Token) -> Term:
        self.descend(opening)
        term = self.any_of()
        self.depth -= 1
        if self.take("close") is None:
            found = self.tokens[self.at]
            if found.kind == "end":
                self.fail("this is never closed", opening.position)
            self.fail(f"expected an operator or ), found {found.text}", found.position)
        return term

    def number(self, token: _Token) -> Literal:
        try:
            return Literal(int(token.text))
        except ValueError:
            value = float(token.text)
        if value in {float("inf"), float("-inf")}:
            self.fail("the number is out of range", token.position)
        return Literal(value)

    def check_pattern(self, pattern: str, position: int) -> None:
        try:
            patterns.compiled(pattern)
        except ValueError as error:
            self.fail(f"not a regular expression: {error}", position)

    def descend(self, token: _Token) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"nested deeper than {MAX_DEPTH}", token.position)

    def take(self, kind: str) -> _Token | None:
        token = self.tokens[self.at]
        if token.kind != kind:
            return None
        self.at += 1
        return token

    def fail(self, reason: str, position: int) -> Never:
        # The stretch of the text around the place, on one line, so that the caret stands under it.
        start = max(0, position - 60)
        line = re.sub(r"\s", " ", self.text[start : position + 40])
        caret = " " * (position - start) + "^"
        raise InvalidExpression(
            f"{reason} (at character {position + 1})\n  {line}\n  {caret}", position=position, expression=self.text
        )


def _named(text: str) -> Literal | Name:
    match text.lower():
        case "true":
            return Literal(value=True)
        case "false":
            return Literal(value=False)
        case _:
            return Name(tuple(text.split(".")))


# --- printing --------------------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    for quote in ("'", '"', "`"):
        if quote not in text:
            return quote + text + quote
    raise InvalidExpression(f"no quotes are left to write {text!r} in", position=0)


def _in_parentheses(term: Term, *kinds: type) -> str:
    return f"({term})" if isinstance(term, kinds) else str(term)


def _fields_of(term: Term) -> set[str]:
    match term:
        case Name(path):
            return {path[0]}
        case Not(inner):
            return _fields_of(inner)
        case Comparison(_, left, right):
            return _fields_of(left) | _fields_of(right)
        case And(terms) | Or(terms):
            return set().union(*map(_fields_of, terms))
        case _:
            return set()


# --- evaluating ------------------------------------------------------------------------------------------


def _truth(term: Term, symbols: Mapping[str, Any]) -> bool:
    match term:
        case Not(inner):
            return not _truth(inner, symbols)
        case And(terms):
            return all(_truth(each, symbols) for each in terms)
        case Or(terms):
            return any(_truth(each, symbols) for each in terms)
        case Comparison(operator, left, right):
            return _COMPARE[operator](_value(left, symbols), _value(right, symbols))
        case _:
            value = _value(term, symbols)
            return isinstance(value, (list, tuple, Mapping)) or bool(value)


def _value(term: Term, symbols: Mapping[str, Any]) -> Any:
    match term:
        case Literal(value):
            return value
        case Name(path):
            return _look_up(symbols, path)
        case _:
            return _truth(term, symbols)


def _look_up(value: Any, path: tuple[str, ...]) -> Any:
    for depth, part in enumerate(path):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, (list, tuple)):
            return _has_element(value, ".".join(path[depth:])) or None
        else:
            return None
    return value


def _has_element(array: list[Any] | tuple[Any, ...], written: str) -> bool:
    number = _number_of(written)
    for element in array:
        match element:
            case str():
                found = element == written
            case bool():
                found = written == ("true" if element else "false")
            case int() | float():
                found = element == number
            case _:
                found = False
        if found:
            return True
    return False


def _number_of(written: str) -> int | float | None:
    if not _NUMBER.fullmatch(written):
        return None
    try:
        return int(written)
    except ValueError:
        return float(written)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case _:
            return "composite"


def _equal(left: Any, right: Any) -> bool:
    kind = _kind(left)
    return kind != "composite" and kind == _kind(right) and bool(left == right)


def _less(left: Any, right: Any) -> bool:
    kind = _kind(left)
    return kind in {"number", "text"} and kind == _kind(right) and bool(left < right)


def _matches(left: Any, right: Any) -> bool | None:
    """None unless both are texts."""
    if not isinstance(left, str) or not isinstance(right, str):
        return None
    try:
        return patterns.compiled(right).search(left)
    except ValueError as error:
        raise InvalidExpression(f"{right!r} is not a regular expression: {error}", position=0) from None


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": _equal,
    "!=": lambda left, right: not _equal(left, right),
    "<": _less,
    "<=": lambda left, right: _equal(left, right) or _less(left, right),
    ">": lambda left, right: _less(right, left),
    ">=": lambda left, right: _equal(left, right) or _less(right, left),
    "=~": lambda left, right: _matches(left, right) is True,
    "!~": lambda left, right: _matches(left, right) is False,
}
