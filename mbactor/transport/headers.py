"""Which headers of a request its receiver passes on to those it asks in turn. Pure.

    passed_on({"Accept-Language": "fr", "Cookie": "..."})      # {"accept-language": "fr"}

What the end user sent to one service is not for all of them: credentials, cookies and headers of its own stay where
they came to.
"""

from __future__ import annotations

from collections.abc import Mapping

_PASSED = frozenset({"accept-language", "baggage"})
_FORWARDED = "x-forwarded-"


def passed_on(headers: Mapping[str, str]) -> dict[str, str] | None:
    """Those that go on, with names in lower case; None where there are none."""
    found = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower in _PASSED or lower.startswith(_FORWARDED):
            found[lower] = value
    return found or None


def with_passed(headers: Mapping[str, str], passed: Mapping[str, str] | None) -> dict[str, str]:
    """The headers of a request made for another: its own win over what is passed on."""
    if not passed:
        return dict(headers)
    given = {name.lower() for name in headers}
    return {**{name: value for name, value in passed.items() if name not in given}, **headers}
