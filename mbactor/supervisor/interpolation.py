"""`${VAR}` in a text, filled in from the environment.

`${VAR:-default}` has a default (also for an empty variable), `${VAR:?message}` says what is missing, and
`$${VAR}` is the literal `${VAR}`. A variable that is not set and has no default is an error. What is filled in is
text and nothing else: it cannot bring structure into the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$(?P<escaped>\$\{[^}]*\})|\$\{(?P<body>[^}]*)\}|\$\{(?P<open>.*)", re.DOTALL)
_BODY = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<how>:-|:\?)(?P<rest>.*))?", re.DOTALL)


def has_reference(text: str) -> bool:
    """Whether `interpolate` would change the text."""
    return _REFERENCE.search(text) is not None


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """The text with its references filled in; ValueError says what is wrong with them."""

    def fill(match: re.Match[str]) -> str:
        if match["escaped"] is not None:
            return match["escaped"]
        if match["open"] is not None:
            raise ValueError(f"{match[0]!r} given, a closing brace expected")
        return _value(match["body"], environ)

    return _REFERENCE.sub(fill, text)


def _value(body: str, environ: Mapping[str, str]) -> str:
    parsed = _BODY.fullmatch(body)
    if parsed is None:
        raise ValueError(f"${{{body}}} given, ${{VAR}}, ${{VAR:-default}} or ${{VAR:?message}} expected")
    name, how, rest = parsed["name"], parsed["how"], parsed["rest"]
    value = environ.get(name, "")
    if value or (how is None and name in environ):
        return value
    if how == ":-":
        return rest
    if how == ":?":
        raise ValueError(f"the environment variable {name} is not set: {rest}")
    raise ValueError(f"the environment variable {name} is not set, and there is no default (${{{name}:-...}})")
