"""What an object changed of the state it was parsed from (pure).

`Flow.set_changes` writes an object back field by field. The object's type may know only part of what the
state holds, at any depth: a key it does not know, inside a nested object or an array's elements, stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mbactor.errors import InvalidState
from mbactor.foreman.model.state import comparable, decode_value, encode_value

_UNKNOWN = object()


def changed_fields(value: Any, snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Field -> new value, for every field of `value` that differs from the snapshot; None deletes.

    A field that the object's type does not know, or a plain mapping does not have, is left alone.
    """
    new = _plain(value)
    if not isinstance(new, dict):
        raise InvalidState(f"set_changes needs an object with named fields, got {type(value).__name__}")
    seen = _as_seen_by(type(value), snapshot)
    known = seen if isinstance(seen, dict) else {}
    changed: dict[str, Any] = dict.fromkeys(name for name in known if name not in new and name in snapshot)
    for name, item in new.items():
        stored = snapshot.get(name)
        merged = _merge(item, known.get(name, _UNKNOWN), stored)
        if comparable(merged) != comparable(stored):
            changed[name] = merged
    return changed


def _merge(new: Any, known: Any, stored: Any) -> Any:
    """`new`, with whatever `stored` holds beside `known`: what the type saw of it."""
    if known is not _UNKNOWN and comparable(new) == comparable(known):
        return stored if _covers(known, stored) else new
    match new, known, stored:
        case dict(), dict(), dict():
            kept = {name: item for name, item in stored.items() if name not in known and name not in new}
            return kept | {
                name: _merge(item, known.get(name, _UNKNOWN), stored.get(name)) for name, item in new.items()
            }
        case list(), list(), list() if len(known) == len(stored):
            return _merge_arrays(new, known, stored)
        case _:
            return new


def _merge_arrays(new: list[Any], known: list[Any], stored: list[Any]) -> list[Any]:
    """Elements that did not change keep what is stored for them, wherever they moved to. The others are
    taken for edits of the remaining ones, in their order, unless the array changed its length.
    """
    places: dict[Any, list[int]] = {}
    for index in reversed(range(len(known))):
        places.setdefault(comparable(known[index]), []).append(index)
    origins = [_taken(places.get(comparable(item))) for item in new]
    left = iter(sorted(set(range(len(known))) - set(origins)) if len(new) == len(known) else ())
    merged = []
    for item, origin in zip(new, origins, strict=True):
        place = next(left, None) if origin is None else origin
        merged.append(item if place is None else _merge(item, known[place], stored[place]))
    return merged


def _taken(places: list[int] | None) -> int | None:
    return places.pop() if places else None


def _covers(known: Any, stored: Any) -> bool:
    """Whether `stored` has every value of `known`: a default that the type added is worth writing."""
    match known, stored:
        case dict(), dict():
            return all(item is None or _covers(item, stored.get(name)) for name, item in known.items())
        case list(), list():
            return len(known) == len(stored) and all(map(_covers, known, stored))
        case _:
            return bool(comparable(known) == comparable(stored))


def _as_seen_by(kind: type, snapshot: Mapping[str, Any]) -> Any:
    """What the type makes of the snapshot: all that it knows of it."""
    if issubclass(kind, Mapping):
        return _UNKNOWN
    try:
        return _plain(decode_value(encode_value(dict(snapshot)), kind))
    except (InvalidState, TypeError):
        return _UNKNOWN


def _plain(value: Any) -> Any:
    return decode_value(encode_value(dict(value) if isinstance(value, Mapping) else value, "changes"))
