r"""Regular expressions in conditions and rules: those of RE2, compiled once and kept.

    compiled(r"^\pL+(?i)x\z").search("Éx")

A search takes time in proportion to the text, whatever the pattern: `(a+)+$` on a text of an attacker's choosing blocks
nothing. What only backtracking can do (look-around, back references) is refused. `$` is the end of the text and not a
line feed before it, unless `(?m)` is set; `\d`, `\w` and `\s` know ASCII only, `\pL` and `\p{Greek}` all of Unicode.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any


class Pattern:
    """A regular expression, ready to search texts."""

    __slots__ = ("_found", "pattern")

    def __init__(self, pattern: str, found: Any) -> None:
        self.pattern = pattern
        self._found = found

    def search(self, text: str) -> bool:
        """Whether the expression matches somewhere in the text."""
        return self._found.search(text.encode("utf-8", "replace")) is not None

    def __repr__(self) -> str:
        return f"Pattern({self.pattern!r})"


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Pattern:
    """The pattern, ready to `search`. ValueError says why it is none."""
    import re2  # a library of a megabyte, for programs that have conditions

    options = re2.Options()
    options.log_errors = False
    try:
        return Pattern(pattern, re2.compile(pattern.encode(), options))
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair is no text") from None
    except re2.error as error:
        raise ValueError(_told(error)) from None


def _told(error: Exception) -> str:
    (reason,) = error.args
    text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
    if text.startswith(("invalid perl operator: (?=", "invalid perl operator: (?!", "invalid perl operator: (?<")):
        return f"{text}: look-around needs backtracking and is not there"
    return text
