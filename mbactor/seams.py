"""Named places where a test injects a fault or holds the program still.

`await checkpoint("foreman.settle.before")` does nothing until a test arms that name: then it runs
the armed function, which may raise, wait or kill the process. All names stand in `SEAMS`; an unknown
name is an error, and a test sees to it that each name is used exactly once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

SEAMS: frozenset[str] = frozenset(
    {
        "foreman.claim.after",
        "foreman.commit.after",
        "foreman.commit.before",
        "foreman.create.after",
        "foreman.create.before",
        "foreman.execute.after",
        "foreman.execute.before",
        "foreman.load.after",
        "foreman.reap.before",
        "foreman.settle.after",
        "foreman.settle.before",
        "foreman.sweep.after",
        "foreman.tick.before",
        "foreman.wait.after",
        "foreman.wait.before",
        "foreman.write.after",
        "foreman.write.before",
        "supervisor.restart.before",
    }
)

Fault = Callable[..., Awaitable[None]]
_armed: dict[str, Fault] = {}


async def checkpoint(name: str, **fields: Any) -> None:
    """Run what a test armed at `name`; nothing otherwise. `fields` tell the armed function where it is."""
    fault = _armed.get(name) if _armed else None
    if fault is not None:
        await fault(**fields)


def any_armed() -> bool:
    """Whether a test waits anywhere. Where every step of every flow passes it is asked first: it costs a sixth."""
    return bool(_armed)


def is_armed(name: str) -> bool:
    """Whether a test waits at `name`: whoever has a way round it has to take the one that passes there."""
    return name in _armed


@contextmanager
def armed(name: str, fault: Fault) -> Iterator[None]:
    """Arm `fault` at `name` for the duration of the block."""
    if name not in SEAMS:
        raise KeyError(f"no seam is called {name!r}; known: {', '.join(sorted(SEAMS))}")
    previous = _armed.get(name)
    _armed[name] = fault
    try:
        yield
    finally:
        if previous is None:
            _armed.pop(name, None)
        else:
            _armed[name] = previous
