"""What annotations say of values, as far as a graph asks (pure).

fields_of(Verdict)     # {"score": int, "findings": list[str]}
options(float | None)  # [float]
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

_NONE = type(None)
_UNIONS = (typing.Union, type(int | str))


def options(annotation: Any) -> Sequence[Any]:
    """The types a value may have, None left out."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return [annotation]
    if typing.get_origin(annotation) in _UNIONS:
        return [option for each in typing.get_args(annotation) for option in options(each) if option is not _NONE]
    return [typing.get_origin(annotation) or annotation]


def fields_of(annotation: Any) -> dict[str, Any]:
    """The fields that a value is stored with, and their annotations; none for a type that does not name them."""
    found: dict[str, Any] = {}
    for option in options(annotation):
        if isinstance(option, type):
            found |= _fields_of_class(option)
    return found


def _fields_of_class(kind: type) -> Mapping[str, Any]:
    if issubclass(kind, msgspec.Struct):
        return {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    if not (typing.is_typeddict(kind) or dataclasses.is_dataclass(kind) or hasattr(kind, "__attrs_attrs__")):
        return {}
    return {name: hint for name, hint in typing.get_type_hints(kind).items() if not name.startswith("_")}


def text_of(annotation: Any) -> str:
    """An annotation as its author wrote it, or nearly."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
