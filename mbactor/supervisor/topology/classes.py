"""The classes that a topology file names: imported, or looked up by short kind.

cls = import_class("shop.orders:Orders")
gateway = import_class(short_kinds()["gateway"].value)
"""

from __future__ import annotations

import importlib
import inspect
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any

from mbactor.errors import DeclarationError, InvalidSpec, did_you_mean, error_text
from mbactor.kernel import Actor
from mbactor.kernel.routes import routes_of
from mbactor.supervisor.spec import kind_of

GROUP = "mbactor.children"
"""The entry-point group of short kinds."""
_imported: dict[str, int | None] = {}
"""How old the file was of each module that was imported because a topology file names it."""
_folders: list[str] = []
"""Where modules have been looked for last, beside the installed packages."""


def short_kinds() -> dict[str, EntryPoint]:
    """The short kinds that installed packages offer: `foreman`, `gateway` and those of others."""
    return {point.name: point for point in entry_points(group=GROUP)}


def look_in(*folders: Path) -> None:
    """Put folders on the import path, where modules that are imported later are found too."""
    _folders[:] = dict.fromkeys(map(str, folders))
    for folder in reversed(folders):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))


def _colon_for_dot(reference: str) -> str:
    """`, did you mean 'shop.orders:Orders'?` where the class was put behind a dot, as in an import."""
    module, dot, name = reference.rpartition(".")
    meant = dot and all(part.isidentifier() for part in reference.split(".")) and name[0].isupper()
    return f", did you mean '{module}:{name}'?" if meant else ""


def import_class(reference: str) -> type:
    """The Actor or Supervisor class at `module:Class`; ValueError says why there is none."""
    name, colon, attribute = reference.partition(":")
    if not colon or not attribute or "/" in name or not all(name.split(".")):
        raise ValueError(f"{reference!r} given, `module:Class` expected{_colon_for_dot(reference)}")
    module = _import(name)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            classes = [known for known, value in vars(found).items() if inspect.isclass(value)]
            hint = _stale(name, module) or did_you_mean(part, classes)
            raise ValueError(f"module {name} has no {attribute!r}{hint}")
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
    known = name in sys.modules
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            looked = " and ".join(filter(None, [", ".join(_folders), "the installed packages"]))
            raise ValueError(f"there is no module {name!r} (looked in {looked})") from None
        raise ValueError(f"module {name!r} cannot be imported{_where(error)}: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also of a module that exits at its import
        reason = f"{type(error).__name__}: {error_text(error)}"
        raise ValueError(f"module {name!r} cannot be imported{_where(error)}: {reason}") from error
    if not known:
        _imported[name] = _date_of(module)
    return module


def _where(error: BaseException) -> str:
    """The line of the user's code at which an import failed; a SyntaxError says it itself."""
    found = ""
    for frame, line in walk_tb(error.__traceback__):
        top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if top != "mbactor" and top not in sys.stdlib_module_names:
            found = f" ({Path(frame.f_code.co_filename).name}, line {line})"
    return "" if isinstance(error, SyntaxError) else found


def _stale(name: str, module: ModuleType) -> str:
    """What is to be said of a module whose file says something else by now: an apply meets such."""
    if name not in _imported or _imported[name] == (date := _date_of(module)) or date is None:
        return ""
    file = Path(str(module.__file__)).name
    return f"; {file} has changed since this process imported it, and is read again at its next start"


def _date_of(module: ModuleType) -> int | None:
    """When the module's file was last written, where it has one."""
    try:
        return Path(str(module.__file__)).stat().st_mtime_ns
    except (OSError, AttributeError, ValueError):
        return None
