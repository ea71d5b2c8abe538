"""The rules that values of a property are checked by: `config(validation="int [1,100]")`. Pure.

    rule = parse("int [1,100]")
    rule.read("20") == 20
    rule.read(200)            # ValueError: a whole number >= 1 and <= 100 expected

A rule is a word and, behind a blank, what is allowed:

| rule | allows |
|---|---|
| `str [REGEX]` (also text, string, nothing) | a text in which the expression (`patterns` says which) is found |
| `bool` (boolean) | true, false, and 1, 0, t, f |
| `int [RANGE]` (integer, long), `float [RANGE]` (double, decimal, number) | numbers: `[1,100]`, `(0,1]`, `[0,)` |
| `dur [RANGE]` (duration) | durations: `[1s,15m]` |
| `set A|B|C` | one of these words |
| `url`, `email`, `json` | a URL with a host, an address of electronic mail, any JSON |

`[` and `]` have the bound within the range, `(` and `)` without; a bound that is left out is none. What a rule reads is
a text or a value of Python, and what it has read it reads as the same again.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from mbactor import patterns
from mbactor.durations import seconds, seconds_of_text, text_of
from mbactor.errors import did_you_mean

Kind = Literal["str", "bool", "int", "float", "dur", "set", "url", "email", "json"]

_KINDS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "str": ("str", "text", "string", ""),
    "bool": ("bool", "boolean"),
    "int": ("int", "integer", "long"),
    "float": ("float", "double", "decimal", "number"),
    "dur": ("dur", "duration"),
    "set": ("set",),
    "url": ("url",),
    "email": ("email",),
    "json": ("json",),
}
_WORDS: Final[Mapping[str, Kind]] = {word: kind for kind, words in _KINDS.items() for word in words}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_RANGE = re.compile(r"(?P<opens>[\[(])(?P<low>[^,]*),(?P<high>[^,]*)(?P<closes>[\])])")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_EMAIL = re.compile(r"([^<>]*<(?P<within>[^<>]+)>|(?P<bare>[^<>]+))")
_MAILBOX = re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}")
_ANY: Final[Mapping[Kind, str]] = {
    "str": "a text",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "dur": "a duration with its unit, such as 500ms or 5s,",
    "url": "a URL with a host, such as https://example.com/",
    "email": "an address of electronic mail, such as ada@example.com",
    "json": "JSON",
}


@dataclass(frozen=True, slots=True)
class Range:
    """From where to where a value may be; None is no bound."""

    low: Any = None
    high: Any = None
    with_low: bool = True
    with_high: bool = True

    def __contains__(self, value: Any) -> bool:
        above = self.low is None or value > self.low or (self.with_low and value == self.low)
        below = self.high is None or value < self.high or (self.with_high and value == self.high)
        return above and below

    @property
    def empty(self) -> bool:
        """Whether no value can be within."""
        if self.low is None or self.high is None:
            return False
        least, most = self.low, self.high
        if isinstance(least, int) and isinstance(most, int):
            least, most = least + (not self.with_low), most - (not self.with_high)
            return least > most
        both = self.with_low and self.with_high
        return bool(least > most or (least == most and not both))

    def __str__(self) -> str:
        low = "" if self.low is None else f" {'>=' if self.with_low else '>'} {_shown(self.low)}"
        high = "" if self.high is None else f" {'<=' if self.with_high else '<'} {_shown(self.high)}"
        return f"{low}{' and' if low and high else ''}{high}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `read` gives the value that a text, or a value of Python, stands for."""

    kind: Kind
    pattern: patterns.Pattern | None = None
    """What is looked for in a text."""
    written: str = field(default="", compare=False)
    """The pattern as its author wrote it."""
    range: Range | None = None
    choices: tuple[tuple[str, Any], ...] = ()
    """The words of a `set`, with the values that they stand for."""

    @property
    def expected(self) -> str:
        """What is allowed, for people."""
        if self.kind == "set":
            return f"one of {', '.join(word for word, _ in self.choices)}"
        if self.pattern is not None:
            return f"a text that matches {self.written}"
        if self.range is None:
            return _ANY[self.kind]
        return f"{'a duration' if self.kind == 'dur' else _ANY[self.kind]}{self.range}"

    def read(self, value: Any) -> Any:
        """The value as the property has it. ValueError says what is expected and, where that is plain, was meant."""
        try:
            found = _READ[self.kind](self, value)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(f"{self.expected} expected{self._hint(value)}") from None
        if self.range is not None and found not in self.range:
            raise ValueError(f"{self.expected} expected")
        return found

    def written_as(self, value: Any) -> Any:
        """A value that was read, as a file has it."""
        if isinstance(value, dt.timedelta):
            return text_of(value.total_seconds())
        return next((word for word, meant in self.choices if meant is value), value)

    def _hint(self, value: Any) -> str:
        if not isinstance(value, str):
            return ""
        if self.kind == "dur" and _FLOAT.fullmatch(value):
            return f", did you mean '{value}s'?"
        return did_you_mean(value, [word for word, _ in self.choices])


def parse(text: str) -> Rule:
    """The rule that a text describes; ValueError says what is wrong with it."""
    word, _, rest = text.partition(" ")
    kind = _WORDS.get(word)
    if kind is None:
        hint = did_you_mean(word, filter(None, _WORDS)) or f", one of {', '.join(_KINDS)} expected"
        raise ValueError(f"{word!r} is no kind of rule{hint}")
    if kind == "str":
        return Rule(kind, _compiled(rest), rest) if rest else Rule(kind)
    if kind == "set":
        return Rule(kind, choices=tuple((one, one) for one in _choices(rest)))
    if kind in {"int", "float", "dur"}:
        return Rule(kind, range=_range(kind, rest)) if rest else Rule(kind)
    if rest:
        raise ValueError(f"{rest!r} given behind {word!r}, nothing expected there")
    return Rule(kind)


# --- the text of a rule ---------------------------------------------------------------------------------------


def _range(kind: Kind, text: str) -> Range:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError(f"the range {text!r} given, one such as [1,100], (0,1] or [1,) expected")
    low, high = (_bound(kind, found[side]) for side in ("low", "high"))
    range = Range(low, high, found["opens"] == "[", found["closes"] == "]")
    if range.empty:
        raise ValueError(f"nothing is within the range {text!r}")
    return range


def _bound(kind: Kind, text: str) -> Any:
    if not text:
        return None
    try:
        return Rule(kind).read(text)
    except ValueError:
        blank = " (without blanks)" if text != text.strip() else ""
        raise ValueError(f"the bound {text!r} given, {_ANY[kind]}{blank} expected") from None


def _choices(text: str) -> list[str]:
    words = text.split("|")
    if not all(words):
        raise ValueError(f"the words {text!r} given, some such as A|B|C expected")
    return list(dict.fromkeys(words))


def _compiled(pattern: str) -> patterns.Pattern:
    try:
        return patterns.compiled(pattern)
    except ValueError as error:
        raise ValueError(f"the expression {pattern!r}: {error}") from None


# --- values -----------------------------------------------------------------------------------------------------


def _read_text(rule: Rule, value: Any) -> Any:
    if not isinstance(value, str) or (rule.pattern is not None and not rule.pattern.search(value)):
        raise ValueError
    return value


def _read_bool(_: Rule, value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    raise ValueError


def _read_int(_: Rule, value: Any) -> Any:
    if isinstance(value, str):
        if not _INT.fullmatch(value):
            raise ValueError
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return int(value)


def _read_float(_: Rule, value: Any) -> Any:
    if isinstance(value, str):
        if not _FLOAT.fullmatch(value):
            raise ValueError
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    found = float(value)
    if not math.isfinite(found):
        raise ValueError
    return found


def _read_duration(_: Rule, value: Any) -> Any:
    if isinstance(value, dt.timedelta):
        if value < dt.timedelta():
            raise ValueError
        return value
    return dt.timedelta(seconds=seconds_of_text(value) if isinstance(value, str) else seconds(value))


def _read_choice(rule: Rule, value: Any) -> Any:
    for word, meant in rule.choices:
        if (isinstance(value, str) and value == word) or (type(value) is type(meant) and value == meant):
            return meant
    raise ValueError


def _read_url(_: Rule, value: Any) -> Any:
    if not isinstance(value, str) or not urlsplit(value).hostname:
        raise ValueError
    return value


def _read_email(_: Rule, value: Any) -> Any:
    found = _EMAIL.fullmatch(value)
    if found is None or not _MAILBOX.fullmatch((found["within"] or found["bare"]).strip()):
        raise ValueError
    return value


def _read_json(_: Rule, value: Any) -> Any:
    try:
        msgspec.json.decode(value.encode())
    except (msgspec.DecodeError, AttributeError, RecursionError):
        raise ValueError from None
    return value


_READ: Final[Mapping[Kind, Callable[[Rule, Any], Any]]] = {
    "str": _read_text,
    "bool": _read_bool,
    "int": _read_int,
    "float": _read_float,
    "dur": _read_duration,
    "set": _read_choice,
    "url": _read_url,
    "email": _read_email,
    "json": _read_json,
}


def _shown(bound: Any) -> str:
    if isinstance(bound, dt.timedelta):
        return text_of(bound.total_seconds())
    return repr(int(bound) if bound == int(bound) else bound)
