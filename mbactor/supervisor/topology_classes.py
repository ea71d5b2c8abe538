"""The classes that a topology file names: imported, looked up by short kind, and their arguments checked.

Arguments are converted to what the constructor's annotations say, so a wrong type is an error at the line of
the argument and not a crash at the first message.
"""

from __future__ import annotations

import datetime as dt
import importlib
import inspect
import sys
import typing
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Union

import msgspec

from mbactor.durations import seconds_of_text
from mbactor.errors import DeclarationError, InvalidSpec, error_text
from mbactor.kernel import Actor
from mbactor.kernel.routes import routes_of
from mbactor.supervisor.spec import kind_of
from mbactor.supervisor.topology_fields import Section, did_you_mean
from mbactor.supervisor.yaml_positions import Entry

GROUP = "mbactor.children"
"""The entry-point group of short kinds."""


def short_kinds() -> dict[str, EntryPoint]:
    """The short kinds that installed packages offer: `foreman`, `gateway` and those of others."""
    return {point.name: point for point in entry_points(group=GROUP)}


def look_in(*folders: Path) -> None:
    """Put folders on the import path, where modules that are imported later are found too."""
    for folder in reversed(folders):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))


def import_class(reference: str) -> type:
    """The Actor or Supervisor class at `module:Class`; ValueError says why there is none."""
    name, colon, attribute = reference.partition(":")
    if not colon or not name or not attribute:
        raise ValueError(f"{reference!r} given, `module:Class` expected")
    module = _import(name)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            classes = [known for known, value in vars(found).items() if inspect.isclass(value)]
            raise ValueError(f"module {name} has no {attribute!r}{did_you_mean(part, classes)}")
        found = getattr(found, part)
    try:
        kind_of(found)
    except InvalidSpec:
        raise ValueError(f"{reference} is {found!r}, an Actor or Supervisor class expected") from None
    cls: type = found
    if issubclass(cls, Actor):
        try:
            routes_of(cls)
        except DeclarationError as error:
            raise ValueError(str(error)) from None
    return cls


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            folders = ", ".join(folder or "." for folder in sys.path[:2])
            raise ValueError(f"there is no module {name!r} (looked in {folders} and the installed packages)") from None
        raise ValueError(f"module {name!r} cannot be imported: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also of a module that exits at its import
        raise ValueError(f"module {name!r} cannot be imported: {type(error).__name__}: {error_text(error)}") from error


def arguments(
    cls: type, section: Section | None, at: Entry, owner: Section, *, skip: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The constructor's arguments from a section of the file.

    `skip` are keys that are none of its arguments; `at` is where a missing argument is reported.
    """
    given = section.table.entries if section is not None else {}
    known = parameters(cls)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    hints = hints_of(cls)
    converted: dict[str, Any] = {}
    for name, entry in given.items():
        if name in skip and name not in known:
            continue
        assert section is not None
        section.entry(name)
        if name in known or open_ended:
            converted[name] = argument(section, name, entry, hints.get(name, Any))
        else:
            hint = did_you_mean(name, [*known, *skip]) or f"; it takes: {', '.join(known) or 'nothing'}"
            section.wrong(entry.key, name, f"{cls.__qualname__} takes no such argument{hint}")
    for name, parameter in known.items():
        required = parameter.default is parameter.empty and parameter.kind not in {
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        }
        if required and name not in given:
            text = f"missing: {cls.__qualname__} needs this argument"
            if section is None:
                owner.wrong(at.value, f"args.{name}", text)
            else:
                section.wrong(section.table.place, name, text)
    return converted


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The constructor's parameters that can be given by name."""
    found = inspect.signature(cls).parameters.items()
    return {name: p for name, p in found if p.kind not in {p.VAR_POSITIONAL, p.POSITIONAL_ONLY}}


def hints_of(cls: type) -> Mapping[str, Any]:
    """The constructor's annotations; nothing where they cannot be resolved."""
    try:
        return typing.get_type_hints(inspect.getattr_static(cls, "__init__"))
    except (NameError, AttributeError, TypeError):
        return {}


def argument(section: Section, name: str, entry: Entry, annotation: Any) -> Any:
    """One argument as its annotation wants it."""
    before = len(section.problems.found)
    natural = section.plain(entry.value, name, natural=True)
    if len(section.problems.found) > before or annotation is Any:
        return natural
    text = section.plain(entry.value, name, natural=False)
    try:
        if _is_duration(annotation):
            return None if text is None else _duration(text)
        return _convert(natural, text, annotation)
    except (ValueError, TypeError) as error:
        section.wrong(entry.value, name, f"{natural!r} given: {error}")
        return None


def _convert(natural: Any, text: Any, annotation: Any) -> Any:
    try:
        return msgspec.convert(natural, annotation)
    except msgspec.ValidationError as error:
        try:
            # A text field keeps `01234` as it was written; a number filled in from the environment is a text here.
            return msgspec.convert(text, annotation, strict=False)
        except msgspec.ValidationError:
            raise error from None


def _is_duration(annotation: Any) -> bool:
    members = set(typing.get_args(annotation)) if typing.get_origin(annotation) in {Union, UnionType} else {annotation}
    return dt.timedelta in members and members <= {int, float, str, dt.timedelta, type(None)}


def _duration(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError("a duration with its unit, such as 500ms or 5s, expected")
    seconds_of_text(text)
    return text
