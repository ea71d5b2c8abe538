"""Names of children as people type them: the whole path of ids, or as much of its end as is enough. Pure.

resolve("orders", ["shop/web/orders", "shop/mail"]) == "shop/web/orders"
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from mbactor.errors import MbactorError, NoSuchChild

SHOWN = 8
"""Names that an error lists."""


class Ambiguous(MbactorError):
    """A name that several children have; `candidates` are their paths."""

    status = 409


def resolve(name: str, paths: Sequence[str]) -> str:
    """The path that is meant. NoSuchChild, with those that are like it, or Ambiguous, with those that it may mean."""
    wanted = name.strip("/")
    if wanted in paths:
        return wanted
    found = [path for path in paths if path.endswith(f"/{wanted}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise Ambiguous(
            f"{name!r} may be {_listed(found, ' or ')}; give more of its path", name=name, candidates=tuple(found)
        )
    near = _like(wanted, paths)
    hint = f"; did you mean {_listed(near, ' or ')}?" if near else f"; there are: {_listed(paths, ', ')}"
    raise NoSuchChild(f"there is no {name!r}{hint}", name=name, candidates=tuple(near))


def _like(wanted: str, paths: Sequence[str]) -> list[str]:
    """Those whose end begins with it, as the replicas of a child do, or is spelt like it."""
    begin = [path for path in paths if f"/{wanted}" in f"/{path}" and "/" not in f"/{path}".rpartition(f"/{wanted}")[2]]
    if begin:
        return begin
    last = {path.rpartition("/")[2]: path for path in reversed(paths)}
    near = difflib.get_close_matches(wanted.rpartition("/")[2], list(last), n=3)
    return [last[id] for id in near]


def _listed(paths: Sequence[str], between: str) -> str:
    shown = between.join(paths[:SHOWN])
    return shown if len(paths) <= SHOWN else f"{shown} (and {len(paths) - SHOWN} more)"
