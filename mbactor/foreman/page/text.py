"""Texts of a page: escaped, so that nothing of an author's becomes markup; times and lengths as people read them."""

from __future__ import annotations

import datetime as dt
import html
import re
from typing import Any

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def safe(text: Any) -> str:
    """The text as content or as an attribute in quotes. What has no shape, or would turn others around, is replaced."""
    return html.escape(_SURROGATE.sub("\ufffd", _UNPRINTABLE.sub("\ufffd", str(text))))


def moment(at: dt.datetime | None) -> str:
    """Date and time in UTC, to the millisecond."""
    return "" if at is None else at.astimezone(dt.UTC).isoformat(sep=" ", timespec="milliseconds")[:-6] + " UTC"


def time_of_day(at: dt.datetime | None) -> str:
    return "" if at is None else at.astimezone(dt.UTC).isoformat(timespec="milliseconds")[11:-6]


def error_of(error: Any) -> tuple[str, str, str]:
    """What an error says, what may be done about it, and its traceback."""
    if not isinstance(error, dict):
        return error or "", "", ""
    return str(error.get("error", "")), str(error.get("hint", "")), str(error.get("trace") or "")
