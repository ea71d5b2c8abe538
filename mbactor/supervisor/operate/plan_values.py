"""Values of a specification as a plan tells them to people: short, by the field's own words, secrets masked."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mbactor.durations import text_of
from mbactor.errors import error_text
from mbactor.mailbox import Mailbox
from mbactor.supervisor.spec import Backoff

LONGEST = 60
"""Characters of a value that are told."""
MASK = "***"
_SECRET = re.compile(r"passw|passphrase|secret|token|api_?key|private_?key|credential", re.IGNORECASE)
_IN_URL = re.compile(r"(://[^/@:\s]*:)[^@/\s]+@")


@dataclass(frozen=True, slots=True)
class Change:
    """A field that is to be another: `args.start 10 -> 20`."""

    field: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.field} {self.old} -> {self.new}"


def changed(field: str, old: Any, new: Any) -> Iterator[Change]:
    """The change of a field as it is told, one for each argument that differs; none where it is the same."""
    if same(old, new):
        return
    before, after = _parts(field, old), _parts(field, new)
    if before is None or after is None:
        yield Change(field, shown(field, old), shown(field, new))
        return
    for name in {**before, **after}:
        if name not in before or name not in after or not same(before[name], after[name]):
            texts = [shown(f"{field}.{name}", side[name]) if name in side else "unset" for side in (before, after)]
            yield Change(f"{field}.{name}", *texts)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same: what cannot be compared is not."""
    try:
        return one is other or (type(one) is type(other) and bool(one == other))
    except Exception:  # noqa: BLE001 - somebody else's __eq__
        return False


def shown(field: str, value: Any) -> str:
    """A value as a person may see it. Every value that a plan tells passes here."""
    match field, value:
        case "shutdown", None:
            return "infinity"
        case "shutdown", 0:
            return "brutal"
        case "shutdown" | "within" | "ack_window", float() | int():
            return text_of(value)
        case _, dt.timedelta() if not _SECRET.search(field):
            return text_of(value.total_seconds())
        case "class", type():
            return f"{value.__module__}:{value.__qualname__}"
        case _, None:
            return "none"
        case _, Backoff():
            return f"{text_of(value.initial)} to {text_of(value.maximum)}, x {value.factor:g}, jitter {value.jitter:g}"
        case _, Mailbox():
            return f"{value.capacity}, {value.overflow}"
        case (("strategy" | "auto_shutdown" | "restart"), str()):
            return value
    text = _text(_masked(field.rpartition(".")[2], value))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _parts(field: str, value: Any) -> Mapping[str, Any] | None:
    """The arguments, or settings, that a field has within it."""
    if field not in {"args", "config"}:
        return None
    if isinstance(value, tuple):
        return {str(number): one for number, one in enumerate(value)}
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else None


def _masked(name: str, value: Any) -> Any:
    if _SECRET.search(name):
        return _Masked()
    if isinstance(value, Mapping):
        return {key: _masked(str(key), one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_masked("", one) for one in value]
    return value


def _text(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - somebody else's __repr__
        text = f"<{type(value).__name__}: {error_text(error)}>"
    return _IN_URL.sub(rf"\1{MASK}@", text)


class _Masked:
    def __repr__(self) -> str:
        return MASK
