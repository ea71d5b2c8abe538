r"""Regular expressions in conditions and rules: those of RE2 and those of Python's `re`, compiled once and kept.

    compiled(r"^\pL+(?i)x\z").search("Éx")

What RE2 writes otherwise than Python is translated: `\z`, `\pL` and `\p{Lu}` (general categories, no scripts),
`[[:alpha:]]`, `\Q...\E`, `\x{1F600}`, `(?<name>...)`, flags in the middle such as `a(?i)b`, and `(?U)`, which changes
nothing of whether a text matches. `$` is the end of the text and not a line feed before it, unless `(?m)` is set. The
rest is Python's: `\d` and `\w` know all scripts, and a pattern such as `(a+)+$` can take very long on a text that
nearly matches.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

Ranges = Sequence[tuple[int, int]]

POSIX: Final[dict[str, str]] = {
    "alnum": "09AZaz", "alpha": "AZaz", "ascii": "\0\x7f", "blank": "\t\t  ", "cntrl": "\0\x1f\x7f\x7f", "digit": "09",
    "graph": "!~", "lower": "az", "print": " ~", "punct": "!/:@[`{~", "space": "\t\r  ", "upper": "AZ",
    "word": "09AZaz__", "xdigit": "09AFaf",
}  # fmt: skip
"""Each class as pairs of first and last character."""

_FLAGS = re.compile(r"\(\?([aimsuxU]*)(?:-([imsxU]+))?([:)])")
_NAMED = re.compile(r"\(\?<(\w+)>")
_POSIX = re.compile(r"\[:(\^?)([a-z]+):\]")
_PROPERTY = re.compile(r"\\([pP])(?:\{(\^?)(\w+)\}|(\w))")
_HEX = re.compile(r"\\x\{([0-9a-fA-F]{1,6})\}")
_QUOTED = re.compile(r"\\Q(.*?)(?:\\E|\Z)", re.DOTALL)
_COMMENT = re.compile(r"\(\?#[^)]*\)?")


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, ready to `search`. ValueError says why it is none."""
    try:
        return re.compile(_Translation(pattern).text())
    except re.error as error:
        raise ValueError(error.msg) from None
    except (OverflowError, RecursionError) as error:
        raise ValueError(str(error) or "too large") from None


class _Level:
    """An open group: the flags set in its middle, each of which is a group to close, and whether `(?m)` holds."""

    __slots__ = ("multiline", "opened")

    def __init__(self, multiline: bool) -> None:
        self.opened: list[str] = []
        self.multiline = multiline


class _Translation:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.levels = [_Level(multiline=False)]
        self.out: list[str] = []

    def text(self) -> str:
        while self.at < len(self.pattern):
            self.out.append(self.next())
        return "".join(self.out) + ")" * len(self.levels[-1].opened)

    def next(self) -> str:
        level = self.levels[-1]
        match self.pattern[self.at]:
            case "\\":
                return self.escape(in_class=False)
            case "[":
                return self.character_class()
            case "(":
                return self.group()
            case ")" if len(self.levels) > 1:
                self.at += 1
                return ")" * len(self.levels.pop().opened) + ")"
            case "|":
                self.at += 1
                return ")" * len(level.opened) + "|" + "".join(level.opened)
            case "$":
                self.at += 1
                return self.anchor("$" if level.multiline else r"\Z")
            case "^":
                self.at += 1
                return self.anchor("^")
            case other:
                self.at += 1
                return other

    # --- groups ------------------------------------------------------------------------------------------

    def group(self) -> str:
        if comment := self.take(_COMMENT):
            return comment[0]
        level = self.levels[-1]
        if flags := self.take(_FLAGS):
            on, off = flags[1].replace("U", ""), (flags[2] or "").replace("U", "")
            multiline = ("m" in on) or (level.multiline and "m" not in off)
            opening = f"(?{on}-{off}:" if off else f"(?{on}:"
            if flags[3] == ":":
                self.levels.append(_Level(multiline))
            else:
                level.multiline = multiline
                level.opened.append(opening)
            return opening
        self.levels.append(_Level(level.multiline))
        if named := self.take(_NAMED):
            return f"(?P<{named[1]}>"
        self.at += 1
        return "("

    # --- characters --------------------------------------------------------------------------------------

    def escape(self, *, in_class: bool) -> str:
        if quoted := self.take(_QUOTED):
            return re.escape(quoted[1])
        if code := self.take(_HEX):
            if int(code[1], 16) > sys.maxunicode:
                raise ValueError(f"there is no character {code[0]}")
            return re.escape(chr(int(code[1], 16)))
        if found := self.take(_PROPERTY):
            ranges = _category(found[3] or found[4])
            if (found[1] == "P") != bool(found[2]):
                ranges = tuple(_complement(ranges))
            return _written(ranges) if in_class else f"[{_written(ranges)}]"
        taken = self.pattern[self.at : self.at + 2]
        self.at += 2
        if in_class:
            return taken
        if taken in {r"\A", r"\z", r"\Z", r"\b", r"\B"}:
            return self.anchor(taken.replace("z", "Z"))
        return "(?s:.)" if taken == r"\C" else taken

    def anchor(self, written: str) -> str:
        """A place in the text. Python repeats none, but a group of one."""
        return f"(?:{written})" if self.pattern[self.at : self.at + 1] in set("*+?{") else written

    def character_class(self) -> str:
        start = re.compile(r"\[\^?\]?").match(self.pattern, self.at)
        assert start is not None
        self.at = start.end()
        written = [start[0].replace("]", r"\]")]
        while self.at < len(self.pattern) and self.pattern[self.at] != "]":
            if self.pattern[self.at] == "\\":
                written.append(self.escape(in_class=True))
            elif named := self.take(_POSIX):
                written.append(_written(_posix(named[2], inverted=bool(named[1]))))
            else:
                one = self.pattern[self.at]
                # To Python these may one day be operators between sets.
                written.append("\\" + one if one in "[&~|" else one)
                self.at += 1
        closed = self.at < len(self.pattern)
        self.at += 1
        return "".join(written) + ("]" if closed else "")

    def take(self, kind: re.Pattern[str]) -> re.Match[str] | None:
        found = kind.match(self.pattern, self.at)
        if found is not None:
            self.at = found.end()
        return found


def _posix(name: str, *, inverted: bool) -> Ranges:
    if name not in POSIX:
        raise ValueError(f"there is no class [:{name}:]; known: {', '.join(POSIX)}")
    ends = [ord(one) for one in POSIX[name]]
    ranges = tuple(zip(ends[::2], ends[1::2], strict=True))
    return tuple(_complement(ranges)) if inverted else ranges


@lru_cache(maxsize=64)
def _category(name: str) -> Ranges:
    """The characters whose general category begins so. A walk over all there are, a tenth of a second, once."""
    found: list[tuple[int, int]] = []
    for code in range(sys.maxunicode + 1):
        if name == "Any" or unicodedata.category(chr(code)).startswith(name):
            if found and found[-1][1] == code - 1:
                found[-1] = (found[-1][0], code)
            else:
                found.append((code, code))
    if not found:
        raise ValueError(f"\\p{{{name}}} is no general category such as L, Lu or Nd; scripts are not known")
    return tuple(found)


def _complement(ranges: Ranges) -> Iterator[tuple[int, int]]:
    begin = 0
    for first, last in ranges:
        if begin < first:
            yield begin, first - 1
        begin = last + 1
    if begin <= sys.maxunicode:
        yield begin, sys.maxunicode


def _written(ranges: Ranges) -> str:
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
